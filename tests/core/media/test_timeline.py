"""When frames come: even and uneven films, rounding of stamps, stamps that are missing, equal, late or below zero."""

from fractions import Fraction

import made_films
import pytest
from made_films import UNEVEN, numbers, write, write_gif

from videolcm_core.media.film import open_film
from videolcm_core.media.timeline import from_stamps

CONTAINERS = [
    (".mp4", "libx264"),
    (".mov", "libx264"),
    (".mkv", "libx264"),
    (".webm", "libvpx"),
    (".webm", "libvpx-vp9"),
]
EVEN = [number * 125 for number in range(8)]


def read(path, **options):
    """Times (ms from the first frame) and numbers of a film's frames, and its timeline."""
    film = open_film(path, **options)
    frames = list(film.frames())
    pixels = [frame.pixels(*frame.size) for frame in frames]
    return [round(frame.time * 1000) for frame in frames], numbers(pixels), film.timeline


@pytest.mark.parametrize(("ending", "codec"), CONTAINERS)
def test_a_variable_rate_is_read_from_every_container(tmp_path, ending, codec):
    path = write(tmp_path / f"a{ending}", UNEVEN, codec)
    times, found, line = read(path)
    assert times == list(UNEVEN) and found == list(range(6))
    assert (line.count, line.even, round(line.last, 3)) == (6, False, 1.0)
    assert read(path.read_bytes()) == (times, found, line)


def test_frames_that_avi_leaves_out_are_no_frames(tmp_path):
    times, found, line = read(write(tmp_path / "a.avi", UNEVEN, "mpeg4", tick=Fraction(1, 20), rate=20))
    assert times == list(UNEVEN) and found == list(range(6))
    assert (line.count, line.even) == (6, False)


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_animations_have_their_own_durations(tmp_path, ending):
    path = write_gif(tmp_path / f"a{ending}", [100, 50, 200, 400])
    times, found, line = read(path)
    assert times == [0, 100, 150, 350] and found == [0, 1, 2, 3]
    assert line.end == pytest.approx(0.75) and not line.even
    # The last frame is on the screen for long, and frames can be taken of that time.
    assert line.final == pytest.approx(0.75 - line.gap)


@pytest.mark.parametrize("rate", [8, 12, 24, 25, 30, 60, Fraction(24000, 1001), Fraction(30000, 1001)])
@pytest.mark.parametrize(("ending", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx")])
def test_a_constant_rate_is_even_however_the_container_rounds(tmp_path, rate, ending, codec):
    tick = 1 / Fraction(rate) if ending == ".mp4" else Fraction(1, 1000)
    stamps = [1000 * number / Fraction(rate) for number in range(50)]
    film = open_film(write(tmp_path / f"a{ending}", stamps, codec, rate=rate, tick=tick))
    line = film.timeline
    assert line.even and line.count == 50 and line.rate == pytest.approx(float(rate), rel=1e-3)
    snapped = [line.snapped(frame.time) for frame in film.frames()]
    assert snapped == pytest.approx([number * line.gap for number in range(50)])


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts", ".flv"])
@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "2", "b-adapt": "0"}])
@pytest.mark.parametrize("shift", [0, 1000])
def test_time_counts_from_the_first_frame(tmp_path, ending, options, shift):
    """Films that begin late, and B-frames, whose packets come in another order."""
    times, found, line = read(write(tmp_path / f"a{ending}", [stamp + shift for stamp in EVEN], options=options))
    assert times == EVEN and found == list(range(8))
    assert line.even and line.rate == pytest.approx(8)


def test_frames_before_the_beginning_of_an_edit_are_not_shown(tmp_path):
    """An mp4 that was cut without encoding again: the first frames are there to be referred to, not to be seen."""
    times, found, line = read(write(tmp_path / "a.mp4", EVEN, shift=-300, options={"bf": "0"}))
    assert times == [0, 125, 250, 375, 500] and found == [3, 4, 5, 6, 7]
    assert line.count == 5 and line.even


@pytest.mark.parametrize("tick", [Fraction(1, 8), Fraction(1, 1000)])
def test_a_cut_film_of_constant_rate_does_not_promise_its_hidden_frames(tmp_path, tick):
    path = write(tmp_path / "a.mp4", EVEN, shift=-250, options={"bf": "0"}, tick=tick, rate=8)
    times, found, line = read(path)
    assert found == [2, 3, 4, 5, 6, 7] and times == [0, 125, 250, 375, 500, 625]
    assert line.count == 6 and line.last == pytest.approx(0.625)


def test_frames_at_the_same_time(tmp_path):
    times, found, line = read(write(tmp_path / "a.mkv", [0, 125, 125, 250, 250, 375], options={"bf": "0"}))
    assert times == [0, 125, 125, 250, 250, 375] and found == list(range(6)) and not line.even


def test_packets_without_time_stamps_follow_each_other(tmp_path):
    """An MPEG program stream has one stamp a pack, a raw stream none."""
    stamps = [number * 40 for number in range(12)]
    times, found, line = read(write(tmp_path / "a.mpg", stamps, "mpeg2video", tick=Fraction(1, 25), rate=25))
    assert times == stamps and found == list(range(12)) and line.count == 12 and line.even
    path = write(tmp_path / "a.m4v", stamps, "mpeg4", tick=Fraction(1, 25), rate=25)
    times, found, line = read(path)
    assert found == list(range(12)) and line.count == 12 and times == stamps


@pytest.mark.parametrize(("ending", "hold"), [(".mp4", 1 / 8), (".gif", 0.2)])
def test_a_film_of_one_frame(tmp_path, ending, hold):
    path = tmp_path / f"a{ending}"
    if ending == ".gif":
        write_gif(path, [200])
    else:
        write(path, [0], tick=Fraction(1, 8), rate=8)
    times, found, line = read(path)
    assert (times, found, line.count, line.last, line.end) == ([0], [0], 1, 0.0, pytest.approx(hold))


def test_a_still_image_is_a_film_of_one_frame(tmp_path):
    from PIL import Image

    for name in ("a.png", "a.jpg", "a.bmp", "a.webp"):
        Image.fromarray(made_films.grey(5)).save(tmp_path / name)
        times, found, line = read(tmp_path / name)
        assert (times, found, line.count) == ([0], [5], 1)


def test_a_missing_frame_is_not_rounding():
    tick = 1 / 24  # as AVI has it: one tick a frame
    assert from_stamps([0, 1, 2, 3], 1, tick, 24.0).even
    assert not from_stamps([0, 1, 3, 4], 1, tick, 24.0).even
    rounded = from_stamps([0, 42, 83, 125, 167, 208], 42, 0.001, 24.0)
    assert rounded.even and rounded.rate == 24.0
    assert not from_stamps([0, 42, 83, 167, 208], 42, 0.001, 24.0).even
    assert from_stamps([], 0, 0.001) is None


def test_times_beyond_the_precision_of_seconds():
    """Streams that were recorded for days."""
    day = 90_000 * 86_400 * 300
    line = from_stamps([day + 3750 * number for number in range(9)], 3750, 1 / 90_000)
    assert line.even and line.rate == pytest.approx(24) and line.last == pytest.approx(8 / 24)
