"""Frames of a video file at a sampling rate, and single images, with PyAV: ``uint8 [F, H, W, 3]``.

A clip that is too short is skipped or its last frame is held, as the user chooses. It is never padded: the authors'
code leaves grey frames at the end of short clips (VGen ``video_dataset.py:96-106``), and networks learn to draw them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .source import BrokenSampleError, reason_of

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
# Play lists and other texts are no clips: FFmpeg would open what they name, whatever the file is called.
_FORMATS = "mov,matroska,webm,avi,gif,mpeg,mpegts,flv,asf"
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

    Frame i is the one nearest to ``start + i / fps``; at equal distance the earlier one.

    Args:
        source: a file or its bytes.
        sampling: which frames and what size.
        rng: draws the start.

    Returns:
        ``uint8 [F, H, W, 3]``.

    Raises:
        BrokenSampleError: the file is no video, damaged, cut off, or too short.
    """
    import av

    try:
        last, half = _last_instant(source)
        instants = _instants(last, half, sampling, rng)
        frames = _nearest(source, instants, half, sampling, seek=instants[0] > 2.0)
        if frames is None:  # the container's seeking went too far
            frames = _nearest(source, instants, half, sampling, seek=False)
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise BrokenSampleError(f"cannot be decoded: {reason_of(error)}") from error
    if frames is None or len(frames) < sampling.frames:
        got, wanted = 0 if frames is None else len(frames), sampling.frames
        raise BrokenSampleError(
            f"cut off: the file promises {last + 2 * half:.2f} s and ends after {got} of {wanted} frames"
        )
    return np.stack(frames)


def decode_image(source: Path | bytes, sampling: FrameSampling) -> np.ndarray:
    """Read an image as a clip of one frame; transparent parts become white.

    Returns:
        ``uint8 [1, H, W, 3]``.

    Raises:
        BrokenSampleError: the file is no image, or damaged.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenSampleError(f"cannot be decoded: {reason_of(error)}") from error
    width, height = _scaled(image.width, image.height, sampling)
    resized = np.array(image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))
    return _cut(resized, sampling)[None]


def _open(source: Path | bytes) -> tuple[Any, Any]:
    """The container and its main video stream, decoded by one thread: the loader's workers are the parallel part."""
    import av

    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    container = av.open(file, options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})
    stream = container.streams.best("video")
    if stream is None:
        container.close()
        raise BrokenSampleError("has no video: only sound or subtitles")
    stream.codec_context.thread_count = 1
    return container, stream


def _last_instant(source: Path | bytes) -> tuple[float, float]:
    """When the last frame is shown, in seconds from the first, and half the time that a frame is shown."""
    container, stream = _open(source)
    with container:
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        # A GIF says its length nowhere, Matroska only for the file, which may hold longer sound.
        if stream.duration and rate:
            return max(0.0, float(stream.duration * stream.time_base) - 1 / rate), 0.5 / rate
        times = sorted(float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None)
    if not times:
        raise BrokenSampleError("has no frame")
    length = times[-1] - times[0]
    return length, 0.5 * length / (len(times) - 1) if length else 0.5


def _instants(last: float, half: float, sampling: FrameSampling, rng: np.random.Generator) -> np.ndarray:
    """The seconds, from the clip's first frame, at which frames are taken."""
    room = last - sampling.span
    if room < -half and sampling.short == "skip":
        has = int(last * sampling.fps + 1e-6) + 1
        raise BrokenSampleError(f"too short: it has {has} of {sampling.frames} frames at {sampling.fps:g} per second")
    room = max(0.0, room)
    # Half a frame more at both ends, else the first and last frame would begin a clip half as often as the others.
    anywhere = min(max(float(rng.random()) * (room + 2 * half) - half, 0.0), room)
    start = {"first": 0.0, "middle": room / 2, "random": anywhere}[sampling.start]
    return np.minimum(start + np.arange(sampling.frames) / sampling.fps, last)


def _nearest(
    source: Path | bytes, instants: np.ndarray, half: float, sampling: FrameSampling, *, seek: bool
) -> list[np.ndarray] | None:
    """The frame nearest to each instant; fewer when the file ends early, None when seeking led past the first."""
    container, stream = _open(source)
    taken: list[np.ndarray] = []
    before: tuple[float, Any] | None = None
    with container:
        for time, frame in _timed(container, stream, instants[0] if seek else None):
            if before is None and seek and time > instants[0]:
                return None
            if frame.is_corrupt:
                raise BrokenSampleError(f"damaged: the frame at {time:.2f} s")
            while len(taken) < len(instants) and (wanted := instants[len(taken)]) <= time:
                earlier = before is not None and wanted - before[0] <= time - wanted + 1e-6
                taken.append(_pixels(before[1] if before is not None and earlier else frame, sampling))
            if len(taken) == len(instants):
                return taken
            before = (time, frame)
        if before is None:
            return taken
        # What is left lies after the last frame: at most by rounding, or the file was cut off.
        while len(taken) < len(instants) and instants[len(taken)] <= before[0] + 2 * half:
            taken.append(_pixels(before[1], sampling))
    return taken


def _timed(container: Any, stream: Any, seek: float | None) -> Iterator[tuple[float, Any]]:
    """Decoded frames with their seconds from the clip's first frame."""
    origin = float((stream.start_time or 0) * stream.time_base)
    if seek is not None:
        container.seek(int((seek + origin) / stream.time_base), stream=stream)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    for number, frame in enumerate(container.decode(stream)):
        yield (number / rate if frame.time is None else frame.time - origin), frame


def _scaled(width: int, height: int, sampling: FrameSampling) -> tuple[int, int]:
    """The size to which a picture is resized before it is cut."""
    if sampling.fit == "stretch":
        return sampling.width, sampling.height
    scale = max(sampling.width / width, sampling.height / height)
    return max(sampling.width, round(width * scale)), max(sampling.height, round(height * scale))


def _cut(picture: np.ndarray, sampling: FrameSampling) -> np.ndarray:
    """The middle of ``[H, W, 3]``."""
    top, left = (picture.shape[0] - sampling.height) // 2, (picture.shape[1] - sampling.width) // 2
    return np.ascontiguousarray(picture[top : top + sampling.height, left : left + sampling.width])


def _pixels(frame: Any, sampling: FrameSampling) -> np.ndarray:
    """A decoded frame as the viewer sees it (turned as a phone's file asks), at the wanted size."""
    turned = frame.rotation % 180 != 0
    shown = (frame.height, frame.width) if turned else (frame.width, frame.height)
    width, height = _scaled(*shown, sampling)
    if turned:
        width, height = height, width
    picture = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    return _cut(np.rot90(picture, round(frame.rotation / 90)), sampling)
