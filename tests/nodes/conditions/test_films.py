"""Films of every kind through the core, the nodes and training: the same frames at the same moments."""

import io
from dataclasses import replace
from fractions import Fraction

import made_films
import numpy as np
import pytest
import torch
from made_films import UNEVEN, numbers, transparent, turn, write, write_gif

from training.data.decode import FrameSampling, decode_video
from videolcm_core.media.film import open_film
from videolcm_core.media.instants import on_screen

STAMPS = (0, 100, 200, 400, 500, 700)
HOLDS = (100, 100, 200, 100, 200, 100)
EXPECTED = [0, 1, 2, 2, 3, 4, 4, 5]
TRAINING = FrameSampling(frames=8, fps=10.0, width=32, height=16, start="first", fit="stretch")
PREPARE = {
    "frames": 8,
    "start": 0,
    "sample_fps": 10.0,
    "width": 32,
    "height": 16,
    "fit": "stretch",
    "source_fps": 8.0,
}
FILMS = {
    "mp4": lambda path: write(path, STAMPS),
    "b-frames mp4": lambda path: write(path, STAMPS, options={"bf": "2", "b-adapt": "0"}),
    "late mp4": lambda path: write(path, [stamp + 1000 for stamp in STAMPS]),
    "turned mp4": lambda path: turn(write(path, STAMPS), (0, 1, -1, 0)),
    "mirrored mp4": lambda path: turn(write(path, STAMPS), (-1, 0, 0, 1)),
    "anamorphic mp4": lambda path: write(path, STAMPS, aspect=Fraction(2)),
    "mkv": lambda path: write(path, STAMPS),
    "anamorphic mkv": lambda path: write(path, STAMPS, aspect=Fraction(1, 2)),
    "vp8 webm": lambda path: write(path, STAMPS, "libvpx"),
    "vp9 webm": lambda path: write(path, STAMPS, "libvpx-vp9"),
    "avi": lambda path: write(path, STAMPS, "mpeg4", tick=Fraction(1, 10), rate=10),
    "ts": lambda path: write(path, STAMPS),
    "flv": lambda path: write(path, STAMPS),
    "prores mov": lambda path: write(path, STAMPS, "prores_ks", "yuva444p10le"),
    "qtrle mov": lambda path: write(path, STAMPS, "qtrle", "argb"),
    "png mov": lambda path: write(path, STAMPS, "png", "rgba"),
    "gif": lambda path: write_gif(path, HOLDS),
    "webp": lambda path: write_gif(path, HOLDS),
    "apng png": lambda path: write_gif(path, HOLDS),
}


@pytest.fixture
def film(tmp_path):
    """``film(kind)`` -> path of a new film."""
    return lambda kind: FILMS[kind](tmp_path / f"a.{kind.split()[-1]}")


@pytest.fixture
def prepare(host):
    def run(path, **options):
        from comfy_api.latest import InputImpl

        source = InputImpl.VideoFromFile(str(path)) if not hasattr(path, "get_components") else path
        return host.run("VideoLCMPrepareFrames", source=source, **PREPARE | options)

    return run


@pytest.mark.parametrize("kind", FILMS)
def test_core_nodes_and_training_take_the_same_frames(host, film, prepare, kind):
    from comfy_api.latest import InputImpl

    path = film(kind)
    reader = open_film(path)
    core = on_screen(
        reader.frames(), 0, 8, 10.0, reader.timeline, lambda frame: frame.pixels(32, 16) if frame else None
    )
    trained = decode_video(path, TRAINING, np.random.default_rng(0))
    images, fps = prepare(path)
    assert numbers(core.frames) == numbers(trained) == numbers(images) == EXPECTED and fps == 10.0
    # FFmpeg's 8-bit scaler is off by up to 2 levels; frames are 8 apart.
    assert np.abs(images.numpy() * 255 - trained).max() < 3
    content = path.read_bytes()
    assert torch.equal(prepare(InputImpl.VideoFromFile(io.BytesIO(content)))[0], images)
    assert np.array_equal(decode_video(content, TRAINING, np.random.default_rng(0)), trained)


