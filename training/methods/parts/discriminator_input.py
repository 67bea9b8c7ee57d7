"""From decoded frames to what a frozen feature network sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .augmentation import Changes, augment, draw_changes, joined

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROPPED = 0.5
"""Share of the images that are cut to the size rather than made smaller, where they are larger."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Numbers drawn for N images.

    Attributes:
        changes: of the augmentation; None leaves it out.
        crop: top and left, long ``[N, 2]``; -1 makes the whole image smaller.
    """

    changes: Changes | None
    crop: Tensor


def draw_view(
    count: int, height: int, width: int, size: int, generator: torch.Generator, *, augments: bool = True
) -> View:
    """Draw for ``count`` images of ``height`` x ``width``, on the CPU.

    Args:
        count: N.
        height: of the images.
        width: of the images.
        size: of what the network sees.
        generator: draws.
        augments: whether the images are changed.
    """
    changes = draw_changes(count, height, width, generator) if augments else None
    cropped = torch.rand(count, 1, generator=generator) < CROPPED
    places = [torch.randint(max(0, side - size) + 1, (count,), generator=generator) for side in (height, width)]
    fits = min(height, width) >= size < max(height, width)
    return View(changes=changes, crop=torch.where(cropped & fits, torch.stack(places, 1), -1))


def joined_views(views: list[View]) -> View:
    """Numbers of several groups of images, one after the other; all with changes or all without."""
    changes = [view.changes for view in views if view.changes is not None]
    return View(changes=joined(changes) if changes else None, crop=torch.cat([view.crop for view in views]))


def prepare(frames: Tensor, view: View, size: int = 224) -> Tensor:
    """Augment, cut or shrink, and normalise.

    The authors decide between cutting and shrinking for a whole batch; here each image has its own draw.

    Args:
        frames: ``[N, 3, H, W]`` in [-1, 1].
        view: of the N images.
        size: side of the result; the authors' 224.

    Returns:
        ``[N, 3, size, size]``, normalised as ImageNet's.
    """
    x = frames if view.changes is None else augment(frames, view.changes)
    x = (x + 1.0) / 2.0
    parts = [
        image[:, i : i + size, j : j + size] if i >= 0 else _shrink(image, size)
        for image, (i, j) in zip(x, view.crop.tolist(), strict=True)
    ]
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (torch.stack(parts) - mean) / std


def _shrink(image: Tensor, size: int) -> Tensor:
    return functional.interpolate(image[None], (size, size), mode="area")[0]
