"""Turned, mirrored and anamorphic films, as a player shows them."""

from fractions import Fraction

import numpy as np
import pytest
from made_films import turn, write
from PIL import Image

from videolcm_core.media.errors import MediaError
from videolcm_core.media.film import open_film
from videolcm_core.media.image import read_image
from videolcm_core.media.upright import square

# Quarters: white, light, dark, black from top left to bottom right.
QUARTERS = np.kron(np.array([[255, 170], [85, 0]], np.uint8), np.ones((16, 32), np.uint8))
IMAGE = np.repeat(QUARTERS[..., None], 3, axis=2)

# Display matrix (a, b, c, d), EXIF orientation with the same meaning.
TURNS = [
    ((1, 0, 0, 1), 1),
    ((-1, 0, 0, 1), 2),
    ((-1, 0, 0, -1), 3),
    ((1, 0, 0, -1), 4),
    ((0, 1, 1, 0), 5),
    ((0, 1, -1, 0), 6),
    ((0, -1, -1, 0), 7),
    ((0, -1, 1, 0), 8),
]


def quarters(image):
    """Levels of the four quarters, row by row, to the nearest of the four."""
    image = np.asarray(image, dtype=np.float64)[..., 0]
    height, width = image.shape
    rows = image.reshape(2, height // 2, 2, width // 2).mean(axis=(1, 3))
    return (rows / 85).round().astype(int).flatten().tolist()


@pytest.mark.parametrize(("matrix", "orientation"), TURNS)
def test_films_and_photographs_are_turned_alike(tmp_path, matrix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(IMAGE).save(tmp_path / "a.jpg", exif=exif, quality=95)
    photograph = read_image(tmp_path / "a.jpg")
    (frame,) = open_film(turn(write(tmp_path / "a.mp4", [0], images=[IMAGE]), matrix)).frames()
    assert frame.size == photograph.size
    wanted = quarters(photograph)
    assert quarters(frame.pixels(*frame.size)) == wanted and sorted(wanted) == [0, 1, 2, 3]
    assert quarters(frame.values()[0] * 255) == wanted
    assert frame.values().shape == (1, photograph.height, photograph.width, 3)


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (128, 32)), (Fraction(1, 2), (64, 64)), (Fraction(16, 15), (68, 32))]
)
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_pixels_become_square(tmp_path, ending, aspect, size):
    path = write(tmp_path / f"a{ending}", [0, 100], images=[IMAGE, IMAGE], aspect=aspect)
    for frame in open_film(path).frames():
        assert frame.size == size and frame.values().shape == (1, size[1], size[0], 3)
        assert quarters(frame.values()[0] * 255) == quarters(frame.pixels(*size)) == [3, 2, 1, 0]


def test_pixels_are_stretched_before_they_are_turned(tmp_path):
    path = turn(write(tmp_path / "a.mp4", [0], images=[IMAGE], aspect=Fraction(2)), (0, 1, -1, 0))
    (frame,) = open_film(path).frames()
    assert frame.size == (32, 128) and frame.values().shape == (1, 128, 32, 3)
    assert frame.pixels(16, 64).shape == (64, 16, 3) and quarters(frame.pixels(16, 64)) == [1, 3, 0, 2]


def test_no_camera_has_such_pixels(tmp_path):
    path = write(tmp_path / "a.mp4", [0], images=[IMAGE], aspect=Fraction(20))
    with pytest.raises(MediaError, match=r"a\.mp4 cannot be read: it has pixels of 20:1; allowed: pixels of 1:16"):
        list(open_film(path).frames())


def test_no_line_is_lost():
    assert square(720, 576, Fraction(16, 15)) == (768, 576)
    assert square(720, 480, Fraction(8, 9)) == (720, 540)
    assert square(1440, 1080, Fraction(4, 3)) == (1920, 1080)
