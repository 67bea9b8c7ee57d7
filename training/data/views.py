"""Which part of a frame is seen: the middle, or a part drawn once for all frames of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

SHAPES: Final = (3 / 4, 4 / 3)
"""Between which a drawn part's proportions lie, as factors on the wanted ones."""
TRIES: Final = 10


@dataclass(frozen=True, kw_only=True)
class View:
    """A part of a frame, in its pixels; width and height 1 or more."""

    left: int
    top: int
    width: int
    height: int


def draw_view(size: tuple[int, int], wanted: tuple[int, int], least: float, rng: np.random.Generator) -> View:
    """A part of at least a share of the area and at most all of it, of about the wanted proportions.

    As torchvision's ``RandomResizedCrop``: area uniform, proportions uniform in their logarithm; where none fits in ten
    tries, the largest middle part.

    Args:
        size: width and height of the frame, pixels.
        wanted: width and height that it will be resized to.
        least: smallest share of the area, above 0 and at most 1.
        rng: draws.
    """
    width, height = size
    for _ in range(TRIES):
        area = width * height * float(rng.uniform(least, 1.0))
        shape = wanted[0] / wanted[1] * math.exp(float(rng.uniform(*np.log(SHAPES))))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return View(left=left, top=top, width=w, height=h)
    scale = min(width / wanted[0], height / wanted[1])
    w, h = max(1, round(wanted[0] * scale)), max(1, round(wanted[1] * scale))
    return View(left=(width - w) // 2, top=(height - h) // 2, width=w, height=h)
