"""How well a video obeys its condition: plain functions of two maps, one number per clip.

Maps of clips are ``[N, F, ...]``; every result is float64 ``[N]``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Inverse depth (near is large, at most 10) below which everything counts as equally far.
FARTHEST = 0.05


def _rows(values: Tensor) -> Tensor:
    return values.double().flatten(1)


def _same_shapes(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"the maps have shapes {tuple(first.shape)} and {tuple(second.shape)}; they must be equal.")


def _ranks(rows: Tensor) -> Tensor:
    """Rank of every value in its row, from 0; equal values share their mean rank."""
    ordered = rows.sort(1).values
    below = torch.searchsorted(ordered, rows)
    not_above = torch.searchsorted(ordered, rows, right=True)
    return (below + not_above - 1) / 2


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation: whether two depth maps order the pixels of a clip alike, at whatever scale.

    Args:
        first: ``[N, ...]``.
        second: the same shape.

    Returns:
        ``[N]`` in [-1, 1]; 0 where a map is constant and orders nothing.
    """
    _same_shapes(first, second)
    a, b = (_ranks(_rows(m)).double() for m in (first, second))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    size = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(size > 0, (a * b).sum(1) / size.clamp(min=1e-12), 0.0)


def depth_error(estimated: Tensor, given: Tensor, farthest: float = FARTHEST) -> tuple[Tensor, Tensor]:
    """Error of re-estimated depth.

    Args:
        estimated: ``[N, ...]`` inverse depth as the depth condition has it (near is large).
        given: the same shape.
        farthest: smallest inverse depth; less is raised to it before the logarithm.

    Returns:
        Mean ``|log estimated - log given|`` (0.1 is a factor of about 1.1 in distance), and mean
        ``|estimated - given|``.
    """
    _same_shapes(estimated, given)
    a, b = _rows(estimated), _rows(given)
    relative = (a.clamp(min=farthest).log() - b.clamp(min=farthest).log()).abs().mean(1)
    return relative, (a - b).abs().mean(1)


def silhouette_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of two masks of a clip, over all its frames.

    Args:
        first: ``[N, ...]``, bool, or inside where above 0.5.
        second: the same shape.

    Returns:
        ``[N]`` in [0, 1]; 1 where both are empty.
    """
    _same_shapes(first, second)
    a, b = _rows(first) > 0.5, _rows(second) > 0.5
    union = (a | b).sum(1).double()
    return torch.where(union > 0, (a & b).sum(1) / union.clamp(min=1), 1.0)


def _near(edges: Tensor, distance: int) -> Tensor:
    """Pixels within a distance of an edge, rows and columns counted apart (a square)."""
    frames = edges.flatten(0, 1).unsqueeze(1).float()
    return functional.max_pool2d(frames, 2 * distance + 1, 1, distance).squeeze(1).unflatten(0, edges.shape[:2]) > 0


def edge_f1(first: Tensor, second: Tensor, tolerance_px: int = 1) -> Tensor:
    """Agreement of two edge maps: harmonic mean of the shares of each one's edges that the other has nearby.

    Args:
        first: ``[N, F, H, W]``, bool, or an edge where above 0.5.
        second: the same shape.
        tolerance_px: how many pixels apart, in rows and in columns, edges still meet.

    Returns:
        ``[N]`` in [0, 1]; 1 where both are empty, 0 where one is.
    """
    _same_shapes(first, second)
    a, b = first > 0.5, second > 0.5
    found_a = (a & _near(b, tolerance_px)).flatten(1).sum(1) / a.flatten(1).sum(1).clamp(min=1).double()
    found_b = (b & _near(a, tolerance_px)).flatten(1).sum(1) / b.flatten(1).sum(1).clamp(min=1).double()
    both_empty = ~a.flatten(1).any(1) & ~b.flatten(1).any(1)
    score = 2 * found_a * found_b / (found_a + found_b).clamp(min=1e-12)
    return torch.where(both_empty, 1.0, score)


def end_point_error(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean length of the difference of two flows.

    Args:
        first: ``[N, F, 2, H, W]`` in pixels.
        second: the same shape.
        mask: ``[N, F, H, W]``, where to look (weights in [0, 1]); None looks everywhere.

    Returns:
        ``[N]`` in pixels; nan where a clip's mask is empty.
    """
    _same_shapes(first, second)
    distance = (first.double() - second.double()).norm(dim=2)
    return masked_mean(distance, torch.ones_like(distance) if mask is None else mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of a clip's values, weighted.

    Args:
        values: ``[N, ...]``.
        mask: the same shape, weights.

    Returns:
        ``[N]``; nan where all weights are 0.
    """
    _same_shapes(values, mask)
    weights = _rows(mask)
    return (_rows(values) * weights).sum(1) / weights.sum(1)


def hole_errors(generated: Tensor, original: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """Error of an inpainted clip.

    Args:
        generated: ``[N, F, C, H, W]``.
        original: the same shape, the clip before the hole was cut.
        hole: ``[N, F, 1, H, W]``, 1 where the model had to fill.

    Returns:
        Mean absolute error outside the hole (what should be kept), and inside it (what had to be guessed; other
        fillings can be as good). nan where there is no such pixel.
    """
    _same_shapes(generated, original)
    error = (generated.double() - original.double()).abs().mean(2, keepdim=True)
    hole = (hole > 0.5).double()
    return masked_mean(error, 1 - hole), masked_mean(error, hole)


def mean_interval(values: Tensor, seed: int = 0, resamples: int = 2000) -> tuple[float, float, float]:
    """Mean with its 95 % confidence interval by the bootstrap over clips.

    Args:
        values: ``[N]``; nan (a clip without such a number) is left out.
        seed: of the resampling.
        resamples: how many.

    Returns:
        Mean, lower and upper bound.

    Raises:
        ValueError: no number is left.
    """
    values = values.double().flatten()
    values = values[~values.isnan()]
    if not len(values):
        raise ValueError("there is no number to average: every clip's value is nan, or there are no clips.")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(values), (resamples, len(values)), generator=generator)
    low, high = torch.quantile(values[chosen].mean(1), torch.tensor([0.025, 0.975]).double())
    return float(values.mean()), float(low), float(high)
