"""What is measured of clips: one file of numbers for each chunk and measure, combined into columns of the table."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..metrics.clipsim import load_clip, similarity
from ..metrics.i3d import clip_features, load_any_i3d
from ..metrics.inception import image_features, load_inception
from ..metrics.lpips import load_lpips, lpips
from ..metrics.raft import load_raft
from ..metrics.temporal import flicker, warping_error
from .prompts import Prompt

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
    prompts: list[Prompt]
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
        columns: from the rows to a number a clip for each of its columns; None is one column with its own name.
        titles: of its columns and how their numbers are written, for tables.
        default: where its network's file is looked for.
        origin: what puts it there.
    """

    title: str
    weights: str = ""
    load: Callable[[Path], Any] = lambda path: None
    rows: Callable[[Any, Chunk], Tensor]
    pairs: bool = False
    on_device: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    columns: Callable[[Tensor], dict[str, Tensor]] | None = None
    titles: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    default: Path | None = None
    origin: str = ""


def picked_frames(videos: Tensor, count: int) -> Tensor:
    """``count`` frames of each clip, evenly spread: ``[n, count, H, W, 3]``; all of a clip that has no more."""
    if videos.shape[1] <= count:
        return videos
    return videos[:, torch.linspace(0, videos.shape[1] - 1, count + 2).round().long()[1:-1]]


def _inception(model: Any, chunk: Chunk) -> Tensor:
    frames = picked_frames(chunk.videos, FRAMES_FOR_FID)
    return image_features(model, frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).half()


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


def _clipsim(model: Any, chunk: Chunk) -> Tensor:
    return similarity(model, chunk.videos, [p.text for p in chunk.prompts])


_I3D = (Path("runs/i3d/i3d-kinetics-400.ckpt"), "scripts/fetch_i3d.sh")
_METRICS, _FETCH = Path("runs/metrics"), "scripts/fetch_metrics.sh"
MEASURES: dict[str, Measure] = {
    "fvd": Measure(
        title="Frechet video distance",
        weights="i3d",
        load=load_any_i3d,
        rows=_fvd,
        on_device=True,
        default=_I3D[0],
        origin=_I3D[1],
    ),
    "fvd-bfloat16": Measure(
        title="the same, I3D in bfloat16 autocast",
        weights="i3d",
        load=load_any_i3d,
        rows=_fvd_bfloat16,
        on_device=True,
        default=_I3D[0],
        origin=_I3D[1],
    ),
    "fid": Measure(
        title="Frechet inception distance of frames",
        weights="inception",
        load=load_inception,
        on_device=True,
        rows=_inception,
        settings={"frames": FRAMES_FOR_FID},
        default=_METRICS / "default_1.pt",
        origin="scripts/fetch_inception.sh",
    ),
    "diversity": Measure(
        title="LPIPS between seeds of one prompt",
        weights="lpips",
        load=load_lpips,
        rows=_diversity,
        pairs=True,
        titles={"diversity": ("LPIPS between seeds", "{:.3f}")},
        default=_METRICS / "lpips_alex_v0.1.pt",
        origin=_FETCH,
    ),
    "flicker": Measure(
        title="change from frame to frame",
        rows=lambda model, chunk: flicker(chunk.videos),
        titles={"flicker": ("flicker (of 255)", "{:.2f}")},
    ),
    "warping": Measure(
        title="RAFT warping error",
        weights="raft",
        load=load_raft,
        rows=lambda model, chunk: warping_error(model, chunk.videos),
        titles={"warping": ("warping error", "{:.4f}")},
        default=_METRICS / "raft-things.pth",
        origin=_FETCH,
    ),
    "clipsim": Measure(
        title="CLIPSIM with your CLIP",
        weights="clip",
        load=load_clip,
        rows=_clipsim,
        titles={"clipsim": ("CLIPSIM", "{:.2f}")},
        default=Path("runs/clip"),
        origin="your own copy of openai/clip-vit-base-patch16",
    ),
}
"""The measures of any video; a corpus may bring further ones, see `with_judges`."""


def with_judges(package: str) -> dict[str, Measure]:
    """All measures, with those that only a world's own judges can make: ``MEASURES`` of ``training.<package>.judges``.

    Args:
        package: as the corpus names it; empty adds none.

    Raises:
        ValueError: there is no such package here.
    """
    if not package:
        return MEASURES
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package):
        raise ValueError(f"the corpus names the judges {package!r}; allowed: a package of training/, such as mini.")
    try:
        module = importlib.import_module(f"training.{package}.judges")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the corpus names the judges {package!r}, and training/{package}/judges.py is not there."
        ) from error
    return MEASURES | module.MEASURES
