"""Running networks over the frames of a clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 4
"""Frames in one call of a network."""

OnFrames = Callable[[int], None]
"""Called after each chunk with the number of frames that are done; may raise to stop."""

Network = Callable[[Tensor], Tensor]
"""A network on images ``[N, 3, H, W]`` in [0, 1]."""


def in_chunks(
    frames: Tensor, network: Network, device: torch.device | None, done: OnFrames | None, chunk: int
) -> Tensor:
    """Call a network on a few frames at a time, so that memory does not grow with the clip.

    Args:
        frames: ``[F, H, W, 3]`` in [0, 1].
        network: Maps ``[N, 3, H, W]`` to ``[N, 1, H, W]``.
        device: Of the network; None leaves the frames where they are.
        done: Told after each chunk.
        chunk: Frames at a time.

    Returns:
        ``[F, 1, H, W]`` float32, on the device of ``frames``.
    """
    results = []
    for start, part in _chunks(frames, chunk):
        pixels = part.movedim(-1, 1).to(device=device, dtype=torch.float32)
        results.append(network(pixels).to(device=frames.device, dtype=torch.float32))
        if done is not None:
            done(start + len(part))
    return torch.cat(results)


def _chunks(frames: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(frames), chunk):
        yield start, frames[start : start + chunk]


def with_sizes_of(multiple: int, network: Network, side: int | None = None) -> Network:
    """A network that takes any size, though it knows only some: images are stretched and the result is put back.

    A size that fits goes through untouched.

    Args:
        multiple: Pixels that the sides are stretched to the nearest multiple of.
        network: Maps ``[N, C, H, W]`` to ``[N, 1, H, W]``.
        side: Pixels that the shorter side is brought to; None leaves the scale as it is.
    """

    def call(pixels: Tensor) -> Tensor:
        size = pixels.shape[-2:]
        scale = 1.0 if side is None else side / min(size)
        fitting = [max(multiple, round(length * scale / multiple) * multiple) for length in size]
        if list(size) == fitting:
            return network(pixels)
        stretched = F.interpolate(pixels, fitting, mode="bilinear", align_corners=False, antialias=True)
        return F.interpolate(network(stretched), size, mode="bilinear", align_corners=False)

    return call
