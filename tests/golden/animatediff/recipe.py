"""Deterministic random weights, independent of any framework RNG (numpy legacy MT19937 uniforms, frozen by NumPy policy)."""

import zlib, math
import numpy as np, torch


def recipe_array(key, shape, seed, gain=1.0):
    rs = np.random.RandomState((zlib.crc32(key.encode()) + 2654435761 * seed) % (2**32))
    u = rs.random_sample(tuple(shape)) * 2.0 - 1.0  # float64 in [-1, 1)
    if len(shape) >= 2:  # linear / conv weight
        u = u * (gain * math.sqrt(3.0 / float(np.prod(shape[1:]))))  # variance gain^2/fan_in
    elif key.endswith("weight"):  # norm gain
        u = 1.0 + 0.25 * u
    else:  # bias
        u = 0.15 * u
    return u.astype(np.float16).astype(np.float32)  # exactly representable in fp16


def recipe_fill(model, seed, gain=1.0):
    sd = model.state_dict()
    for k, v in sd.items():
        v.copy_(torch.from_numpy(recipe_array(k, v.shape, seed, gain)))
    model.load_state_dict(sd)
    return model


def recipe_input(name, shape, seed, lo=-1.7320508, hi=1.7320508):
    """uniform with unit variance by default"""
    rs = np.random.RandomState((zlib.crc32(("input:" + name).encode()) + 2654435761 * seed) % (2**32))
    return torch.from_numpy((rs.random_sample(tuple(shape)) * (hi - lo) + lo).astype(np.float32))
