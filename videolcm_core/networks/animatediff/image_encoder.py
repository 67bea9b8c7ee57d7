"""AnimateLCM's encoder of a first frame: features that are added in the UNet's input blocks (arXiv 2402.00769, 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Operations
from .positions import positional_encoding

FEATURE_BLOCKS: Final = (2, 5, 8, 11)
"""Input blocks (LDM's numbering) that take a feature each: after the spatial layers, before the motion module."""
MOTION_SCALE: Final = 0.8
"""The authors' strength of the sinusoid of frame numbers."""


class FeatureBlock(nn.Module):
    """Two convolutions with a residual."""

    def __init__(self, in_channels: int, channels: int, operations: Operations, **kw) -> None:
        """Build from ``in_channels`` to ``channels``."""
        super().__init__()
        self.in_conv = None if in_channels == channels else operations.Conv2d(in_channels, channels, 1, **kw)
        self.block1 = operations.Conv2d(channels, channels, 3, padding=1, **kw)
        self.block2 = operations.Conv2d(channels, channels, 1, **kw)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, channels, H, W]``."""
        x = x if self.in_conv is None else self.in_conv(x)
        return self.block2(F.relu(self.block1(x))) + x


class ImageEncoder(nn.Module):
    """Latents of an image, one per frame, to one feature per level of the UNet."""

    def __init__(
        self, channels: Sequence[int] = (320, 640, 1280, 1280), operations: Operations = nn, in_channels: int = 4, **kw
    ) -> None:
        """Build for a UNet of these widths."""
        super().__init__()
        self.conv_in = operations.Conv2d(in_channels, channels[0], 3, padding=1, **kw)
        widths = [channels[0], *channels]
        self.body = nn.ModuleList(
            FeatureBlock(widths[level] if first else widths[level + 1], widths[level + 1], operations, **kw)
            for level in range(len(channels))
            for first in (True, False)
        )

    def forward(self, latents: Tensor, num_frames: int, motion_scale: float = MOTION_SCALE) -> list[Tensor]:
        """Encode.

        Args:
            latents: Scaled latents ``[B*F, 4, H, W]``; one image is repeated over the frames.
            num_frames: F.
            motion_scale: Strength of the sinusoid that tells frames apart.

        Returns:
            Features ``[B*F, C_k, ceil(H / 2**k), ceil(W / 2**k)]`` for k = 0 to 3.
        """
        x = self.conv_in(latents)
        x = x + (motion_scale * frame_sinusoid(x, num_frames))[:, :, None, None]
        features = []
        for index, block in enumerate(self.body):
            if index and index % 2 == 0:
                x = _halve(x)
            x = block(x)
            if index % 2:
                features.append(x)
        return features


def frame_sinusoid(x: Tensor, num_frames: int) -> Tensor:
    """Sinusoids of the frame numbers ``[B*F, C]``, as the positions of motion modules."""
    table = positional_encoding(num_frames, x.shape[1], x.device).to(x)
    return table.repeat(len(x) // num_frames, 1)


def _halve(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; an odd last row or column is repeated."""
    height, width = x.shape[2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    return F.avg_pool2d(x, 2)
