"""From a layer of a LoRA file to the weight that it changes: shapes and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .lora import LoraLayer


def factors(layer: LoraLayer, weight: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """A layer's factors as ``[out, r]`` and ``[r, in * kernel]``, or None if they do not fit a weight.

    Args:
        layer: Of the file.
        weight: Shape ``[out, in, *kernel]`` of the weight that it changes.
    """
    up, down = layer.up, layer.down
    inner = math.prod(weight[1:])
    if up.flatten(1).shape[1] == len(down):
        kernel, own = _ones_off(down.shape[1:]), _ones_off(weight[1:])
        if up.shape[0] == weight[0] and (kernel == own or (len(kernel) == 1 and kernel[0] == inner)):
            return up.flatten(1), down.flatten(1)
        if len(weight) > 2 and weight[2] > 1:
            return _unroll(up.flatten(1), down.flatten(1), weight)
    return None


def _ones_off(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without the ones at its end: layers of kernel 1 are matrices in one library, kernels in another."""
    sizes = list(shape)
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _unroll(up: Tensor, down: Tensor, weight: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """stable_lora's convolutions: ``[out * k, r] @ [r, in * k]`` read in the memory order of ``[out, in, k, k]``.

    Row ``out * k + a`` holds the a-th of k equal parts of an output's weights, so the same difference is
    ``[up_0 ... up_k] @ diag(down ... down)``. For a kernel (k, 1, 1) the trainer takes the mean over the last of the
    two k, which are neighbours in memory.
    """
    outputs, inputs, k = weight[0], weight[1], weight[2]
    if up.shape[0] != outputs * k or down.shape[1] != inputs * k:
        return None
    rank = len(down)
    if tuple(weight[3:]) == (1, 1):
        down = down.float().unflatten(1, (inputs, k)).mean(dim=2)
    elif tuple(weight[3:]) != (k,):
        return None
    width = down.shape[1]
    wide = down.new_zeros(k, rank, k, width)
    for part in range(k):
        wide[part, :, part] = down
    return up.reshape(outputs, k * rank), wide.reshape(k * rank, k * width)


def magnitude_for(layer: LoraLayer, weight: Sequence[int]) -> Tensor | None:
    """DoRA's magnitude so that it broadcasts against a weight; None if it does not fit.

    Args:
        layer: Whose ``magnitude`` is not None.
        weight: Shape of the weight.
    """
    magnitude, ones = layer.magnitude, [1] * (len(weight) - 2)
    if magnitude is None:
        return None
    if magnitude.numel() == weight[0] == magnitude.shape[0]:
        return magnitude.reshape(weight[0], 1, *ones)
    if magnitude.ndim > 1 and magnitude.shape[0] == 1 and magnitude.numel() == weight[1]:
        return magnitude.reshape(1, weight[1], *ones)
    return None


def merge(
    weight: Tensor, up: Tensor, down: Tensor, scale: float, magnitude: Tensor | None, strength: float = 1.0
) -> Tensor:
    """A weight with a layer's difference on it, in float32.

    With a magnitude (DoRA, arXiv 2402.09353, equation 5) each output's or input's weights get that length after the
    difference was added.

    Args:
        weight: ``[out, in, *kernel]``.
        up: ``[out, r]``, see `factors`.
        down: ``[r, in * kernel]``.
        scale: Of the layer.
        magnitude: See `magnitude_for`.
        strength: How far to go from the weight to the changed one.
    """
    base = weight.float()
    merged = base + scale * (up.float() @ down.float()).reshape(weight.shape)
    if magnitude is not None:
        over = tuple(axis for axis in range(merged.ndim) if magnitude.shape[axis] == 1)
        length = torch.linalg.vector_norm(merged, dim=over, keepdim=True)
        merged = merged * (magnitude.float() / length.clamp(min=torch.finfo(torch.float32).tiny))
    return base + strength * (merged - base)
