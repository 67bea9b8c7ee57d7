"""Frames of a VIDEO that is a file, by their time stamps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from itertools import count as counter
from pathlib import Path
from typing import Any, Final

import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ...videolcm_core.media.errors import MediaError, decoding
from ...videolcm_core.media.film import Film, open_film
from ...videolcm_core.media.instants import Taken, frame_numbers, on_screen, one_by_one
from ...videolcm_core.media.render import FilmFrame
from ...videolcm_core.media.resize import interpolate
from ...videolcm_core.media.video import Window
from .. import host

MOST_BYTES: Final = 96 << 20
"""Of frames that are read without knowing how many and how large the latent will be."""
SMALLEST: Final = 448 * 256
"""Pixels of a frame, the authors' size: frames become fewer before they become smaller than this."""
MOST_PIXELS: Final = 1 << 23
"""Of a frame that is converted to floating point: 4K video is just below."""
_BYTES: Final = 12  # of a pixel
_SEEK_FROM: Final = 30  # frames; to decode fewer is quicker than to open the file again
_PREPARE: Final = "Put Prepare Condition Frames before this node, with the latent's size and length, to choose which."
ONE_FRAME: Final = "the clip has one frame: it is repeated, a still video."


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a film for a condition.

    Attributes:
        frames: ``[F, H, W, 3]`` float32 in [0, 1].
        fps: Their rate; the film's own where none was asked, of an uneven film the mean.
        notes: What the user should know about them.
    """

    frames: Tensor
    fps: float
    notes: list[str]


def video_name(video: Any) -> str:
    """What messages call a VIDEO."""
    if isinstance(video, InputImpl.VideoFromFile):
        path = video.get_stream_source()
        if isinstance(path, str):
            return f"The video {Path(path).name}"
    return "The VIDEO"


def film_of(video: Any) -> Film | None:
    """The reader of the file that a VIDEO is; None where a node made its frames, or another pack its class.

    Raises:
        MediaError: If the file cannot be opened.
    """
    file = InputImpl.VideoFromFile
    if not isinstance(video, file) or type(video).get_components is not file.get_components:
        return None
    name = video_name(video)
    with decoding(name):
        window = _window(video)
        if window is None:
            return None
        source = video.get_stream_source()
        return open_film(source, name, window=window, threads=0, lenient=True, check=host.check_interrupted)


def _window(video: Any) -> Window | None:
    """The part of the file that the VIDEO stands for; hosts before 0.30 keep it to themselves."""
    asked = getattr(video, "get_active_trim_window", None)
    if asked is not None:
        return Window(*asked())
    start = getattr(video, "_VideoFromFile__start_time", None)
    duration = getattr(video, "_VideoFromFile__duration", None)
    if start is None or duration is None:
        return None
    # A start below 0 counts from the end.
    return Window(float(start if start >= 0 else max(video._get_raw_duration() + start, 0.0)), float(duration))


def read_film(film: Film, most: int | None = None) -> tuple[Tensor, float]:
    """The first frames of a film: as many, and as large, as fit `MOST_BYTES`; what is decodable of a damaged one.

    What was left out is said on the node.

    Args:
        film: From `film_of`.
        most: How many frames are needed; None reads all that fit.

    Returns:
        ``[F, H, W, 3]`` float32 in [0, 1], and the frames per second (of an uneven film the mean).

    Raises:
        MediaError: If it cannot be read, or its frames are of several sizes.
    """
    line, frames = film.timeline, film.frames()
    first = next(frames, None)
    if first is None:
        raise MediaError(film.name, "has no frame that can be decoded")
    count = min(line.count, most or line.count)
    width, height, limit = _room(first.size, count)

    # Twice as wide and high is enough to average from.
    most_pixels = MOST_PIXELS if (width, height) == first.size else min(MOST_PIXELS, 4 * width * height)

    # All at once: frames of their own between large buffers that come and go would leave the heap full of holes.
    block = torch.empty(min(limit, most or limit), height, width, 3)
    numbers = counter()

    def take(frame: FilmFrame) -> int:
        if frame.size != first.size:
            raise _changes_size(film, {first.size, frame.size})
        number = next(numbers)
        block[number] = interpolate(frame.values(most_pixels), width, height)[0].clamp_(0.0, 1.0)
        return number

    taken = one_by_one(chain([first], frames), 0, len(block), line, take)
    _check_read(film, taken, 0)
    cut = [] if taken.ended or taken.read >= count else [f"the first {taken.read} of its {count} frames"]
    if (width, height) != first.size:
        cut.append(f"at {width}x{height} instead of {first.size[0]}x{first.size[1]}")
    if cut:
        host.tell(f"{film.name} is large and was read in part: {', '.join(cut)}. {_PREPARE}")
    read = block[: taken.read]
    return (read.clone() if 2 * len(read) < len(block) else read), line.rate


def _room(size: tuple[int, int], count: int) -> tuple[int, int, int]:
    """Width and height to which frames are made smaller, and how many of them are read at most."""
    pixels, width, height = size[0] * size[1], *size
    most = min(MOST_PIXELS, max(SMALLEST, MOST_BYTES // (_BYTES * max(1, count))))
    if pixels > most:
        width = max(1, int(size[0] * (most / pixels) ** 0.5))
        # The proportions that a mask of the film's own size has: the width whose height needs the least rounding.
        width = min(
            range(width, width * 15 // 16 - 1, -1), key=lambda wide: abs((size[1] * wide / size[0] + 0.5) % 1 - 0.5)
        )
        height = max(1, round(size[1] * width / size[0]))
    return width, height, max(1, MOST_BYTES // (_BYTES * width * height))


def sample_film(
    film: Film, count: int, start: int, sample_fps: float, shape: Callable[[Tensor], Tensor] = lambda frame: frame
) -> Clip:
    """Frames of a film at a rate, each the one that is on the screen at its instant.

    Args:
        film: From `film_of`.
        count: How many; after the film's end its last frame is held.
        start: Number of the first frame to take; instants count from when it comes.
        sample_fps: Instants per second; 0 takes every frame.
        shape: What is made of each frame ``[1, H, W, 3]`` at once: the frames of a long 4K film fill any memory.

    Raises:
        MediaError: If it cannot be read.
        ValueError: If it ends before ``start``.
    """
    line = film.timeline
    frames, skipped = _from(film, start)

    def take(frame: FilmFrame) -> Tensor:
        return shape(frame.values(MOST_PIXELS))

    if sample_fps:
        taken = on_screen(frames, start - skipped, count, sample_fps, line, take)
    else:
        taken = one_by_one(frames, start - skipped, count, line, take)
    taken.read += skipped
    _check_read(film, taken, start)
    notes = _notes(film, taken, count, start, sample_fps)
    return Clip(_joined(film, taken.frames), float(sample_fps or line.rate), notes)


def _from(film: Film, start: int) -> tuple[Iterator[FilmFrame], int]:
    """Frames of a film that begin at number ``start`` or before, and the number of the first.

    Only where every frame has its place in time a number can be told without reading all frames before it.
    """
    line = film.timeline
    if start >= _SEEK_FROM and line.even and start < line.count:
        frames = film.frames((start - 0.5) * line.gap)
        first = next(frames, None)
        number = -1 if first is None else round(first.time / line.gap)
        if first is not None and 0 <= number <= start:
            return chain([first], frames), number
    return film.frames(), 0


def _check_read(film: Film, taken: Taken[Any], start: int) -> None:
    """Refuse a film that ended before the first frame, and mention one that ended before it should."""
    if not taken.read:
        raise MediaError(film.name, "has no frame that can be decoded")
    if not taken.frames:
        raise start_error(start, taken.read)
    if taken.ended and taken.read < film.timeline.count:
        host.tell(
            f"{film.name} promises {film.timeline.count} frames and {taken.read} could be read; it may be cut off."
        )


def start_error(start: int, count: int) -> ValueError:
    """The error of a start after the end of a clip of ``count`` frames."""
    return ValueError(
        f"start is {start} and the clip has {count} frame{'s' * (count > 1)}; allowed: 0 to {count - 1}. Choose an "
        f"earlier start."
    )


def _joined(film: Film, frames: list[Tensor]) -> Tensor:
    """Frames ``[1, H, W, 3]`` as one tensor; the list is emptied meanwhile, so that they are not held twice."""
    sizes = {(frame.shape[2], frame.shape[1]) for frame in frames}
    if len(sizes) > 1:
        raise _changes_size(film, sizes)
    joined = frames[0].new_empty(len(frames), *frames[0].shape[1:])
    while frames:
        frame = frames.pop()
        joined[len(frames)] = frame[0]
    return joined


def _changes_size(film: Film, sizes: Collection[tuple[int, int]]) -> MediaError:
    named = " and ".join(f"{width}x{height}" for width, height in sorted(sizes)[:2])
    return MediaError(
        film.name,
        f"changes its size: {named}",
        "frames of one size",
        "Set one with Prepare Condition Frames before this node.",
    )


def _notes(film: Film, taken: Taken[Tensor], count: int, start: int, sample_fps: float) -> list[str]:
    line = film.timeline
    if taken.ended and taken.read == 1 and count > 1:
        return [ONE_FRAME]
    notes = []
    if not line.even and not sample_fps:
        notes.append(
            f"the clip's frames come at uneven times, {line.rate:.4g} per second on average, and every frame is taken: "
            f"the video will run unevenly. Set sample_fps to take them by time."
        )
    if taken.held:
        number = frame_numbers(count, start, line.rate, sample_fps)[-1]
        notes.append(held_note(f"frame {number}" if line.even else f"{taken.last_asked:.2f} s", taken.held, count))
    if line.even and sample_fps > line.rate * 1.001:
        notes.append(repeat_note(line.rate, sample_fps))
    elif taken.repeated and (not line.even or line.hold > 1.5 * line.gap):
        notes.append(
            f"the clip's frames come at uneven times, {line.rate:.4g} per second on average, and {sample_fps:g} are "
            f"taken: {taken.repeated} of {count} frames repeat the one before."
        )
    return notes


def held_note(before: str, held: int, count: int) -> str:
    """What is said where a clip ends before the last frame that was asked."""
    return (
        f"the clip ends before {before}: its last frame is held for {held} of {count} frames. Take a longer clip, "
        f"fewer frames, or a higher sample_fps."
    )


def repeat_note(fps: float, sample_fps: float) -> str:
    """What is said where a clip of constant rate is too slow."""
    return f"the clip has {fps:g} frames per second and {sample_fps:g} are taken: frames repeat."
