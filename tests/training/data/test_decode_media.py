"""Training's decoding of films and images that no camera set to a constant rate wrote, and of damaged ones."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from made_films import UNEVEN, huge_gif, huge_png, numbers, sixteen_bit_grey, write, write_gif, write_sound
from PIL import Image

from training.data.clip_folder import ClipFolder
from training.data.decode import FrameSampling, decode_image, decode_video
from training.data.source import BrokenSampleError
from videolcm_core.media.film import open_film

SAMPLING = FrameSampling(frames=4, fps=8, width=32, height=16, start="first")


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("ending", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx")])
def test_a_variable_rate_is_taken_by_time(tmp_path, ending, codec):
    path = write(tmp_path / f"a{ending}", UNEVEN, codec)
    assert numbers(decode_video(path, replace(SAMPLING, frames=9), rng())) == [0, 1, 2, 3, 3, 3, 4, 4, 5]
    assert numbers(decode_video(path, replace(SAMPLING, fps=4.0, frames=5), rng())) == [0, 2, 3, 4, 5]


def test_the_long_last_frame_of_a_recording_is_part_of_it(tmp_path):
    """The reader before took the mean rate for the last frame's time, and found the film cut off or too short."""
    path = write_gif(tmp_path / "a.gif", [100, 100, 2000])
    assert numbers(decode_video(path, SAMPLING, rng())) == [0, 1, 2, 2]
    film = write(tmp_path / "a.mp4", [0, 100, 200, 300, 3000], options={"bf": "0"})
    wanted = replace(SAMPLING, frames=13, fps=4.0)
    assert numbers(decode_video(film, wanted, rng())) == [0, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4]


def test_random_starts_of_a_variable_rate_reach_all_of_it(tmp_path):
    path = write(tmp_path / "a.mp4", UNEVEN)
    sampling = replace(SAMPLING, frames=2, fps=20.0, start="random")
    found = {tuple(numbers(decode_video(path, sampling, rng(seed)))) for seed in range(60)}
    assert {number for pair in found for number in pair} == set(range(6))


def test_anamorphic_films_are_cut_in_square_pixels(tmp_path):
    """32x16 stored, 64x16 shown: the middle half of its width fills 32x16."""
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 8:24] = 255
    path = write(tmp_path / "a.mp4", [0, 125], images=[image, image], aspect=Fraction(2))
    cut = decode_video(path, replace(SAMPLING, frames=1), rng())
    assert cut.shape == (1, 16, 32, 3) and cut.mean() > 240
    assert 100 < decode_video(path, replace(SAMPLING, frames=1, fit="stretch"), rng()).mean() < 150


def test_16_bit_grey_is_an_image(tmp_path):
    sixteen_bit_grey(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png", SAMPLING)
    assert decoded.shape == (1, 16, 32, 3)
    assert decoded[0, 0, 0, 0] == 0 and decoded[0, -1, -1, 0] == 255 and 120 < decoded.mean() < 135


@pytest.mark.parametrize("content", [b"", b"text" * 99, huge_png(), huge_gif(), b"\0\0\0\x1cftypisom" + bytes(99)])
@pytest.mark.parametrize("decode", [lambda content: decode_video(content, SAMPLING, rng()), None])
def test_what_cannot_be_decoded_is_a_broken_sample(content, decode):
    with pytest.raises(BrokenSampleError, match="cannot be decoded: .|has a size of"):
        (decode or (lambda content: decode_image(content, SAMPLING)))(content)


@pytest.mark.parametrize("error", [TypeError, RuntimeError, OverflowError, MemoryError, EOFError, SyntaxError])
def test_every_failure_of_a_decoder_is_a_broken_sample(tmp_path, monkeypatch, error):
    """Such as PyAV and Pillow raise on damaged files: none may end a run."""
    import av

    path = write(tmp_path / "a.mp4", [0, 125, 250, 375])
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def fail(*_, **__):
        raise error("inside")

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(BrokenSampleError, match="^cannot be decoded: inside$"):
        decode_video(path, SAMPLING, rng())
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BrokenSampleError, match="^cannot be decoded: inside$"):
        decode_image(tmp_path / "a.png", SAMPLING)


def test_a_failure_without_words_is_named(tmp_path, monkeypatch):
    import av

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(BrokenSampleError, match="^cannot be decoded: MemoryError$"):
        decode_video(write_gif(tmp_path / "a.gif", [100]), SAMPLING, rng())


def test_an_image_too_thin_for_its_frame_is_a_broken_sample(tmp_path):
    """Cut to 16 rows, an image of 60000x1 would first become a million pixels wide."""
    Image.new("L", (60_000, 1)).save(tmp_path / "a.png")
    with pytest.raises(BrokenSampleError, match="has a size of"):
        decode_image(tmp_path / "a.png", replace(SAMPLING, width=512, height=4096))


def test_a_broken_film_in_a_folder_is_counted(tmp_path):
    write(tmp_path / "good.mp4", [n * 125 for n in range(8)])
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "huge.png").write_bytes(huge_png())
    for name in ("good", "sound", "huge"):
        (tmp_path / f"{name}.txt").write_text("a clip")
    folder = ClipFolder.scan(tmp_path, SAMPLING)
    reasons = {}
    for index in range(len(folder)):
        try:
            folder.read(index, rng())
        except BrokenSampleError as error:
            reasons[folder.name(index)] = str(error)
    assert sorted(reasons) == ["huge.png", "sound.mp4"]
    assert reasons["sound.mp4"] == "has no video: only sound or subtitles"


def test_seconds_far_inside_are_sought(tmp_path, monkeypatch):
    """Of a long clip, only the part from the key frame before the start is decoded."""
    from videolcm_core.media.video import Video

    clip, times = write(tmp_path / "a.mp4", [n * 500 for n in range(31)], options={"g": "10"}), []
    decoded = Video._decoded

    def counted(self, seek):
        for frame in decoded(self, seek):
            times.append(frame.time)
            yield frame

    monkeypatch.setattr(Video, "_decoded", counted)
    sampling = replace(SAMPLING, fps=2.0, start="middle")
    assert numbers(decode_video(clip, sampling, rng())) == [13, 14, 15, 16]
    assert 0 < times[0] <= 6.5


@pytest.mark.parametrize("size", [(34, 18), (64, 32), (16, 16)])
def test_frames_at_their_own_size_are_the_cores(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    path = write(tmp_path / "a.mp4", [0], images=[noise])
    (frame,) = open_film(path).frames()
    sampling = replace(SAMPLING, frames=1, width=32, height=16, fit="stretch")
    assert np.array_equal(decode_video(path, sampling, rng())[0], frame.pixels(32, 16))
