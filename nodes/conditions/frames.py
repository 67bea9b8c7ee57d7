"""Frames of an IMAGE or VIDEO input, checked, and frames at another size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from comfy_api.latest import InputImpl
from torch import Tensor

from .. import host

FITS: Final = ("crop", "stretch", "pad")
FIT_TOOLTIP: Final = (
    "Where the shapes differ. crop: fill the video and cut what sticks out. stretch: change the proportions, as the "
    "authors did. pad: all of the picture, with black bars."
)


def frames_of(source: Any, needed: Callable[[float], int] | None = None) -> tuple[Tensor, float | None]:
    """The frames of an IMAGE or VIDEO.

    Args:
        source: IMAGE ``[F, H, W, C]`` with 1, 3 or 4 channels, or the host's VIDEO.
        needed: From the frames per second to how many frames from the beginning are needed; a long video file is not
            decoded beyond them. None needs all.

    Returns:
        Frames ``[F, H, W, 3]`` float32 (alpha is dropped, grey is repeated; values are not clamped), and the frames per
        second, None for an IMAGE.

    Raises:
        ValueError: If there is no frame, the video cannot be read, or values are not finite.
    """
    if isinstance(source, Tensor):
        return _checked(source, "The IMAGE"), None
    if not hasattr(source, "get_components"):
        raise ValueError(f"frames is a {type(source).__name__}; allowed: IMAGE or VIDEO. Connect one of them.")
    name = _name(source)
    images, fps = _read(source, name, needed)
    return _checked(images, name), fps


def _name(video: Any) -> str:
    if isinstance(video, InputImpl.VideoFromFile):
        path = video.get_stream_source()
        if isinstance(path, str):
            return f"The video {Path(path).name}"
    return "The VIDEO"


def _read(video: Any, name: str, needed: Callable[[float], int] | None) -> tuple[Tensor, float]:
    import av

    try:
        part, count = _beginning(video, needed)
        components = part.get_components()
        if count is not None and len(components.images) < count:
            # The time stamps of some files start late: then the time asked for holds fewer frames.
            components, count = video.get_components(), None
        if count is None:
            _warn_if_cut_off(video, len(components.images), name)
        return components.images, float(components.frame_rate)
    except (av.error.FFmpegError, ValueError, OSError, IndexError) as error:
        raise ValueError(
            f"{name} cannot be read: {error}. It may be empty, cut off or no video. Play it in a player; if it plays, "
            f"save it again as mp4 (H.264)."
        ) from error


def _beginning(video: Any, needed: Callable[[float], int] | None) -> tuple[Any, int | None]:
    """The first frames of a file and their number: an hour of film need not fit into memory. Else all, and None."""
    if needed is None or not _whole_file(video):
        return video, None
    rate = float(video.get_frame_rate())
    count = needed(rate)
    return video.as_trimmed(0, (count + 1) / rate, strict_duration=False), count


def _whole_file(video: Any) -> bool:
    """Whether this is a file that no node has trimmed; older hosts do not tell, which counts as trimmed."""
    window = getattr(video, "get_active_trim_window", None)
    return isinstance(video, InputImpl.VideoFromFile) and window is not None and window() == (0.0, 0.0)


def _warn_if_cut_off(video: Any, count: int, name: str) -> None:
    promised = video.get_frame_count() if _whole_file(video) else 0
    if 0 < count < promised:
        host.tell(f"{name} promises {promised} frames and {count} could be read; it may be cut off.")


def _checked(images: Tensor, name: str) -> Tensor:
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name} has shape {list(images.shape)}; allowed: [frames, height, width, channels] with 1, 3 or 4 "
            f"channels. Use the IMAGE output of a core node."
        )
    if 0 in images.shape:
        raise ValueError(f"{name} has no frame (shape {list(images.shape)}); allowed: 1 or more. Check its source.")
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
    """A motion picture at another size: its displacements are in its own pixels, so they grow and shrink with it.

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
    inner = _interpolate(frames, inner_width, inner_height)
    scale_x, scale_y = inner_width / old_width, inner_height / old_height
    if fit == "pad":
        left, top = (width - inner_width) // 2, (height - inner_height) // 2
        sides = (0, 0, left, width - inner_width - left, top, height - inner_height - top)
        return F.pad(inner, sides, value=background), scale_x, scale_y
    left, top = (inner_width - width) // 2, (inner_height - height) // 2
    return inner[:, top : top + height, left : left + width], scale_x, scale_y


def _interpolate(frames: Tensor, width: int, height: int) -> Tensor:
    if frames.shape[1:3] == (height, width):
        return frames
    # One frame at a time: the antialiased filter keeps a full-size copy of all that it is given.
    resized = [
        F.interpolate(frame.movedim(-1, 0)[None], size=(height, width), mode="bilinear", antialias=True)
        for frame in frames
    ]
    return torch.cat(resized).movedim(1, -1)


def hold_last(frames: Tensor, count: int) -> Tensor:
    """Frames ``[F, ...]`` cut to ``count``, or with the last one held until there are so many."""
    missing = count - len(frames)
    if missing <= 0:
        return frames[:count]
    return torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])
