"""Still images of every mode."""

import io

import numpy as np
import pytest
from made_films import huge_gif, huge_png, sixteen_bit_grey
from PIL import Image

from videolcm_core.media.errors import MediaError
from videolcm_core.media.film import kind_of, open_film
from videolcm_core.media.image import read_image


def pixels(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("top", [65535, 1000])
@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff"])
def test_sixteen_bit_grey_is_scaled(tmp_path, top, ending):
    values = sixteen_bit_grey(tmp_path / f"a{ending}", top)
    found = pixels(tmp_path / f"a{ending}")
    assert found.shape == (16, 32, 3)
    assert np.abs(found - values[..., None] / 257).max() <= 0.5 + 1e-6


def test_sixteen_bit_grey_of_older_readers_is_32_bits_wide(tmp_path):
    """Pillow before 11.3 gave 16-bit PNGs as mode I."""
    values = np.array([[0, 257, 65535]], np.int32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif")[..., 0].tolist() == [[0, 1, 255]]
    Image.fromarray(values * 2).save(tmp_path / "b.tif")
    with pytest.raises(MediaError, match="grey values up to 131070; allowed: 8 or 16 bits"):
        read_image(tmp_path / "b.tif")


def test_grey_of_floating_point_is_0_to_1(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif")[..., 1].tolist() == [[0, 128, 255]]
    for wrong in (2.0, -1.0, np.nan):
        Image.fromarray(np.array([[0, wrong]], np.float32)).save(tmp_path / "b.tif")
        with pytest.raises(MediaError, match="not in 0 to 1"):
            read_image(tmp_path / "b.tif")


def test_transparent_grey_of_16_bits_is_white(tmp_path):
    values = sixteen_bit_grey(tmp_path / "a.png")
    Image.open(tmp_path / "a.png").save(tmp_path / "b.png", transparency=int(values[3, 7]))
    found = pixels(tmp_path / "b.png")
    assert (found[3, 7] == 255).all() and found[3, 6].max() < 255


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 200, 30), (10, 200, 30)),
        ("RGBA", (10, 200, 30, 255), (10, 200, 30)),
        ("RGBA", (10, 200, 30, 0), (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 0), (255, 255, 255)),
        ("LA", (77, 255), (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("P", 5, None),
    ],
)
def test_modes(tmp_path, mode, colour, expected):
    image = Image.new(mode, (8, 6), colour)
    if mode == "P":
        image.putpalette([number for level in range(256) for number in (level, 0, 255 - level)])
        expected = (5, 0, 250)
    image.save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == expected).all()


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (8, 6), 5)
    image.putpalette([number for level in range(256) for number in (level, 0, 255 - level)])
    image.save(tmp_path / "a.png", transparency=5)
    assert (pixels(tmp_path / "a.png") == 255).all()


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red = pixels(tmp_path / "a.jpg")[3, 4].astype(int)
    assert red[0] > 245 and red[1:].max() < 10


@pytest.mark.parametrize("content", [huge_png(), huge_gif(), huge_png(1, 2**27 + 1), huge_png(20_000, 20_000)])
def test_sizes_that_no_memory_holds(content):
    for read in (read_image, lambda content: list(open_film(content).frames())):
        with pytest.raises(MediaError):
            read(content)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"no image" * 100, b"BM"])
def test_what_is_no_image(content):
    for source in (content, io.BytesIO(content)):
        with pytest.raises(MediaError, match=r"a file in memory .* cannot be read: it cannot be decoded: \w+"):
            read_image(source)


def test_programs_are_no_images(tmp_path):
    """Pillow would hand PostScript to an interpreter."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"a\.png cannot be read"):
        read_image(tmp_path / "a.png")


def test_kinds(tmp_path):
    frames = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in (0, 200)]
    for name, kind in (("a.gif", "video"), ("a.png", "video"), ("a.webp", "animation")):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
        assert kind_of(tmp_path / name) == kind
        frames[0].save(tmp_path / f"one_{name}")
        assert kind_of(tmp_path / f"one_{name}") == ("video" if name == "a.gif" else "image")
