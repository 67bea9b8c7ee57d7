"""What a student is to the loop: a network, the parameters that train, and its weights as a plain network has them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ..methods.method import Follower
from ..networks import VgenNetwork
from ..recipes.base import Recipe
from ..teachers import Teacher


class Student(Protocol):
    """A network in training."""

    network: nn.Module

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimiser gets."""

    def effective_state(self, network: nn.Module | None = None) -> dict[str, Tensor]:
        """Weights under the teacher's keys: what the network computes with.

        Args:
            network: a copy of ``network``, such as its moving average; None takes ``network`` itself.
        """

    def average(self, recipe: Recipe) -> Follower:
        """A slow average of what trains, beginning as it is now; ``effective_state`` takes its network."""

    def identity(self) -> dict[str, str]:
        """What a resumed run must share with the run that began."""


class FullStudent:
    """All weights train; they begin as the teacher's."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def trainable(self) -> list[nn.Parameter]:
        """All parameters but those of encoders that the data never feeds."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def effective_state(self, network: nn.Module | None = None) -> dict[str, Tensor]:
        """The state dict."""
        return _detached((network or self.network).state_dict())

    def average(self, recipe: Recipe) -> Follower:
        """Of all weights."""
        weights = copy.deepcopy(self.network).float().requires_grad_(False).train(False)
        return Follower(
            module=VgenNetwork(weights), weights=weights, values=self.effective_state, decay=recipe.average_decay
        )

    def identity(self) -> dict[str, str]:
        """All weights train."""
        return {"student": "all weights"}


def full_student(teacher: Teacher) -> FullStudent:
    """A copy of the teacher's network in float32, all of which trains."""
    network = copy.deepcopy(teacher.network).to(torch.float32)
    return FullStudent(network.requires_grad_(True).train(True))


def _detached(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in state.items()}
