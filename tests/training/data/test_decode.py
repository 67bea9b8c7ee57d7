"""Frames of videos at a sampling rate, single images, files that are broken."""

from dataclasses import replace

import av
import numpy as np
import pytest
from own_clips import FOUR, numbers, rng, write_clip
from PIL import Image

from training.data.decode import FrameSampling, decode_image, decode_video
from training.data.source import BrokenSampleError


@pytest.mark.parametrize(
    ("fps", "wanted"), [(24, [0, 3, 6, 9]), (8, [0, 1, 2, 3]), (4, [0, 0, 1, 1]), (30, [0, 4, 7, 11])]
)
def test_frames_are_the_nearest_to_the_sampling_instants(tmp_path, fps, wanted):
    clip = write_clip(tmp_path / "a.mp4", 20, fps)
    decoded = decode_video(clip, FOUR, rng())
    assert decoded.shape == (4, 16, 16, 3) and decoded.dtype == np.uint8
    assert numbers(decoded) == wanted
    assert numbers(decode_video(clip.read_bytes(), FOUR, rng())) == wanted


@pytest.mark.parametrize("ending", [".mkv", ".avi", ".mov", ".gif", ".webm"])
def test_other_containers_give_the_same_frames(tmp_path, ending):
    options = {"container": {}} if ending != ".webm" else {}
    path = tmp_path / f"a{ending}"
    if ending == ".webm":  # WebM takes no H.264: the content decides, not the name
        write_clip(tmp_path / "a.mkv").rename(path)
    else:
        write_clip(path, 16, 10 if ending == ".gif" else 8, **options)
    sampling = replace(FOUR, fps=5.0 if ending == ".gif" else 4.0, start="middle")
    decoded = decode_video(path, sampling, rng())
    if ending == ".gif":  # eight levels only
        assert decoded.shape == (4, 16, 16, 3) and (np.diff(decoded.mean((1, 2, 3))) >= 0).all()
    else:
        assert numbers(decoded) == [4, 6, 8, 10] or numbers(decoded) == [5, 7, 9, 11]


def test_a_clip_of_exactly_the_length_has_one_start(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 16)
    sampling = replace(FOUR, frames=16, start="random")
    for seed in range(5):
        assert numbers(decode_video(clip, sampling, rng(seed))) == list(range(16))


def test_random_starts_reach_the_whole_clip_and_repeat_with_their_seed(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 24)
    sampling = replace(FOUR, start="random")
    starts = [numbers(decode_video(clip, sampling, rng(seed))) for seed in range(60)]
    assert all(np.diff(frames).tolist() == [1, 1, 1] for frames in starts)
    assert {frames[0] for frames in starts} >= {1, 10, 19, 20} and min(f[0] for f in starts) >= 0
    assert max(frames[-1] for frames in starts) == 23
    again = [numbers(decode_video(clip, sampling, rng(seed))) for seed in range(60)]
    assert starts == again


def test_a_clip_with_damage_inside_is_noticed(tmp_path):
    path = write_clip(tmp_path / "a.mkv", 16, 8, (64, 64), crf="0")
    data = bytearray(path.read_bytes())
    picture = np.random.default_rng(0).bytes(len(data) // 3)
    data[len(data) // 2 : len(data) // 2 + len(picture)] = picture
    with pytest.raises(BrokenSampleError, match="damaged|cannot be decoded|too short|cut off"):
        decode_video(bytes(data), replace(FOUR, frames=16), rng())


def test_short_clips_are_skipped_or_held_and_never_grey(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 3, shift=100)
    with pytest.raises(BrokenSampleError, match="too short: it has 3 of 4 frames at 8 per second"):
        decode_video(clip, FOUR, rng())
    held = decode_video(clip, replace(FOUR, short="hold"), rng())
    expected = [100, 108, 116, 116]
    assert np.abs(held.mean((1, 2, 3)) - expected).max() < 3
    assert (held[2] == held[3]).all()


def test_pictures_are_cut_in_the_middle_or_stretched(tmp_path):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 96, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(wide, format="rgb24")))
        container.mux(stream.encode())
    one = replace(FOUR, frames=1)
    for decoded in (
        lambda s: decode_image(tmp_path / "a.png", s),
        lambda s: decode_video(tmp_path / "a.mp4", s, rng()),
    ):
        cut, whole = decoded(one), decoded(replace(one, fit="stretch", width=24))
        assert cut.shape == (1, 16, 16, 3) and cut.mean() > 245
        assert whole.shape == (1, 16, 24, 3) and np.abs(whole[0, :, [0, 12, 23]].mean((1, 2)) - [0, 255, 0]).max() < 12


def test_turned_clips_and_photographs_are_upright(tmp_path):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32] = 255  # left half white
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44
    one = 0x10000
    turned = [0, one, 0, -one, 0, 0, 0, 0, 0x40000000]  # as a phone writes it: a quarter turn clockwise
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in turned)
    upright = decode_video(bytes(data), replace(FOUR, frames=1, width=16, height=32), rng())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif, quality=95)
    for decoded in (upright, decode_image(tmp_path / "a.jpg", replace(FOUR, frames=1, width=16, height=32))):
        assert decoded.shape == (1, 32, 16, 3)
        assert decoded[0, :12].mean() > 240 and decoded[0, 20:].mean() < 15


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.png", replace(FOUR, width=8, height=8)) == 255).all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated.mp4", "cannot be decoded"),
        ("empty.mp4", "cannot be decoded"),
        ("text.mp4", "cannot be decoded"),
        ("sound.mp4", "has no video"),
        ("image.png", "cannot be decoded"),
        ("empty.jpg", "cannot be decoded"),
    ],
)
def test_broken_files_say_what_is_wrong(broken, name, reason):
    sampling = replace(FOUR, frames=32)
    with pytest.raises(BrokenSampleError, match=reason):
        if name.endswith("4"):
            decode_video(broken / name, sampling, rng())
        else:
            decode_image(broken / name, sampling)


@pytest.mark.parametrize("short", ["skip", "hold"])
def test_a_clip_that_was_cut_off_between_two_frames_is_noticed_and_not_held(tmp_path, short):
    path = write_clip(tmp_path / "a.mp4", 40, container={"movflags": "faststart"}, bf="0")
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    data = path.read_bytes()[: packets[20].pos]
    with pytest.raises(BrokenSampleError, match=r"cut off: the file promises 5.00 s and ends after 2[01] of 32 frames"):
        decode_video(data, replace(FOUR, frames=32, short=short), rng())


def test_lists_of_other_files_are_no_clips_whatever_their_name(tmp_path):
    write_clip(tmp_path / "other.mp4")
    path = tmp_path / "a.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with av.open(str(path)) as container:  # FFmpeg itself would follow the list
        assert sum(1 for _ in container.decode(video=0)) == 16
    with pytest.raises(BrokenSampleError, match="cannot be decoded"):
        decode_video(path, FOUR, rng())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": "last"}, "start is 'last'; allowed: random, first, middle"),
        ({"frames": 0}, "frames is 0"),
        ({"fps": 0.0}, "fps is 0"),
        ({"width": 20}, "width is 20; allowed: multiples of 8"),
    ],
)
def test_wrong_sampling_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FrameSampling(**wrong)
