"""Synthesised floor textures of the world at 128 x 128 pixels; each tiles without a seam."""

from __future__ import annotations

import numpy as np

from .base import tiling_noise


def floor_images(size: int = 256) -> dict[str, np.ndarray]:
    """The floors by place, ``uint8 [size, size, 3]`` each."""
    rng = np.random.default_rng(8)
    fine = [tiling_noise(rng, size, sigma) for sigma in (2, 7, 20)]
    speckle = 0.4 * fine[0] + 0.35 * fine[1] + 0.35 * fine[2]
    base = {"grass": (0.24, 0.55, 0.16), "sand": (0.88, 0.72, 0.42), "snow": (0.93, 0.94, 0.97)}
    depth = {"grass": 0.30, "sand": 0.14, "snow": 0.05}
    images = {n: np.array(c) * (1 + depth[n] * speckle[..., None]) for n, c in base.items()}
    cell = np.arange(size) // (size // 2)
    board = (cell[:, None] + cell[None]) % 2
    images["checkered"] = np.where(board[..., None] == 1, np.array([0.92, 0.90, 0.86]), np.array([0.16, 0.15, 0.2]))
    images["wood"] = _boards(rng, size)
    images["carpet"] = _carpet(rng, size)
    return {n: (np.clip(i, 0, 1) * 255).astype(np.uint8) for n, i in images.items()}


def _boards(rng: np.random.Generator, size: int, boards: int = 4) -> np.ndarray:
    """Boards along one axis, each of another brown, with dark joints and a grain."""
    board = np.arange(size) * boards // size
    shade = np.array([0.85, 1.1, 0.95, 1.2])[board % 4][:, None]
    grain = tiling_noise(rng, size, 2).mean(1, keepdims=True) + 0.3 * tiling_noise(rng, size, 6)
    joint = (np.arange(size) % (size // boards) < max(size // 64, 1))[:, None]
    value = np.where(joint, 0.45, shade * (1 + 0.05 * grain))
    return np.array([0.60, 0.38, 0.19]) * value[..., None]


def _carpet(rng: np.random.Generator, size: int) -> np.ndarray:
    """Red with a grid of golden diamonds."""
    unit = np.abs((np.arange(size) % (size // 2)) / (size // 2) - 0.5)
    distance = unit[:, None] + unit[None]
    gold = (distance < 0.16) | (np.abs(distance - 0.5) < 0.03)
    color = np.where(gold[..., None], np.array([0.90, 0.70, 0.28]), np.array([0.62, 0.07, 0.10]))
    return color * (1 + 0.06 * tiling_noise(rng, size, 2)[..., None])
