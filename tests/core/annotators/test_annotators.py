"""Extractors: sketches, motion, depth; and the conversion of PiDiNet's weights."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support" / "golden"))

from annotators import midas_of, pidinet_of
from precision import (
    UNIT,
    assert_recorded,
    assert_rounded,
    assert_same,
    assert_within,
    distance,
    without_rounding,
)
from recipe import recipe_fill
from reference import Reference

from videolcm_core.annotators.authors_sketch import authors_sketch, clean
from videolcm_core.annotators.depth import midas_depth, mini_depth, to_condition
from videolcm_core.annotators.frames import in_chunks, with_sizes_of
from videolcm_core.annotators.motion import dense_motion
from videolcm_core.annotators.sketch import canny_edges, pencil_sketch
from videolcm_core.networks.annotators.midas import Midas, MidasConfig, midas_config
from videolcm_core.networks.annotators.mini_depth import MiniDepth
from videolcm_core.networks.annotators.pidinet import PiDiNet, PiDiNetConfig, convert_differences, pidinet_config
from videolcm_core.networks.annotators.sketch_simplification import SketchSimplification, sketch_channels

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "annotators.safetensors"


@pytest.fixture(scope="module")
def golden() -> Reference:
    return Reference.open(GOLDEN)


@pytest.fixture(scope="module")
def pictures(golden) -> torch.Tensor:
    """``[2, 64, 96, 3]``."""
    return golden.get("midas.in01").movedim(1, -1)


def texture(height: int, width: int) -> torch.Tensor:
    """Smooth coloured noise ``[H, W, 3]`` in [0, 1]."""
    noise = np.random.default_rng(0).random((height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2)
    return torch.from_numpy((blurred - blurred.min()) / (blurred.max() - blurred.min()))


def pan(dx: int, dy: int, height: int, width: int, count: int = 5) -> torch.Tensor:
    """A texture whose content moves by (dx, dy) pixels a frame: ``[F, H, W, 3]``."""
    whole = texture(height + 100, width + 100)
    corners = [(50 - dy * i, 50 - dx * i) for i in range(count)]
    return torch.stack([whole[top : top + height, left : left + width] for top, left in corners])


# ---------------------------------------------------------------- networks


def test_published_sizes():
    """DPT-Large has 343 M parameters, PiDiNet 0.71 M."""
    midas, edges = Midas(MidasConfig(), device="meta"), PiDiNet(PiDiNetConfig(), device="meta")
    assert sum(p.numel() for p in midas.parameters()) == pytest.approx(343e6, rel=5e-3)
    assert sum(p.numel() for p in edges.parameters()) == pytest.approx(0.71e6, rel=2e-2)
    assert midas_config(midas.state_dict()) == MidasConfig()
    assert pidinet_config(edges.state_dict()) == PiDiNetConfig()


def test_sizes_are_read_off_the_weights(golden):
    assert midas_of(golden).config == MidasConfig(
        dim=64,
        num_layers=4,
        num_heads=4,
        grid=4,
        mlp_dim=256,
        neck_dims=(32, 48, 64, 64),
        fusion_dim=32,
        head_dims=(16, 32),
    )
    channels = (1, *range(5, 28))
    assert sketch_channels(SketchSimplification(channels, device="meta").state_dict()) == channels


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 32)])
def test_midas_takes_multiples_of_32(golden, size):
    network = midas_of(golden)
    with torch.no_grad():
        assert network(torch.rand(1, 3, *size)).shape == (1, 1, *size)


def neighbours(x: torch.Tensor, row: int, column: int) -> torch.Tensor:
    """Pixels at an offset from each pixel, zero outside."""
    padded = F.pad(x, (2, 2, 2, 2))
    return padded[..., 2 + row : 2 + row + x.shape[-2], 2 + column : 2 + column + x.shape[-1]]


RING = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]


def test_converted_weights_are_pixel_differences():
    """The converted layers against differences of pixels, taken one by one."""
    raw = recipe_fill(PiDiNet(PiDiNetConfig(width=8)), seed=4).state_dict()
    raw = {k: v[..., 1:4, 1:4].contiguous() if v.shape[-1] == 5 else v for k, v in raw.items()}
    converted = convert_differences(raw)
    x = torch.randn(1, 8, 9, 11)

    def plain(key: str) -> torch.Tensor:
        weight = converted[key]
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=8)[0, 3]

    # Each converted weight is a sum of up to nine: converted exactly, the layer's effect has it nearly all.
    exact = assert_rounded(lambda: [plain(f"{name}.conv1.weight") for name in ("block2_1", "block1_1", "block1_2")])
    w = raw["block2_1.conv1.weight"][3, 0]  # central
    central = sum(w[1 + r, 1 + c] * (neighbours(x, r, c) - x) for r in (-1, 0, 1) for c in (-1, 0, 1))[0, 3]
    assert_within(central, exact, "0")
    w = raw["block1_1.conv1.weight"][3, 0]  # angular
    steps = zip(RING, RING[1:] + RING[:1], strict=True)
    angular = sum(w[1 + a[0], 1 + a[1]] * (neighbours(x, *a) - neighbours(x, *b)) for a, b in steps)[0, 3]
    assert_within(angular, exact, "1")
    w = raw["block1_2.conv1.weight"][3, 0].flatten()  # radial: weights 1 to 8 belong to the eight rays, row by row
    rays = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    radial = sum(w[i] * (neighbours(x, 2 * r, 2 * c) - neighbours(x, r, c)) for i, (r, c) in enumerate(rays, 1))[0, 3]
    assert_within(radial, exact, "2")
    assert torch.equal(converted["block1_3.conv1.weight"], raw["block1_3.conv1.weight"])


def test_converting_twice_changes_nothing(golden):
    once = {key: value.clone() for key, value in pidinet_of(golden).state_dict().items()}
    twice = convert_differences(once)
    assert all(torch.equal(twice[key], value) for key, value in once.items())


# ---------------------------------------------------------------- clips


def test_chunks_do_not_matter_and_are_reported(pictures):
    frames, seen = pictures.repeat(3, 1, 1, 1)[:5], []
    parts = in_chunks(frames, lambda x: x.mean(1, keepdim=True), None, seen.append, 2)
    assert seen == [2, 4, 5]
    assert distance(parts[:, 0], frames.double().mean(-1)) <= 3 * UNIT * frames.max()  # two sums and a division


def test_a_stop_request_ends_the_run(pictures):
    def stop(count: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        in_chunks(pictures, lambda x: x[:, :1], None, stop, 1)


@pytest.mark.parametrize("size", [(64, 64), (70, 51), (20, 200)])
def test_networks_of_fixed_multiples_take_any_size(size):
    sizes = []

    def network(x: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(x.shape[-2:]))
        return x[:, :1]

    pixels = texture(*size).movedim(-1, 0)[None]
    out = with_sizes_of(32, network)(pixels)
    assert out.shape[-2:] == size and all(side % 32 == 0 for side in sizes[0])
    assert torch.equal(out, pixels[:, :1]) == (size == (64, 64))


@pytest.mark.parametrize(("size", "seen"), [((64, 112), (64, 112)), ((256, 448), (64, 112)), ((20, 30), (64, 96))])
def test_a_network_that_knows_one_scale(size, seen):
    sizes = []

    def network(x: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(x.shape[-2:]))
        return x[:, :1]

    assert with_sizes_of(8, network, 64)(torch.rand(1, 3, *size)).shape[-2:] == size
    assert sizes == [seen]


def test_depth_is_not_normalised(golden, pictures):
    """A frame's depth does not depend on the frames around it."""
    network = midas_of(golden)
    both, alone = midas_depth(pictures, network), midas_depth(pictures[1:], network)

    def depths():
        result = midas_depth(pictures + 0.0, network)
        return {"both": result, "alone": result[1:]}

    exact = without_rounding(depths)
    assert_within(alone, exact, "alone", "one frame")
    assert_within(both, exact, "both", "two frames")
    assert_within(golden.get("midas.depth"), exact, "both", "the recorded value")


