"""Clips whose frames tell their number, folders and archives of them, and their batches."""

import io
import tarfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

from training.data.batches import BatchOptions, SourceBatches
from training.data.decode import FrameSampling

ROOT = Path(__file__).resolve().parents[2]
START = ROOT / "models" / "videolcm-mini-teacher.safetensors"
FOUR = FrameSampling(frames=4, fps=8, width=16, height=16, start="first")
LEVELS = 8  # grey levels from one frame to the next: far more than coding changes them


def write_clip(path, frames=16, fps=8, size=(32, 32), shift=0, **options):
    """A clip whose n-th frame is grey of level 8 n (+ shift)."""
    codec = {".gif": "gif", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    with av.open(str(path), "w", options=options.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "10", "crf": "4", **options})
        stream.width, stream.height = size
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for n in range(frames):
            picture = np.full((size[1], size[0], 3), (LEVELS * n + shift) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(decoded):
    """Which frames these are, by their level."""
    return [round(float(level) / LEVELS) for level in np.asarray(decoded).astype(float).mean((1, 2, 3))]


def rng(seed=0):
    return np.random.default_rng(seed)


def make_folder(folder, count=6, images=0, first=0):
    """Clips ``clip_00.mp4`` and images with captions beside them; the n-th begins at level 2 n."""
    folder.mkdir(exist_ok=True)
    for n in range(first, first + count):
        write_clip(folder / f"clip_{n:02}.mp4", 8, shift=2 * n)
        (folder / f"clip_{n:02}.txt").write_text(f"clip {n}\n")
    for n in range(images):
        Image.new("RGB", (16, 16), (20 * n, 0, 0)).save(folder / f"image_{n:02}.png")
        (folder / f"image_{n:02}.txt").write_text(f"image {n}")
    return folder


def batches(source, encoders=None, **options):
    return SourceBatches(source.only("video"), source.only("image"), BatchOptions(**options), encoders)


def whole(batches, step):
    return batches.batch(step, range(batches.size(step)))


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
