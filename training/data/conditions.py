"""Conditions of a corpus's clips: true depth, motion and silhouettes, sketches as in the graph, random holes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from videolcm_core.annotators import sketch
from videolcm_core.annotators.sketch import canny_edges, pencil_sketch
from videolcm_core.media.condition_values import masked_from_frames

from ..engine.caches import cached
from .corpus import Corpus

NAMES = ("depth", "sketch", "single_sketch", "local_image", "masked", "motion")
_BLOCK = 8


@dataclass(frozen=True, kw_only=True)
class ConditionClips:
    """What conditions are made of, one entry per rendered clip (mirror images are made on the fly).

    Attributes:
        rgb: uint8 ``[N, 3, F, H, W]``.
        depth: inverse depth, float16 ``[N, 1, F, H, W]``.
        motion: pixels since the frame before, float16 ``[N, 2, F, H, W]``.
        silhouette: uint8 ``[N, 1, F, H, W]``.
        canny: uint8 ``[N, 1, F, H, W]``, bright lines on black; so is ``pencil``.
        pencil: see ``canny``.
    """

    rgb: Tensor
    depth: Tensor
    motion: Tensor
    silhouette: Tensor
    canny: Tensor
    pencil: Tensor

    def __len__(self) -> int:
        return len(self.rgb)

    def take(self, indices: Tensor) -> Clips:
        """Clips in network values; indices from ``len(self)`` on are mirror images.

        Args:
            indices: long ``[B]`` in [0, 2 N).
        """
        return Clips(source=self, rows=indices % len(self), mirrored=indices >= len(self))


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Some of the `ConditionClips`, read when asked for: float32, colours, lines and silhouettes in [0, 1]."""

    source: ConditionClips
    rows: Tensor
    mirrored: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def _picked(self, name: str) -> Tensor:
        value = getattr(self.source, name)[self.rows]
        value = value.float() / 255 if value.dtype == torch.uint8 else value.float()
        if self.mirrored.any():
            value[self.mirrored] = value[self.mirrored].flip(-1)
        return value

    @property
    def rgb(self) -> Tensor:
        """Colours ``[B, 3, F, H, W]``."""
        return self._picked("rgb")

    @property
    def depth(self) -> Tensor:
        """Inverse depth ``[B, 1, F, H, W]``."""
        return self._picked("depth")

    @property
    def motion(self) -> Tensor:
        """Pixels since the frame before ``[B, 2, F, H, W]``; a mirror image moves the other way."""
        motion = self._picked("motion")
        motion[self.mirrored, 0] *= -1
        return motion

    @property
    def silhouette(self) -> Tensor:
        """Coverage by the object ``[B, 1, F, H, W]``."""
        return self._picked("silhouette")

    @property
    def canny(self) -> Tensor:
        """Edges ``[B, 1, F, H, W]``."""
        return self._picked("canny")

    @property
    def pencil(self) -> Tensor:
        """Soft lines ``[B, 1, F, H, W]``."""
        return self._picked("pencil")


def load_conditions(corpus: Corpus, labels: Sequence[int]) -> ConditionClips:
    """Layers and sketches of a corpus's clips; sketches are drawn once and kept beside the corpus."""
    arrays, _ = corpus.layers(labels, ("clips", "depth", "silhouette", "motion"))
    clips = torch.from_numpy(arrays["clips"])
    inputs = {"format": 2, "code": inspect.getsource(sketch), "shards": corpus.digests(labels)}
    sketches = cached(corpus.folder, "sketches", inputs, lambda: draw_sketches(clips))
    return ConditionClips(
        rgb=clips.permute(0, 4, 1, 2, 3).contiguous(),
        depth=torch.from_numpy(arrays["depth"])[:, None],
        motion=torch.from_numpy(arrays["motion"]).permute(0, 4, 1, 2, 3).contiguous(),
        silhouette=torch.from_numpy(arrays["silhouette"])[:, None],
        **sketches,
    )


def draw_sketches(clips: Tensor) -> dict[str, Tensor]:
    """Both kinds of sketch of uint8 clips ``[N, F, H, W, 3]``: uint8 ``[N, 1, F, H, W]`` each."""
    drawn: dict[str, list[Tensor]] = {"canny": [], "pencil": []}
    for clip in tqdm(clips, desc="sketch", unit="clip", mininterval=5.0):
        frames = clip.float() / 255
        drawn["canny"].append(canny_edges(frames).mul(255).byte())
        drawn["pencil"].append(pencil_sketch(frames).mul(255).byte())
    return {name: torch.stack(values)[:, None] for name, values in drawn.items()}


def condition_of(name: str, clips: Clips, generator: torch.Generator) -> Tensor:
    """One condition of a batch in training, with the variations that users bring.

    Args:
        name: one of `NAMES`.
        clips: the batch.
        generator: draws the variations.

    Returns:
        ``[B, c, F, H, W]``, as the network takes it.
    """
    if name == "depth":
        return _varied_depth(clips.depth, generator)
    if name in ("sketch", "single_sketch"):
        sketch = _either(clips.canny, clips.pencil, 0.5, generator)
        return sketch if name == "sketch" else _first_frame(sketch)
    if name == "local_image":
        return _first_frame(clips.rgb)
    if name == "masked":
        return masked_condition(clips.rgb, random_holes(clips.silhouette, generator))
    motion = clips.motion
    return _either(blocky(motion), motion, 0.3, generator)


