"""The shape of a video UNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .conditions import CONDITION_CHANNELS

CONDITIONS: Final = frozenset(CONDITION_CHANNELS) | {"image", "histogram"}
"""Names of what a network can be conditioned on, beside text."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Shape of a network. Defaults are the released 1.4 B text-to-video models.

    Attributes:
        in_channels: Latent channels.
        concat_channels: Channels beside the latents for encoded conditions; 0 for ModelScope's first layer.
        out_channels: Latent channels of the output.
        model_channels: Width of the first level; a multiple of 32.
        channel_mult: Width of each level over ``model_channels``.
        num_res_blocks: Residual blocks per level going down; one more going up.
        attention_scales: Resolutions (1 = latent) whose blocks have attention.
        context_dim: Width of text tokens.
        num_heads: Heads of the very first temporal transformer; elsewhere it is channels / head_dim.
        head_dim: Width of one head.
        conditions: Names out of `CONDITIONS`.
        num_image_tokens: Tokens made of one image embedding.
        use_fps: Whether frames per second enter the timestep embedding.
        dropout: In residual blocks, in training.
    """

    in_channels: int = 4
    concat_channels: int = 8
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    context_dim: int = 1024
    num_heads: int = 8
    head_dim: int = 64
    conditions: frozenset[str] = frozenset()
    num_image_tokens: int = 4
    use_fps: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the conditions' names and the widths."""
        if unknown := set(self.conditions) - CONDITIONS:
            raise ValueError(f"unknown conditions {sorted(unknown)}; allowed: {', '.join(sorted(CONDITIONS))}.")
        for scale, mult in enumerate(self.channel_mult):
            width = self.model_channels * mult
            if width % 32 or (2.0**-scale in self.attention_scales and width % self.head_dim):
                raise ValueError(
                    f"level {scale} is {width} channels wide; it must be a multiple of 32 and, with attention, "
                    f"of head_dim ({self.head_dim})."
                )
