"""More random numbers of each sample than the engine draws, that depend on the sample alone as those do."""

from __future__ import annotations

from enum import IntEnum
from random import Random

import torch
from torch import Tensor

from ...engine.randomness import Draws, mixed_seed


class Purpose(IntEnum):
    """What is drawn; each has a stream of its own."""

    ORIGIN = 1
    FRAMES = 2
    VIEW = 3
    REAL_FRAMES = 4
    REAL_VIEW = 5
    MIX = 6


class SampleDraws:
    """Generators on the CPU, one a sample, seeded by the 53 bits of its number for the timestep.

    That number follows from the run's seed, step, phase and sample, and belongs to no process.

    Args:
        draws: of the samples.
    """

    def __init__(self, draws: Draws) -> None:
        self._seeds = [int(number * 2.0**53) for number in draws.grid.tolist()]

    def generators(self, purpose: Purpose) -> list[torch.Generator]:
        """PyTorch's."""
        return [torch.Generator().manual_seed(mixed_seed(seed, purpose)) for seed in self._seeds]

    def random(self, purpose: Purpose) -> list[Random]:
        """Python's."""
        return [Random(mixed_seed(seed, purpose)) for seed in self._seeds]

    def noise(self, like: Tensor, purpose: Purpose) -> Tensor:
        """Gaussian noise of the shape of ``like`` ``[B, ...]``, in float32 on its device."""
        drawn = [torch.randn(like.shape[1:], generator=generator) for generator in self.generators(purpose)]
        return torch.stack(drawn).to(like.device)

    def uniform(self, count: int, purpose: Purpose) -> Tensor:
        """Numbers in [0, 1), ``[B, count]`` on the CPU."""
        return torch.stack([torch.rand(count, generator=generator) for generator in self.generators(purpose)])
