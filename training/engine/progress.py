"""What a run says about itself: losses by timestep, samples a second, the time it still needs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

BINS = 5
"""Parts of the schedule whose losses are shown apart: t 0-199, 200-399, ... for 1000 timesteps."""


def bin_sums(losses: Tensor, t: Tensor, num_timesteps: int = 1000) -> Tensor:
    """Sum and number of the losses in each part of the schedule, to be added up over processes.

    Args:
        losses: ``[B]``.
        t: long ``[B]``.
        num_timesteps: of the schedule.

    Returns:
        ``[2, BINS]``: sums, numbers.
    """
    place = (t * BINS // num_timesteps).clamp(max=BINS - 1)
    sums = torch.zeros(2, BINS, device=losses.device)
    sums[0].index_add_(0, place, losses.detach().float())
    sums[1].index_add_(0, place, torch.ones_like(losses, dtype=torch.float32))
    return sums


def bin_means(sums: Tensor, num_timesteps: int = 1000) -> dict[str, float]:
    """Mean losses by name, of the parts that had samples; ``sums`` from `bin_sums`."""
    width = num_timesteps // BINS
    return {
        f"loss/t{i * width:03d}": float(total / count)
        for i, (total, count) in enumerate(zip(*sums.tolist(), strict=True))
        if count
    }


class Smooth:
    """Moving means of named numbers; a number that a step lacks keeps its mean."""

    def __init__(self, decay: float = 0.98) -> None:
        self.decay, self.values = decay, dict[str, float]()

    def update(self, values: Mapping[str, float]) -> None:
        """Take in a step's numbers."""
        for key, value in values.items():
            self.values[key] = self.decay * self.values.get(key, value) + (1 - self.decay) * value


class Rate:
    """Samples a second, over the last half minute or so of training; what is done in `paused` does not count."""

    def __init__(self) -> None:
        self._idle = 0.0
        self._marks = [(time.monotonic(), 0.0)]

    def add(self, samples: float) -> float:
        """Count a step's samples and return the rate."""
        now, total = time.monotonic() - self._idle, self._marks[-1][1] + samples
        self._marks.append((now, total))
        while len(self._marks) > 2 and now - self._marks[1][0] > 30:
            self._marks.pop(0)
        began, before = self._marks[0]
        return (total - before) / max(now - began, 1e-9)

    @contextmanager
    def paused(self, bar: tqdm | None = None) -> Iterator[None]:
        """Do something between two steps that is no training, such as validation.

        Args:
            bar: of the run; its remaining time is reckoned without the pause too, else every validation would be taken
                for slow steps.
        """
        began, shown = time.monotonic(), time.time()
        try:
            yield
        finally:
            self._idle += time.monotonic() - began
            if bar is not None and not bar.disable:
                passed = time.time() - shown
                bar.start_t += passed
                bar.last_print_t += passed
