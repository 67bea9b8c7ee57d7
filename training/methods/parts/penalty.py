"""The weight of the penalty on the discriminator's gradient, which rises when the discriminator runs away."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PenaltyWeight(nn.Module):
    """A number that is kept in checkpoints; it is multiplied when the penalty itself grows large, as the authors do.

    Args:
        weight: at the beginning, 0 or more.
        limit: a mean penalty from here on raises it; 0 never does.
        factor: by which.
        wait: more steps than these lie between two changes, and before the first.
    """

    def __init__(self, weight: float, *, limit: float = 100.0, factor: float = 5.0, wait: int = 500) -> None:
        super().__init__()
        self.limit, self.factor, self.wait = limit, factor, wait
        self.weight = nn.Parameter(torch.tensor(float(weight)), requires_grad=False)
        self.changed = nn.Parameter(torch.tensor(0.0), requires_grad=False)

    def forward(self, penalties: Tensor) -> Tensor:
        """Penalties with their weight."""
        return self.weight * penalties

    @torch.no_grad()
    def observe(self, index: int, penalty: float) -> bool:
        """Take note of a step's mean penalty.

        Args:
            index: of the step.
            penalty: without its weight.

        Returns:
            whether the weight rose.
        """
        raises = bool(self.limit) and penalty >= self.limit and index - int(self.changed) > self.wait
        if raises:
            self.weight.mul_(self.factor)
            self.changed.fill_(index)
        return raises
