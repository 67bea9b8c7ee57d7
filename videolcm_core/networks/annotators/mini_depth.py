"""The embedded depth estimator: a small U-Net from one frame to inverse depth and the object's silhouette.

Trained by ``training/train_depth.py`` on renderings with true depth; for scenes like those, not for photographs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Operations

_CELL = 2  # no layer runs at full size: cells of 2 x 2 pixels are channels


class _Convolutions(nn.Sequential):
    """Two 3 x 3 convolutions, each with norm and activation."""

    def __init__(self, in_channels: int, out_channels: int, operations: Operations, **kw) -> None:
        super().__init__(
            operations.Conv2d(in_channels, out_channels, 3, padding=1, **kw),
            operations.GroupNorm(8, out_channels, **kw),
            nn.SiLU(),
            operations.Conv2d(out_channels, out_channels, 3, padding=1, **kw),
            operations.GroupNorm(8, out_channels, **kw),
            nn.SiLU(),
        )


class MiniDepth(nn.Module):
    """Inverse depth in the units of the depth condition, and silhouette logits, frame by frame."""

    WIDTHS = (48, 96, 128)

    def __init__(
        self,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build without trained weights.

        Args:
            operations: Layer classes; ``torch.nn`` or the host's.
            device: Of the parameters.
            dtype: Of the parameters.
        """
        super().__init__()
        kw = {"device": device, "dtype": dtype}
        down, inputs = [], 3 * _CELL**2
        for width in self.WIDTHS:
            down.append(_Convolutions(inputs, width, operations, **kw))
            inputs = width
        self.down = nn.ModuleList(down)
        up = []
        for width in reversed(self.WIDTHS[:-1]):
            up.append(_Convolutions(inputs + width, width, operations, **kw))
            inputs = width
        self.up = nn.ModuleList(up)
        self.out = operations.Conv2d(inputs, 2 * _CELL**2, 3, padding=1, **kw)

    def channels_last(self) -> MiniDepth:
        """Put the weights into the memory order that convolutions on a CPU prefer; values are unchanged."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate.

        Args:
            frames: ``[N, 3, H, W]`` in [0, 1], sides multiples of 8.

        Returns:
            Inverse depth ``[N, 1, H, W]``, at least 0 and near large; silhouette logits ``[N, 1, H, W]``.

        Raises:
            ValueError: If a side is not a multiple of 8.
        """
        if frames.shape[-1] % 8 or frames.shape[-2] % 8:
            raise ValueError(
                f"frames are {frames.shape[-1]} x {frames.shape[-2]}; allowed: multiples of 8. Resize them."
            )
        x, skips = F.pixel_unshuffle(frames * 2 - 1, _CELL), []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else F.avg_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()], 1))
        depth, silhouette = F.pixel_shuffle(self.out(x), _CELL).chunk(2, 1)
        return F.softplus(depth), silhouette