@pytest.mark.parametrize(("ending", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx")])
def test_a_variable_rate_is_taken_by_time_and_the_note_is_true(tmp_path, prepare, caplog, ending, codec):
    path = write(tmp_path / f"a{ending}", UNEVEN, codec)
    images, _ = prepare(path, frames=9, sample_fps=8.0)
    assert numbers(images) == [0, 1, 1, 3, 3, 3, 3, 3, 5]
    assert "come at uneven times, 5.8" in caplog.text and "5 of 9 frames repeat the one before" in caplog.text
    caplog.clear()
    # Above the mean rate, and yet no frame repeats.
    assert numbers(prepare(path, frames=2, sample_fps=10.0)[0]) == [0, 1]
    assert "VideoLCM" not in caplog.text
    # Below the mean rate, and yet frames repeat.
    assert numbers(prepare(path, frames=3, sample_fps=4.0, start=3)[0]) == [3, 3, 3]
    assert "2 of 3 frames repeat the one before" in caplog.text


def test_every_frame_of_a_variable_rate_says_that_time_runs_unevenly(tmp_path, prepare, caplog):
    images, fps = prepare(write(tmp_path / "a.mp4", UNEVEN), frames=4, sample_fps=0.0, start=1)
    assert numbers(images) == [1, 2, 3, 4] and fps == pytest.approx(5.8, abs=0.1)
    assert "every frame is taken: the video will run unevenly. Set sample_fps" in caplog.text


def test_start_counts_frames_and_time_runs_from_there(tmp_path, prepare):
    assert numbers(prepare(write(tmp_path / "a.mp4", UNEVEN), start=2, frames=7)[0]) == [2, 3, 3, 3, 3, 3, 4]


def test_what_is_held_after_the_end_of_a_variable_rate(tmp_path, prepare, caplog):
    images, _ = prepare(write(tmp_path / "a.mkv", UNEVEN), frames=14)
    assert numbers(images)[-4:] == [5, 5, 5, 5]
    assert "the clip ends before 1.30 s: its last frame is held for 3 of 14 frames" in caplog.text
    caplog.clear()
    # A GIF whose last frame stays is not over.
    images, _ = prepare(write_gif(tmp_path / "a.gif", [100, 100, 1200]), frames=14)
    assert numbers(images) == [0, 1, *[2] * 12]
    assert "is held" not in caplog.text and "11 of 14 frames repeat" in caplog.text


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
@pytest.mark.parametrize(("start", "duration"), [(0.1, 0.3), (0.25, 0.0), (0.35, 0.6), (-0.5, 0.0), (-0.8, 0.2)])
def test_trimmed_films_have_the_hosts_frames(tmp_path, prepare, ending, start, duration):
    """As many frames as the host itself finds in the part, and the same ones."""
    from comfy_api.latest import InputImpl

    path = write(tmp_path / f"a{ending}", UNEVEN)
    trimmed = InputImpl.VideoFromFile(str(path), start_time=start, duration=duration)
    expected = numbers(trimmed.get_components().images)
    assert 0 < len(expected) < 6
    images, _ = prepare(trimmed, frames=len(expected), sample_fps=0.0)
    assert numbers(images) == expected
    part = InputImpl.VideoFromFile(str(path)).as_trimmed(max(start, 0.1), 0.4, strict_duration=False)
    images, _ = prepare(part, frames=3, sample_fps=10.0)
    first = numbers(part.get_components().images)[0]
    assert numbers(images)[0] == first


def test_a_trimmed_film_of_an_older_host(tmp_path, prepare, monkeypatch):
    """Hosts before 0.30 do not tell the part."""
    from comfy_api.latest import InputImpl

    path = write(tmp_path / "a.mp4", UNEVEN)
    length = InputImpl.VideoFromFile(str(path)).get_duration()
    for start in (0.3, 0.299 - length):
        trimmed = InputImpl.VideoFromFile(str(path), start_time=start, duration=0.6)
        told = prepare(trimmed, frames=2, sample_fps=0.0)[0]
        monkeypatch.delattr(InputImpl.VideoFromFile, "get_active_trim_window", raising=False)
        monkeypatch.delattr(InputImpl.VideoFromFile.__mro__[1], "get_active_trim_window", raising=False)
        assert torch.equal(prepare(trimmed, frames=2, sample_fps=0.0)[0], told)
        assert numbers(told) == [2, 3]
        monkeypatch.undo()


def test_frames_that_a_node_made_are_taken_by_number(prepare):
    from comfy_api.latest import InputImpl, Types

    images = torch.stack([torch.from_numpy(made_films.grey(number)).float() / 255 for number in range(8)])
    made = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(20)))
    assert numbers(prepare(made, frames=4)[0]) == [0, 2, 4, 6]