def exact_condition(name: str, clips: Clips) -> Tensor:
    """One condition of a batch as it is, without variations; holes cover the object (`object_holes`)."""
    if name == "depth":
        return clips.depth
    if name in ("sketch", "single_sketch"):
        return clips.canny if name == "sketch" else _first_frame(clips.canny)
    if name == "local_image":
        return _first_frame(clips.rgb)
    if name == "masked":
        return masked_condition(clips.rgb, object_holes(clips.silhouette))
    return clips.motion


def masked_condition(rgb: Tensor, hole: Tensor) -> Tensor:
    """`masked_from_frames` for videos: ``[B, 3, F, H, W]`` and holes ``[B, 1, F, H, W]`` to ``[B, 4, F, H, W]``."""
    frames = masked_from_frames(rgb.transpose(1, 2).flatten(0, 1), hole.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (len(rgb), -1)).transpose(1, 2)


def _first_frame(videos: Tensor) -> Tensor:
    """The first frame on every frame."""
    return videos[:, :, :1].expand_as(videos)


def _either(first: Tensor, second: Tensor, share: float, generator: torch.Generator) -> Tensor:
    chosen = torch.rand(len(first), generator=generator) < share
    return torch.where(chosen.view(-1, 1, 1, 1, 1), first, second)


def _varied_depth(depth: Tensor, generator: torch.Generator) -> Tensor:
    """Other estimators have another scale and less detail: half the clips are scaled, a third are softened."""
    count, size = len(depth), depth.shape[2:]
    scale = torch.exp(0.2 * torch.randn(count, generator=generator))
    scale = torch.where(torch.rand(count, generator=generator) < 0.5, scale, torch.ones(count))
    small = F.avg_pool3d(depth, (1, 2, 2))
    soft = _either(F.interpolate(small, tuple(size), mode="trilinear", align_corners=False), depth, 0.33, generator)
    return soft * scale.view(-1, 1, 1, 1, 1)


def blocky(motion: Tensor) -> Tensor:
    """Motion as a video codec knows it: one vector for each 8 x 8 block."""
    block = F.avg_pool3d(motion, (1, _BLOCK, _BLOCK))
    return block.repeat_interleave(_BLOCK, -1).repeat_interleave(_BLOCK, -2)


def object_holes(silhouette: Tensor, margin: int = 3) -> Tensor:
    """A hole around the object of each frame, ``margin`` pixels wider: ``[B, 1, F, H, W]`` in {0, 1}."""
    frames = (silhouette > 0.2).float().transpose(1, 2).flatten(0, 1)
    grown = F.max_pool2d(frames, 2 * margin + 1, stride=1, padding=margin)
    return grown.unflatten(0, (len(silhouette), -1)).transpose(1, 2)


def random_holes(silhouette: Tensor, generator: torch.Generator) -> Tensor:
    """Holes for training: strokes, rectangles, a half (the same on every frame, as the authors'), or the moving object.

    Args:
        silhouette: ``[B, 1, F, H, W]`` in [0, 1].
        generator: draws.

    Returns:
        ``[B, 1, F, H, W]`` in {0, 1}, 1 is the hole.
    """
    holes = object_holes(silhouette, margin=2)
    kinds = torch.rand(len(holes), generator=generator)
    seeds = torch.randint(2**31, (len(holes),), generator=generator).tolist()
    for index, (kind, seed) in enumerate(zip(kinds.tolist(), seeds, strict=True)):
        if kind > 0.35:
            holes[index] = torch.from_numpy(_still_hole(kind, np.random.default_rng(seed), *holes.shape[-2:]))
    return holes


def _still_hole(kind: float, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    hole = np.zeros((height, width), np.float32)
    if kind > 0.85:  # a half
        if rng.random() < 0.5:
            hole[:, : width // 2] = 1
        else:
            hole[: height // 2] = 1
        return hole[:, ::-1].copy() if rng.random() < 0.5 else hole[::-1].copy()
    if kind > 0.6:  # rectangles
        for _ in range(int(rng.integers(1, 4))):
            h, w = (int(rng.integers(side // 4, side * 2 // 3)) for side in (height, width))
            y, x = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
            hole[y : y + h, x : x + w] = 1
        return hole
    rows, columns = np.mgrid[:height, :width]
    at = rng.uniform(0.1, 0.9, 2) * (height, width)
    for _ in range(int(rng.integers(3, 9))):  # a stroke: discs along a walk
        step = rng.normal(0, height / 6, 2)
        radius = rng.uniform(height / 16, height / 7)
        for part in np.linspace(0, 1, 8):
            y, x = at + step * part
            hole[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
        at = np.clip(at + step, 0, (height - 1, width - 1))
    return hole
