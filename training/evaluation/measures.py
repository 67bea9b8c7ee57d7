"""What is measured of clips: one file of numbers for each chunk and measure, combined into columns of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..metrics.clipsim import load_clip, similarity
from ..metrics.i3d import clip_features, load_any_i3d
from ..metrics.inception import load_inception, picture_features
from ..metrics.lpips import load_lpips, lpips
from ..metrics.raft import load_raft
from ..metrics.temporal import flicker, warping_error
from ..mini import world
from ..mini.recognizer import load_recognizer, recognised
from ..mini.retrieval import caption_ranks, load_retriever

FRAMES_FOR_FID = 4


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Clips to measure.

    Attributes:
        videos: uint8 ``[n, F, H, W, 3]``.
        prompts: what each should show.
        partners: clips of the same prompts from other seeds, uint8 of the same shape; None where there are none.
    """

    videos: Tensor
    prompts: list[world.Combination]
    partners: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure.

    Attributes:
        title: for ``--help``.
        weights: the option that names its file, if it needs one.
        load: its network from that file.
        rows: of a chunk, ``[n, ...]`` with one row a clip.
        pairs: whether it looks at the partners.
        on_device: whether its network goes where the sampled ones are.
        settings: what else its numbers depend on, for the cache.
    """

    title: str
    weights: str = ""
    load: Callable[[Path], Any] = lambda path: None
    rows: Callable[[Any, Chunk], Tensor]
    pairs: bool = False
    on_device: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def picked_frames(videos: Tensor, count: int) -> Tensor:
    """``count`` frames of each clip, evenly spread: ``[n, count, H, W, 3]``."""
    return videos[:, torch.linspace(0, videos.shape[1] - 1, count + 2).round().long()[1:-1]]


def _agreement(model: Any, chunk: Chunk) -> Tensor:
    return recognised(model, chunk.videos, chunk.prompts).float()


def _inception(model: Any, chunk: Chunk) -> Tensor:
    frames = picked_frames(chunk.videos, FRAMES_FOR_FID)
    return picture_features(model, frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).half()


def _diversity(model: Any, chunk: Chunk) -> Tensor:
    """LPIPS between clips of one prompt, the mean of two frames; nan where there is no partner."""
    if chunk.partners is None:
        return torch.full((len(chunk.videos),), torch.nan)
    first, second = (
        picked_frames(v, 2).flatten(0, 1).permute(0, 3, 1, 2).float() / 255 for v in (chunk.videos, chunk.partners)
    )
    return lpips(model, first, second).unflatten(0, (-1, 2)).mean(1)


def _fvd(model: Any, chunk: Chunk) -> Tensor:
    return clip_features(model, chunk.videos, progress=None)


def _fvd_bfloat16(model: Any, chunk: Chunk) -> Tensor:
    return clip_features(model, chunk.videos, progress=None, dtype=torch.bfloat16)


def _retrieval(model: Any, chunk: Chunk) -> Tensor:
    return caption_ranks(model, chunk.videos, chunk.prompts)


def _clipsim(model: Any, chunk: Chunk) -> Tensor:
    return similarity(model, chunk.videos, [p.caption for p in chunk.prompts])


MEASURES: dict[str, Measure] = {
    "fvd": Measure(title="Frechet video distance", weights="i3d", load=load_any_i3d, rows=_fvd, on_device=True),
    "fvd-bfloat16": Measure(
        title="the same, I3D in bfloat16 autocast", weights="i3d", load=load_any_i3d, rows=_fvd_bfloat16, on_device=True
    ),
    "agreement": Measure(
        title="share recognised as asked", weights="recognizer", load=load_recognizer, rows=_agreement
    ),
    "fid": Measure(
        title="Frechet inception distance of frames",
        weights="inception",
        load=load_inception,
        on_device=True,
        rows=_inception,
        settings={"frames": FRAMES_FOR_FID},
    ),
    "diversity": Measure(
        title="LPIPS between seeds of one prompt", weights="lpips", load=load_lpips, rows=_diversity, pairs=True
    ),
    "flicker": Measure(title="change from frame to frame", rows=lambda model, chunk: flicker(chunk.videos)),
    "warping": Measure(
        title="RAFT warping error",
        weights="raft",
        load=load_raft,
        rows=lambda model, chunk: warping_error(model, chunk.videos),
    ),
    "retrieval": Measure(
        title="text-video retrieval trained on the corpus", weights="retriever", load=load_retriever, rows=_retrieval
    ),
    "clipsim": Measure(title="CLIPSIM with your CLIP", weights="clip", load=load_clip, rows=_clipsim),
}
