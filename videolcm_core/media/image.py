"""Still images as the viewer sees them: 8-bit RGB, upright, transparent parts white."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .errors import MediaError, Source, check_pixels, decoding, name_of
from .render import BACKGROUND

if TYPE_CHECKING:
    from PIL.Image import Image

# Others are refused: some of Pillow's readers start programs (EPS), and none is a usual image of a data set.
FORMATS: Final = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_OPAQUE: Final = ("RGB", "L", "YCbCr", "CMYK")
_WHITE: Final = (BACKGROUND,) * 3


def read_image(source: Source, name: str | None = None) -> Image:
    """Read an image, the first one of an animation.

    16-bit grey is divided by 257, which makes its white 255; grey of floating point is taken as 0 to 1.

    Args:
        source: A file or its content.
        name: For messages; None takes the file's.

    Returns:
        ``PIL.Image`` of mode RGB, turned as its EXIF data asks.

    Raises:
        MediaError: If it is no image, or damaged.
    """
    name = name or name_of(source)
    with decoding(name), open_image(source, name) as opened:
        return as_shown(opened, name)


def open_image(source: Source, name: str) -> Image:
    """Open an image without decoding it.

    Raises:
        MediaError: If it is larger than memory.
    """
    from PIL import Image

    if isinstance(source, io.BytesIO):
        source = source.getvalue()
    opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source), formats=_readable())
    check_pixels(name, *opened.size)
    return opened


def as_shown(opened: Any, name: str) -> Image:
    """The frame at which an opened ``PIL.Image`` stands: RGB, upright, over white."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(opened)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return _grey(upright, name)
    if upright.mode in _OPAQUE and "transparency" not in upright.info:
        return upright.convert("RGB")  # a copy of four bytes a pixel less, which counts in a large photo
    rgba = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _readable() -> list[str]:
    """Pillow refuses all when one format is unknown to it, as AVIF is to older ones."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _grey(image: Any, name: str) -> Image:
    """Grey of more than 8 bits; Pillow's own conversion cuts it at 255."""
    from PIL import Image

    values = np.asarray(image)
    transparent = image.info.get("transparency")
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise MediaError(name, "has grey values that are not in 0 to 1", "floating point of 0 to 1, or integers")
        levels = np.rint(values * np.float32(255)).astype(np.uint8)
    else:
        if values.min() < 0 or values.max() > 0xFFFF:
            raise MediaError(name, f"has grey values up to {values.max()}", "8 or 16 bits a channel")
        levels = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    rgb = np.repeat(levels[..., None], 3, axis=2)
    if isinstance(transparent, int):
        rgb[values == transparent] = _WHITE
    return Image.fromarray(rgb)
