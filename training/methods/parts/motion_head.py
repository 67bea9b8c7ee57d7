"""A small module that learns what of the latents is motion (MCM, "learnable representation")."""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32


class HeadSize(NamedTuple):
    """Of a head: how many convolutions before the last, the side of their kernels, and their channels."""

    layers: int
    kernel: int
    width: int = 64


SMALL, LARGE = HeadSize(1, 1), HeadSize(4, 3)
"""708 and 113,924 parameters for 4 channels; the first is the paper's."""


class MotionHead(nn.Module):
    """Residual convolutions on each frame: ``x + conv(act(norm(conv(silu(x)))))``.

    The last convolution begins as zero, so that the head begins as the identity and the loss as that of raw latents.
    It is thrown away when training is over.

    Args:
        channels: of the latents.
        size: how large it is.
    """

    def __init__(self, channels: int = 4, size: HeadSize = SMALL) -> None:
        super().__init__()
        widths = [channels, *[size.width] * size.layers]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, size.kernel, padding=size.kernel // 2), nn.GroupNorm(GROUPS, after), nn.SiLU()
            )
            for before, after in zip(widths, widths[1:], strict=False)
        )
        self.conv_out = nn.Conv2d(size.width, channels, 1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map latents ``[B, C, F, h, w]`` to the same shape."""
        frames = x.transpose(1, 2).flatten(0, 1)
        hidden = functional.silu(frames)
        for layer in self.layers:
            hidden = layer(hidden)
        return (frames + self.conv_out(hidden)).unflatten(0, (len(x), -1)).transpose(1, 2)

    def twin(self) -> MotionHead:
        """A copy of it for the target's side, which follows and never has gradients."""
        return copy.deepcopy(self).requires_grad_(False)
