"""What a method knows of a network: how to call it, and which of its parameters do what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

Cond = Mapping[str, Any]
"""What a network is given beside latents and time.

``text`` ``[B, L, D]``; ``control``, encoded or pixel conditions in the network's own form; ``temporal``, False to pass
around the layers along time. A network ignores no entry that it does not know: it raises.
"""

SPATIAL, TEMPORAL, EMBEDDING, ADAPTER = "spatial", "temporal", "embedding", "adapter"
CONDITION = "condition."
"""Groups of parameters; an encoder's group is ``CONDITION`` and the condition's name."""


class Network(nn.Module, ABC):
    """A diffusion network below the line ``predict(x, t, cond)``; everything else about it stays in here.

    Attributes:
        network: the module that holds the weights, under the names of its files.
    """

    network: nn.Module

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Predict.

        Args:
            x: noised latents ``[B, C, F, h, w]``.
            t: long ``[B]``.
            cond: see `Cond`.

        Returns:
            float32, of the shape of ``x``: v, eps or x_0, as the network was trained.
        """

    @abstractmethod
    def groups(self) -> dict[str, list[str]]:
        """Names of ``network``'s parameters by what they do; every parameter is in one group."""

    def named(self, group: str) -> dict[str, nn.Parameter]:
        """The parameters of a group by name; empty where there is none."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self.groups().get(group, ())}


def freeze_unfed(network: Network, fed: Collection[str]) -> list[str]:
    """Freeze the encoders of conditions that the data never feeds, for they cannot learn.

    Several processes wait at every step for the gradient of each parameter that trains: one that never gets any stops
    the run at its second step.

    Args:
        network: to be trained.
        fed: names of the conditions that the data has.

    Returns:
        names of the conditions whose encoders were frozen.
    """
    frozen = []
    for group in network.groups():
        name = group.removeprefix(CONDITION)
        if group.startswith(CONDITION) and name not in fed:
            for parameter in network.named(group).values():
                parameter.requires_grad_(False)
            frozen.append(name)
    return sorted(frozen)
