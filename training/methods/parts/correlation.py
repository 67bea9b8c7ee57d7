"""Correlations of each frame's latents with the next frame's: motion without appearance (MCM, "latent correlation").

All are computed in float32: a correlation grows with the latents' square, and the mark of a place outside the image is
beyond half precision's range.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

RADIUS = 7
"""Of the window of a local correlation, in latent pixels, as in the authors' code."""
OUTSIDE = -1e9
"""Correlation with a place outside the image; the same in both tensors that are compared, so that it adds no loss."""


def global_correlation(x: Tensor, scaled: bool = False) -> Tensor:
    """Every place of a frame with every place of the next: ``<x_i[p], x_(i+1)[q]> / sqrt(C)``.

    Args:
        x: latents ``[B, C, F, h, w]``.
        scaled: times ``sqrt(h)``.

    Returns:
        float32 ``[B (F - 1), h w, h w]``.
    """
    frame, following = _pairs(x)
    with torch.autocast(x.device.type, enabled=False):
        found = torch.bmm(frame.flatten(2).transpose(1, 2), following.flatten(2)) / x.shape[1] ** 0.5
        return found * x.shape[3] ** 0.5 if scaled else found


def local_correlation(x: Tensor, radius: int = RADIUS) -> Tensor:
    """Every place of a frame with the places around it in the next; `OUTSIDE` beyond the image's edge.

    Args:
        x: latents ``[B, C, F, h, w]``.
        radius: of the window.

    Returns:
        float32 ``[B (F - 1), h w, (2 radius + 1)^2]``, the window row by row.
    """
    frame, following = _pairs(x)
    width = 2 * radius + 1
    with torch.autocast(x.device.type, enabled=False):
        windows = functional.unfold(following, width, padding=radius).unflatten(1, (x.shape[1], width**2))
        found = (frame.flatten(2).unsqueeze(2) * windows).sum(1).transpose(1, 2) / x.shape[1] ** 0.5
    return found.masked_fill(~inside(x.shape[3], x.shape[4], radius, x.device), OUTSIDE)


def inside(height: int, width: int, radius: int, device: torch.device | str = "cpu") -> Tensor:
    """Which places of each window lie in the image, bool ``[h w, (2 radius + 1)^2]``."""
    offset = torch.arange(-radius, radius + 1, device=device)
    rows, columns = (torch.arange(n, device=device)[:, None] + offset for n in (height, width))
    good_rows, good_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return (good_rows[:, None, :, None] & good_columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each frame but the last, and the one after it: float32 ``[B (F - 1), C, h, w]`` each."""
    frames = x.float().transpose(1, 2)
    return frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
