"""How two predictions are compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from videolcm_core.diffusion.consistency import pseudo_huber

Distance = Callable[[Tensor, Tensor], Tensor]
"""Prediction and target ``[B, ...]`` to a number for each sample, ``[B]``."""


def huber(c: float = 0.001) -> Distance:
    """Mean of ``sqrt(d^2 + c^2) - c``; see `pseudo_huber`."""
    return partial(pseudo_huber, c=c)
