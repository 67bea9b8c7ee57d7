"""Frames of a film at a sampling rate, and single images: ``uint8 [F, H, W, 3]``. The core's reader reads them.

A clip that is too short is skipped or its last frame is held, as the user chooses. It is never padded: the authors'
code leaves grey frames at the end of short clips (VGen ``video_dataset.py:96-106``), and networks learn to draw them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from videolcm_core.media.errors import MediaError, check_pixels, decoding, name_of
from videolcm_core.media.film import Film, open_film
from videolcm_core.media.image import read_image
from videolcm_core.media.instants import nearest
from videolcm_core.media.render import FilmFrame
from videolcm_core.media.resize import cover_size, cut_middle
from videolcm_core.media.timeline import Timeline

from .source import BrokenSampleError
from .views import View, draw_view

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
Start = Literal["random", "first", "middle"]
Short = Literal["skip", "hold"]
Fit = Literal["crop", "stretch"]
_VIEWS = ("crop_area", "image_crop_area", "enlarge")


@dataclass(frozen=True, kw_only=True)
class FrameSampling:
    """Which frames of a clip are taken and at what size.

    Attributes:
        frames: how many, F.
        fps: frames per second of the taken frames, whatever the file's own; of no effect with ``stride``.
        width: in pixels, a multiple of 8.
        height: in pixels, a multiple of 8.
        start: where the taken span begins: anywhere, at the beginning, in the middle.
        short: a clip shorter than the span is skipped, or its last frame is held.
        fit: other proportions are cut at the sides, or stretched as the authors did.
        stride: every so many-th frame of the file is taken, whatever its rate; 0 takes them by ``fps``.
        crop_area: smallest share of a film's area that is seen, drawn once for all frames of a clip; 1 sees the middle.
        image_crop_area: the same of single images.
        enlarge: whether images smaller than width and height are enlarged, or cannot be used.
    """

    frames: int = 16
    fps: float = 8.0
    width: int = 64
    height: int = 64
    start: Start = "random"
    short: Short = "skip"
    fit: Fit = "crop"
    stride: int = 0
    crop_area: float = 1.0
    image_crop_area: float = 1.0
    enlarge: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (("start", Start), ("short", Short), ("fit", Fit)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(get_args(allowed))}.")
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}; allowed: 1 or more.")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps is {self.fps}; allowed: above 0.")
        for name in ("width", "height"):
            if (value := getattr(self, name)) < 8 or value % 8:
                raise ValueError(f"{name} is {value}; allowed: multiples of 8, from 8 on.")
        if self.stride < 0:
            raise ValueError(f"stride is {self.stride}; allowed: 1 or more, or 0 to take frames by fps.")
        for name in ("crop_area", "image_crop_area"):
            if not 0.0 < (share := getattr(self, name)) <= 1.0:
                raise ValueError(f"{name} is {share}; allowed: above 0, at most 1 (no cutting).")

    def settings(self) -> dict[str, Any]:
        """What a cache was made with: those that came after the first caches only where they are other than nothing."""
        later = {f.name: f.default for f in fields(self) if f.name in ("stride", *_VIEWS)}
        return {name: value for name, value in asdict(self).items() if later.get(name, not value) != value}

    @property
    def span(self) -> float:
        """Seconds from the first taken frame to the last."""
        return (self.frames - 1) / self.fps


def decode_video(source: Path | bytes, sampling: FrameSampling, rng: np.random.Generator) -> np.ndarray:
    """Take frames of a video.

    Frame i is the one nearest to ``start + i / fps`` by its time stamp, at equal distance the earlier one; with a
    stride the one of number ``start + i * stride``. It is upright, in square pixels, and white where it is transparent.

    Args:
        source: a file or its bytes.
        sampling: which frames and what size.
        rng: draws the start, and the part that is seen.

    Returns:
        ``uint8 [F, H, W, 3]``.

    Raises:
        BrokenSampleError: the file is no video, damaged, cut off, or too short.
    """
    try:
        film = open_film(source)
        line, take = film.timeline, _Seen(sampling, rng)
        if sampling.stride:
            frames = _by_number(film, _numbers(line, sampling, rng), take)
        else:
            instants = _instants(line, sampling, rng)
            frames = nearest(film.frames(_since(instants[0])), instants, line, take)
    except MediaError as error:
        raise BrokenSampleError(error.reason) from error
    if len(frames) < sampling.frames:
        raise BrokenSampleError(
            f"cut off: the file promises {line.final + 2 * line.half:.2f} s and ends after {len(frames)} of "
            f"{sampling.frames} frames"
        )
    return np.stack(frames)


def decode_image(source: Path | bytes, sampling: FrameSampling, rng: np.random.Generator | None = None) -> np.ndarray:
    """Read an image as a clip of one frame; transparent parts become white.

    Args:
        source: a file or its bytes.
        sampling: what size, and which part is seen.
        rng: draws the part; None sees the middle.

    Returns:
        ``uint8 [1, H, W, 3]``.

    Raises:
        BrokenSampleError: the file is no image, damaged, or smaller than wanted where that is not allowed.
    """
    try:
        image = read_image(source)
        with decoding(name_of(source)):
            return fit_image(image, sampling, rng)[None]
    except MediaError as error:
        raise BrokenSampleError(error.reason) from error


def fit_image(image: Any, sampling: FrameSampling, rng: np.random.Generator | None = None) -> np.ndarray:
    """An image at the wanted size; errors as in `decode_image`.

    Args:
        image: ``PIL.Image`` in RGB.
        sampling: as there.
        rng: as there.

    Returns:
        ``uint8 [H, W, 3]``.
    """
    from PIL import Image

    width, height = sampling.width, sampling.height
    if not sampling.enlarge and (image.width < width or image.height < height):
        raise BrokenSampleError(f"too small: it is {image.width} x {image.height} and the frames {width} x {height}")
    if rng is None or sampling.image_crop_area == 1.0:
        size = _covering(image.size, sampling)
        resized = np.array(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
        return cut_middle(resized, width, height)
    view = draw_view(image.size, (width, height), sampling.image_crop_area, rng)
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


def _since(instant: float) -> float:
    """From where a film is decoded: from its beginning, unless that is far."""
    return float(instant) if instant > 2.0 else 0.0


def _numbers(line: Timeline, sampling: FrameSampling, rng: np.random.Generator) -> list[int]:
    """Numbers of the frames that a stride takes."""
    room = line.count - 1 - (sampling.frames - 1) * sampling.stride
    if room < 0 and sampling.short == "skip":
        raise BrokenSampleError(
            f"too short: it has {line.count} frames, and {sampling.frames} at a stride of {sampling.stride} need "
            f"{line.count - room}"
        )
    room = max(0, room)
    start = {"first": 0, "middle": room // 2, "random": int(rng.integers(room + 1))}[sampling.start]
    return [min(start + i * sampling.stride, line.count - 1) for i in range(sampling.frames)]


def _by_number(film: Film, numbers: list[int], take: Callable[[FilmFrame], np.ndarray]) -> list[np.ndarray]:
    """Frames by number, fewer than asked when the film ends early."""
    line, taken, number = film.timeline, list[np.ndarray](), -1
    since = _since(numbers[0] * line.gap) if line.even else 0.0
    for frame in film.frames(since):  # begins at or before the instant
        number = round(frame.time / line.gap) if since else number + 1
        while len(taken) < len(numbers) and numbers[len(taken)] == number:
            taken.append(take(frame))
        if len(taken) == len(numbers):
            break
    return taken


def _instants(line: Timeline, sampling: FrameSampling, rng: np.random.Generator) -> np.ndarray:
    """The seconds, from the clip's first frame, at which frames are taken."""
    last, half = line.final, line.half
    room = last - sampling.span
    if room < -half and sampling.short == "skip":
        has = int(last * sampling.fps + 1e-6) + 1
        raise BrokenSampleError(f"too short: it has {has} of {sampling.frames} frames at {sampling.fps:g} per second")
    room = max(0.0, room)
    # Half a frame more at both ends, else the first and last frame would begin a clip half as often as the others.
    anywhere = min(max(float(rng.random()) * (room + 2 * half) - half, 0.0), room)
    start = {"first": 0.0, "middle": room / 2, "random": anywhere}[sampling.start]
    return np.minimum(start + np.arange(sampling.frames) / sampling.fps, last)


