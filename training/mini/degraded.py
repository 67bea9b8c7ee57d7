"""Degrade a rendered corpus: ``python -m training.mini.degraded --corpus DIR --out DIR --part video``.

The two data sets that MCM wants (arXiv 2406.06890): clips whose frames are bad, as those of large video collections
are, and clean images of other prompts. The training combinations are halved; each object, motion and place is in both.

- ``--part video``: the clips of one half, each of low resolution, blurred, compressed and with a watermark.
- ``--part images``: single clean frames of the other half, with captions that say no motion.
- ``--part all``: the degraded clips of both halves, for judges.

The held-out combinations are the same as before: degraded in the first and the last, left out of the images. Written
are shards and their list ``corpus.json``, as `training.mini.corpus` writes them, so every command reads them with
``--corpus``. The same command resumes: what is whole and made from the same clips with the same numbers is kept.

The embedded autoencoder has never seen such frames and draws them as clean ones; one that knows both kinds is its
decoder, trained on with both: ``python -m training.mini.decoder --corpus CLEAN DEGRADED ...``.
"""

from __future__ import annotations

import argparse
import io
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from videolcm_core.files.writing import whole_file

from ..data.corpus import Corpus, Shard, read_shard, write_index
from ..engine.caches import digest_of, file_digest
from ..engine.commands import run_command
from . import captions, watermark
from .corpus import clips_in
from .worlds.base import Combination, World, world_named

FRAMES_OF_A_CLIP: Final = 4
"""Images that are taken of a clean clip."""
_JITTER: Final = 0.2  # each clip's numbers are drawn this far around the given ones


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """How bad the frames are.

    Attributes:
        low: side in pixels that frames of 64 x 64 are shrunk to and enlarged from; in proportion for other sizes.
        blur: deviation of the Gaussian in pixels.
        quality: of JPEG, 1 to 95.
        opacity: of the watermark, above 0 to 1.
    """

    low: int = 24
    blur: float = 0.8
    quality: int = 25
    opacity: float = 0.65

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: with the value and what is allowed.
        """
        for name, low, high in (("low", 8, 64), ("blur", 0, 8), ("quality", 1, 95), ("opacity", 0.01, 1)):
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"--{name} is {value}; allowed: {low} to {high}.")


def degraded(frames: np.ndarray, how: Degradation, rng: np.random.Generator) -> np.ndarray:
    """A clip as a video collection might have it; its numbers are one draw around the given ones for all frames.

    Args:
        frames: ``uint8 [F, H, W, 3]``.
        how: what is done.
        rng: draws the clip's own numbers.

    Returns:
        like ``frames``.
    """
    from PIL import Image, ImageFilter

    height, width = frames.shape[1:3]
    low, blur, quality = (float(v) * rng.uniform(1 - _JITTER, 1 + _JITTER) for v in (how.low, how.blur, how.quality))
    small = (max(round(width * low / 64), 1), max(round(height * low / 64), 1))
    soft = []
    for frame in frames:
        image = Image.fromarray(frame).resize(small, Image.Resampling.BOX)
        image = image.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(blur))
        soft.append(np.asarray(image))
    return np.stack([_compressed(frame, round(quality)) for frame in watermark.marked(np.stack(soft), how.opacity)])


def _compressed(frame: np.ndarray, quality: int) -> np.ndarray:
    """A frame after JPEG, colours at half the resolution."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=max(quality, 1), subsampling=2)
    return np.asarray(Image.open(file))


def of_the_videos(combination: Combination, of: World) -> bool:
    """Whether a training combination's clips are in the video set; the images have the others.

    A mirrored clip is in the half of the clip, as mirror images are trained on. With the sum's parity each object,
    motion and place, and each pair of a motion with another attribute, is in both halves.
    """
    motions = list(of.motions)
    motion = min(motions.index(combination.motion), motions.index(of.mirrored(combination).motion))
    kinds = sorted({min(motions.index(m), motions.index(of.mirror.get(m, m))) for m in motions})
    place = list(of.places).index(combination.place)
    return (list(of.objects).index(combination.thing) + kinds.index(motion) + place) % 2 == 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the data sets.

    Attributes:
        has: whether it has a combination.
        held_out: whether it has the held-out ones.
        images: whether it is single clean frames; else degraded clips.
    """

    has: Callable[[Combination, World], bool]
    held_out: bool
    images: bool


PARTS: Final[dict[str, Part]] = {
    "video": Part(has=of_the_videos, held_out=True, images=False),
    "images": Part(has=lambda combination, of: not of_the_videos(combination, of), held_out=False, images=True),
    "all": Part(has=lambda combination, of: True, held_out=True, images=False),
}


def wanted(source: Corpus, part: Part) -> list[int]:
    """The source's shards that a part is made from."""
    of = world_named(source.world)
    return [
        i
        for i, (shard, combination) in enumerate(zip(source.shards, of.combinations(), strict=True))
        if not shard.absent and (part.held_out if shard.held_out else part.has(combination, of))
    ]