@pytest.mark.parametrize("kind", ["prores_ks yuva444p10le mov", "libvpx-vp9 yuva420p webm", "qtrle argb mov", "gif"])
def test_transparent_parts_are_white_in_nodes_and_training(tmp_path, prepare, kind):
    images = [transparent(number) for number in range(6)]
    if kind == "gif":
        path = write_gif(tmp_path / "a.gif", HOLDS, images, disposal=2)
    else:
        codec, pixels, ending = kind.split()
        path = write(tmp_path / f"a.{ending}", STAMPS, codec, pixels, images)
    trained = decode_video(path, replace(TRAINING, frames=3), np.random.default_rng(0)).astype(float)
    taken = prepare(path, frames=3)[0].numpy() * 255
    for number in range(3):
        level = float(made_films.grey(number)[0, 0, 0])
        for frames in (trained, taken):
            assert np.abs(frames[number][:, :14] - level).max() < 6
            assert np.abs(frames[number][:, 18:] - 255).max() < 6


def test_alpha_of_a_video_that_a_node_made(prepare):
    from types import SimpleNamespace

    images = torch.full((3, 16, 32, 3), 0.25)
    alpha = torch.ones(3, 16, 32)
    alpha[:, :, 16:] = 0
    video = SimpleNamespace(get_components=lambda: SimpleNamespace(images=images, alpha=alpha, frame_rate=8.0))
    taken, _ = prepare(video, frames=3, sample_fps=0.0)
    assert (taken[:, :, :16] == 0.25).all() and (taken[:, :, 16:] == 1).all()


def test_all_frames_of_an_anamorphic_film_are_square(host, prompt, tmp_path):
    from comfy_api.latest import InputImpl

    frames_of = host.pack("nodes.conditions.frames").frames_of
    frames, fps = frames_of(InputImpl.VideoFromFile(str(write(tmp_path / "a.mp4", UNEVEN, aspect=Fraction(2)))))
    assert frames.shape == (6, 16, 64, 3) and numbers(frames) == list(range(6)) and 5 < fps < 6.1


def test_a_film_that_changes_its_size_is_refused_where_frames_must_be_alike(host, prepare, tmp_path):
    from comfy_api.latest import InputImpl

    small, large = (
        write(tmp_path / f"{n}.ts", [0, 100, 200], images=[made_films.grey(n, size)] * 3)
        for n, size in enumerate(((32, 16), (64, 32)))
    )
    path = tmp_path / "a.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    video = InputImpl.VideoFromFile(str(path))
    with pytest.raises(ValueError, match=r"The video a\.ts cannot be read: it changes its size: 32x16 and 64x32"):
        host.pack("nodes.conditions.frames").frames_of(video)
    images, _ = prepare(video, frames=6, sample_fps=0.0)
    assert images.shape == (6, 16, 32, 3)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm", ".gif", ".avi"])
def test_cut_films_give_what_is_left_or_their_name(host, tmp_path, prepare, ending, cut):
    codec = {".webm": "libvpx", ".gif": "gif", ".avi": "mpeg4"}.get(ending, "libx264")
    pixels = "rgb8" if ending == ".gif" else "yuv420p"
    noise = [np.random.default_rng(n).integers(0, 255, (32, 64, 3), np.uint8) for n in range(20)]
    tick = Fraction(1, 10) if ending == ".avi" else Fraction(1, 100)
    path = write(tmp_path / f"a{ending}", [n * 100 for n in range(20)], codec, pixels, noise, tick=tick)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    try:
        images, _ = prepare(path, frames=30)
    except ValueError as error:
        assert f"The video a{ending} cannot be read: it" in str(error) and ". " in str(error)
    else:
        assert images.shape == (30, 16, 32, 3) and images.isfinite().all()
