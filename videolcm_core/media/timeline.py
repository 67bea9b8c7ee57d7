"""When the frames of a film are shown, without decoding them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

UNKNOWN_HOLD: Final = 1.0
"""Seconds that the only frame of a film is shown, where the file does not say."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The times of a film's frames.

    Attributes:
        count: How many frames the file promises.
        origin: The container's time of the first frame, in seconds; all other times count from it.
        last: When the last frame comes.
        gap: Mean time from one frame to the next.
        rate: Frames per second; of an uneven film the mean.
        hold: How long the last frame is shown.
        even: Whether every frame comes `gap` after the one before, but for the rounding of time stamps.
        tolerance: Up to how many seconds a time stamp may be off by rounding.
        final: The last instant at which a frame can be taken: that of the last frame, or later if that one is held
            long.
        half: Half the mean time that a frame is shown.
    """

    count: int
    origin: float
    last: float
    gap: float
    rate: float
    hold: float
    even: bool
    tolerance: float
    final: float
    half: float

    @property
    def end(self) -> float:
        """When the film is over."""
        return self.last + self.hold

    def snapped(self, time: float) -> float:
        """The time without the rounding of its stamp, where the film is even."""
        if not self.even:
            return time
        exact = round(time / self.gap) * self.gap
        return exact if abs(exact - time) <= self.tolerance else time

    def reach(self, time: float) -> float:
        """Until which instant the frame at ``time`` may stand when no other follows it."""
        return self.end if time >= self.last - self.half else time + self.gap


def from_header(stream: Any) -> Timeline | None:
    """The timeline of a stream whose header tells all, else None: then its packets have to be read.

    In mp4 and mov the mean rate is counted from the frames, and equals the rate on which all time stamps lie only where
    no frame is missing or held. In Matroska and AVI both are what the writer wished.

    Args:
        stream: ``av.VideoStream``.
    """
    if not (stream.frames and stream.duration and stream.average_rate and "mov" in stream.container.format.name):
        return None
    rate, seconds = float(stream.average_rate), float(stream.duration * stream.time_base)
    if stream.average_rate != stream.base_rate or round(seconds * rate) != stream.frames:
        return None
    last = max(0.0, seconds - 1 / rate)
    return Timeline(
        count=stream.frames,
        origin=float((stream.start_time or 0) * stream.time_base),
        last=last,
        gap=1 / rate,
        rate=rate,
        hold=1 / rate,
        even=True,
        tolerance=_rounding(float(stream.time_base), 1 / rate),
        final=last,
        half=0.5 / rate,
    )


def from_stamps(
    stamps: Sequence[int], held: int, tick: float, rate: float = 0.0, seconds: float = 0.0
) -> Timeline | None:
    """The timeline of frames with these time stamps, None without any.

    Args:
        stamps: In ticks, in any order, at least one.
        held: Ticks that the last frame is shown; 0 where the file does not say.
        tick: Seconds of a tick.
        rate: Frames per second by the header, 0 where it does not say.
        seconds: Length by the header, 0 where it does not say.
    """
    if not stamps:
        return None
    # As seconds first: the difference of two large stamps is exact, of two large times not.
    times = sorted(stamp * tick for stamp in stamps)
    count, origin, last = len(times), times[0], times[-1] - times[0]
    if not last:
        hold = held * tick or (1 / rate if rate else UNKNOWN_HOLD)
        return Timeline(
            count=count,
            origin=origin,
            last=0.0,
            gap=hold,
            rate=rate or 1 / hold,
            hold=hold,
            even=count == 1,
            tolerance=_rounding(tick, hold),
            final=0.0,
            half=0.5 * hold,
        )
    gap = last / (count - 1)
    even = _is_even(np.sort(np.asarray(stamps)), gap / tick)
    hold, half = held * tick or gap, 0.5 * gap
    final = max(last, last + hold - gap) if hold > 1.5 * gap else last
    if rate and abs(seconds - 1 / rate - last) <= 2 * tick and abs(rate * gap - 1) < 0.15:
        # Training has always drawn its starts by the header where it is right but for rounding, as in GIF.
        final, half = max(0.0, seconds - 1 / rate), 0.5 / rate
    if even:
        # Matroska's and AVI's durations are what the writer wished, too.
        hold = max(hold, gap)
    if not even:
        rate = count / (last + hold)
    elif rate and abs(last - (count - 1) / rate) <= tick:
        gap = 1 / rate
    else:
        rate = 1 / gap
    return Timeline(
        count=count,
        origin=origin,
        last=last,
        gap=gap,
        rate=rate,
        hold=hold,
        even=even,
        tolerance=_rounding(tick, gap) if even else min(0.5 * tick, 0.0005) + 1e-6,
        final=final,
        half=half,
    )


def _is_even(stamps: np.ndarray, gap: float) -> bool:
    """Whether stamps (in ticks, rising) are those of a constant rate, each rounded to a tick."""
    gaps = np.diff(stamps)
    if gaps.min() == gaps.max():
        return True
    # Below two ticks a rounded gap cannot be told from a missing frame.
    rounded = np.abs(stamps - stamps[0] - np.arange(len(stamps)) * gap).max() <= 1.0 + 1e-6
    return bool(gap >= 2 and gaps.max() - gaps.min() <= 1 and rounded)


def _rounding(tick: float, gap: float) -> float:
    """How far a stamp may lie from its place: a tick, but never so far that it could be another frame's."""
    return min(tick, 0.25 * gap)
