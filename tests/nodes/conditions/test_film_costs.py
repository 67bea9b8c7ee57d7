"""What reading films costs: memory by what is asked and not by the film, and a stop within half a second."""

import json
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import made_films
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
MOST = 500
"""Megabytes above rest."""
SECONDS = 20
LONG = 1500
FAST = {"preset": "ultrafast", "crf": "40", "g": "60"}
EXTRACTORS = ("sketch", "depth", "motion", "codec vectors")


def moving(size, count):
    """Noise that wanders, so that frames have something to decode."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 255, (height // 8 + 1, width // 8 + 9, 3), np.uint8)
    large = noise.repeat(8, 0).repeat(8, 1)[:height]
    return [np.ascontiguousarray(large[:, at % 64 : at % 64 + width]) for at in range(count)]


@pytest.fixture(scope="session")
def large_films(tmp_path_factory):
    """A folder of films that fill any memory when they are read whole."""
    folder = tmp_path_factory.mktemp("films")
    hd = moving((1920, 1080), 64)
    for rate, count in ((30, 64), (60, 130)):
        images = [hd[number % 64] for number in range(count)]
        stamps = [number * 1000 / rate for number in range(count)]
        made_films.write(folder / f"{rate}.mp4", stamps, images=images, options=FAST, rate=rate, tick=Fraction(1, rate))
    small = moving((640, 360), 64)
    images = [small[number % 64] for number in range(LONG)]
    even = [number * 40 for number in range(LONG)]
    made_films.write(folder / "long.mp4", even, images=images, options=FAST, rate=25, tick=Fraction(1, 25))
    uneven = [number * 40 + number // 100 * 500 for number in range(LONG)]
    made_films.write(folder / "uneven.mkv", uneven, images=images, options=FAST)
    made_films.write_gif(folder / "long.webp", [40] * 120, small[:60] * 2, quality=10, lossless=False, method=0)
    photo = np.random.default_rng(1).integers(0, 255, (300, 400, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(photo).save(folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def costs(large_films, tmp_path_factory):
    """``{case: [MB, seconds, shape, notes]}`` of a process that runs all cases."""
    base = tmp_path_factory.mktemp("base")
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / name).mkdir()
    (base / "input" / "photo.jpg").write_bytes((large_films / "photo.jpg").read_bytes())
    command = [sys.executable, ROOT / "tests" / "support" / "measure_nodes.py", ROOT, base, large_films]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's peak of a process is read")
def test_memory_goes_by_what_is_asked(costs):
    print(*(f"{name}: {cost[:3]}" for name, cost in costs.items()), sep="\n")
    assert len(costs) == 16
    for name, (megabytes, seconds, _, _) in costs.items():
        assert megabytes <= MOST, name
        assert seconds <= SECONDS, name


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's peak of a process is read")
def test_what_was_cut_is_said(costs):
    for name, (_, _, shape, notes) in costs.items():
        said = [note for note in notes if "is large and was read in part" in note]
        if " to " not in name or "first" in name:
            assert said == [] and shape[1:3] in ([64, 64], [256, 448], [1080, 1920]), name
            continue
        (note,) = said
        assert "Put Prepare Condition Frames before this node" in note
        _, height, width, _ = shape
        if "photo" not in name:
            assert f"the first {shape[0]} of its {LONG if '640' in name else 130} frames" in note, name
        if name.startswith("640"):
            assert f"at {width}x{height} instead of 640x360" in note
        assert shape[0] * height * width * 12 <= 96 << 20 and height * width >= 0.87 * 448 * 256


@pytest.fixture
def interrupted(host):
    """``interrupted(node_id, after, **inputs)`` -> seconds from the user's stop to the end of the run."""
    from comfy import model_management

    def run(node_id, after, **inputs):
        stopped = []

        def stop():
            stopped.append(time.monotonic())
            model_management.interrupt_current_processing(True)

        timer = threading.Timer(after, stop)
        timer.start()
        try:
            with pytest.raises(model_management.InterruptProcessingException):
                for _ in range(1000):
                    host.run(node_id, **inputs)
            return time.monotonic() - stopped[0]
        finally:
            timer.cancel()
            model_management.interrupt_current_processing(False)

    return run


PREPARE = {"frames": 200, "sample_fps": 0.0, "width": 256, "height": 256, "fit": "crop", "source_fps": 8.0}
SKETCH = {"method": "pencil", "low_threshold": 60, "high_threshold": 160, "blur": 1.0, "line_width": 0.02}
RUNS = {
    "frame by frame": ("VideoLCMPrepareFrames", {"file": "60.mp4", "start": 0, **PREPARE}),
    "on the way to the start": ("VideoLCMPrepareFrames", {"file": "uneven.mkv", "start": 1400, **PREPARE}),
    "after the end": ("VideoLCMPrepareFrames", {"file": "long.mp4", "start": 1450, **PREPARE}),
    "animation": ("VideoLCMPrepareFrames", {"file": "long.webp", "start": 100, **PREPARE}),
    "extractor": ("VideoLCMSketchExtractor", {"file": "60.mp4", "contrast": 1.6, **SKETCH}),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_stop_is_heard_within_half_a_second(interrupted, large_films, run):
    from comfy_api.latest import InputImpl

    node_id, inputs = RUNS[run]
    source = InputImpl.VideoFromFile(str(large_films / inputs["file"]))
    inputs = {name: value for name, value in inputs.items() if name != "file"}
    seconds = [interrupted(node_id, after, source=source, **inputs) for after in (0.2, 0.45)]
    print([round(value, 3) for value in seconds])
    assert max(seconds) < 0.5


def test_a_seek_finds_the_frames_that_reading_all_finds(host, large_films):
    from comfy_api.latest import InputImpl

    source = InputImpl.VideoFromFile(str(large_films / "long.mp4"))
    taken = {}
    for start in (29, 30, 31, 119, 120, 121, 900, 1490):
        inputs = {"start": start, **PREPARE, "frames": 5, "width": 64, "height": 64}
        taken[start] = host.run("VideoLCMPrepareFrames", source=source, **inputs)[0]
    films, wanted = host.pack("nodes.conditions.films"), {}
    resize = host.pack("videolcm_core.media.resize").resize_frames
    for number, frame in enumerate(films.film_of(source).frames()):
        for start in taken:
            if start <= number < start + 5:
                wanted.setdefault(start, []).append(resize(frame.values(), 64, 64, "crop"))
    assert all(torch.equal(taken[start], torch.cat(wanted[start])) for start in taken)


def test_a_large_photo_is_resized_once(host, large_films):
    """48 frames of one image are one resize of it."""
    photo = torch.rand(1, 900, 1200, 3)
    inputs = {"start": 0, **PREPARE, "frames": 48, "width": 64, "height": 64}
    frames, _ = host.run("VideoLCMPrepareFrames", source=photo, **inputs)
    resize = host.pack("videolcm_core.media.resize").resize_frames
    assert torch.equal(frames, resize(photo, 64, 64, "crop").expand(48, -1, -1, -1))
