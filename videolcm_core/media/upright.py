"""As the viewer sees a film: turned and mirrored as its file asks, with square pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from .errors import MediaError

MOST_STRETCH: Final = 16
"""The largest ratio of a pixel's sides that is believed; real ones are below 3."""


@dataclass(frozen=True)
class Upright:
    """How stored rows and columns become the shown ones.

    Attributes:
        transpose: First, rows become columns.
        mirror: Then left and right change places.
        flip: Then up and down change places.
    """

    transpose: bool = False
    mirror: bool = False
    flip: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Shown width and height of a stored size (and the other way round)."""
        return (height, width) if self.transpose else (width, height)

    def turn(self, pixels: np.ndarray) -> np.ndarray:
        """A view of ``[H, W, C]`` as it is shown."""
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip else 1, :: -1 if self.mirror else 1]


def upright_of(frame: Any) -> Upright:
    """What a decoded frame's display matrix asks, to the nearest right angle.

    Args:
        frame: ``av.VideoFrame``. Its matrix maps the stored (x, y) to (a x + c y, b x + d y); PyAV's ``rotation`` says
            nothing about mirroring, which selfie cameras write.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None or matrix.buffer_size < 36:
        return Upright()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Upright(mirror=a < 0, flip=d < 0)
    return Upright(transpose=True, mirror=c < 0, flip=b < 0)


def pixel_aspect(name: str, stream: Any) -> Fraction:
    """Width of a stored pixel over its height; 1 where the file does not say.

    Raises:
        MediaError: If no camera writes such a ratio.
    """
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    aspect = Fraction(ratio) if ratio and ratio > 0 else Fraction(1)
    if not Fraction(1, MOST_STRETCH) <= aspect <= MOST_STRETCH:
        raise MediaError(
            name,
            f"has pixels of {aspect.numerator}:{aspect.denominator}",
            f"pixels of 1:{MOST_STRETCH} to {MOST_STRETCH}:1",
            "The file may be damaged; save it again with square pixels.",
        )
    return aspect


def square(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """The size in square pixels: the shorter direction grows, so that no line is lost."""
    if aspect >= 1:
        return round(width * aspect), height
    return width, round(height / aspect)
