"""Fixtures of own clips: broken files, shards, the encoders of the embedded teacher."""

import json
import tarfile

import av
import numpy as np
import pytest
import torch
from own_clips import START, add, make_folder, write_clip
from PIL import Image

from training.data import cache
from training.teachers import Teacher
from videolcm_core.files.settings import FileSettings
from videolcm_core.networks.autoencoder import TinyAutoencoder
from videolcm_core.networks.text_encoder import TextConfig, TextEncoder
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

CONFIG = UNetConfig(
    model_channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_scales=(1.0,),
    context_dim=32,
    num_heads=1,
    head_dim=32,
)
SMALL_TEXT = TextConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)


@pytest.fixture(scope="module")
def teacher():
    """A small network with both encoders, of three frames of 16 x 16."""
    torch.manual_seed(0)
    return Teacher(
        network=UNet3D(CONFIG),
        config=CONFIG,
        text=TextEncoder(torch.tensor([320, 4558, 49406, 49407]), SMALL_TEXT).train(False),
        autoencoder=TinyAutoencoder().train(False),
        file="t.safetensors",
        settings=FileSettings(frames=3, fps=8, width=16, height=16),
    )


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
