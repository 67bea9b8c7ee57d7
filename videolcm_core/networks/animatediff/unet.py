"""Stable Diffusion 1.5's UNet with motion modules in it, for use without a host.

Weights have LDM's names (without ``model.diffusion_model.``); the motion modules are a network of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from ..fused import group_norm_class
from ..layers import (
    Operations,
    Step,
    VideoLayer,
    repeat_to,
    sinusoidal_embedding,
    to_frames,
    to_video,
    token_conv_class,
)
from ..vgen.attention import Attention, SpatialTransformer, default_attention
from ..vgen.blocks import Block, Downsample, Upsample
from .image_encoder import FEATURE_BLOCKS
from .motion import NUM_HEADS, MotionModule, MotionNetwork

_WITH_ATTENTION: Final = 3
"""Levels that have spatial transformers; the lowest has none."""


@dataclass(frozen=True)
class SD15Config:
    """Sizes of the UNet.

    Attributes:
        model_channels: Width of the first level, a multiple of 32.
        channel_mult: Width of each level as a multiple of it.
        context_dim: Width of a text token.
        in_channels: Of the latents (9 for inpainting).
        out_channels: Of the prediction.
    """

    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    context_dim: int = 768
    in_channels: int = 4
    out_channels: int = 4

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> SD15Config:
        """Read the sizes off weights with LDM's names."""
        stem = weights["input_blocks.0.0.weight"]
        width = stem.shape[0]
        levels = [weights[f"input_blocks.{3 * level + 1}.0.out_layers.3.weight"].shape[0] for level in range(4)]
        context = weights["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
        mults = tuple(channels // width for channels in levels)
        return cls(width, mults, context, stem.shape[1], weights["out.2.weight"].shape[0])


class ResBlock(VideoLayer):
    """Two convolutions with the timestep between them."""

    def __init__(self, in_channels: int, channels: int, emb_dim: int, operations: Operations, **kw) -> None:
        """Build from ``in_channels`` to ``channels``."""
        super().__init__()
        norm = group_norm_class(operations.GroupNorm)
        self.in_layers = nn.Sequential(
            norm(32, in_channels, **kw), nn.SiLU(), operations.Conv2d(in_channels, channels, 3, padding=1, **kw)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(emb_dim, channels, **kw))
        self.out_layers = nn.Sequential(
            norm(32, channels, **kw),
            nn.SiLU(),
            nn.Identity(),
            operations.Conv2d(channels, channels, 3, padding=1, **kw),
        )
        same = in_channels == channels
        self.skip_connection: nn.Module = nn.Identity() if same else operations.Conv2d(in_channels, channels, 1, **kw)

    def compute(self, x: Tensor, step: Step) -> Tensor:
        """Map ``[B*F, in_channels, H, W]`` to ``[B*F, channels, H, W]``."""
        h = self.in_layers(x)
        h = h + repeat_to(self.emb_layers(step.emb), len(h))[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class ConvTransformer(SpatialTransformer):
    """A spatial transformer whose projections are convolutions of kernel 1."""

    def __init__(self, channels: int, context_dim: int, operations: Operations, attention: Attention, **kw) -> None:
        """Build for ``channels``."""
        super().__init__(channels, NUM_HEADS, channels // NUM_HEADS, context_dim, operations, attention, **kw)
        conv = token_conv_class(operations.Conv2d)
        self.proj_in, self.proj_out = conv(channels, channels, 1, **kw), conv(channels, channels, 1, **kw)


class SD15UNet(nn.Module):
    """The UNet; motion modules and image features are given to each call."""

    def __init__(
        self, config: SD15Config, operations: Operations = nn, attention: Attention = default_attention, **kw
    ) -> None:
        """Build with layers of ``operations``; ``device`` and ``dtype`` pass through ``kw``."""
        super().__init__()
        self.config = config
        width = config.model_channels
        emb_dim = 4 * width
        self.time_embed = nn.Sequential(
            operations.Linear(width, emb_dim, **kw), nn.SiLU(), operations.Linear(emb_dim, emb_dim, **kw)
        )
        widths = [width * mult for mult in config.channel_mult]

        def stage(level: int, in_channels: int) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(in_channels, widths[level], emb_dim, operations, **kw)]
            if level < _WITH_ATTENTION:
                layers.append(ConvTransformer(widths[level], config.context_dim, operations, attention, **kw))
            return layers

        self.input_blocks = nn.ModuleList([Block([operations.Conv2d(config.in_channels, width, 3, padding=1, **kw)])])
        skips = [width]
        for level, channels in enumerate(widths):
            for _ in range(2):
                self.input_blocks.append(Block(stage(level, skips[-1])))
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(Block([Downsample(channels, operations, **kw)]))
                skips.append(channels)
        deepest = widths[-1]
        self.middle_block = Block(
            [
                ResBlock(deepest, deepest, emb_dim, operations, **kw),
                ConvTransformer(deepest, config.context_dim, operations, attention, **kw),
                ResBlock(deepest, deepest, emb_dim, operations, **kw),
            ]
        )
        self.output_blocks = nn.ModuleList()
        channels = deepest
        for level in reversed(range(len(widths))):
            for index in range(3):
                layers = stage(level, channels + skips.pop())
                channels = widths[level]
                if level and index == 2:
                    layers.append(Upsample(channels, operations, **kw))
                self.output_blocks.append(Block(layers))
        self.out = nn.Sequential(
            group_norm_class(operations.GroupNorm)(32, width, **kw),
            nn.SiLU(),
            operations.Conv2d(width, config.out_channels, 3, padding=1, **kw),
        )

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        motion: MotionNetwork | None = None,
        features: Sequence[Tensor] | None = None,
        across_frames: bool = False,
        scale: float = 1.0,
    ) -> Tensor:
        """Predict.

        Args:
            x: Noised latents ``[B, C, F, H, W]``.
            t: Long ``[B]``.
            context: Text tokens ``[B, L, D]``.
            motion: Modules to run; None gives frames that know nothing of one another.
            features: Of `ImageEncoder`, each ``[B*F, ...]``.
            across_frames: See `MotionModule`.
            scale: See `MotionModule`.

        Returns:
            The prediction, shape of ``x`` with the network's output channels.
        """
        frames = x.shape[2]
        emb = self.time_embed(sinusoidal_embedding(t, self.config.model_channels).to(x))
        step = Step(emb, context, frames)

        def run(part: str, index: int, block: nn.Module, h: Tensor, size: tuple[int, int] | None = None) -> Tensor:
            module = motion.at(part, index) if motion is not None else None
            feature = _feature(features, part, index)
            layers = list(block)  # type: ignore[call-overload]
            head = 2 if len(layers) > 1 and isinstance(layers[1], ConvTransformer) else 1
            h = Block(layers[:head])(h, step)
            h = h if feature is None else h + feature
            h = _moved(module, h, frames, across_frames, scale)
            return Block(layers[head:])(h, step, size)

        h, skips = to_frames(x), []
        for index, block in enumerate(self.input_blocks):
            h = run("input", index, block, h)
            skips.append(h)
        h = run("middle", 0, self.middle_block, h)
        for index, block in enumerate(self.output_blocks):
            h = torch.cat([h, skips.pop()], dim=1)
            h = run("output", index, block, h, _size(skips))
        return to_video(self.out(h), frames)


def _feature(features: Sequence[Tensor] | None, part: str, index: int) -> Tensor | None:
    """The image feature that is added in a block."""
    if features is None or part != "input" or index not in FEATURE_BLOCKS:
        return None
    return features[FEATURE_BLOCKS.index(index)]


def _moved(module: MotionModule | None, h: Tensor, frames: int, across_frames: bool, scale: float) -> Tensor:
    return h if module is None else module(h, frames, across_frames, scale)


def _size(skips: Sequence[Tensor]) -> tuple[int, int] | None:
    """Height and width of the skip that waits next."""
    return (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
