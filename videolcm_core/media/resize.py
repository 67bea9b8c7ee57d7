"""How frames and images are made another size: cut, stretched or padded."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FITS: Final = ("crop", "stretch", "pad")


def cover_size(size: tuple[int, int], width: int, height: int, *, stretch: bool = False) -> tuple[int, int]:
    """The size to which an image is resized before `cut_middle` cuts it.

    Args:
        size: Its width and height.
        width: Wanted.
        height: Wanted.
        stretch: Give up its proportions instead.

    Returns:
        Width and height, neither below the wanted.
    """
    if stretch:
        return width, height
    scale = max(width / size[0], height / size[1])
    return max(width, round(size[0] * scale)), max(height, round(size[1] * scale))


def cut_middle(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle ``[height, width, 3]`` of ``[H, W, 3]``."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def resize_frames(frames: Tensor, width: int, height: int, fit: str, background: float = 0.0) -> Tensor:
    """Frames at another size; smaller ones are averaged, not sampled.

    Args:
        frames: ``[F, H, W, C]``; at the right size they are returned as they are.
        width: Pixels.
        height: Pixels.
        fit: One of `FITS`.
        background: Of the bars of "pad".

    Raises:
        ValueError: If ``fit`` is unknown.
    """
    return _resized(frames, width, height, fit, background)[0]


def resize_mask(mask: Tensor, width: int, height: int, fit: str) -> Tensor:
    """A mask ``[F, H, W]`` at another size, 0 or 1; the bars of "pad" are 0."""
    resized = _resized(mask[..., None], width, height, fit, 0.0)[0][..., 0]
    return (resized > 0.5).to(mask.dtype)


def resize_motion(frames: Tensor, width: int, height: int, fit: str) -> Tensor:
    """A motion image at another size: its displacements are in its own pixels, so they grow and shrink with it.

    Args:
        frames: ``[F, H, W, 3]``, displacement from mid grey in red (x) and green (y).
        width: Pixels.
        height: Pixels.
        fit: One of `FITS`; the bars of "pad" are at rest.
    """
    resized, scale_x, scale_y = _resized(frames, width, height, fit, 0.5)
    if scale_x == scale_y == 1.0:
        return resized
    return (resized - 0.5) * resized.new_tensor([scale_x, scale_y, 1.0]) + 0.5


def interpolate(frames: Tensor, width: int, height: int) -> Tensor:
    """Frames ``[F, H, W, C]`` stretched to a size, averaged where they become smaller."""
    if frames.shape[1:3] == (height, width):
        return frames
    # One frame at a time: the antialiased filter keeps a full-size copy of all that it is given.
    resized = [
        F.interpolate(frame.movedim(-1, 0)[None], size=(height, width), mode="bilinear", antialias=True)
        for frame in frames
    ]
    return torch.cat(resized).movedim(1, -1)


def _resized(frames: Tensor, width: int, height: int, fit: str, background: float) -> tuple[Tensor, float, float]:
    """The resized frames and how much larger things in them became, across and down."""
    if fit not in FITS:
        raise ValueError(f"fit is {fit!r}; allowed: {', '.join(FITS)}.")
    old_height, old_width = frames.shape[1:3]
    if (old_width, old_height) == (width, height):
        return frames, 1.0, 1.0
    across, down = width / old_width, height / old_height
    if fit != "stretch":
        across = down = max(across, down) if fit == "crop" else min(across, down)
    inner_width, inner_height = max(1, round(old_width * across)), max(1, round(old_height * down))
    inner = interpolate(frames, inner_width, inner_height)
    scale_x, scale_y = inner_width / old_width, inner_height / old_height
    if fit == "pad":
        left, top = (width - inner_width) // 2, (height - inner_height) // 2
        sides = (0, 0, left, width - inner_width - left, top, height - inner_height - top)
        return F.pad(inner, sides, value=background), scale_x, scale_y
    left, top = (inner_width - width) // 2, (inner_height - height) // 2
    return inner[:, top : top + height, left : left + width], scale_x, scale_y
