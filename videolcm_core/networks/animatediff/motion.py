"""AnimateDiff's motion modules: attention over the frames of each pixel (arXiv 2307.04725, section 4.2).

Published names: ``down_blocks.0.motion_modules.1.temporal_transformer...``. A module is called with frames
``[B*F, C, H, W]`` and knows nothing of the UNet around it, so that any UNet can call it at its `place`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from ..fused import group_norm_class
from ..layers import Operations, from_tokens, time_rows, zero_init
from ..vgen.attention import Attention, CrossAttention, FeedForward, default_attention
from .image_encoder import ImageEncoder
from .positions import positional_encoding

NUM_HEADS: Final = 8
MID: Final = "mid_block.motion_modules.0"


@dataclass(frozen=True)
class MotionConfig:
    """Sizes of a set of motion modules.

    Attributes:
        channels: Widths of the UNet's four levels.
        mid_block: Whether the middle block has a module (AnimateDiff v2, AnimateLCM; not v1 and v3).
        positions: Length of the positional encodings in the file; 0 computes them.
        image_encoder: Whether AnimateLCM's encoder of a first frame is there.
    """

    channels: tuple[int, int, int, int] = (320, 640, 1280, 1280)
    mid_block: bool = True
    positions: int = 0
    image_encoder: bool = False


def place(part: str, index: int) -> str | None:
    """The published name of the module that runs in one block of the UNet, or None where none does.

    It runs after the block's spatial transformer (after its first residual block where it has none), before what
    follows: the middle's second residual block, or the change of resolution.

    Args:
        part: "input", "middle" or "output".
        index: Of the block in LDM's numbering: 0 to 11.
    """
    if part == "middle":
        return MID
    if part == "output":
        return f"up_blocks.{index // 3}.motion_modules.{index % 3}"
    if index % 3 == 0:  # the first convolution, and the changes of resolution
        return None
    return f"down_blocks.{(index - 1) // 3}.motion_modules.{(index - 1) % 3}"


class PositionTable(nn.Module):
    """The positional encoding that a file brings along."""

    pe: Tensor

    def __init__(self, positions: int, dim: int, **kw) -> None:
        """Build for ``positions`` frames of width ``dim``."""
        super().__init__()
        self.register_buffer("pe", torch.zeros(1, positions, dim, **kw))


class FrameAttention(CrossAttention):
    """Self-attention over frames, with positions added to what queries, keys and values are made of."""

    def __init__(self, dim: int, positions: int, operations: Operations, attention: Attention, **kw) -> None:
        """Build for tokens of width ``dim``; ``positions`` as in `MotionConfig`."""
        super().__init__(dim, dim, NUM_HEADS, dim // NUM_HEADS, operations, attention, **kw)
        self.pos_encoder = PositionTable(positions, dim, **kw) if positions else None

    def attend(self, tokens: Tensor) -> Tensor:
        """Map normed ``[N, F, D]`` to the same shape.

        Raises:
            ValueError: For more frames than the file has positions.
        """
        frames, dim = tokens.shape[1:]
        if self.pos_encoder is None:
            table = positional_encoding(frames, dim, tokens.device)
        else:
            table = self.pos_encoder.pe[0]
            if frames > len(table):
                raise ValueError(
                    f"{frames} frames, but this motion module has positions for {len(table)}. "
                    "Use fewer frames, or context windows of at most as many."
                )
        return self(tokens + table[:frames].to(tokens))


class MotionBlock(nn.Module):
    """Attention over frames twice, then feed-forward; each pre-normed and residual."""

    def __init__(self, dim: int, positions: int, operations: Operations, attention: Attention, **kw) -> None:
        """Build for tokens of width ``dim``; ``positions`` as in `MotionConfig`."""
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            [FrameAttention(dim, positions, operations, attention, **kw) for _ in range(2)]
        )
        self.norms = nn.ModuleList([operations.LayerNorm(dim, **kw) for _ in range(2)])
        self.ff = FeedForward(dim, operations, **kw)
        self.ff_norm = operations.LayerNorm(dim, **kw)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[N, F, D]`` to the same shape."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = attention.attend(norm(tokens)) + tokens  # type: ignore[operator]
        return self.ff(self.ff_norm(tokens)) + tokens


class MotionTransformer(nn.Module):
    """One transformer over the frames of each pixel."""

    def __init__(self, channels: int, positions: int, operations: Operations, attention: Attention, **kw) -> None:
        """Build for ``channels``; ``positions`` as in `MotionConfig`."""
        super().__init__()
        self.norm = group_norm_class(operations.GroupNorm)(32, channels, eps=1e-6, **kw)
        self.proj_in = operations.Linear(channels, channels, **kw)
        self.transformer_blocks = nn.ModuleList([MotionBlock(channels, positions, operations, attention, **kw)])
        self.proj_out = zero_init(operations.Linear(channels, channels, **kw))

    def forward(self, x: Tensor, num_frames: int, across_frames: bool, scale: float) -> Tensor:
        """See `MotionModule`."""
        rows = self.norm(time_rows(x, num_frames)) if across_frames else time_rows(self.norm(x), num_frames)
        tokens = self.proj_in(rows.permute(0, 3, 2, 1).flatten(0, 1).contiguous())
        for block in self.transformer_blocks:
            tokens = block(tokens)
        out = self.proj_out(tokens).unflatten(0, (-1, rows.shape[3])).transpose(1, 2)
        return x + scale * from_tokens(out.flatten(0, 1), x.shape[2])


class MotionModule(nn.Module):
    """One motion module."""

    def __init__(
        self,
        channels: int,
        positions: int = 0,
        operations: Operations = nn,
        attention: Attention = default_attention,
        **kw,
    ) -> None:
        """Build for ``channels``; ``positions`` as in `MotionConfig`."""
        super().__init__()
        self.temporal_transformer = MotionTransformer(channels, positions, operations, attention, **kw)

    def forward(self, x: Tensor, num_frames: int, across_frames: bool = False, scale: float = 1.0) -> Tensor:
        """Add motion.

        Args:
            x: ``[B*F, C, H, W]``.
            num_frames: F.
            across_frames: Statistics of the group norm: False of each frame alone (AnimateDiff's authors,
                AnimateLCM), True of all frames of a video (diffusers, and what was trained with it: MCM).
            scale: Strength of the motion; 0 returns ``x``.
        """
        return self.temporal_transformer(x, num_frames, across_frames, scale)


class MotionLevel(nn.Module):
    """The modules of one level of the UNet."""

    def __init__(self, count: int, channels: int, positions: int, *args, **kw) -> None:
        """Build ``count`` modules; other arguments as in `MotionModule`."""
        super().__init__()
        self.motion_modules = nn.ModuleList([MotionModule(channels, positions, *args, **kw) for _ in range(count)])


class MotionNetwork(nn.Module):
    """All motion modules of a file; `at` gives the one of a place."""

    def __init__(
        self, config: MotionConfig, operations: Operations = nn, attention: Attention = default_attention, **kw
    ) -> None:
        """Build with layers of ``operations``; ``device`` and ``dtype`` pass through ``kw``."""
        super().__init__()
        self.config = config

        def level(count: int, channels: int) -> MotionLevel:
            return MotionLevel(count, channels, config.positions, operations, attention, **kw)

        self.down_blocks = nn.ModuleList([level(2, channels) for channels in config.channels])
        self.up_blocks = nn.ModuleList([level(3, channels) for channels in reversed(config.channels)])
        self.mid_block = level(1, config.channels[-1]) if config.mid_block else None
        self.img_encoder = ImageEncoder(config.channels, operations, **kw) if config.image_encoder else None

    def at(self, part: str, index: int) -> MotionModule | None:
        """The module that runs in one block; arguments as in `place`."""
        name = place(part, index)
        if name is None or (name == MID and self.mid_block is None):
            return None
        module = self.get_submodule(name)
        assert isinstance(module, MotionModule)
        return module

    def names(self) -> Sequence[str]:
        """Published names of the modules, in the order in which the UNet runs them."""
        order = [("input", i) for i in range(12)] + [("middle", 0)] + [("output", i) for i in range(12)]
        return [name for part, i in order if (name := place(part, i)) and self.at(part, i) is not None]
