"""Which timesteps a method trains at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from videolcm_core.diffusion.schedule import distillation_grid


@dataclass(frozen=True)
class TimestepGrid:
    """Pairs of neighbouring timesteps.

    Attributes:
        t: long ``[N]``, ascending.
        t_prev: long ``[N]``, each one's predecessor.
    """

    t: Tensor
    t_prev: Tensor

    @classmethod
    def ddim(cls, original_steps: int = 50, num_timesteps: int = 1000) -> TimestepGrid:
        """19, 39, ..., 999 and before them 0, 19, ..., 979: skips of k = 20 for 50."""
        return cls(*distillation_grid(original_steps, num_timesteps))

    def index(self, uniform: Tensor) -> Tensor:
        """Interval of each sample, long ``[B]``, from numbers in [0, 1)."""
        return (uniform * len(self.t)).long().clamp(max=len(self.t) - 1)

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """``t`` and ``t_prev`` of intervals ``[B]``, on their device."""
        return self.t.to(index.device)[index], self.t_prev.to(index.device)[index]


def stratified(uniform: Tensor, samples: range, size: int) -> Tensor:
    """One number in each of ``size`` equal parts of [0, 1): every noise level has its share in every step.

    Args:
        uniform: ``[B]`` in [0, 1), the place in each part.
        samples: numbers of these B samples in the step's batch.
        size: of the step's batch, all processes together.
    """
    return (torch.tensor(list(samples), dtype=uniform.dtype, device=uniform.device) + uniform) / size
