"""Sharpening the decoder: what may change, and what every diffusion model relies on staying as it is."""

import argparse

import numpy as np
import pytest
import torch

from training.engine.loop import step_generator
from training.metrics.lpips import Lpips
from training.mini.decoder import PatchDiscriminator, SharpenTask, hinge
from videolcm_core.networks.autoencoder import TinyAutoencoder


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)


def task(frames, **changes):
    torch.manual_seed(0)
    values = {"steps": 4, "batch": 2, "learning_rate": 1e-3, "latent_noise": 0.04, "perceptual": 0.5}
    values |= {"adversarial": 0.1, "adversarial_from": 1} | changes
    start = TinyAutoencoder().channels_last()
    start.start_light()
    return SharpenTask(frames, start, Lpips().requires_grad_(False), argparse.Namespace(**values))


def test_only_the_decoder_learns_and_the_latents_stay(frames):
    made = task(frames)
    before = {k: v.clone() for k, v in made.model.state_dict().items()}
    pixels = torch.rand(2, 3, 16, 16)
    latents = made.model.encode(pixels)
    for index in range(2):
        values = made.step(index, step_generator(0, index))
    moved = {k for k, v in made.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith("taesd_decoder") for k in moved)
    assert "taesd_decoder.18.conv.4.weight" in moved  # the block at full resolution came in
    torch.testing.assert_close(made.model.encode(pixels), latents, atol=0, rtol=0)
    assert all(np.isfinite(v) for v in values.values())


def test_growing_the_decoder_does_not_change_what_it_decodes(frames):
    start = TinyAutoencoder()
    start.start_light()
    latents = torch.randn(1, 4, 2, 2)
    before = start.decode(latents)
    start.grow_decoder()
    torch.testing.assert_close(start.decode(latents), before, atol=1e-6, rtol=0)


def test_resumes_to_the_same_numbers(frames):
    whole, first, second = task(frames), task(frames), task(frames)
    for index in range(3):
        whole.step(index, step_generator(0, index))
    first.step(0, step_generator(0, 0))
    second.load_state(first.state())
    for index in (1, 2):
        second.step(index, step_generator(0, index))
    for key, value in whole.average.state_dict().items():
        torch.testing.assert_close(second.average.state_dict()[key], value, atol=0, rtol=0)


def test_the_discriminator_is_rewarded_for_telling_them_apart():
    real, decoded = torch.full((2, 1, 2, 2), 2.0), torch.full((2, 1, 2, 2), -2.0)
    assert hinge(real, decoded) == 0 and hinge(decoded, real) == 6
    assert PatchDiscriminator()(torch.rand(2, 3, 64, 64)).shape == (2, 1, 8, 8)