def make_shard(
    source: Corpus, label: int, part: Part, how: Degradation, seed: int, origin: str
) -> dict[str, np.ndarray]:
    """The arrays of a shard: "clips", and "origin", the digest of what each was made from.

    Raises:
        FileNotFoundError, ValueError: the source's shard is missing or damaged.
    """
    shard = source.shards[label]
    clips = read_shard(source.folder / shard.file, ("clips",), shard.clips)["clips"]
    if part.images:
        chosen = np.linspace(0, clips.shape[1] - 1, FRAMES_OF_A_CLIP).round().astype(int)
        made = clips[:, np.unique(chosen)].reshape(-1, 1, *clips.shape[2:])
    else:
        name = zlib.crc32(shard.file.encode())
        made = np.stack([degraded(c, how, np.random.default_rng([seed, name, i])) for i, c in enumerate(clips)])
    return {"clips": made, "origin": np.full(len(made), origin)}


def is_made(path: Path, origin: str) -> bool:
    """Whether a shard is whole and made from what it would be made from now."""
    if not clips_in(path):
        return False
    with np.load(path, allow_pickle=False) as arrays:
        return "origin" in arrays.files and set(arrays["origin"].tolist()) == {origin}


def listed(source: Corpus, out: Path, part: Part) -> Corpus:
    """The list of a part; a shard has the number that it has in the source."""
    labels = set(wanted(source, part))
    shards = tuple(_entry(shard, out / shard.file, part, i in labels) for i, shard in enumerate(source.shards))
    if not part.images:
        return replace(source, folder=out, shards=shards)
    return replace(source, folder=out, shards=shards, frames=1, judges="")


def _entry(shard: Shard, path: Path, part: Part, has: bool) -> Shard:
    forms = shard.forms
    if part.images:  # a single frame shows no motion
        whole, thing = forms[captions.NO_MOTION], forms[captions.OBJECT_ONLY]
        forms = (whole, thing, whole, thing, forms[captions.EMPTY])
    if not has:
        return replace(shard, forms=forms, clips=0, digest="", absent=True)
    return replace(shard, forms=forms, clips=clips_in(path), digest=file_digest(path))


def check_folder(source: Corpus, labels: list[int], out: Path) -> None:
    """Refuse a folder that is the source's, or that holds shards of another part.

    Raises:
        ValueError: it is.
    """
    if out.resolve() == source.folder.resolve():
        raise ValueError(f"--out is the corpus itself, {out}, which stays as it is; give another folder.")
    own = {source.shards[i].file for i in labels}
    if strange := sorted(p.name for p in out.glob("*.npz") if p.name not in own):
        raise ValueError(
            f"{out} holds {len(strange)} shards that are not of this part, {strange[0]} first; give each --part a "
            "folder of its own, or delete this one."
        )


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="rendered clips; only read")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--part", choices=list(PARTS), default="video", help="default: video")
    known = Degradation()
    parser.add_argument("--low", type=int, default=known.low, help=f"pixels in place of 64 (default {known.low})")
    parser.add_argument("--blur", type=float, default=known.blur, help=f"pixels (default {known.blur})")
    parser.add_argument("--quality", type=int, default=known.quality, help=f"of JPEG (default {known.quality})")
    parser.add_argument("--opacity", type=float, default=known.opacity, help=f"watermark's (default {known.opacity})")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args(arguments)
    how, part = Degradation(low=o.low, blur=o.blur, quality=o.quality, opacity=o.opacity), PARTS[o.part]
    source = Corpus.open(o.corpus)
    labels = wanted(source, part)
    check_folder(source, labels, o.out)
    o.out.mkdir(parents=True, exist_ok=True)
    for label in tqdm(labels, desc=o.part, unit="combination"):
        shard = source.shards[label]
        numbers = (
            {"images": FRAMES_OF_A_CLIP}
            if part.images
            else {**asdict(how), "seed": o.seed, "watermark": watermark.WORD}
        )
        origin = digest_of({"format": 2, "source": shard.digest, **numbers})
        if is_made(path := o.out / shard.file, origin):
            continue
        arrays = make_shard(source, label, part, how, o.seed, origin)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    made = listed(source, o.out, part)
    write_index(made)
    print(f"{o.out}: {sum(s.clips for s in made.shards)} {'images' if part.images else 'clips'}")


if __name__ == "__main__":
    run_command(main)
