"""Latents that are no video of this model: refused in words, by our sampler and by core's."""

import pytest
import torch

SHAPES = {
    "no frames": (0, 4, 8, 8),
    "no rows": (3, 4, 0, 8),
    "three dimensions": (4, 8, 8),
    "six dimensions": (1, 1, 4, 3, 8, 8),
}


def sample(host, node, model, conditioning, samples):
    run = {"model": model, "positive": conditioning, "seed": 0, "steps": 1, "cfg": 1.0}
    if node == "VideoLCMSampler":
        return host.run(node, **run, latent={"samples": samples}, strength=1.0, noise_device="cpu")
    run |= {"negative": conditioning, "sampler_name": "lcm", "scheduler": "simple", "denoise": 1.0}
    return host.run(node, **run, latent_image={"samples": samples})


@pytest.mark.parametrize("node", ["VideoLCMSampler", "KSampler"])
@pytest.mark.parametrize("kind", SHAPES)
def test_no_video_is_refused(host, model, prompt, node, kind):
    with pytest.raises(ValueError, match=r"The latent has shape \[.*Use Empty VideoLCM Latent"):
        sample(host, node, model, prompt("a dog"), torch.zeros(SHAPES[kind]))


@pytest.mark.parametrize("node", ["VideoLCMSampler", "KSampler"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(host, model, prompt, node, value):
    with pytest.raises(ValueError, match="is not finite.*the latent or the noise given to the sampler"):
        sample(host, node, model, prompt("a dog"), torch.full((3, 4, 8, 8), value))


@pytest.mark.parametrize("size", [(1, 1), (7, 9)])
def test_odd_sizes_give_a_video(host, model, prompt, size):
    out = sample(host, "VideoLCMSampler", model, prompt("a dog"), torch.zeros(3, 4, *size))[0]["samples"]
    assert out.shape == (3, 4, *size) and out.isfinite().all()
