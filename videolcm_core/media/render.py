"""A decoded frame as pixels: RGB by the file's colour matrix and range, upright, square, over a white background.

FFmpeg converts the colours, by the matrix and range that the file names (Rec. 601, limited, where it names none).
Transparent parts of films and images show `BACKGROUND`: white, as data sets on white have them and as images of this
pack always were. Alpha is taken as straight, not premultiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
import torch

from .errors import decoding
from .resize import interpolate
from .upright import square, upright_of

BACKGROUND: Final = 255
# Of these the host, too, takes 8 bits; of the others float, so that 10-bit films keep their steps.
_EIGHT_BITS: Final = ("yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8")
_ALIGNED: Final = 32
# FFmpeg's numbers of the colour matrices that its converter knows, and of the ranges.
_MATRICES: Final = (1, 4, 5, 6, 7, 9)
_REC_601: Final = 5
_REC_709: Final = 1
_LIMITED, _FULL = 1, 2


@dataclass(frozen=True, eq=False)
class FilmFrame:
    """One frame of a film, decoded and not yet converted.

    Attributes:
        time: Seconds from the film's first frame to when it is shown.
        decoded: ``av.VideoFrame``.
        aspect: Width of a stored pixel over its height.
        film: What messages call the film.
    """

    time: float
    decoded: Any
    aspect: Fraction = Fraction(1)
    film: str = "the film"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown: upright, in square pixels."""
        stored = square(self.decoded.width, self.decoded.height, self.aspect)
        return upright_of(self.decoded).size(*stored)

    def pixels(self, width: int, height: int) -> np.ndarray:
        """The frame at a size, averaged where it becomes smaller: ``uint8 [height, width, 3]``.

        Raises:
            MediaError: If FFmpeg cannot convert it, as frames of damaged films.
        """
        with decoding(self.film):
            return self._pixels(width, height)

    def values(self, most: int | None = None) -> torch.Tensor:
        """The frame at its own size: float32 ``[1, H, W, 3]`` in [0, 1].

        Args:
            most: Pixels; a larger frame is made smaller by FFmpeg before it is converted. None keeps every size.

        Raises:
            MediaError: If FFmpeg cannot convert it, as frames of damaged films.
        """
        with decoding(self.film):
            return self._values(most)

    def _pixels(self, width: int, height: int) -> np.ndarray:
        upright, frame = upright_of(self.decoded), self.decoded
        if has_alpha(frame):
            rgba = frame.to_ndarray(format="rgba", **_colours(frame))
            if rgba[..., 3].min() < 255:
                frame = type(frame).from_ndarray(over_background(rgba), format="rgb24")
        stored_width, stored_height = upright.size(width, height)
        size: dict[str, Any] = {"width": stored_width, "height": stored_height, "interpolation": "AREA"}
        converted = frame.reformat(format="rgb24", **size, **_colours(frame))
        return np.ascontiguousarray(upright.turn(converted.to_ndarray()))

    def _values(self, most: int | None) -> torch.Tensor:
        upright, frame = upright_of(self.decoded), _smaller(self.decoded, most)
        alpha = has_alpha(frame)
        if frame.format.name in _EIGHT_BITS:
            stored = frame.to_ndarray(format="rgba" if alpha else "rgb24", **_colours(frame))
            stored = (over_background(stored) if alpha else stored).astype(np.float32)
            stored /= np.float32(255)
        else:
            stored = _as_float(frame, "gbrapf32le" if alpha else "gbrpf32le")
            if alpha:
                opacity = stored[..., 3:]
                stored = stored[..., :3] * opacity + np.float32(BACKGROUND / 255) * (1 - opacity)
        shown = torch.from_numpy(np.ascontiguousarray(upright.turn(stored)))[None]
        size = self.size if frame is self.decoded else upright.size(*square(frame.width, frame.height, self.aspect))
        return interpolate(shown, *size)


def _smaller(frame: Any, most: int | None) -> Any:
    """A frame of at most so many pixels, in its own format and proportions."""
    pixels = frame.width * frame.height
    if most is None or pixels <= most:
        return frame
    scale = (most / pixels) ** 0.5
    width, height = (max(2, int(length * scale) // 2 * 2) for length in (frame.width, frame.height))
    return frame.reformat(width=width, height=height, interpolation="AREA")


def has_alpha(frame: Any) -> bool:
    """Whether a frame's format can be transparent; palettes can."""
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def _colours(frame: Any) -> dict[str, int]:
    """What PyAV up to 16 has to be told of a frame's matrix and range; later ones read them, with equal result."""
    matrix, extent, name = int(frame.colorspace), int(frame.color_range), frame.format.name
    if not name.startswith("yuv") or (matrix not in _MATRICES and extent != _FULL):
        return {}
    matrix = matrix if matrix in _MATRICES else _REC_601
    return {
        "src_colorspace": matrix,
        "src_color_range": _FULL if extent == _FULL or name.startswith("yuvj") else _LIMITED,
        # RGB has no matrix; but where both sides are the same, PyAV tells FFmpeg nothing.
        "dst_colorspace": _REC_709 if matrix == _REC_601 else _REC_601,
        "dst_color_range": _FULL,
    }


def over_background(rgba: np.ndarray) -> np.ndarray:
    """``uint8 [H, W, 4]`` laid over the background: ``uint8 [H, W, 3]``, rounded."""
    colour, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    return ((colour * alpha + BACKGROUND * (255 - alpha) + 127) // 255).astype(np.uint8)


def _as_float(frame: Any, pixel_format: str) -> np.ndarray:
    """``float32 [H, W, C]``.

    FFmpeg's conversion reads beyond rows that are no multiple of 32 long, and gives other last digits each time (the
    host works around it in the same way): such a frame is widened by repeating its edge, and cut after.
    """
    import av

    width, height = frame.width, frame.height
    if width % _ALIGNED == 0:
        return frame.to_ndarray(format=pixel_format, **_colours(frame))
    right, below = -width % _ALIGNED, -height % _ALIGNED
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=frame.format.name, time_base=Fraction(1, 1000))
    pad = graph.add("pad", f"{width + right}:{height + below}:0:0")
    smear = graph.add("fillborders", f"left=0:right={right}:top=0:bottom={below}:mode=smear")
    sink = graph.add("buffersink")
    source.link_to(pad)
    pad.link_to(smear)
    smear.link_to(sink)
    graph.configure()
    source.push(frame)
    widened: Any = graph.pull()
    return np.ascontiguousarray(widened.to_ndarray(format=pixel_format, **_colours(frame))[:height, :width])
