"""A set of single images beside the clips, with captions of its own: a folder, WebDataset shards, or a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from .clip_folder import ClipFolder, Missing
from .corpus import INDEX, Corpus
from .decode import FrameSampling, fit_image
from .mapped import Joined
from .shards import ShardSet
from .source import Sample, SkipReport

WITHOUT_MOTION: Final = 2
"""Of a corpus's captions the form that a single frame shows."""


@dataclass(frozen=True, kw_only=True)
class Stills:
    """Single images of a batch, some beside each clip.

    Attributes:
        pixels: float32 ``[B, n, 3, H, W]`` in [0, 1].
        text: embeddings of their captions ``[B, n, L, D]``.
        captions: of each, clip by clip.
    """

    pixels: Tensor
    text: Tensor
    captions: tuple[str, ...]

    def to(self, device: torch.device | str) -> Stills:
        """A copy on another device."""
        return replace(self, pixels=self.pixels.to(device), text=self.text.to(device))


@dataclass(frozen=True, kw_only=True)
class CorpusStills:
    """Frames of a corpus's training clips as a `Source` of images; each time another frame.

    Attributes:
        corpus: where the captions are.
        clips: of ``Corpus.mapped``.
        labels: the shard of each clip.
        sampling: size, and which part is seen.
        left_out: nothing; a corpus is whole.
    """

    corpus: Corpus
    clips: Joined
    labels: tuple[int, ...]
    sampling: FrameSampling
    left_out: SkipReport

    @classmethod
    def open(cls, folder: Path, sampling: FrameSampling) -> CorpusStills:
        """Open a corpus.

        Raises:
            FileNotFoundError: as in `Corpus.open`; so for ValueError.
        """
        corpus = Corpus.open(folder)
        clips, labels = corpus.mapped(corpus.training)
        return cls(corpus=corpus, clips=clips, labels=tuple(labels), sampling=sampling, left_out=SkipReport())

    @property
    def groups(self) -> Sequence[int]:
        """All may be mixed."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What the clip shows, and its number."""
        return f"{self._caption(index)} #{index}"

    def _caption(self, index: int) -> str:
        return self.corpus.shards[self.labels[index]].forms[WITHOUT_MOTION]

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """One frame ``uint8 [1, H, W, 3]``.

        Raises:
            BrokenSampleError: it is smaller than wanted where that is not allowed.
        """
        from PIL import Image

        clip = np.asarray(self.clips[index : index + 1])[0]
        image = Image.fromarray(np.ascontiguousarray(clip[int(rng.integers(len(clip)))]))
        values = torch.from_numpy(fit_image(image, self.sampling, rng)[None])
        return Sample(name=self.name(index), values=values, caption=self._caption(index), index=index)


def open_images(where: str, sampling: FrameSampling, missing: Missing) -> ClipFolder | ShardSet | CorpusStills:
    """The images of a folder, of shards, or of a corpus.

    Args:
        where: a corpus's folder, a folder or pattern of ``.tar`` files, or a folder of images with captions.
        sampling: their size, and which part is seen; smaller ones are not enlarged.
        missing: what to do about images without caption.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: there is no image, or no caption.
    """
    sampling, folder = replace(sampling, frames=1, enlarge=False), Path(where)
    if (folder / INDEX).is_file():
        return CorpusStills.open(folder, sampling)
    shards = not folder.is_dir() or any(folder.glob("*.tar"))
    if shards and not folder.is_dir() and not where.endswith(".tar"):
        raise FileNotFoundError(
            f"--image-set {where} is not there; allowed: a folder of images with captions, WebDataset shards (a folder "
            "or a pattern of .tar files), or a rendered corpus. Name one."
        )
    found = ShardSet.scan(where, sampling) if shards else ClipFolder.scan(folder, sampling, missing)
    images = found.only("image")
    if not len(images):
        raise ValueError(
            f"--image-set {where} holds no image ({len(found)} clips); allowed: still images (png, jpg, webp, bmp) "
            "with captions. Without it frames of the clips are the real ones: leave it out, or name images."
        )
    return images
