"""Residual blocks and changes of resolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..fused import group_norm_class
from ..layers import Operations, Step, VideoLayer, from_time_rows, repeat_to, temporal_conv_class, time_rows, zero_init


class TemporalConvBlock(nn.Module):
    """Four normalised convolutions along time with a residual; statistics over all frames jointly."""

    def __init__(self, channels: int, dropout: float, operations: Operations, **kw) -> None:
        """Build for ``channels``."""
        super().__init__()
        conv = temporal_conv_class(operations.Conv3d)
        for index in range(1, 5):
            layers: list[nn.Module] = [group_norm_class(operations.GroupNorm)(32, channels, **kw), nn.SiLU()]
            if index > 1:
                layers.append(nn.Dropout(dropout))
            layers.append(conv(channels, channels, (3, 1, 1), padding=(1, 0, 0), **kw))
            self.add_module(f"conv{index}", nn.Sequential(*layers))
        zero_init(self.conv4[-1])  # type: ignore[index]

    def forward(self, rows: Tensor) -> Tensor:
        """Map ``[B, C, F, H*W]`` to the same shape."""
        return self.conv4(self.conv3(self.conv2(self.conv1(rows)))) + rows  # type: ignore[operator]


class ResBlock(VideoLayer):
    """Two convolutions with the timestep between them, then convolutions along time on the sum."""

    def __init__(
        self, in_channels: int, out_channels: int, emb_dim: int, dropout: float, operations: Operations, **kw
    ) -> None:
        """Build from ``in_channels`` to ``out_channels``."""
        super().__init__()
        self.in_layers = nn.Sequential(
            group_norm_class(operations.GroupNorm)(32, in_channels, **kw),
            nn.SiLU(),
            operations.Conv2d(in_channels, out_channels, 3, padding=1, **kw),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(emb_dim, out_channels, **kw))
        self.out_layers = nn.Sequential(
            group_norm_class(operations.GroupNorm)(32, out_channels, **kw),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_init(operations.Conv2d(out_channels, out_channels, 3, padding=1, **kw)),
        )
        self.skip_connection: nn.Module = (
            nn.Identity() if in_channels == out_channels else operations.Conv2d(in_channels, out_channels, 1, **kw)
        )
        # The misspelling is the authors' key.
        self.temopral_conv = TemporalConvBlock(out_channels, dropout, operations, **kw)

    def compute(self, x: Tensor, step: Step) -> Tensor:
        """Map ``[B*F, C, H, W]`` to ``[B*F, out_channels, H, W]``."""
        h = self.in_layers(x)
        h = h + repeat_to(self.emb_layers(step.emb), len(h))[:, :, None, None]
        h = self.skip_connection(x) + self.out_layers(h)
        if not step.temporal:
            return h
        return from_time_rows(self.temopral_conv(time_rows(h, step.num_frames)), h.shape[2])


class Downsample(VideoLayer):
    """Halve height and width."""

    def __init__(self, channels: int, operations: Operations, **kw) -> None:
        """Build for ``channels``."""
        super().__init__()
        self.op = operations.Conv2d(channels, channels, 3, stride=2, padding=1, **kw)

    def compute(self, x: Tensor, step: Step) -> Tensor:
        """Map ``[B*F, C, H, W]`` to ``[B*F, C, ceil(H/2), ceil(W/2)]``."""
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width, or grow to the size of the waiting skip."""

    def __init__(self, channels: int, operations: Operations, **kw) -> None:
        """Build for ``channels``."""
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **kw)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map ``[B*F, C, H, W]`` to ``[B*F, C, *size]``."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Block(nn.ModuleList):
    """Layers of one numbered block, in order."""

    def forward(self, x: Tensor, step: Step, size: tuple[int, int] | None = None) -> Tensor:
        """Run the layers; ``size`` is what an `Upsample` at the end grows to."""
        if step.recompute:
            return checkpoint(self._layers, x, step._replace(recompute=False), size, use_reentrant=False)
        return self._layers(x, step, size)

    def _layers(self, x: Tensor, step: Step, size: tuple[int, int] | None) -> Tensor:
        for layer in self:
            if isinstance(layer, VideoLayer):
                x = layer(x, step)
            elif isinstance(layer, Upsample):
                x = layer(x, size)
            else:
                x = layer(x)
        return x
