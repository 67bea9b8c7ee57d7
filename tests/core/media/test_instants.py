"""Which frames stand for instants."""

import itertools

import numpy as np
import pytest
from made_films import UNEVEN

from videolcm_core.media.instants import frame_numbers, nearest, on_screen, one_by_one
from videolcm_core.media.render import FilmFrame
from videolcm_core.media.timeline import from_stamps


def film(stamps, held=0, tick=0.001, rate=0.0):
    """Frames at these ticks, counted, and their timeline."""
    seen = []

    def frames():
        for number, stamp in enumerate(stamps):
            seen.append(number)
            yield FilmFrame(stamp * tick, number)

    return frames(), from_stamps(stamps, held, tick, rate), seen


def number(frame):
    return frame.decoded


def test_nearest_and_on_screen_of_a_variable_rate():
    asked = [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]
    frames, line, _ = film(UNEVEN)
    assert nearest(frames, np.array(asked), line, number) == [0, 1, 2, 3, 3, 3, 4, 4, 5]
    frames, line, _ = film(UNEVEN)
    assert on_screen(frames, 0, 9, 8.0, line, number).frames == [0, 1, 1, 3, 3, 3, 3, 3, 5]


@pytest.mark.parametrize("rate", [8, 12, 15, 24, 25, 29.97, 30, 50, 60, 23.976])
@pytest.mark.parametrize("sample", [1.0, 3.0, 7.5, 8.0, 12.0, 24.0, 30.0, 48.0])
@pytest.mark.parametrize("tick", [0.001, 1 / 90000])
def test_of_a_constant_rate_the_frame_on_screen_is_the_one_by_number(rate, sample, tick):
    """Whatever the rounding of stamps: IMAGE batches, which are taken by number, and films agree."""
    count, start, asked = 150, 3, 12
    frames, line, _ = film([round(n / rate / tick) for n in range(count)], round(1 / rate / tick), tick, rate)
    taken = on_screen(frames, start, asked, sample, line, number)
    wanted = frame_numbers(asked, start, rate, sample)
    assert line.even and taken.frames == [min(n, count - 1) for n in wanted]
    assert taken.held == sum(n >= count for n in wanted)


def test_no_more_is_read_than_needed():
    frames, line, seen = film([n * 40 for n in range(1000)], 40)
    assert on_screen(frames, 5, 4, 5.0, line, number).frames == [5, 10, 15, 20] and len(seen) == 22
    frames, line, seen = film([n * 40 for n in range(1000)], 40)
    assert one_by_one(frames, 5, 4, line, number).frames == [5, 6, 7, 8] and len(seen) == 9


def test_after_the_end_the_last_frame_is_held():
    frames, line, _ = film([0, 125, 250], 125)
    taken = on_screen(frames, 1, 5, 8.0, line, number)
    assert (taken.frames, taken.held, taken.repeated, taken.read, taken.ended) == ([1, 2, 2, 2, 2], 3, 0, 3, True)
    frames, line, _ = film([0, 125, 250], 125)
    taken = one_by_one(frames, 1, 5, line, number)
    assert (taken.frames, taken.held, taken.read, taken.ended) == ([1, 2, 2, 2, 2], 3, 3, True)
    # Sparse instants pass over the last frame, which is held all the same.
    frames, line, _ = film([0, 125, 250, 375], 125)
    taken = on_screen(frames, 0, 3, 1.0, line, number)
    assert (taken.frames, taken.held, taken.repeated) == ([0, 3, 3], 2, 0)


def test_a_last_frame_that_stays_is_not_held():
    frames, line, _ = film([0, 100, 200], 1000)
    taken = on_screen(frames, 0, 10, 10.0, line, number)
    assert (taken.frames, taken.held, taken.repeated) == ([0, 1, *[2] * 8], 0, 7)


def test_frames_that_repeat_are_converted_once():
    made = itertools.count()
    frames, line, _ = film([0, 500, 1000], 500)
    taken = on_screen(frames, 0, 6, 4.0, line, lambda frame: next(made))
    assert (taken.frames, taken.repeated, taken.held) == ([0, 0, 1, 1, 2, 2], 3, 0)


@pytest.mark.parametrize("start", [3, 4, 1000])
def test_a_start_after_the_end_takes_nothing(start):
    for take in (lambda *a: on_screen(a[0], start, 4, 8.0, *a[1:]), lambda *a: one_by_one(a[0], start, 4, *a[1:])):
        frames, line, _ = film([0, 125, 250], 125)
        taken = take(frames, line, number)
        assert (taken.frames, taken.read, taken.ended) == ([], 3, True)


def test_nearest_of_a_film_that_ends_early_is_short():
    frames, _, _ = film([0, 125, 250], 125)
    _, promised, _ = film([n * 125 for n in range(8)], 125)
    assert nearest(frames, np.arange(8) / 8, promised, number) == [0, 1, 2, 2]
    assert nearest(iter([]), np.arange(8) / 8, promised, number) == []


@pytest.mark.parametrize(
    ("fps", "sample_fps", "expected"), [(24, 8, [0, 3, 6, 9]), (30, 8, [0, 3, 7, 11]), (24, 0, [0, 1, 2, 3])]
)
def test_frame_numbers(fps, sample_fps, expected):
    assert frame_numbers(4, 0, fps, sample_fps) == expected
    assert frame_numbers(4, 5, fps, sample_fps) == [5 + n for n in expected]
