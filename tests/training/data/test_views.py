"""Frames by stride, and the part of a frame that is seen: the same for all frames of a clip."""

from dataclasses import replace

import av
import numpy as np
import pytest
from made_films import UNEVEN, write
from made_films import numbers as film_numbers
from own_clips import FOUR, numbers, rng, write_clip
from PIL import Image

from training.data.decode import FrameSampling, decode_image, decode_video
from training.data.source import BrokenSampleError
from training.data.views import SHAPES, draw_view


@pytest.mark.parametrize("fps", [8, 30])
def test_a_stride_takes_frames_whatever_the_rate(tmp_path, fps):
    path = write_clip(tmp_path / "a.mp4", 16, fps)
    assert numbers(decode_video(path, replace(FOUR, stride=1), rng())) == [0, 1, 2, 3]
    assert numbers(decode_video(path, replace(FOUR, stride=5), rng())) == [0, 5, 10, 15]
    assert numbers(decode_video(path, replace(FOUR, stride=4, start="middle"), rng())) == [1, 5, 9, 13]
    starts = {numbers(decode_video(path, replace(FOUR, stride=4, start="random"), rng(s)))[0] for s in range(40)}
    assert starts == {0, 1, 2, 3}
    with pytest.raises(BrokenSampleError, match="too short: it has 16 frames, and 4 at a stride of 6 need 19"):
        decode_video(path, replace(FOUR, stride=6), rng())
    assert numbers(decode_video(path, replace(FOUR, stride=6, short="hold"), rng())) == [0, 6, 12, 15]


def test_a_stride_counts_the_frames_of_an_uneven_film(tmp_path):
    path = write(tmp_path / "a.mp4", UNEVEN)
    sampling = FrameSampling(frames=3, width=32, height=16, start="first", stride=2)
    assert film_numbers(decode_video(path, sampling, rng())) == [0, 2, 4]


def test_a_stride_far_into_a_long_film_is_exact(tmp_path):
    """There the reader begins at a key frame and not at the first frame."""
    path = write_clip(tmp_path / "a.mp4", 120, 10)
    sampling = replace(FOUR, stride=2, start="middle")
    assert numbers(decode_video(path, sampling, rng())) == [(56 + 2 * i) % 32 for i in range(4)]


def moving_edges(path, size=(64, 48), frames=6):
    """A film whose red grows to the right and whose green grows downwards, the same on each frame."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    image = np.stack([4 * columns, 4 * rows, 0 * rows], -1).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=8, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "rgb24"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return image


def test_all_frames_of_a_clip_show_one_part_and_clips_show_many(tmp_path):
    moving_edges(tmp_path / "a.mp4")
    sampling = replace(FOUR, crop_area=0.3)
    seen = [decode_video(tmp_path / "a.mp4", sampling, rng(seed)).astype(int) for seed in range(12)]
    assert all((clip == clip[:1]).all() and clip.shape == (4, 16, 16, 3) for clip in seen)
    corners = {(clip[0, 0, 0, 0], clip[0, 0, 0, 1]) for clip in seen}
    assert len(corners) > 8
    # From edge to edge it shows at most all and at least as much as 0.3 of the area allows at the narrowest shape.
    across = [(clip[0, 0, -1, 0] - clip[0, 0, 0, 0]) / 4 * 16 / 15 for clip in seen]
    assert max(across) <= 64 * 1.05 and min(across) >= (0.3 * 64 * 48 * SHAPES[0]) ** 0.5 * 0.9
    assert max(across) > 1.2 * min(across)


def test_the_part_does_not_change_when_a_clip_begins(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 16)
    plain, cut = (replace(FOUR, start="random", frames=2, crop_area=area) for area in (1.0, 0.5))
    for seed in range(8):
        assert numbers(decode_video(path, plain, rng(seed))) == numbers(decode_video(path, cut, rng(seed)))


def test_images_show_a_drawn_part_or_the_middle(tmp_path):
    image = moving_edges(tmp_path / "a.mp4")
    Image.fromarray(image).save(tmp_path / "a.png")
    whole = decode_image(tmp_path / "a.png", FOUR, rng())
    assert np.array_equal(whole, decode_image(tmp_path / "a.png", FOUR)), "without a share all see the middle"
    cut = replace(FOUR, image_crop_area=0.3)
    parts = [decode_image(tmp_path / "a.png", cut, rng(seed)) for seed in range(6)]
    assert all(part.shape == (1, 16, 16, 3) for part in parts) and len({part.tobytes() for part in parts}) == 6
    assert np.array_equal(parts[0], decode_image(tmp_path / "a.png", cut, rng(0)))


def test_images_smaller_than_the_frames_are_left_out_where_that_is_asked(tmp_path):
    Image.new("RGB", (15, 40)).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", FOUR).shape == (1, 16, 16, 3)
    with pytest.raises(BrokenSampleError, match="too small: it is 15 x 40 and the frames 16 x 16"):
        decode_image(tmp_path / "a.png", replace(FOUR, enlarge=False))


@pytest.mark.parametrize(("size", "wanted"), [((640, 360), (256, 256)), ((100, 900), (512, 256)), ((3, 3), (64, 8))])
def test_drawn_parts_lie_inside_and_have_the_area_and_shape_that_is_asked(size, wanted):
    views = [draw_view(size, wanted, 0.5, rng(seed)) for seed in range(200)]
    for view in views:
        assert 0 <= view.left <= size[0] - view.width and 0 <= view.top <= size[1] - view.height
        assert view.width >= 1 and view.height >= 1
    if size == (640, 360):
        areas = np.array([v.width * v.height / (640 * 360) for v in views])
        shapes = np.array([v.width / v.height for v in views])
        assert areas.min() > 0.4 and areas.max() <= 1.0
        assert shapes.min() > SHAPES[0] - 0.01 and shapes.max() < 16 / 9


def test_caches_of_before_keep_their_key():
    assert FrameSampling().settings() == {
        "frames": 16,
        "fps": 8.0,
        "width": 64,
        "height": 64,
        "start": "random",
        "short": "skip",
        "fit": "crop",
    }
    changed = FrameSampling(stride=8, crop_area=0.75, image_crop_area=0.5, enlarge=False).settings()
    assert {"stride": 8, "crop_area": 0.75, "image_crop_area": 0.5, "enlarge": False}.items() <= changed.items()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stride": -1}, "stride is -1; allowed: 1 or more"),
        ({"crop_area": 0.0}, "crop_area is 0.0; allowed: above 0, at most 1"),
        ({"image_crop_area": 1.5}, "image_crop_area is 1.5; allowed: above 0, at most 1"),
    ],
)
def test_wrong_strides_and_shares_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FrameSampling(**wrong)
