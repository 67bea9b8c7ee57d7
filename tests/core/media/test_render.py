"""Colours and transparency of films."""

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from made_films import grey, transparent, write, write_gif

from videolcm_core.media.film import open_film
from videolcm_core.media.image import read_image

ALPHA = [
    (".mov", "prores_ks", "yuva444p10le"),
    (".mov", "qtrle", "argb"),
    (".mov", "png", "rgba"),
    (".webm", "libvpx-vp9", "yuva420p"),
    (".webm", "libvpx", "yuva420p"),
    (".mkv", "ffv1", "yuva444p"),
]


def check_half_white(frames):
    """The left half is the frame's grey, the invisible red half white."""
    for number, frame in enumerate(frames):
        level = float(grey(number)[0, 0, 0])
        pixels, values = frame.pixels(*frame.size).astype(float), frame.values()[0] * 255
        for image in (pixels, values):
            assert np.abs(np.asarray(image[:, :14]) - level).max() < 6, number
            assert np.abs(np.asarray(image[:, 18:]) - 255).max() < 6, number
        small = frame.pixels(8, 4).astype(float)
        assert np.abs(small[:, :3] - level).max() < 6 and np.abs(small[:, 5:] - 255).max() < 6


@pytest.mark.parametrize(("ending", "codec", "pixels"), ALPHA)
def test_transparent_parts_of_films_are_white(tmp_path, ending, codec, pixels):
    images = [transparent(number) for number in range(3)]
    more = {"options": {"auto-alt-ref": "0"}} if codec == "libvpx" else {}
    path = write(tmp_path / f"a{ending}", [0, 100, 200], codec, pixels, images, **more)
    frames = list(open_film(path).frames())
    assert len(frames) == 3
    check_half_white(frames)


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_transparent_parts_of_animations_are_white(tmp_path, ending):
    path = write_gif(tmp_path / f"a{ending}", [100, 50, 200], [transparent(number) for number in range(3)], disposal=2)
    frames = list(open_film(path).frames())
    assert len(frames) == 3
    check_half_white(frames)


def test_half_transparent_is_half_white(tmp_path):
    image = np.full((16, 32, 4), (100, 50, 0, 128), np.uint8)
    expected = np.array([100, 50, 0]) * 128 / 255 + 255 * (1 - 128 / 255)
    (frame,) = open_film(write(tmp_path / "a.mov", [0], "qtrle", "argb", [image])).frames()
    assert np.abs(frame.pixels(32, 16) - expected).max() <= 1
    assert np.abs(frame.values()[0].numpy() * 255 - expected).max() <= 1
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "a.png")
    assert np.abs(np.asarray(read_image(tmp_path / "a.png")) - expected).max() <= 1


@pytest.mark.parametrize("matrix", [Colorspace.ITU601, Colorspace.ITU709])
@pytest.mark.parametrize("extent", [ColorRange.MPEG, ColorRange.JPEG])
def test_colours_follow_the_matrix_and_range_that_the_file_names(tmp_path, matrix, extent):
    colour = (200, 60, 30)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, extent
        frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), colour, np.uint8), format="rgb24")
        frame = frame.reformat(format="yuv444p", dst_colorspace=matrix, dst_color_range=extent)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (frame,) = open_film(tmp_path / "a.mkv").frames()
    assert np.abs(frame.pixels(32, 16) - np.array(colour)).max() <= 2
    assert np.abs(frame.values()[0].numpy() * 255 - np.array(colour)).max() <= 2


@pytest.mark.parametrize("width", [16, 30, 32, 34, 50])
def test_values_are_the_same_each_time_and_near_the_pixels(tmp_path, width):
    noise = np.random.default_rng(0).integers(0, 255, (18, width, 3), np.uint8)
    path = write(tmp_path / "a.mkv", [0], "ffv1", "yuv444p", [noise])
    values = [next(open_film(path).frames()).values() for _ in range(5)]
    assert all(torch.equal(values[0], other) for other in values[1:])
    assert values[0].shape == (1, 18, width, 3) and values[0].dtype == torch.float32
    pixels = next(open_film(path).frames()).pixels(width, 18)
    assert np.abs(values[0][0].numpy() * 255 - pixels).max() < 2


def test_ten_bits_keep_their_steps(tmp_path):
    levels = np.linspace(20000, 21000, 32).astype(np.uint16)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv444p10le"
        image = np.broadcast_to(levels[None, :, None], (16, 32, 3)).copy()
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb48le")))
        container.mux(stream.encode())
    values = next(open_film(tmp_path / "a.mkv").frames()).values()[0, 8, :, 1]
    # 1000 of 65535 are 16 steps of 10 bits and 4 of 8.
    assert len(values.unique()) > 8
