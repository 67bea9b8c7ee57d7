"""Attention over pixels, over frames and over text."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fused import geglu, group_norm_class
from ..layers import Operations, Step, VideoLayer, from_tokens, time_rows, to_tokens, token_conv_class, zero_init

# Up to this many scores per head, explicit softmax attention can beat the fused kernel on a CPU.
SHORT_SCORES = 2**17


class Attention(Protocol):
    """Multi-head attention on ``[B, N, heads*head_dim]`` tensors, as the host's ``optimized_attention``."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        """Return ``[B, N, heads*head_dim]``."""
        ...


def default_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Softmax attention with scale ``head_dim ** -0.5``.

    Args:
        q: ``[B, N, heads*head_dim]``.
        k: ``[B, M, heads*head_dim]``.
        v: Same shape as ``k``.
        heads: Number of heads.
        mask: Additive or boolean, broadcastable to ``[B, heads, N, M]``.
    """
    head_q, head_k, head_v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if mask is None and _explicit_is_faster(q, k, heads):
        out = _explicit_attention(head_q, head_k, head_v)
    else:
        out = F.scaled_dot_product_attention(head_q, head_k, head_v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def _explicit_is_faster(q: Tensor, k: Tensor, heads: int) -> bool:
    """Measured on CPUs: always with gradients (the fused backward is 5 times slower), else in bfloat16 with few heads.

    With more heads, splitting and joining them costs more than is won.
    """
    if q.device.type != "cpu" or q.shape[1] * k.shape[1] > SHORT_SCORES:
        return False
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    return trains or (heads <= 2 and q.dtype == torch.bfloat16)


def _explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    flat_q, flat_k, flat_v = (x.flatten(0, 1) for x in (q, k, v))
    nothing = flat_q.new_empty(1, 1, 1)
    scores = torch.baddbmm(nothing, flat_q, flat_k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(dim=-1), flat_v).unflatten(0, q.shape[:2])


class CrossAttention(nn.Module):
    """Attention of tokens to themselves or to a context."""

    def __init__(
        self, dim: int, context_dim: int, heads: int, head_dim: int, operations: Operations, attention: Attention, **kw
    ) -> None:
        """Build the four projections.

        Args:
            dim: Width of the tokens.
            context_dim: Width of the context.
            heads: Number of heads.
            head_dim: Width of one head.
            operations: Layer classes.
            attention: The attention kernel.
            **kw: ``device`` and ``dtype``.
        """
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.attention = attention
        self.to_q = operations.Linear(dim, inner, bias=False, **kw)
        self.to_k = operations.Linear(context_dim, inner, bias=False, **kw)
        self.to_v = operations.Linear(context_dim, inner, bias=False, **kw)
        self.to_out = nn.Sequential(operations.Linear(inner, dim, **kw))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: ``[B, N, D]``.
            context: ``[G, L, E]`` where G divides B: each context serves B/G consecutive rows of ``x``, and
                its keys and values are computed once. None attends to ``x``.
        """
        context = x if context is None else context
        # Frames of one video ask the same text: laid end to end they are one long sequence.
        q = self.to_q(x).reshape(context.shape[0], -1, self.to_q.out_features)
        out = self.attention(q, self.to_k(context), self.to_v(context), self.heads)
        return self.to_out(out).reshape(x.shape)


