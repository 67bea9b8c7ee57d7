"""Spatio-temporal condition encoders: pixels of one condition to 8 latent-sized channels."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Operations, from_tokens, to_tokens
from .attention import Attention

CONDITION_CHANNELS: Final[dict[str, int]] = {
    "depth": 1,
    "motion": 2,
    "masked": 4,
    "sketch": 1,
    "single_sketch": 1,
    "local_image": 3,
    "canny": 1,
}
"""Pixel channels of each condition that is encoded into the input, in the authors' order."""

_FRAMES_AT_A_TIME: Final = 8
_WIDTH, _OUT, _HEADS, _HEAD_DIM, _DROPOUT = 32, 8, 2, 8, 0.05


def module_names(condition: str) -> tuple[str, str]:
    """State-dict prefixes of a condition's convolutions and of its temporal transformer."""
    # The authors name the two halves of this one differently.
    after = "mask" if condition == "masked" else condition
    return f"{condition}_embedding", f"{after}_embedding_after"


class ConditionEncoder(nn.Sequential):
    """Convolutions and a pool, then two halvings: any pixel size to the latent size."""

    def __init__(self, in_channels: int, out_channels: int, operations: Operations, **kw) -> None:
        """Build for ``in_channels`` pixel channels."""
        super().__init__(
            operations.Conv2d(in_channels, _WIDTH, 3, padding=1, **kw),
            nn.SiLU(),
            nn.Identity(),  # the place of the pool in the authors' numbering
            operations.Conv2d(_WIDTH, _WIDTH, 3, stride=2, padding=1, **kw),
            nn.SiLU(),
            operations.Conv2d(_WIDTH, out_channels, 3, stride=2, padding=1, **kw),
        )

    def forward(self, pixels: Tensor, latent_size: tuple[int, int]) -> Tensor:
        """Encode frames.

        Args:
            pixels: ``[B*F, C, H, W]`` of any size.
            latent_size: Height and width of the result.

        Returns:
            ``[B*F, 8, h, w]``.
        """
        x = self[1](self[0](pixels))
        x = F.adaptive_avg_pool2d(x, (latent_size[0] * 4, latent_size[1] * 4))
        return self[5](self[4](self[3](x)))


class PreNormAttention(nn.Module):
    """Self-attention on normalised tokens, with the residual."""

    def __init__(self, dim: int, operations: Operations, attention: Attention, **kw) -> None:
        """Build for tokens of width ``dim``."""
        super().__init__()
        inner = _HEADS * _HEAD_DIM
        self.attention = attention
        self.norm = operations.LayerNorm(dim, **kw)
        self.fn = nn.Module()
        self.fn.to_qkv = operations.Linear(dim, inner * 3, bias=False, **kw)
        self.fn.to_out = nn.Sequential(operations.Linear(inner, dim, **kw), nn.Dropout(_DROPOUT))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, F, D]`` to the same shape."""
        q, k, v = self.fn.to_qkv(self.norm(x)).chunk(3, dim=-1)
        return self.fn.to_out(self.attention(q, k, v, _HEADS)) + x


class PlainFeedForward(nn.Module):
    """Linear, gelu, linear with the residual; the authors have no norm before it."""

    def __init__(self, dim: int, operations: Operations, **kw) -> None:
        """Build for tokens of width ``dim``, hidden width 4 times that."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Sequential(operations.Linear(dim, dim * 4, **kw), nn.GELU()),
            nn.Dropout(_DROPOUT),
            operations.Linear(dim * 4, dim, **kw),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, F, D]`` to the same shape."""
        return self.net(x) + x


class FrameTransformer(nn.Module):
    """One transformer layer over the frames of each pixel."""

    def __init__(self, dim: int, operations: Operations, attention: Attention, **kw) -> None:
        """Build for tokens of width ``dim``."""
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.ModuleList(
                    [PreNormAttention(dim, operations, attention, **kw), PlainFeedForward(dim, operations, **kw)]
                )
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B*h*w, F, D]`` to the same shape."""
        for layer in self.layers:
            for part in layer:  # type: ignore[attr-defined]
                x = part(x)
        return x


def encode_condition(
    encoder: ConditionEncoder, after: FrameTransformer, pixels: Tensor, num_frames: int, latent_size: tuple[int, int]
) -> Tensor:
    """Run both halves of one condition's encoder.

    Args:
        encoder: The convolutions.
        after: The transformer over frames.
        pixels: ``[B*F, C, H, W]``.
        num_frames: F.
        latent_size: Height and width of the result.

    Returns:
        Channels-last ``[B*F, 8, h, w]``.
    """
    # At full size the first layer is by far the largest: 16 frames of 1024 x 576 are 0.6 GB in half precision.
    parts = (pixels,) if torch.is_grad_enabled() else pixels.split(_FRAMES_AT_A_TIME)
    encoded = torch.cat([encoder(part, latent_size) for part in parts])
    tokens = to_tokens(encoded).unflatten(0, (-1, num_frames)).transpose(1, 2)
    videos, positions = tokens.shape[:2]
    out = after(tokens.flatten(0, 1)).unflatten(0, (videos, positions)).transpose(1, 2)
    return from_tokens(out.flatten(0, 1), latent_size[0])


def build_encoders(
    conditions: frozenset[str], out_channels: int, operations: Operations, attention: Attention, **kw
) -> dict[str, nn.Module]:
    """Encoders of the named conditions under their state-dict names."""
    modules: dict[str, nn.Module] = {}
    for condition, channels in CONDITION_CHANNELS.items():
        if condition in conditions:
            encoder, after = module_names(condition)
            modules[encoder] = ConditionEncoder(channels, out_channels, operations, **kw)
            modules[after] = FrameTransformer(out_channels, operations, attention, **kw)
    return modules
