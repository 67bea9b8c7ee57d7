"""Damaged files give frames or `MediaError`, never anything else: bits flipped, bytes lost, cut off, absurd sizes."""

import pickle
import time

import numpy as np
import pytest
from made_films import samples

from videolcm_core.media.errors import MediaError, decoding
from videolcm_core.media.film import open_film
from videolcm_core.media.image import read_image

ROUNDS = 25
SECONDS = 20.0
NAMES = ("avi", "bmp", "flv", "gif", "jpg", "mkv", "mov", "mp4", "mpg", "png", "ts", "webm", "webp")


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return samples(tmp_path_factory.mktemp("samples"))


def damaged(content, rng):
    data, way = bytearray(content), rng.integers(6)
    at = int(rng.integers(len(data)))
    if way == 0:
        for _ in range(rng.integers(1, 8)):
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif way == 1:
        for _ in range(rng.integers(1, 40)):
            data[rng.integers(len(data))] = rng.integers(256)
    elif way == 2:
        del data[at:]
    elif way == 3:
        del data[at : at + rng.integers(1, 64)]
    elif way == 4:
        at = int(rng.integers(min(len(data), 800)))
        data[at : at + 4] = rng.bytes(4)
    else:
        at = int(rng.integers(min(len(data), 800)))
        data[at : at + 4] = b"\x7f\xff\xff\xff" if rng.integers(2) else b"\xff\xff\xff\xff"
    return bytes(data)


@pytest.mark.parametrize("ending", NAMES)
def test_damaged_files(contents, ending):
    rng, begun = np.random.default_rng(NAMES.index(ending)), time.monotonic()
    whole = {name: content for name, content in contents.items() if name.endswith(f".{ending}")}
    read = refused = 0
    assert whole
    for name, content in whole.items():
        for lenient in (False, True):
            assert any(True for _ in open_film(content, lenient=lenient).frames()), name
        for number in range(ROUNDS):
            data = damaged(content, rng)
            try:
                for frame in open_film(data, name, lenient=number % 2 == 1).frames():
                    pixels = frame.values() if number % 2 else frame.pixels(16, 16)
                    assert pixels.shape[-1] == 3
                read += 1
            except MediaError as error:
                assert str(error).startswith(f"{name} cannot be read: it ")
                refused += 1
            if ending in ("png", "jpg", "webp", "bmp", "gif"):
                try:
                    assert read_image(data).mode == "RGB"
                except MediaError:
                    refused += 1
    assert read and (refused or ending == "bmp")
    assert time.monotonic() - begun < SECONDS


@pytest.mark.parametrize("size", [1, 2, 7, 64, 4096])
def test_random_bytes(size):
    rng = np.random.default_rng(size)
    heads = [b"", b"\0\0\0\x1cftypisom", b"\x1aE\xdf\xa3", b"RIFF\xff\xff\xff\xffAVI ", b"RIFF\x10\0\0\0WEBPVP8X"]
    heads += [b"GIF89a", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"FLV\x01", b"G" * 5, b"\xff\xd8\xff\xe1", b"BM", b"II*\0"]
    for head in heads:
        for _ in range(5):
            data = head + rng.bytes(size)
            for read in (lambda data: list(open_film(data).frames()), read_image):
                try:
                    read(data)
                except MediaError as error:
                    assert error.reason and error.allowed and error.next_step


@pytest.mark.parametrize(
    "error",
    [
        TypeError("'NoneType' object"),
        RuntimeError("avcodec failed"),
        OverflowError("too large"),
        MemoryError(),
        EOFError("end"),
        IndexError("list index"),
        SyntaxError("not a TIFF file"),
        ZeroDivisionError(),
        AttributeError("width"),
        OSError("cannot identify"),
    ],
)
def test_every_failure_becomes_the_one_error(error):
    with pytest.raises(MediaError) as raised, decoding("a.mp4"):
        raise error
    said = str(error) or type(error).__name__
    assert str(raised.value).startswith(f"a.mp4 cannot be read: it cannot be decoded: {said}; allowed: ")
    assert raised.value.__cause__ is error
    copy = pickle.loads(pickle.dumps(raised.value))
    assert str(copy) == str(raised.value) and copy.reason == raised.value.reason


def test_other_libraries_errors():
    import struct
    import zlib

    import av
    from PIL import Image

    for error in (
        av.error.FFmpegError(1, "failed"),
        av.error.InvalidDataError(1, "invalid"),
        Image.DecompressionBombError("bomb"),
        zlib.error("inflate"),
        struct.error("unpack"),
    ):
        with pytest.raises(MediaError), decoding("a.mp4"):
            raise error


def test_an_interruption_is_no_damage():
    class InterruptedByUserError(Exception):
        pass

    for error in (KeyboardInterrupt, InterruptedByUserError):
        with pytest.raises(error), decoding("a.mp4"):
            raise error
