from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from videolcm_core.media.colours import match_colours, to_levels

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "animatelcm" / "hsv_align.safetensors"


def noise(*shape, seed=0, low=0, high=256):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (*shape, 3), generator=generator, dtype=torch.uint8)


def hsv(image):
    cv2 = pytest.importorskip("cv2")
    return cv2.cvtColor(image.numpy(), cv2.COLOR_RGB2HSV).astype(float)


def test_equals_the_authors():
    data = {name: image.flip(-1) for name, image in load_file(GOLDEN).items()}  # they read BGR
    matched = match_colours(data["target_bgr"][None], data["src_bgr"])
    assert torch.equal(matched[0], data["out_bgr"])
    assert not torch.equal(matched[0], data["target_bgr"])


def test_every_frame_is_matched_by_itself():
    frames, reference = noise(5, 12, 10), noise(7, 30, seed=1, low=90)
    together = match_colours(frames, reference)
    for frame, matched in zip(frames, together, strict=True):
        assert torch.equal(match_colours(frame[None], reference)[0], matched)


def test_means_arrive_at_the_reference():
    frames, reference = noise(2, 32, 32, low=90, high=160), noise(8, 8, seed=1, low=100, high=170)
    wanted = hsv(reference).mean((0, 1))
    for frame, matched in zip(frames, match_colours(frames, reference), strict=True):
        before, after = hsv(frame).mean((0, 1)), hsv(matched).mean((0, 1))
        # Value is cut to 8 bits: up to one below. Saturation passes through RGB too and is off by its steps.
        assert -1 <= after[2] - wanted[2] <= 0
        assert abs(after[1] - wanted[1]) < abs(before[1] - wanted[1])


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_each_strength_has_its_channel(channel):
    cv2 = pytest.importorskip("cv2")
    frame, reference = noise(1, 16, 16, low=60, high=200), noise(16, 16, seed=1, low=120)
    strengths = [0.0, 0.0, 0.0]
    strengths[channel] = 0.5
    before, wanted = hsv(frame[0]), hsv(reference)
    before[..., channel] += 0.5 * (wanted[..., channel].mean() - before[..., channel].mean())
    expected = cv2.cvtColor(np.clip(before, 0, (180, 255, 255)).astype(np.uint8), cv2.COLOR_HSV2RGB)
    assert np.array_equal(match_colours(frame, reference, *strengths)[0].numpy(), expected)


def test_black_and_grey_stay_finite_and_in_range():
    for value in (0, 128, 255):
        plain = torch.full((1, 4, 4, 3), value, dtype=torch.uint8)
        assert match_colours(plain, noise(4, 4)).dtype == torch.uint8
        assert torch.equal(match_colours(plain, plain[0]), plain)


def test_inputs_stay_as_they_are():
    frames, reference = noise(2, 6, 6), noise(6, 6, seed=1)
    copies = frames.clone(), reference.clone()
    match_colours(frames.flip(1), reference.permute(1, 0, 2))  # views, not contiguous
    assert torch.equal(frames, copies[0]) and torch.equal(reference, copies[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_of_8_bits_come_back(dtype):
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_levels(levels.to(dtype) / 255), levels)
    assert to_levels(torch.tensor([-1.0, 2.0, 0.9999, 0.5])).tolist() == [0, 255, 254, 127]
