"""Learning rates."""

from __future__ import annotations

import math

import torch


def warmup_stable_decay(index: int, steps: int, *, peak: float, warmup: int = 100, decay: float = 0.35) -> float:
    """Learning rate: linear warm-up, plateau, half cosine to 1 % of the peak in the last ``decay`` of the steps."""
    start = int(steps * (1 - decay))
    if index < start:
        return peak * min(1.0, (index + 1) / warmup)
    progress = (index - start) / max(1, steps - start)
    return peak * min(1.0, (index + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value
