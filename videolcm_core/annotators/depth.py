"""Depth of clips, as the network's condition: unnormalised inverse depth, near large.

Nothing is normalised: a scale for every frame makes the depth of a clip flicker, and the authors had none.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..media.condition_values import DEPTH_MAX
from ..networks.annotators.midas import Midas
from ..networks.annotators.mini_depth import MiniDepth
from .frames import CHUNK, OnFrames, in_chunks, with_sizes_of

MIDAS_SCALE: Final = 20.0
"""Of the authors' ``depth_std`` (``inference_videolcm_vcomposer_entrance.py``, lines 414-421)."""
MINI_MULTIPLE: Final = 8
MINI_SIDE: Final = 64
"""Of the renderings that the embedded network was trained on; in larger ones it takes shadows for things."""


def to_condition(depth: Tensor) -> Tensor:
    """MiDaS's inverse depth to the value of the condition, in [0, 10]."""
    return (depth / MIDAS_SCALE).clamp(0.0, DEPTH_MAX)


@torch.no_grad()
def midas_depth(
    frames: Tensor, network: Midas, device: torch.device | None = None, done: OnFrames | None = None, chunk: int = CHUNK
) -> Tensor:
    """Depth by MiDaS, as the authors' nodes of the graph see it.

    Sizes that are no multiple of 32 are stretched for the network and the depth is put back.

    Args:
        frames: ``[F, H, W, 3]`` in [0, 1].
        network: With its weights.
        device: Where it computes.
        done: Told after each chunk how many frames are done.
        chunk: Frames in one call.

    Returns:
        ``[F, 1, H, W]`` in [0, 10].
    """
    depth = in_chunks(frames, with_sizes_of(network.config.multiple, network), device, done, chunk)
    return to_condition(depth)


@torch.no_grad()
def mini_depth(
    frames: Tensor,
    network: MiniDepth,
    device: torch.device | None = None,
    done: OnFrames | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Depth by the embedded network, which predicts the value of the condition itself; otherwise as `midas_depth`.

    It sees every clip with the shorter side at 64 pixels, the size that it knows.
    """
    sized = with_sizes_of(MINI_MULTIPLE, lambda x: network(x)[0], MINI_SIDE)
    depth = in_chunks(frames, sized, device, done, chunk)
    return depth.clamp(0.0, DEPTH_MAX)
