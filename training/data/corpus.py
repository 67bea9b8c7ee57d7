"""A rendered corpus as the trainer knows it: shards of clips with their captions, listed in ``corpus.json``.

Which world was rendered is of no interest here: a shard says its captions, what a mirror image of it shows, its labels
(for judges) and whether it is held out of training. Whoever renders one writes the list with `write_index`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from videolcm_core.files.writing import whole_file

from .mapped import Joined, mapped_member
from .source import Sample
from .tokens import vocabulary_of

FORMAT: Final = 1
INDEX: Final = "corpus.json"
WHOLE: Final = (1.0, 0.0, 0.0, 0.0, 0.0)
FRAMES: Final = (0.40, 0.05, 0.40, 0.05, 0.10)
"""How often each form of a caption is drawn with a single frame, which shows no motion."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Clips that show the same.

    Attributes:
        file: name of the ``.npz`` in the corpus's folder.
        forms: the caption whole, without its place, without its motion, of the object alone, and empty.
        clips: how many.
        digest: SHA-256 of the file.
        mirrored: number of the shard that a mirror image of it belongs to; -1 is the shard itself.
        held_out: never trained on.
        labels: what it shows, by the names that judges know.
        absent: not in this folder, as it belongs to another part of a corpus that was split.
    """

    file: str
    forms: tuple[str, ...]
    clips: int
    digest: str
    mirrored: int = -1
    held_out: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    absent: bool = False

    @property
    def caption(self) -> str:
        """The whole caption."""
        return self.forms[0]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The list of a corpus.

    Attributes:
        folder: with the shards.
        shards: all of them; a label is a number in this list.
        world: name of what was rendered.
        width: of the clips, pixels.
        height: of the clips, pixels.
        frames: of a clip.
        fps: frames per second.
        judges: package of `training` with a ``judges`` module that measures this world; empty where there is none.
    """

    folder: Path
    shards: tuple[Shard, ...]
    world: str
    width: int
    height: int
    frames: int
    fps: float
    judges: str = ""

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Read the list.

        Raises:
            FileNotFoundError: the folder holds no corpus, or one without a list.
            ValueError: the list is damaged or of another version.
        """
        path = folder / INDEX
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no rendered corpus: {path} is missing. Make it: python -m training.mini.corpus "
                f"--furniture DIR --out {folder} (it keeps shards that are there and writes their list)."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            shards = [Shard(**{**entry, "forms": tuple(entry["forms"])}) for entry in content.pop("shards")]
            return cls(folder=folder, shards=tuple(shards), **content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} cannot be read ({type(error).__name__}: {error}); allowed: the list that training.mini.corpus "
                "writes. Repeat that command, it writes the list again."
            ) from error

    @property
    def training(self) -> list[int]:
        """Numbers of the shards to train on."""
        return [i for i, shard in enumerate(self.shards) if not shard.held_out and not shard.absent]

    @property
    def held_out(self) -> list[int]:
        """Numbers of the shards never trained on."""
        return [i for i, shard in enumerate(self.shards) if shard.held_out and not shard.absent]

    def mirrored(self, label: int) -> int:
        """What a mirror image of a shard's clip shows."""
        other = self.shards[label].mirrored
        return label if other < 0 else other

    def digests(self, labels: Sequence[int]) -> list[list[Any]]:
        """What results made from some shards depend on."""
        return [[i, self.shards[i].digest, self.shards[i].caption, self.mirrored(i)] for i in labels]

    def layers(self, labels: Sequence[int], names: Sequence[str]) -> tuple[dict[str, np.ndarray], list[int]]:
        """Clips and what belongs to them, as `mini.corpus.render_combination` makes it.

        Returns:
            arrays by name, clip after clip, and the label of each clip.

        Raises:
            FileNotFoundError: a shard is missing.
            ValueError: a shard is damaged, absent, holds other clips than the list says, or lacks a layer.
        """
        self._check_present(labels)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        shown: list[int] = []
        for label in labels:
            arrays = read_shard(self.folder / self.shards[label].file, names, self.shards[label].clips)
            for name, values in arrays.items():
                parts[name].append(values)
            shown += [label] * self.shards[label].clips
        return {name: np.concatenate(values) for name, values in parts.items()}, shown

    def clips(self, labels: Sequence[int]) -> tuple[np.ndarray, list[int]]:
        """All clips of some shards, ``uint8 [N, F, H, W, 3]``, and the label of each; errors as in `layers`."""
        arrays, shown = self.layers(labels, ("clips",))
        return arrays["clips"], shown

    def mapped(self, labels: Sequence[int]) -> tuple[Joined, list[int]]:
        """As `clips`, but shards that are not compressed are read when they are asked for; errors as in `layers`."""
        self._check_present(labels)
        parts = [mapped_clips(self.folder / self.shards[i].file, self.shards[i].clips) for i in labels]
        return Joined(parts), [i for i in labels for _ in range(self.shards[i].clips)]

    def _check_present(self, labels: Sequence[int]) -> None:
        if gone := [self.shards[i].caption for i in labels if self.shards[i].absent]:
            raise ValueError(
                f"{len(gone)} of the asked shards belong to another part of the corpus that {self.folder} was split "
                f"from, {gone[0]!r} first; give the corpus that has them all."
            )

    def vocabulary(self) -> Tensor:
        """Sorted CLIP ids that occur in the captions, in any form."""
        return vocabulary_of([text for shard in self.shards for text in shard.forms])


