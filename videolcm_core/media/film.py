"""What a file is, and its reader: the one door through which nodes and training come to films."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

from .animation import Animation
from .errors import MediaError, Source, decoding, head_of, name_of, no_check
from .image import open_image
from .render import FilmFrame
from .timeline import Timeline
from .video import Video, Window

Kind = Literal["image", "animation", "video"]
# What their first bytes say; all else is for FFmpeg to say.
_STILLS: Final = (b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")


class Film(Protocol):
    """Frames in time. Reading it again gives the same."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def timeline(self) -> Timeline:
        """When its frames come."""

    def frames(self, since: float = 0.0) -> Iterator[FilmFrame]:
        """Decoded frames in order, beginning at or before ``since`` seconds from the first."""


def open_film(
    source: Source,
    name: str | None = None,
    *,
    window: Window | None = None,
    threads: int = 1,
    lenient: bool = False,
    check: Callable[[], None] = no_check,
) -> Film:
    """The reader of a film; nothing is decoded yet.

    Args:
        source: A file or its content.
        name: For messages; None takes the file's.
        window: The part that is read, of a video; None reads all.
        threads: Of the decoder; 0 chooses, 1 where other processes decode beside this one.
        lenient: Go on after damage, as players do, instead of refusing the film.
        check: Called before each packet or image is read; may raise to stop.

    Raises:
        MediaError: If the file cannot be opened, or a part is wanted of something that has none.
    """
    name, window = name or name_of(source), window or Window()
    kind = kind_of(source, name)
    if kind == "video":
        return Video(source, name, window, threads, lenient, check)
    if window.start or (window.duration and kind == "animation"):
        what = "an image" if kind == "image" else "a WebP animation"
        next_step = "Remove the node that trims it, or save it as mp4."
        raise MediaError(name, f"is {what}, of which no part can be taken", "a film, where a part is wanted", next_step)
    return Animation(source, name, check)


def kind_of(source: Source, name: str | None = None) -> Kind:
    """What a file is, by its content.

    GIF and APNG are animations that FFmpeg decodes, so they count as videos.

    Raises:
        MediaError: If it cannot be opened, or is empty.
    """
    name = name or name_of(source)
    with decoding(name):
        head = head_of(source)
    if not head:
        raise MediaError(name, "cannot be decoded: the file is empty")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "video" if b"acTL" in head.split(b"IDAT")[0] else "image"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        with decoding(name), open_image(source, name) as opened:
            return "animation" if getattr(opened, "is_animated", False) else "image"
    return "image" if head.startswith(_STILLS) else "video"
