"""The one error of films and images that cannot be read, and the guard that makes it of every decoder failure."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..failures import READING

Source = str | Path | bytes | io.BytesIO
"""A file's path, or its content."""

ALLOWED: Final = "a whole film or image file"
NEXT_STEP: Final = "Play it in a player; if it plays, save it again as mp4 (H.264), or as PNG if it is an image."
MAX_PIXELS: Final = 1 << 27
"""Of one frame or image (16K video has 133 million): damaged headers ask for sizes that no memory holds."""

_HEAD: Final = 1 << 16


class MediaError(ValueError):
    """A film or image cannot be read.

    Attributes:
        file: What it is called.
        reason: What is wrong, such as "cannot be decoded: invalid data".
        allowed: What would have worked.
        next_step: What the user can do.
    """

    def __init__(self, file: str, reason: str, allowed: str = ALLOWED, next_step: str = NEXT_STEP) -> None:
        self.file, self.reason, self.allowed, self.next_step = file, reason, allowed, next_step
        super().__init__(f"{file} cannot be read: it {reason}; allowed: {allowed}. {next_step}")

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str, str]]:
        """Errors travel from the workers of a data loader."""
        return type(self), (self.file, self.reason, self.allowed, self.next_step)


def no_check() -> None:
    """What readers call between packets where nobody wants to stop them."""


def name_of(source: Source) -> str:
    """What messages call a file or its content."""
    if isinstance(source, str | Path):
        return Path(source).name
    size = len(source) if isinstance(source, bytes) else source.getbuffer().nbytes
    return f"a file in memory ({size} bytes)"


def head_of(source: Source) -> bytes:
    """The first bytes of a file or its content, by which its kind is known."""
    if isinstance(source, bytes):
        return source[:_HEAD]
    if isinstance(source, io.BytesIO):
        return bytes(source.getbuffer()[:_HEAD])
    with Path(source).open("rb") as file:
        return file.read(_HEAD)


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn every failure of a decoder into `MediaError`.

    Args:
        name: Of the file.

    Raises:
        MediaError: If what is inside fails.
    """
    try:
        yield
    except MediaError:
        raise
    except READING as error:
        raise MediaError(name, f"cannot be decoded: {_text(error)}") from error
    except Exception as error:
        # PyAV's and Pillow's own errors that derive from Exception alone; their classes would have to be imported.
        if type(error).__module__.split(".")[0] not in ("av", "PIL"):
            raise
        raise MediaError(name, f"cannot be decoded: {_text(error)}") from error


def _text(error: Exception) -> str:
    """An exception is always true, also when it says nothing."""
    return str(error).strip() or type(error).__name__


def check_pixels(name: str, width: int, height: int) -> None:
    """Refuse a size that only a damaged header asks for.

    Raises:
        MediaError: If there is no pixel or there are more than `MAX_PIXELS`.
    """
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise MediaError(
            name, f"has a size of {width}x{height}", f"1 to {MAX_PIXELS} pixels a frame", "The file may be damaged."
        )
