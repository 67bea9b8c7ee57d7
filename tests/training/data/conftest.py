"""Fixtures of own clips: broken files, shards, the encoders of the embedded teacher."""

import json
import tarfile

import av
import numpy as np
import pytest
from own_clips import START, add, make_folder, write_clip
from PIL import Image

from training.data import cache


@pytest.fixture
def broken(tmp_path):
    """Files that are no usable clips, by what is wrong."""
    folder = tmp_path / "broken"
    folder.mkdir()
    late = write_clip(tmp_path / "late.mp4", 40).read_bytes()
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    contents = {
        "truncated.mp4": late[: len(late) // 2],
        "empty.mp4": b"",
        "text.mp4": b"This is no video.\n" * 50,
        "image.png": (tmp_path / "whole.png").read_bytes()[:2000],
        "empty.jpg": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def shards(tmp_path):
    """Three shards ``000`` to ``002``: four clips with JSON, one image with text, in each."""
    make_folder(tmp_path / "c", 12, 3)
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(3):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            for n in range(4 * shard, 4 * shard + 4):
                add(archive, f"part/{n:04}.mp4", (tmp_path / "c" / f"clip_{n:02}.mp4").read_bytes())
                add(archive, f"part/{n:04}.json", json.dumps({"caption": f"clip {n}", "views": 3}).encode())
            add(archive, f"part/i{shard}.png", (tmp_path / "c" / f"image_{shard:02}.png").read_bytes())
            add(archive, f"part/i{shard}.txt", f"image {shard}".encode())
    return folder


@pytest.fixture(scope="module")
def encoders():
    return cache.Encoders.load(START)
