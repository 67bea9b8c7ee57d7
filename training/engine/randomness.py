"""Random numbers that depend on the seed, the step and the sample alone: any split over processes draws the same.

A step's noise is drawn for each sample of the global batch by a generator of its own, on the CPU, so that two processes
draw what one draws with the same global batch, no two ranks share noise, and a resumed run repeats nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def mixed_seed(*numbers: int) -> int:
    """One seed out of several non-negative numbers; neighbours give unrelated generators."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers of some samples.

    Attributes:
        noise: Gaussian, of the latents' shape ``[B, C, F, h, w]``, float32.
        grid: uniform in [0, 1), float64 ``[B]`` on the CPU: which timestep.
        guidance: uniform in [0, 1), ``[B]``: which guidance, where it is drawn.
        source: uniform in [0, 1), ``[B]``: where the trajectory begins, where that is drawn.
    """

    noise: Tensor
    grid: Tensor
    guidance: Tensor
    source: Tensor

    def to(self, device: torch.device | str) -> Draws:
        """A copy on another device, in float32; ``grid`` stays, for not every device has float64."""
        moved = {k: v.float().to(device) for k, v in vars(self).items() if k != "grid"}
        return Draws(grid=self.grid, **moved)


def draw_samples(shape: Sequence[int], samples: range, *, seed: int, step: int, phase: int = 0) -> Draws:
    """Draw for the samples of a global batch that this process takes.

    Args:
        shape: of one sample's noise ``(C, F, h, w)``.
        samples: their numbers in the global batch.
        seed: of the run.
        step: of the run.
        phase: of the step.
    """
    numbers, noise = [], []
    for sample in samples:
        generator = torch.Generator().manual_seed(mixed_seed(seed, step, sample, *([phase] if phase else [])))
        numbers.append(torch.rand(3, generator=generator, dtype=torch.float64))
        noise.append(torch.randn(tuple(shape), generator=generator))
    uniform = torch.stack(numbers)
    return Draws(noise=torch.stack(noise), grid=uniform[:, 0], guidance=uniform[:, 1], source=uniform[:, 2])


def seed_dropout(seed: int, step: int, micro_step: int, rank: int) -> None:
    """Seed the global generators, which dropout draws from, so that a resumed run drops the same units."""
    torch.manual_seed(mixed_seed(seed, step, micro_step, rank, 1))
