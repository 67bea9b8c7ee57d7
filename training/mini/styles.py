"""Other looks of a rendered clip, for personalised image models: drawn over the frames with the help of their layers.

A look changes colours only: depth, silhouette and motion are the scene's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from .render import Layers

_LUMA = np.array([0.30, 0.59, 0.11], np.float32)


def toon(frames: np.ndarray, layers: Layers) -> np.ndarray:
    """Few bright tones, and dark outlines where depth or silhouette jumps.

    Args:
        frames: ``uint8 [F, H, W, 3]``.
        layers: of the same frames.

    Returns:
        like ``frames``.
    """
    image = _softened(frames.astype(np.float32) / 255)
    light = image @ _LUMA
    tone = (np.floor(light * 5) + 0.6) / 5
    vivid = light[..., None] + 1.45 * (image - light[..., None])
    colors = vivid * (tone / np.maximum(light, 0.05))[..., None] + 0.06
    return _bytes(colors * (1 - 0.92 * _outline(layers)[..., None]))


def night(frames: np.ndarray, layers: Layers) -> np.ndarray:
    """A dark blue night, and a lamp's warm pool of light around the object; arguments as for `toon`."""
    image = frames.astype(np.float32) / 255
    light = (image @ _LUMA)[..., None]
    dark = (0.75 * light + 0.25 * image) * np.array([0.16, 0.20, 0.42], np.float32)
    near = _pool(layers)[..., None] * (layers.depth > 0.05)[..., None]
    return _bytes(dark + near * image * np.array([1.15, 0.86, 0.45], np.float32))


def paper(frames: np.ndarray, layers: Layers) -> np.ndarray:
    """Cut paper: flat pastel colours, a white rim around the object, its shadow thrown to the lower right."""
    image = _softened(_softened(frames.astype(np.float32) / 255))
    flat = (np.floor(image * 3.99) + 0.5) / 4
    pastel = 0.68 * flat + 0.30
    inside = layers.silhouette > 127
    rim = _grown(inside, 2)
    shadow = np.roll(rim, (4, 4), axis=(1, 2))
    ground = np.where((shadow & ~rim)[..., None], 0.62 * pastel, pastel)
    ground = np.where((rim & ~inside)[..., None], 0.99, ground)
    return _bytes(np.where(inside[..., None], 0.85 * flat + 0.12, ground))


STYLES: Final[dict[str, Callable[[np.ndarray, Layers], np.ndarray]]] = {"toon": toon, "night": night, "paper": paper}


def _bytes(colors: np.ndarray) -> np.ndarray:
    return (np.clip(colors, 0, 1) * 255).round().astype(np.uint8)


def _softened(image: np.ndarray) -> np.ndarray:
    """A mean over 3 x 3 pixels of ``[F, H, W, 3]``."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9


def _grown(inside: np.ndarray, pixels: int) -> np.ndarray:
    """A mask grown to its neighbours ``pixels`` times."""
    for _ in range(pixels):
        padded = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
        across = padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
        inside = inside | across | padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1]
    return inside


def _outline(layers: Layers) -> np.ndarray:
    """1 on the object's border and on jumps of the depth inside it, else 0; ``[F, H, W]``."""
    inside = layers.silhouette > 127
    depth = layers.depth.astype(np.float32)
    jump = np.zeros_like(depth)
    jump[:, 1:] = np.maximum(jump[:, 1:], np.abs(np.diff(depth, axis=1)))
    jump[:, :, 1:] = np.maximum(jump[:, :, 1:], np.abs(np.diff(depth, axis=2)))
    return ((_grown(inside, 1) & ~inside) | (inside & (jump > 0.06))).astype(np.float32)


def _pool(layers: Layers) -> np.ndarray:
    """How much of the lamp's light falls on each pixel, 0..1, ``[F, H, W]``: all at the object, less around it."""
    inside = layers.silhouette > 127
    count, height, width = inside.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    area = np.maximum(inside.sum((1, 2)), 1)
    middle_y, middle_x = (inside * rows).sum((1, 2)) / area, (inside * columns).sum((1, 2)) / area
    spread = 0.16 * width + 0.5 * np.sqrt(area)
    y, x = rows[None] - middle_y.reshape(count, 1, 1), columns[None] - middle_x.reshape(count, 1, 1)
    return np.exp(-(x**2 + 1.6 * y**2) / (2 * spread.reshape(count, 1, 1) ** 2)).astype(np.float32)
