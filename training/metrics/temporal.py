"""Steadiness of clips: change from frame to frame, and what is left of it when the motion is taken out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .raft import Raft, flow

_OCCLUDED_SHARE, _OCCLUDED_PX = 0.01, 0.5


def flicker(clips: Tensor) -> Tensor:
    """Mean absolute change of a pixel from frame to frame; real motion counts too, so compare with real clips.

    Args:
        clips: uint8 ``[N, F, H, W, 3]``.

    Returns:
        ``[N]`` in [0, 255].
    """
    return clips.float().diff(dim=1).abs().flatten(1).mean(1)


def backward_warp(frames: Tensor, moved: Tensor) -> Tensor:
    """Frames looked up where the flow points (bilinear, the edge repeated).

    Args:
        frames: ``[N, C, H, W]``.
        moved: ``[N, 2, H, W]`` in pixels to the right and down.
    """
    height, width = frames.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = columns.to(moved) + moved[:, 0], rows.to(moved) + moved[:, 1]
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    return functional.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=True)


def occluded(forward: Tensor, backward: Tensor) -> Tensor:
    """Pixels of the first frame that the second does not show: there and back does not lead home.

    Sundaram et al. (ECCV 2010): ``|f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5`` with ``b`` looked up where ``f`` leads.

    Args:
        forward: ``[N, 2, H, W]`` from first to second.
        backward: from second to first.

    Returns:
        bool ``[N, H, W]``; pixels that leave the image are occluded.
    """
    back = backward_warp(backward, forward)
    size = forward.square().sum(1) + back.square().sum(1)
    height, width = forward.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = columns.to(forward) + forward[:, 0], rows.to(forward) + forward[:, 1]
    outside = (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)
    return ((forward + back).square().sum(1) > _OCCLUDED_SHARE * size + _OCCLUDED_PX) | outside


@torch.no_grad()
def warping_error(model: Raft, clips: Tensor, every: int = 3, iterations: int = 6) -> Tensor:
    """Root of the mean squared difference between a frame and the next one warped back to it, where both show the same.

    Args:
        model: RAFT.
        clips: uint8 ``[N, F, H, W, 3]``.
        every: look at every n-th pair of frames.
        iterations: RAFT's corrections.

    Returns:
        ``[N]`` in [0, 1]; nan where nothing is seen twice.
    """
    frames = clips.permute(0, 1, 4, 2, 3).float() / 255
    first, second = frames[:, :-1:every], frames[:, 1::every]
    a, b = first.flatten(0, 1), second.flatten(0, 1)
    forward, backward = flow(model, a, b, iterations), flow(model, b, a, iterations)
    seen = (~occluded(forward, backward)).float()
    squared = (backward_warp(b, forward) - a).square().mean(1) * seen
    pairs = (len(clips), first.shape[1])
    sums, counts = (v.flatten(1).sum(1).unflatten(0, pairs).sum(1) for v in (squared, seen))
    return (sums / counts).sqrt()
