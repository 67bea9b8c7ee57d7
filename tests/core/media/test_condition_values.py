"""Pictures of conditions and back."""

import pytest
import torch
from precision import UNIT, assert_rounded, assert_same, distance

from videolcm_core.annotators.sketch import canny_edges, pencil_sketch
from videolcm_core.media import condition_values as values
from videolcm_core.networks.annotators.mini_depth import MiniDepth


def test_depth_comes_back_and_near_stays_bright():
    depth = torch.rand(3, 1, 8, 8) * 4
    image = values.depth_to_image(depth)
    assert image.shape == (3, 8, 8, 3)
    # There and back: a division and a product, each rounded by UNIT of the value, and the rounded number between.
    assert distance(values.depth_from_image(image), depth) <= 4 * UNIT * depth.max()
    assert values.depth_from_image(torch.ones(1, 2, 2, 3) * 7).max() == values.DEPTH_MAX


def test_motion_comes_back():
    motion = torch.randn(2, 2, 4, 4) * 10
    # Grey 0.5 is no motion: rounded as a number near 0.5, the way back multiplies that by the range of motions.
    exact = assert_rounded(lambda: values.motion_from_image(values.motion_to_image(motion)))
    assert distance(motion, exact.values[""]) <= exact.bound()
    assert (values.motion_to_image(torch.zeros(1, 2, 2, 2)) == 0.5).all()


def test_masked_is_colour_where_visible_then_visibility():
    rgb, hole = torch.rand(2, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    hole[..., :2] = 1
    masked = values.masked_from_frames(rgb, hole)
    assert masked.shape == (2, 4, 4, 4)
    assert not masked[..., :2].any() and (masked[:, 3, :, 2:] == 1).all()
    assert_same(lambda: values.masked_from_frames(rgb, hole)[:, :3, :, 2:], lambda: rgb[..., 2:].clone() * 2 - 1)


@pytest.mark.parametrize("draw", [canny_edges, pencil_sketch])
def test_sketches_are_bright_lines_on_black(draw):
    frames = torch.full((2, 32, 32, 3), 0.8)
    frames[:, 8:24, 8:24] = 0.2
    lines = draw(frames)
    assert lines.shape == (2, 32, 32) and 0 <= lines.min() and lines.max() <= 1
    edge = lines[:, 6:26, 6:26].clone()
    edge[:, 6:-6, 6:-6] = 0
    assert edge.max() > 0.5 and lines[:, :3].max() < 0.05 and lines[:, 14:18, 14:18].max() < 0.05


def test_canny_refuses_crossed_thresholds():
    with pytest.raises(ValueError, match="low <= high"):
        canny_edges(torch.rand(1, 8, 8, 3), low=200, high=100)


def test_mini_depth_keeps_the_size_and_refuses_odd_ones():
    network = MiniDepth().requires_grad_(False)
    depth, logits = network(torch.rand(2, 3, 24, 40))
    assert depth.shape == logits.shape == (2, 1, 24, 40) and depth.min() >= 0
    with pytest.raises(ValueError, match="multiples of 8"):
        network(torch.rand(1, 3, 20, 24))
