"""Animations that FFmpeg does not decode (WebP), and still images as films of one frame, with Pillow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from .errors import MediaError, Source, decoding, no_check
from .image import as_shown, open_image
from .render import FilmFrame
from .timeline import Timeline, from_stamps

DEFAULT_HOLD: Final = 100
"""Milliseconds that browsers show a frame whose file says 0."""
_TICK: Final = 0.001


@dataclass(frozen=True, eq=False)
class Animation:
    """A film of images with their own durations.

    Attributes:
        source: A file or its content.
        name: For messages.
        check: Called before each image is read; may raise to stop.
    """

    source: Source
    name: str
    check: Callable[[], None] = no_check

    @cached_property
    def timeline(self) -> Timeline:
        """When its frames come.

        Raises:
            MediaError: If it cannot be read or has no frame.
        """
        stamps, end = [], 0
        for image in self._images():
            stamps.append(end)
            end += _hold(image)
        line = from_stamps(stamps, end - stamps[-1], _TICK) if stamps else None
        if line is None:
            raise MediaError(self.name, "has no frame", next_step="Check where it comes from.")
        return line

    def frames(self, since: float = 0.0) -> Iterator[FilmFrame]:
        """Decoded frames in order, all of them: an image may draw over the one before.

        Raises:
            MediaError: If it is damaged.
        """
        import av

        stamp = 0
        for image in self._images():
            with decoding(self.name):
                rgb = np.ascontiguousarray(as_shown(image, self.name))
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            yield FilmFrame(stamp * _TICK, frame, film=self.name)
            stamp += _hold(image)

    def _images(self) -> Iterator[Any]:
        """The opened image, standing at each of its frames."""
        with decoding(self.name):
            opened = open_image(self.source, self.name)
        with opened:
            for number in range(getattr(opened, "n_frames", 1)):
                self.check()
                with decoding(self.name):
                    opened.seek(number)
                    opened.load()
                yield opened


def _hold(image: Any) -> int:
    """Milliseconds that a frame is shown."""
    return max(0, round(image.info.get("duration") or 0)) or DEFAULT_HOLD
