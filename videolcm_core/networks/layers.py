"""Layouts and small layers shared by the networks.

Activations are channels-last, ``[B*F, C, H, W]`` with memory order (video, frame, row, column, channel).
Every other form used here (tokens, frames side by side, time as rows) is a view of that memory: a
permuted copy costs as much as the layer it feeds.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Operations = Any
"""A namespace with Linear, Conv1d, Conv2d, Conv3d, GroupNorm and LayerNorm: ``torch.nn`` or the host's."""


class Hooks(Protocol):
    """What a caller put between the layers of one network call."""

    def spatial_block(self, block: Any, tokens: Tensor, context: Tensor, index: int, shape: tuple[int, ...]) -> Tensor:
        """Compute one block of a spatial transformer.

        Args:
            block: A `BasicTransformerBlock`.
            tokens: ``[B*F, H*W, D]``.
            context: As in `Step`.
            index: Of the block within its transformer.
            shape: ``[B*F, C, H, W]`` of the transformer's input.
        """
        ...


class Step(NamedTuple):
    """What every layer of one network call shares.

    Attributes:
        emb: Timestep embedding ``[B, E]``, or one per frame ``[B*F, E]``.
        context: Text (and image) tokens ``[B, L, D]``, or one set per frame ``[B*F, L, D]``.
        num_frames: F.
        temporal: False passes around the layers along time, for single frames of a teacher that was trained so.
        recompute: Keep only each block's input for the backward pass and compute the rest again; numbers are the same.
        hooks: Of the caller; None for none.
    """

    emb: Tensor
    context: Tensor
    num_frames: int
    temporal: bool = True
    recompute: bool = False
    hooks: Hooks | None = None


class VideoLayer(nn.Module):
    """A layer that needs to know about frames, time or text: called with a `Step`."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """Map ``[B*F, C, H, W]`` to the same layout."""
        if step.recompute:
            return checkpoint(self.compute, x, step._replace(recompute=False), use_reentrant=False)
        return self.compute(x, step)

    def compute(self, x: Tensor, step: Step) -> Tensor:
        """The layer itself; arguments as in ``forward``."""
        raise NotImplementedError


def to_frames(video: Tensor) -> Tensor:
    """``[B, C, F, H, W]`` to channels-last ``[B*F, C, H, W]``."""
    return video.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().permute(0, 3, 1, 2)


def to_video(frames: Tensor, num_frames: int) -> Tensor:
    """``[B*F, C, H, W]`` to ``[B, C, F, H, W]`` (a view)."""
    return frames.unflatten(0, (-1, num_frames)).transpose(1, 2)


def to_tokens(frames: Tensor) -> Tensor:
    """Channels-last ``[B*F, C, H, W]`` to ``[B*F, H*W, C]`` (a view)."""
    return frames.permute(0, 2, 3, 1).flatten(1, 2)


def from_tokens(tokens: Tensor, height: int) -> Tensor:
    """``[B*F, H*W, C]`` to channels-last ``[B*F, C, H, W]`` (a view)."""
    return tokens.unflatten(1, (height, -1)).permute(0, 3, 1, 2)


def time_rows(frames: Tensor, num_frames: int) -> Tensor:
    """Channels-last ``[B*F, C, H, W]`` to ``[B, C, F, H*W]`` (a view), so that time is a spatial axis.

    A GroupNorm on it has statistics over all frames, a ``(3, 1)`` convolution mixes neighbouring frames.
    """
    return to_tokens(frames).unflatten(0, (-1, num_frames)).permute(0, 3, 1, 2)


def from_time_rows(rows: Tensor, height: int) -> Tensor:
    """``[B, C, F, H*W]`` back to channels-last ``[B*F, C, H, W]``."""
    return from_tokens(rows.permute(0, 2, 3, 1).flatten(0, 1), height)


def repeat_to(values: Tensor, batch: int) -> Tensor:
    """Repeat each row so that ``[B, ...]`` becomes ``[batch, ...]``: one row per video to one per frame."""
    return values if len(values) == batch else values.repeat_interleave(batch // len(values), dim=0)


def append_tokens(context: Tensor, tokens: Tensor) -> Tensor:
    """Join ``[B, L, D]`` and ``[B*F, M, D]`` (or the other way round) to ``[B*F, L + M, D]``."""
    batch = max(len(context), len(tokens))
    return torch.cat([repeat_to(context, batch), repeat_to(tokens, batch).to(context.dtype)], dim=1)


@cache
def temporal_conv_class(base: type) -> type:
    """A Conv3d class whose ``(3, 1, 1)`` kernel runs as a 2-D convolution on `time_rows`.

    Weights keep their 5-D shape. CPU Conv3d is several times slower in bfloat16.
    """

    class TemporalConv(base):  # type: ignore[misc, valid-type]
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, *_: Any, **__: Any) -> Tensor:
            return F.conv2d(input, weight.squeeze(-1), bias, padding=(self.padding[0], 0))

    return TemporalConv


@cache
def token_conv_class(base: type) -> type:
    """A convolution class of kernel 1 that runs as a linear layer on tokens ``[..., C]``; weights keep their shape."""

    class TokenConv(base):  # type: ignore[misc, valid-type]
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, *_: Any, **__: Any) -> Tensor:
            return F.linear(input, weight.flatten(1), bias)

    return TokenConv


def zero_init(layer: Any, bias: bool = True) -> Any:
    """Set a layer's parameters to zero, as the authors do for the last layer of a residual branch."""
    # A host that loads weights lazily has no parameter yet.
    for parameter in (layer.weight, layer.bias if bias else None):
        if parameter is not None:
            nn.init.zeros_(parameter)
    return layer


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Timestep features ``[N, dim]``, float32: cosines first, frequencies ``10000^(-i / (dim/2))``."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / half))
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
