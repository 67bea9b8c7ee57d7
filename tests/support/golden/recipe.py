"""Weights without files: every tensor follows from its key, its shape and a seed.

Reference values were recorded with networks filled this way, so a seed stands for a whole checkpoint. Uniform numbers
come from NumPy's legacy MT19937 generator, whose stream is frozen, so they are the same on every machine.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

_GOLDEN_RATIO = 2654435761


def _uniform(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """float64 in [0, 1), from the checksum of a name and a seed."""
    state = (zlib.crc32(name.encode()) + _GOLDEN_RATIO * seed) % 2**32
    return np.random.RandomState(state).random_sample(tuple(shape))


def recipe_array(key: str, shape: Sequence[int], seed: int, gain: float = 1.0) -> np.ndarray:
    """One parameter, float32 but exactly representable in float16.

    Args:
        key: Its state-dict key.
        shape: Its shape; two or more dimensions make a weight of variance ``gain^2 / fan_in``.
        seed: Of the whole network.
        gain: Scale of weights; gains of norms stay in [0.75, 1.25], biases in [-0.15, 0.15].
    """
    values = _uniform(key, shape, seed) * 2.0 - 1.0
    if len(shape) >= 2:
        values = values * (gain * math.sqrt(3.0 / float(np.prod(shape[1:]))))
    elif key.endswith("weight"):
        values = 1.0 + 0.25 * values
    else:
        values = 0.15 * values
    return values.astype(np.float16).astype(np.float32)


def recipe_fill(model: nn.Module, seed: int, gain: float = 1.0) -> nn.Module:
    """Fill a network in place and return it."""
    with torch.no_grad():
        for key, value in model.state_dict().items():
            value.copy_(torch.from_numpy(recipe_array(key, value.shape, seed, gain)))
    return model
