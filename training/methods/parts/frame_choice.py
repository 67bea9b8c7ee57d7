"""Which frames of a clip the frame adversary sees."""

from __future__ import annotations

from random import Random


def any_frames(frames: int, count: int, random: Random) -> list[int]:
    """Different frames, all alike, in the order drawn.

    Raises:
        ValueError: there are fewer.
    """
    _check(frames, count)
    return random.sample(range(frames), count)


def one_of_each_part(frames: int, count: int, random: Random) -> list[int]:
    """A frame out of each of ``count`` equal parts of the clip, in order (temporal segment networks, 1608.00859).

    Raises:
        ValueError: there are fewer frames than parts.
    """
    _check(frames, count)
    edges = [index * frames // count for index in range(count + 1)]
    return [random.randint(first, last - 1) for first, last in zip(edges, edges[1:], strict=False)]


def _check(frames: int, count: int) -> None:
    if not 1 <= count <= frames:
        raise ValueError(
            f"disc_frames is {count} and the clips have {frames} frames; allowed: 1 to {frames}. Give --disc-frames."
        )
