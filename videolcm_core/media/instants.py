"""Which frames stand for instants: the nearest, or the one on the screen; after the end the last one is held.

Training takes the nearest frame, half a frame off at most. The nodes take the frame that a player shows at the instant,
which for a constant rate is the frame number ``floor(instant x rate)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import numpy as np

from .render import FilmFrame
from .timeline import Timeline

T = TypeVar("T")
NUMBER_ROUNDING: Final = 1e-6
"""Of a frame: keeps rates that divide evenly from slipping a frame by rounding."""


def frame_numbers(count: int, start: int, fps: float, sample_fps: float) -> list[int]:
    """Which frames of a clip of constant rate stand for ``count`` frames at another rate.

    Args:
        count: How many.
        start: The first one.
        fps: Of the clip.
        sample_fps: Wanted; 0 takes every frame.

    Returns:
        Rising numbers; they may lie beyond the clip's end.
    """
    step = fps / sample_fps if sample_fps else 1.0
    return [start + math.floor(i * step + NUMBER_ROUNDING) for i in range(count)]


def nearest(
    frames: Iterable[FilmFrame], instants: np.ndarray, line: Timeline, take: Callable[[FilmFrame], T]
) -> list[T]:
    """The frame nearest to each instant; at equal distance the earlier one.

    Args:
        frames: Of a film, in order, beginning at or before the first instant.
        instants: Seconds from the film's first frame, rising.
        line: The film's.
        take: What is made of a frame.

    Returns:
        Fewer than asked when the frames end before the film should.
    """
    taken: list[T] = []
    before: FilmFrame | None = None
    for frame in frames:
        while len(taken) < len(instants) and (wanted := instants[len(taken)]) <= frame.time:
            earlier = before is not None and wanted - before.time <= frame.time - wanted + 1e-6
            taken.append(take(before if before is not None and earlier else frame))
        if len(taken) == len(instants):
            return taken
        before = frame
    # What is left lies after the last frame: it is held, or the file was cut off.
    while before is not None and len(taken) < len(instants) and instants[len(taken)] <= line.reach(before.time):
        taken.append(take(before))
    return taken


@dataclass
class Taken(Generic[T]):
    """Frames as they were on the screen.

    Attributes:
        frames: What was made of them; empty if the film ends before the first.
        repeated: How many show the same frame as the one before, within the film.
        held: How many lie after the end and show the last frame.
        read: How many frames of the film were decoded.
        ended: Whether the film was read to its end.
        last_asked: The last instant, in seconds from the film's first frame.
        end: When the film was over, as far as it was read.
    """

    frames: list[T] = field(default_factory=list)
    repeated: int = 0
    held: int = 0
    read: int = 0
    ended: bool = False
    last_asked: float = 0.0
    end: float = 0.0


def one_by_one(
    frames: Iterator[FilmFrame], start: int, count: int | None, line: Timeline, take: Callable[[FilmFrame], T]
) -> Taken[T]:
    """Frame after frame; no more is decoded than asked.

    Args:
        frames: Of a film, from its beginning.
        start: Number of the first frame to take.
        count: How many to take; the last one is held where there are fewer. None takes all.
        line: The film's.
        take: What is made of a frame.
    """
    taken: Taken[T] = Taken()
    for frame in frames:
        taken.read, taken.end = taken.read + 1, line.reach(frame.time)
        if taken.read > start:
            taken.last_asked = frame.time
            taken.frames.append(take(frame))
        if len(taken.frames) == count:
            return taken
    taken.ended = True
    if count is not None and taken.frames:
        taken.held = count - len(taken.frames)
        taken.last_asked += taken.held * line.gap
        taken.frames += [taken.frames[-1]] * taken.held
    return taken


def on_screen(
    frames: Iterator[FilmFrame], start: int, count: int, fps: float, line: Timeline, take: Callable[[FilmFrame], T]
) -> Taken[T]:
    """Frames at a rate, each the one that is on the screen at its instant.

    Args:
        frames: Of a film, from its beginning.
        start: Number of the first frame to take; the instants count from when it comes.
        count: How many to take; the last one is held where the film ends before.
        fps: Instants per second.
        line: The film's.
        take: What is made of a frame; called once for frames that repeat.
    """
    taken: Taken[T] = Taken()
    instants: np.ndarray | None = None
    shown: FilmFrame | None = None
    for frame in frames:
        taken.read += 1
        if taken.read <= start:
            continue
        time = line.snapped(frame.time)
        if instants is None:
            tolerance = NUMBER_ROUNDING * line.gap if line.even else line.tolerance
            instants = time + np.arange(count) / fps + tolerance
            taken.last_asked = float(instants[-1])
        if shown is not None:
            _show(taken, shown, int(np.searchsorted(instants, time)), take)
        if len(taken.frames) == count:
            return taken
        shown = frame
    taken.ended = True
    if shown is not None and instants is not None:
        taken.end = line.reach(line.snapped(shown.time))
        within = int(np.searchsorted(instants, taken.end)) - len(taken.frames)
        taken.held = count - len(taken.frames) - max(0, within)
        _show(taken, shown, count, take)
        # Frames after the end are held, not repeated.
        taken.repeated -= max(0, taken.held - (within <= 0))
    return taken


def _show(taken: Taken[T], shown: FilmFrame, until: int, take: Callable[[FilmFrame], T]) -> None:
    """Let a frame stand for all instants up to number ``until``."""
    missing = until - len(taken.frames)
    if missing > 0:
        taken.frames += [take(shown)] * missing
        taken.repeated += missing - 1