class _Seen:
    """A frame at the wanted size; all frames of a clip show the part that was drawn with the first."""

    def __init__(self, sampling: FrameSampling, rng: np.random.Generator) -> None:
        # A generator of its own: whether a part is drawn does not change when the clip begins.
        self.sampling, self._rng = sampling, rng.spawn(1)[0]
        self._view: View | None = None

    def __call__(self, frame: FilmFrame) -> np.ndarray:
        o = self.sampling
        if o.crop_area == 1.0:
            return cut_middle(frame.pixels(*_covering(frame.size, o)), o.width, o.height)
        view = self._view = self._view or draw_view(frame.size, (o.width, o.height), o.crop_area, self._rng)
        x, y = o.width / view.width, o.height / view.height
        whole = max(o.width, round(frame.size[0] * x)), max(o.height, round(frame.size[1] * y))
        check_pixels("it", *whole)
        left, top = min(round(view.left * x), whole[0] - o.width), min(round(view.top * y), whole[1] - o.height)
        return np.ascontiguousarray(frame.pixels(*whole)[top : top + o.height, left : left + o.width])


def _covering(size: tuple[int, int], sampling: FrameSampling) -> tuple[int, int]:
    """The size before it is cut; of an image of one row it would be wider than memory."""
    width, height = cover_size(size, sampling.width, sampling.height, stretch=sampling.fit == "stretch")
    check_pixels("it", width, height)
    return width, height