def test_depth_value_of_the_condition():
    assert to_condition(torch.tensor([-1.0, 20.0, 400.0])).tolist() == [0.0, 1.0, 10.0]


def test_mini_depth_takes_any_size():
    network = recipe_fill(MiniDepth(), seed=2).train(False)
    frames = torch.stack([texture(30, 44)] * 5)
    depth = mini_depth(frames, network)
    assert depth.shape == (5, 1, 30, 44) and depth.min() >= 0
    assert_within(depth[0], without_rounding(lambda: mini_depth(frames + 0.0, network)[4]))


def test_authors_sketch_of_any_size(golden, pictures):
    edges, cleaner = pidinet_of(golden), recipe_fill(SketchSimplification((1, *[8] * 22, 1)), seed=1, gain=1.35)
    odd = pictures[:1, :61, :90]
    assert authors_sketch(odd, edges, cleaner).shape == (1, 1, 61, 90)
    assert_recorded(lambda: authors_sketch(pictures + 0.0, edges, None), golden.get("pidinet.edge"))
    recorded = 1 - golden.get("pidinet.edge")
    with torch.no_grad():
        assert_same(lambda: cleaner(recorded), lambda: clean(recorded, cleaner))


# ---------------------------------------------------------------- sketches


@pytest.fixture
def drawing() -> torch.Tensor:
    """A black square on white paper: ``[2, 64, 64, 3]``."""
    page = torch.ones(2, 64, 64, 3)
    page[:, 20:44, 20:44] = 0
    return page


