"""Random changes of the frames that a discriminator sees, real and made alike (DiffAugment, arXiv 2006.10738).

Each is a function of images and of numbers drawn outside, so that what one image gets depends on its own sample alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SHIFT = 0.125
"""Largest shift, as a share of the side."""
HOLE = 0.2
"""Side of the hole, as a share of the side."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Numbers drawn for N images.

    Attributes:
        brightness: uniform in [0, 1), ``[N, 1, 1, 1]``; so are the next two.
        saturation: see ``brightness``.
        contrast: see ``brightness``.
        shift: rows and columns, long ``[N, 2]``.
        hole: row and column of its middle, long ``[N, 2]``.
    """

    brightness: Tensor
    saturation: Tensor
    contrast: Tensor
    shift: Tensor
    hole: Tensor


def draw_changes(count: int, height: int, width: int, generator: torch.Generator) -> Changes:
    """Draw for ``count`` images, on the CPU."""

    def place(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (count,), generator=generator)

    brightness, saturation, contrast = (torch.rand(count, 1, 1, 1, generator=generator) for _ in range(3))
    shift = [place(-most, most) for most in (_pixels(height, SHIFT), _pixels(width, SHIFT))]
    # An even hole has its middle between two pixels: one place more.
    hole = [place(0, side - _pixels(side, HOLE) % 2) for side in (height, width)]
    return Changes(
        brightness=brightness,
        saturation=saturation,
        contrast=contrast,
        shift=torch.stack(shift, 1),
        hole=torch.stack(hole, 1),
    )


def joined(parts: list[Changes]) -> Changes:
    """Numbers of several groups of images, one after the other."""
    return Changes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def change_brightness(x: Tensor, u: Tensor) -> Tensor:
    """Add up to a half of the range [0, 1] to ``[N, 3, H, W]``, or take it away."""
    return x + (u - 0.5)


def change_saturation(x: Tensor, u: Tensor) -> Tensor:
    """Colours at 0 to 2 times their distance from the pixel's grey."""
    grey = x.mean(1, keepdim=True)
    return grey + (x - grey) * (2.0 * u)


def change_contrast(x: Tensor, u: Tensor) -> Tensor:
    """Pixels at 0.5 to 1.5 times their distance from the image's mean."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (u + 0.5)


def move(x: Tensor, shift: Tensor) -> Tensor:
    """Images ``[N, C, H, W]`` seen from a place that many rows and columns further; zeros come in."""
    height, width = x.shape[2:]
    most = int(shift.abs().max()) if len(shift) else 0
    padded = functional.pad(x, (most, most, most, most))
    starts = (shift + most).tolist()
    moved = [image[:, i : i + height, j : j + width] for image, (i, j) in zip(padded, starts, strict=True)]
    return torch.stack(moved)


def cut_hole(x: Tensor, middle: Tensor) -> Tensor:
    """Zeros in a rectangle of a fifth of each side around a place, as far as it lies in the image."""
    rows, columns = (
        _covered(side, middle[:, axis].to(x.device), _pixels(side, HOLE)) for axis, side in enumerate(x.shape[2:])
    )
    return x.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0.0)


def augment(x: Tensor, changes: Changes) -> Tensor:
    """All changes one after the other: colours, shift, hole.

    Args:
        x: ``[N, 3, H, W]``, 0 is grey.
        changes: of the N images.
    """
    x = change_brightness(x, changes.brightness.to(x))
    x = change_saturation(x, changes.saturation.to(x))
    x = change_contrast(x, changes.contrast.to(x))
    return cut_hole(move(x, changes.shift), changes.hole)


def _pixels(side: int, share: float) -> int:
    return int(side * share + 0.5)


def _covered(side: int, middle: Tensor, size: int) -> Tensor:
    """Which of ``side`` places a hole covers, bool ``[N, side]``."""
    first = (middle - size // 2)[:, None]
    place = torch.arange(side, device=middle.device)
    return (place >= first) & (place < first + size)
