"""Frames of a film at a sampling rate, and single images: ``uint8 [F, H, W, 3]``. The core's reader reads them.

A clip that is too short is skipped or its last frame is held, as the user chooses. It is never padded: the authors'
code leaves grey frames at the end of short clips (VGen ``video_dataset.py:96-106``), and networks learn to draw them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from videolcm_core.media.errors import MediaError, check_pixels, decoding, name_of
from videolcm_core.media.film import open_film
from videolcm_core.media.image import read_image
from videolcm_core.media.instants import nearest
from videolcm_core.media.render import FilmFrame
from videolcm_core.media.resize import cover_size, cut_middle
from videolcm_core.media.timeline import Timeline

from .source import BrokenSampleError

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
Start = Literal["random", "first", "middle"]
Short = Literal["skip", "hold"]
Fit = Literal["crop", "stretch"]


@dataclass(frozen=True, kw_only=True)
class FrameSampling:
    """Which frames of a clip are taken and at what size.

    Attributes:
        frames: how many, F.
        fps: frames per second of the taken frames, whatever the file's own.
        width: in pixels, a multiple of 8.
        height: in pixels, a multiple of 8.
        start: where the taken span begins: anywhere, at the beginning, in the middle.
        short: a clip shorter than the span is skipped, or its last frame is held.
        fit: other proportions are cut at the sides, or stretched as the authors did.
    """

    frames: int = 16
    fps: float = 8.0
    width: int = 64
    height: int = 64
    start: Start = "random"
    short: Short = "skip"
    fit: Fit = "crop"

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

    @property
    def span(self) -> float:
        """Seconds from the first taken frame to the last."""
        return (self.frames - 1) / self.fps


def decode_video(source: Path | bytes, sampling: FrameSampling, rng: np.random.Generator) -> np.ndarray:
    """Take frames of a video.

    Frame i is the one nearest to ``start + i / fps`` by its time stamp; at equal distance the earlier one. It is
    upright, in square pixels, and white where it is transparent.

    Args:
        source: a file or its bytes.
        sampling: which frames and what size.
        rng: draws the start.

    Returns:
        ``uint8 [F, H, W, 3]``.

    Raises:
        BrokenSampleError: the file is no video, damaged, cut off, or too short.
    """
    try:
        film = open_film(source)
        line = film.timeline
        instants = _instants(line, sampling, rng)
        since = float(instants[0]) if instants[0] > 2.0 else 0.0
        frames = nearest(film.frames(since), instants, line, lambda frame: _sized(frame, sampling))
    except MediaError as error:
        raise BrokenSampleError(error.reason) from error
    if len(frames) < sampling.frames:
        raise BrokenSampleError(
            f"cut off: the file promises {line.final + 2 * line.half:.2f} s and ends after {len(frames)} of "
            f"{sampling.frames} frames"
        )
    return np.stack(frames)


def decode_image(source: Path | bytes, sampling: FrameSampling) -> np.ndarray:
    """Read an image as a clip of one frame; transparent parts become white.

    Returns:
        ``uint8 [1, H, W, 3]``.

    Raises:
        BrokenSampleError: the file is no image, or damaged.
    """
    from PIL import Image

    try:
        image = read_image(source)
        size = _covering(image.size, sampling)
        with decoding(name_of(source)):
            resized = np.array(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    except MediaError as error:
        raise BrokenSampleError(error.reason) from error
    return cut_middle(resized, sampling.width, sampling.height)[None]


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


def _sized(frame: FilmFrame, sampling: FrameSampling) -> np.ndarray:
    """A frame at the wanted size."""
    return cut_middle(frame.pixels(*_covering(frame.size, sampling)), sampling.width, sampling.height)


def _covering(size: tuple[int, int], sampling: FrameSampling) -> tuple[int, int]:
    """The size before it is cut; of an image of one row it would be wider than memory."""
    width, height = cover_size(size, sampling.width, sampling.height, stretch=sampling.fit == "stretch")
    check_pixels("it", width, height)
    return width, height
