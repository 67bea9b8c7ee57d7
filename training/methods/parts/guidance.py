"""Which guidance the teacher steps with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class GuidancePolicy(Protocol):
    """Chooses ``w`` of ``(1 + w) cond - w uncond`` for each sample."""

    def __call__(self, uniform: Tensor) -> Tensor:
        """``w`` float32 ``[B]`` from numbers ``[B]`` in [0, 1)."""
        ...


@dataclass(frozen=True)
class FixedGuidance:
    """The same ``w`` always; VideoLCM uses 9."""

    w: float = 9.0

    def __call__(self, uniform: Tensor) -> Tensor:
        """``w`` for each sample."""
        return torch.full_like(uniform, self.w, dtype=torch.float32)


@dataclass(frozen=True)
class UniformGuidance:
    """``w`` drawn from an interval."""

    low: float
    high: float

    def __call__(self, uniform: Tensor) -> Tensor:
        """``w`` for each sample."""
        return (self.low + (self.high - self.low) * uniform).float()