class GEGLU(nn.Module):
    """``a * gelu(b)`` with exact gelu; ``a, b`` the halves of one projection, ``a`` first."""

    def __init__(self, dim: int, inner: int, operations: Operations, **kw) -> None:
        """Build the projection from ``dim`` to twice ``inner``."""
        super().__init__()
        self.proj = operations.Linear(dim, inner * 2, **kw)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., dim]`` to ``[..., inner]``."""
        return geglu(self.proj(x))


class FeedForward(nn.Module):
    """GEGLU, then a projection back; hidden width 4 times the tokens'."""

    def __init__(self, dim: int, operations: Operations, **kw) -> None:
        """Build for tokens of width ``dim``."""
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(dim, dim * 4, operations, **kw), nn.Identity(), operations.Linear(dim * 4, dim, **kw)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., dim]`` to the same shape."""
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to a context (or to itself again), feed-forward; each pre-normed and residual."""

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        context_dim: int | None,
        operations: Operations,
        attention: Attention,
        **kw,
    ) -> None:
        """Build; ``context_dim`` None makes the second attention a second self-attention."""
        super().__init__()
        self.attn1 = CrossAttention(dim, dim, heads, head_dim, operations, attention, **kw)
        self.ff = FeedForward(dim, operations, **kw)
        self.attn2 = CrossAttention(dim, context_dim or dim, heads, head_dim, operations, attention, **kw)
        self.norm1 = operations.LayerNorm(dim, **kw)
        self.norm2 = operations.LayerNorm(dim, **kw)
        self.norm3 = operations.LayerNorm(dim, **kw)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map ``[B, N, D]`` to the same shape; ``context`` as in `CrossAttention`."""
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(VideoLayer):
    """Attention within each frame and to the text."""

    def __init__(
        self,
        channels: int,
        heads: int,
        head_dim: int,
        context_dim: int,
        operations: Operations,
        attention: Attention,
        **kw,
    ) -> None:
        """Build for ``channels`` with ``heads`` heads of ``head_dim``."""
        super().__init__()
        inner = heads * head_dim
        self.norm = group_norm_class(operations.GroupNorm)(32, channels, eps=1e-6, **kw)
        self.proj_in = operations.Linear(channels, inner, **kw)
        self.transformer_blocks = nn.ModuleList(
            [BasicTransformerBlock(inner, heads, head_dim, context_dim, operations, attention, **kw)]
        )
        self.proj_out = zero_init(operations.Linear(inner, channels, **kw))

    def compute(self, x: Tensor, step: Step) -> Tensor:
        """Map ``[B*F, C, H, W]`` to the same shape."""
        tokens = self.proj_in(to_tokens(self.norm(x)))
        for index, block in enumerate(self.transformer_blocks):
            if step.hooks is None:
                tokens = block(tokens, step.context)
            else:
                tokens = step.hooks.spatial_block(block, tokens, step.context, index, tuple(x.shape))
        return from_tokens(self.proj_out(tokens), x.shape[2]) + x


class TemporalTransformer(VideoLayer):
    """Two self-attentions over the frames of each pixel; normalised over all frames, no positions, no mask."""

    def __init__(
        self, channels: int, heads: int, head_dim: int, operations: Operations, attention: Attention, **kw
    ) -> None:
        """Build for ``channels`` with ``heads`` heads of ``head_dim``."""
        super().__init__()
        inner = heads * head_dim
        conv = token_conv_class(operations.Conv1d)
        self.norm = group_norm_class(operations.GroupNorm)(32, channels, eps=1e-6, **kw)
        self.proj_in = conv(channels, inner, 1, **kw)
        self.transformer_blocks = nn.ModuleList(
            [BasicTransformerBlock(inner, heads, head_dim, None, operations, attention, **kw)]
        )
        self.proj_out = zero_init(conv(inner, channels, 1, **kw))

    def compute(self, x: Tensor, step: Step) -> Tensor:
        """Map ``[B*F, C, H, W]`` to the same shape."""
        if not step.temporal:
            return x
        height, frames = x.shape[2], step.num_frames
        rows = self.norm(time_rows(x, frames))
        # One copy to pixel-major order here and one back: cheaper than one per query, key and value. For a single
        # video flatten alone is a strided view, for which a linear layer copies its weight once per pixel.
        tokens = self.proj_in(rows.permute(0, 3, 2, 1).flatten(0, 1).contiguous())
        for block in self.transformer_blocks:
            tokens = block(tokens)
        out = self.proj_out(tokens).unflatten(0, (-1, rows.shape[3])).transpose(1, 2)
        return from_tokens(out.flatten(0, 1), height) + x
