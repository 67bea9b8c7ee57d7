"""Odd images, masks, sizes and lengths given to every node that takes frames: a finite result, or an error in words."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from limits import limited

CANNY = {"low_threshold": 60, "high_threshold": 160, "blur": 1.0, "line_width": 0.02, "contrast": 1.6}
PREPARE = {"frames": 8, "start": 0, "sample_fps": 8.0, "width": 64, "height": 64, "fit": "crop", "source_fps": 8.0}
CONDITION = {"strength": 1.0, "invert": False, "fit": "crop", "depth_scale": 2.0}
COLOURS = {"hue": 0.03, "saturation": 1.0, "value": 1.0}
NODES = {
    "prepare": ("VideoLCMPrepareFrames", PREPARE, "source"),
    "prepare, every frame": ("VideoLCMPrepareFrames", {**PREPARE, "sample_fps": 0.0, "fit": "pad"}, "source"),
    "depth condition": ("VideoLCMApplyCondition", {"condition": "depth", **CONDITION}, "frames"),
    "first frame": ("VideoLCMApplyCondition", {"condition": "first frame", **CONDITION}, "frames"),
    "motion condition": ("VideoLCMApplyCondition", {"condition": "motion", **CONDITION}, "frames"),
    "depth": ("VideoLCMDepthEstimator", {"model_name": "videolcm-mini-depth.safetensors", "normalize": True}, "source"),
    "canny": ("VideoLCMSketchExtractor", {"method": "canny", **CANNY}, "source"),
    "pencil": ("VideoLCMSketchExtractor", {"method": "pencil", **CANNY}, "source"),
    "optical flow": ("VideoLCMMotionExtractor", {"method": "optical flow", "fill": False}, "source"),
    "codec vectors": ("VideoLCMMotionExtractor", {"method": "codec vectors", "fill": True}, "source"),
    "match colours": ("VideoLCMMatchColours", {"reference": torch.ones(1, 4, 4, 3), **COLOURS}, "images"),
    "reference of colours": ("VideoLCMMatchColours", {"images": torch.ones(1, 4, 4, 3), **COLOURS}, "reference"),
}
OF_ONE_FRAME = ("first frame", "reference of colours")


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def poked(number):
    images = noise(3, 16, 16, 3)
    images[1, 3, 3, 1] = number
    return images


REFUSED = {
    "no frame": lambda: noise(0, 16, 16, 3),
    "no height": lambda: noise(2, 0, 16, 3),
    "no channel": lambda: noise(2, 16, 16, 0),
    "two channels": lambda: noise(2, 16, 16, 2),
    "five channels": lambda: noise(2, 16, 16, 5),
    "channels first": lambda: noise(2, 3, 16, 16),
    "one image without batch": lambda: noise(16, 16, 3),
    "five axes": lambda: noise(1, 2, 16, 16, 3),
    "a number": lambda: torch.tensor(0.5),
    "nan": lambda: poked(float("nan")),
    "infinite": lambda: poked(float("inf")),
    "a text": lambda: "frames",
    "nothing": lambda: None,
    "a latent": lambda: {"samples": noise(2, 4, 8, 8)},
    "complex": lambda: noise(2, 16, 16, 3).to(torch.complex64),
}
TAKEN = {
    "one pixel": lambda: noise(2, 1, 1, 3),
    "one frame": lambda: noise(1, 16, 24, 3),
    "grey": lambda: noise(3, 16, 24, 1),
    "alpha": lambda: noise(3, 16, 24, 4),
    "a line": lambda: noise(2, 1, 500, 3),
    "a column": lambda: noise(2, 700, 1, 3),
    "primes": lambda: noise(3, 31, 17, 3),
    "bytes": lambda: (noise(3, 16, 24, 3) * 255).byte(),
    "truth": lambda: noise(3, 16, 24, 3) > 0.5,
    "half": lambda: noise(3, 16, 24, 3).half(),
    "doubles": lambda: noise(3, 16, 24, 3).to(torch.float32) * 1.0,
    "negative": lambda: noise(3, 16, 24, 3) * 4 - 2,
    "enormous values": lambda: noise(3, 16, 24, 3) * 1e30,
    "one colour": lambda: torch.zeros(3, 16, 24, 3),
    "not contiguous": lambda: noise(3, 24, 16, 3).transpose(1, 2),
    "one frame repeated": lambda: noise(1, 16, 24, 3).expand(64, -1, -1, -1),
    "strided": lambda: noise(6, 32, 48, 3)[::2, ::2, ::2],
}


@pytest.fixture
def run(host, prompt):
    def call(node, source, **changes):
        node_id, inputs, name = NODES[node]
        more = {"positive": prompt("a dog")} if "Apply" in node_id else {}
        return host.run(node_id, **{**inputs, **more, name: source, **changes})

    return call


def images_of(result):
    value = result[0]
    return value if isinstance(value, torch.Tensor) else value[0][1]["videolcm_conditions"][0].frames


@pytest.mark.parametrize("images", REFUSED)
@pytest.mark.parametrize("node", NODES)
def test_what_is_no_image_is_refused_in_words(run, node, images):
    error = limited(lambda: run(node, REFUSED[images]()), ValueError)
    assert error is not None and "allowed: " in str(error)


@pytest.mark.parametrize("images", TAKEN)
@pytest.mark.parametrize("node", NODES)
def test_what_is_an_image_is_taken_or_refused_in_words(run, node, images):
    source, made = TAKEN[images](), []
    before = source.clone()
    error = limited(lambda: made.append(images_of(run(node, source))), ValueError)
    assert torch.equal(source, before)
    if error is not None:
        assert "allowed: " in str(error)
        return
    # Only what passes images through has their alpha in its result.
    channels = 4 if (node, images) == ("match colours", "alpha") else 3
    assert made[0].isfinite().all() and made[0].ndim == 4 and made[0].shape[-1] == channels
    assert len(made[0]) == (8 if "prepare" in node else len(source) if node not in OF_ONE_FRAME else 1)


MASKS = {
    "no mask": lambda: noise(0, 16, 24),
    "other number": lambda: noise(5, 16, 24),
    "other proportions": lambda: noise(3, 16, 16),
    "nan": lambda: noise(3, 16, 24) / 0 * 0,
    "five axes": lambda: noise(1, 3, 1, 16, 24),
    "a line": lambda: noise(24),
    "channels": lambda: noise(3, 2, 16, 24),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks(host, prompt, mask):
    inputs = {"positive": prompt("a dog"), "frames": noise(3, 16, 24, 3), "mask": MASKS[mask]()}
    error = limited(lambda: host.run("VideoLCMInpaintCondition", **inputs, strength=1.0, fit="crop"), ValueError)
    assert error is not None and "allowed: " in str(error)


@pytest.mark.parametrize(
    "rate", [Fraction(1, 1000), Fraction(1), Fraction(24000, 1001), Fraction(1000), Fraction(10**9)]
)
@pytest.mark.parametrize("node", ["codec vectors", "optical flow", "prepare", "prepare, every frame"])
def test_extreme_rates(run, node, rate):
    images = noise(4, 32, 48, 3)
    video = SimpleNamespace(get_components=lambda: SimpleNamespace(images=images, alpha=None, frame_rate=rate))
    (made, *_) = run(node, video)
    assert made.isfinite().all()
    if node == "codec vectors":
        assert torch.equal(made, run(node, images)[0])


@pytest.mark.parametrize("size", [(256, 8176), (8176, 256), (300, 9000), (9000, 300), (8, 300)])
def test_codec_vectors_of_extreme_sizes(run, size):
    height, width = size
    error = limited(lambda: run("codec vectors", noise(2, height, width, 3)), ValueError)
    assert (error is not None) == (max(size) > 8176 or max(size) > 32 * min(size))
    assert error is None or ("allowed: " in str(error) and f"{width}x{height}" in str(error))


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 63},
        {"height": 12},
        {"start": 3},
        {"start": 1_000_000},
        {"frames": 256, "sample_fps": 240.0},
        {"frames": 1, "sample_fps": 0.001},
        {"source_fps": 1000.0},
        {"source_fps": 0.01},
    ],
    ids=str,
)
def test_extreme_settings_of_preparing(run, changes):
    made = []
    error = limited(lambda: made.append(run("prepare", noise(3, 16, 24, 3), **changes)[0]), ValueError)
    assert (error is None) == (not changes.keys() & {"width", "height", "start"})
    if error is None:
        assert made[0].shape == (changes.get("frames", 8), 64, 64, 3)
