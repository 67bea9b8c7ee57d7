"""Match Colours: AnimateLCM's alignment on IMAGE batches."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden" / "animatelcm" / "hsv_align.safetensors"


@pytest.fixture
def match(host):
    def run(images, reference, hue=0.03, saturation=1.0, value=1.0):
        return host.run(
            "VideoLCMMatchColours", images=images, reference=reference, hue=hue, saturation=saturation, value=value
        )[0]

    return run


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def levels(image):
    return (image * 255).round().byte()


def test_equals_the_authors(match):
    data = {name: image.flip(-1).float() / 255 for name, image in load_file(GOLDEN).items()}  # they read BGR
    matched = match(data["target_bgr"][None], data["src_bgr"][None])
    assert torch.equal(levels(matched[0]), levels(data["out_bgr"]))


def test_long_videos_are_matched_frame_by_frame(match):
    """More frames than one chunk, an odd rest, another size of reference, of which the first frame counts."""
    images, reference = noise(19, 9, 13, 3), noise(2, 30, 7, 3, seed=1)
    matched = match(images, reference)
    assert matched.shape == images.shape and 0 <= matched.min() and matched.max() <= 1
    for index in (0, 7, 8, 18):
        assert torch.equal(match(images[index : index + 1], reference[:1])[0], matched[index])


def test_without_strength_only_8_bits_remain(match):
    """Through HSV and back a colour is off by its steps; greys are exact."""
    greys = (torch.arange(256) / 255)[None, :, None, None].expand(1, 256, 4, 3)
    assert torch.equal(levels(match(greys, noise(1, 4, 4, 3), 0.0, 0.0, 0.0)), levels(greys))


def test_brightness_follows_the_reference(match):
    dark, bright = noise(3, 16, 16, 3) * 0.3, noise(1, 16, 16, 3) * 0.3 + 0.6
    for value in (0.0, 0.5, 1.0):
        matched = match(dark, bright, 0.0, 0.0, value)
        wanted = (1 - value) * levels(dark).amax(-1).float().mean((1, 2)) + value * levels(bright).amax(
            -1
        ).float().mean()
        found = levels(matched).amax(-1).float().mean((1, 2))
        assert (wanted - found).abs().max() <= 2.0  # of 255: cut to 8 bits before, after and once more


def test_alpha_is_kept_and_inputs_stay_as_they_are(match):
    images, reference = noise(2, 8, 8, 4), noise(1, 8, 8, 4, seed=1)
    before = images.clone(), reference.clone()
    matched = match(images, reference)
    assert torch.equal(matched[..., 3], images[..., 3])
    assert torch.equal(matched[..., :3], match(images[..., :3], reference[..., :3]))
    assert torch.equal(images, before[0]) and torch.equal(reference, before[1])


@pytest.mark.parametrize("bad", ["images", "reference"])
def test_what_is_wrong_names_its_input(match, bad):
    inputs = {"images": noise(2, 8, 8, 3), "reference": noise(1, 8, 8, 3)} | {bad: torch.zeros(0, 8, 8, 3)}
    with pytest.raises(ValueError, match=f"Match Colours, {bad}: .* has no frame .*; allowed: 1 or more"):
        match(**inputs)


def test_progress_and_interrupt(match, monkeypatch):
    import comfy.model_management
    import comfy.utils

    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: seen.append((value, total)))
    match(noise(20, 4, 4, 3), noise(1, 4, 4, 3))
    assert seen[0] == (8, 20) and seen[-1] == (20, 20)  # the host leaves out updates that come too fast
    seen.clear()
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        match(noise(20, 4, 4, 3), noise(1, 4, 4, 3))
    assert not seen
