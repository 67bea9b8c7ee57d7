"""Layers written out by hand because PyTorch's own are slow on a CPU in the layout used here.

Numbers are the same within rounding. Under ``torch.compile`` the plain forms are used: the compiler fuses them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# From here on PyTorch's channels-last group norm takes its fast way forward. It has none backward.
MANY_PIXELS = 1024
# Above this many elements, float32 copies cost more than the slow way forward.
MANY_ELEMENTS = 2**21


class _GroupNormFunction(torch.autograd.Function):
    """Group normalisation of channels-last tensors, computed in float32 on ``[N, pixels, C]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """Normalise; saves the input, the means and the inverse deviations."""
        if x.shape[2] * x.shape[3] >= MANY_PIXELS:
            sizes = (x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
            out, mean, inverse = torch.native_group_norm(x, weight, bias, *sizes, groups, eps)
            ctx.save_for_backward(x, weight, mean.float()[..., None], inverse.float()[..., None])
            return out
        rows = _rows(x)
        batch, _, channels = rows.shape
        mean = rows.mean(1).view(batch, groups, -1).mean(-1, keepdim=True)
        square = rows.square().mean(1).view(batch, groups, -1).mean(-1, keepdim=True)
        inverse = (square - mean.square()).clamp_(min=0).add_(eps).rsqrt_()
        scale = inverse * weight.float().view(groups, -1)
        shift = bias.float().view(groups, -1) - mean * scale
        out = torch.addcmul(shift.view(batch, 1, channels), rows, scale.view(batch, 1, channels))
        ctx.save_for_backward(x, weight, mean, inverse)
        return _like(out, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        """Gradients of input, weight and bias: ``dx = a dy + b x + c`` with coefficients per group."""
        x, weight, mean, inverse = ctx.saved_tensors
        rows, dy = _rows(x), _rows(grad)
        batch, pixels, channels = rows.shape
        groups = mean.shape[1]
        weight_groups = weight.float().view(groups, -1)
        sum_dy_x = (dy * rows).sum(1).view(batch, groups, -1)
        sum_dy = dy.sum(1).view(batch, groups, -1)
        dy_x = (sum_dy_x * weight_groups).sum(-1, keepdim=True)
        dy_1 = (sum_dy * weight_groups).sum(-1, keepdim=True)
        a = (inverse * weight_groups).view(batch, 1, channels)
        b = (dy_1 * mean - dy_x) * inverse**3 / (pixels * (channels // groups))
        c = -b * mean - dy_1 * inverse / (pixels * (channels // groups))
        b, c = (v.expand(batch, groups, channels // groups).reshape(batch, 1, channels) for v in (b, c))
        dx = torch.addcmul(c, dy, a).addcmul_(rows, b)
        d_weight = ((sum_dy_x - sum_dy * mean) * inverse).sum(0).view(channels)
        return _like(dx, x), d_weight.to(weight.dtype), sum_dy.sum(0).view(channels).to(weight.dtype), None, None


def _rows(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` to float32 ``[N, H*W, C]``."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).float()


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """``[N, H*W, C]`` to channels-last ``[N, C, H, W]`` in the dtype of ``x``."""
    return rows.to(x.dtype).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class FastGroupNorm(nn.GroupNorm):
    """GroupNorm for low precision on a CPU, where the built-in one is up to 15 times slower."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[N, C, H, W]``."""
        low = input.dtype in (torch.bfloat16, torch.float16)
        if not low or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        large = input.numel() > MANY_ELEMENTS or input.shape[2] * input.shape[3] >= MANY_PIXELS
        if large and not torch.is_grad_enabled():
            return super().forward(input)
        return _GroupNormFunction.apply(input, self.weight, self.bias, self.num_groups, self.eps)


def group_norm_class(base: type) -> type:
    """`FastGroupNorm` for plain ``torch.nn.GroupNorm``; a host's own class stays, because it casts the weights."""
    return FastGroupNorm if base is nn.GroupNorm else base


class _GegluFunction(torch.autograd.Function):
    """``value * gelu(gate)`` of one tensor's halves, without strided gelu and without concatenating gradients."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> Tensor:
        """Map ``[..., 2 D]`` to ``[..., D]``."""
        ctx.save_for_backward(projected)
        value, gate = projected.chunk(2, dim=-1)
        return F.gelu(gate.contiguous()).mul_(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        """Gradient ``[..., 2 D]``."""
        (projected,) = ctx.saved_tensors
        value, gate = projected.chunk(2, dim=-1)
        gate = gate.contiguous()
        out = torch.empty_like(projected)
        d_value, d_gate = out.chunk(2, dim=-1)
        torch.mul(grad, F.gelu(gate), out=d_value)
        d_gate.copy_(torch.ops.aten.gelu_backward(grad * value, gate))
        return out


def geglu(projected: Tensor) -> Tensor:
    """``a * gelu(b)`` with exact gelu, where ``a, b`` are the halves of the last dimension."""
    if projected.device.type == "cpu" and not torch.compiler.is_compiling():
        return _GegluFunction.apply(projected)
    value, gate = projected.chunk(2, dim=-1)
    return value * F.gelu(gate)