def read_shard(path: Path, names: Sequence[str], clips: int) -> dict[str, np.ndarray]:
    """Layers of a shard, checked.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, holds another number of clips, or lacks a layer.
    """
    again = "Repeat the command that rendered it (python -m training.mini.corpus): it renders what is not whole again."
    try:
        with np.load(path, allow_pickle=False) as shard:
            if missing := set(names) - set(shard.files):
                raise ValueError(f"{path} has no {', '.join(sorted(missing))}. Delete it. {again}")
            arrays = {name: shard[name] for name in names}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing. {again}") from error
    except ValueError as error:
        raise error if "has no" in str(error) else ValueError(f"{path} is damaged ({error}). {again}") from error
    except Exception as error:  # zipfile and zlib have their own kinds
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}). {again}") from error
    for name, values in arrays.items():
        if len(values) != clips:
            raise ValueError(f"{path} has {len(values)} clips in {name}; its list says {clips}. {again}")
    return arrays


def mapped_clips(path: Path, clips: int) -> np.ndarray:
    """Clips of a shard, as a memory map where it is not compressed; errors as in `read_shard`."""
    try:
        found = mapped_member(path, "clips")
        if found is not None and len(found) == clips:
            return found
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        pass  # what is wrong with it, reading it says
    return read_shard(path, ("clips",), clips)["clips"]


def write_index(corpus: Corpus) -> None:
    """Write the list of a corpus, whole or not at all."""
    content: dict[str, Any] = {k: v for k, v in vars(corpus).items() if k not in ("folder", "shards")}
    content = {"format": FORMAT, **content, "shards": [asdict(shard) for shard in corpus.shards]}
    with whole_file(corpus.folder / INDEX) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class CorpusClips:
    """Clips of a corpus as a `Source`; number i is row i of `LatentClips` (from the middle on, mirror images).

    Attributes:
        corpus: where the captions are.
        latents: float16 ``[N, 4, F, h, w]``.
        labels: long ``[N]``, the shard that each belongs to.
        shares: how often each form of a caption is drawn; `WHOLE` is the whole caption.
        single: whether clips are read as one frame, drawn anew every time.
        pixels: of ``Corpus.mapped``, where frames are wanted beside latents.
    """

    corpus: Corpus
    latents: Tensor
    labels: Tensor
    shares: tuple[float, ...] = WHOLE
    single: bool = False
    pixels: Joined | None = None

    @property
    def groups(self) -> Sequence[int]:
        """All clips lie in one file, and all may be mixed."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What the clip shows, and its number."""
        return f"{self.corpus.shards[int(self.labels[index])].caption} #{index}"

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """One clip's latents ``float16 [4, F, h, w]`` (F 1 where single), and its frames where they are wanted."""
        values, frames = self.latents[index], self._frames(index)
        if self.single:
            values, frames = values.narrow(1, int(rng.integers(values.shape[1])), 1), None
        shares = np.asarray(self.shares) / np.sum(self.shares)
        form = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right").clip(max=len(shares) - 1))
        caption = self.corpus.shards[int(self.labels[index])].forms[form]
        return Sample(name=self.name(index), values=values, caption=caption, index=index, frames=frames)

    def _frames(self, index: int) -> Tensor | None:
        """``uint8 [F, H, W, 3]``; of a mirror image the mirrored ones."""
        if self.pixels is None:
            return None
        mirrored, row = divmod(index, len(self.pixels))
        clip = np.asarray(self.pixels[row : row + 1])[0]
        return torch.from_numpy(np.ascontiguousarray(clip[:, :, ::-1] if mirrored else clip))


if __name__ == "__main__":
    from ..moved import run_moved

    run_moved("training.data.corpus")