@pytest.mark.parametrize("draw", [canny_edges, pencil_sketch])
def test_sketch_of_a_white_page_is_bright_on_black(drawing, draw):
    lines = draw(drawing)
    assert lines.shape == (2, 64, 64) and lines.dtype == torch.float32
    assert 0 <= lines.min() and lines.max() <= 1
    assert lines.mean() < 0.3 and lines[:, :10].max() == 0
    assert lines[:, 18:46, 18:46].amax(dim=(1, 2)).min() > 0.9
    assert torch.equal(lines[0], lines[1])


# ---------------------------------------------------------------- motion


@pytest.mark.parametrize("move", [(4, 0), (0, -3), (-2, 5), (0, 0)])
@pytest.mark.parametrize("size", [(64, 64), (128, 192)])
def test_motion_of_a_moving_texture(move, size):
    motion = dense_motion(pan(*move, *size))
    assert motion.shape == (5, 2, *size) and not motion[0].any()
    error = (motion[1:] - torch.tensor(move).view(1, 2, 1, 1)).norm(dim=1)
    # What has just come into the picture was nowhere before.
    assert error[:, 8:-8, 8:-8].max() < 0.5 and error.mean() < 0.2


def test_motion_of_a_thing_before_a_still_background():
    ground, thing = texture(64, 64), texture(90, 90)[-20:, -20:].flip(0)
    frames = torch.stack([ground] * 4)
    for i in range(4):
        frames[i, 20:40, 10 + 3 * i : 30 + 3 * i] = thing
    motion = dense_motion(frames)
    for i in range(1, 4):
        inside = motion[i, :, 24:36, 14 + 3 * i : 26 + 3 * i]
        assert (inside - torch.tensor([3.0, 0.0]).view(2, 1, 1)).norm(dim=0).median() < 0.5
        assert motion[i, :, 50:].norm(dim=0).max() < 0.5


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 300)])
def test_motion_of_tiny_clips(size):
    assert not dense_motion(torch.rand(1, *size, 3)).any()
    assert dense_motion(texture(*size)[None].repeat(3, 1, 1, 1)).abs().max() < 0.5
