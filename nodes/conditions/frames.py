"""Frames of an IMAGE or VIDEO input, checked."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from ...videolcm_core.media.errors import decoding
from .films import film_of, read_film, video_name

FIT_TOOLTIP: Final = (
    "Where the shapes differ. crop: fill the video and cut what sticks out. stretch: change the proportions, as the "
    "authors did. pad: all of the image, with black bars."
)


def frames_of(source: Any, most: int | None = None) -> tuple[Tensor, float | None]:
    """The frames of an IMAGE or VIDEO.

    Args:
        source: IMAGE ``[F, H, W, C]`` with 1, 3 or 4 channels, or the host's VIDEO.
        most: How many frames from the beginning are needed; a video file is not decoded beyond them. None needs all.

    Returns:
        Frames ``[F, H, W, 3]`` float32 (alpha of an IMAGE is dropped as the host's own nodes do, a film's is laid over
        white; grey is repeated; values are not clamped), and the frames per second, None for an IMAGE.

    Raises:
        ValueError: If there is no frame, the video cannot be read, or values are not finite.
    """
    if isinstance(source, Tensor):
        return _checked(source, "The IMAGE"), None
    if not hasattr(source, "get_components"):
        raise ValueError(f"frames is a {type(source).__name__}; allowed: IMAGE or VIDEO. Connect one of them.")
    film = film_of(source)
    if film is not None:
        return read_film(film, most)
    name = video_name(source)
    with decoding(name):
        components = source.get_components()
    return _checked(_opaque(components), name), float(components.frame_rate)


def _opaque(components: Any) -> Tensor:
    """Images of a VIDEO that a node made, transparent parts white; older hosts know no alpha there."""
    alpha = getattr(components, "alpha", None)
    if alpha is None:
        return components.images
    alpha = alpha.reshape(*components.images.shape[:3], 1)
    return components.images[..., :3] * alpha + (1 - alpha)


def _checked(images: Tensor, name: str) -> Tensor:
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name} has shape {list(images.shape)}; allowed: [frames, height, width, channels] with 1, 3 or 4 "
            f"channels. Use the IMAGE output of a core node."
        )
    if 0 in images.shape:
        raise ValueError(f"{name} has no frame (shape {list(images.shape)}); allowed: 1 or more. Check its source.")
    if images.is_complex():
        raise ValueError(f"{name} has complex numbers; allowed: real numbers, 0 to 1. Check the node it comes from.")
    frames = images[..., :3].float()
    if frames.shape[-1] == 1:
        frames = frames.expand(-1, -1, -1, 3)
    finite = frames.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise ValueError(
            f"{name} has values that are not numbers (NaN or infinite), first in frame {bad} of {len(frames)}; "
            f"allowed: finite values. The node before made them: check its inputs, or decode with a float32 VAE."
        )
    return frames


def checked_mask(mask: Tensor, frames: Tensor) -> Tensor:
    """The mask ``[F or 1, H, W]`` for frames ``[F, H', W', 3]`` of the same proportions.

    Args:
        mask: ``[F, H, W]``, ``[H, W]`` or ``[F, 1, H, W]``.
        frames: Checked by `frames_of`.

    Raises:
        ValueError: If number, proportions or values of the mask do not fit.
    """
    mask = mask[None] if mask.ndim == 2 else mask.squeeze(1) if mask.ndim == 4 else mask
    if mask.ndim != 3 or 0 in mask.shape:
        raise ValueError(f"mask has shape {list(mask.shape)}; allowed: [frames, height, width]. Connect a MASK.")
    if len(mask) not in (1, len(frames)):
        raise ValueError(
            f"There are {len(mask)} masks for {len(frames)} frames; allowed: 1 or {len(frames)}. Cut them with Prepare "
            f"Condition Frames (Convert Mask to Image before, Convert Image to Mask after), or use one mask."
        )
    (height, width), (down, across) = frames.shape[1:3], mask.shape[1:]
    # A rounded edge may differ by a pixel at the smaller of the two sizes.
    if abs(width * down - height * across) > max(min(width, across), min(height, down)):
        raise ValueError(
            f"The mask is {across}x{down} and the frames are {width}x{height}; allowed: the same size, or the same "
            f"proportions. Make the mask from these frames, or resize it with Resize Image/Mask."
        )
    if not mask.isfinite().all():
        raise ValueError("mask has values that are not numbers; allowed: 0 to 1. Check the node it comes from.")
    return mask.to(frames)


def hold_last(frames: Tensor, count: int) -> Tensor:
    """Frames ``[F, ...]`` cut to ``count``, or with the last one held until there are so many."""
    missing = count - len(frames)
    if missing <= 0:
        return frames[:count]
    return torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])
