"""AnimateLCM-SVD: the preset on core's Stable Video Diffusion, at small width, against the authors' loop."""

from pathlib import Path

import pytest
import torch
from precision import assert_recorded, assert_same
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden" / "animatelcm" / "svd_solver.safetensors"
FRAMES = 3
UNET = {
    "image_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 2),
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 32,
    "adm_in_channels": 768,
    "num_classes": "sequential",
    "use_linear_in_transformer": True,
    "use_spatial_transformer": True,
    "use_temporal_attention": True,
    "use_temporal_resblock": True,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "disable_temporal_crossattention": False,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
    "legacy": False,
}
IMAGE = {"motion_bucket_id": 80, "fps": 7, "augmentation_level": 0.02}
BY_HAND = {
    "prediction": "v",
    "zsnr": True,
    "original_steps": 50,
    "beta_schedule": "scaled_linear",
    "timestep_scaling": 10.0,
}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def authors_levels(steps):
    """Their noise levels: Karras's at every floor(40 / steps)-th of 40 places, then none."""
    low, high = 0.002 ** (1 / 7), 700 ** (1 / 7)
    ramp = torch.arange(steps, dtype=torch.float64) * (40 // steps) / 39
    return torch.cat([(high + ramp * (low - high)) ** 7, torch.zeros(1, dtype=torch.float64)])


@pytest.fixture(scope="module")
def svd(host, recipe_weights):
    """Core's SVD MODEL with random weights."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SVD_img2vid(UNET)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.SVD_img2vid(config)
    model.diffusion_model.load_state_dict(recipe_weights(model.diffusion_model, 13))
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@pytest.fixture(scope="module")
def few_steps(host, svd):
    with torch.inference_mode():
        return host.run("VideoLCMSampling", model=svd, **BY_HAND, preset="animatelcm-svd")[0]


@pytest.fixture(scope="module")
def prompt():
    """CONDITIONING of core's SVD_img2vid_Conditioning: an image, and zeros for no image."""
    text, image = random(1, 1, 32, seed=1), random(1, 4, 8, 8, seed=2)
    return tuple([[text * k, {**IMAGE, "concat_latent_image": image * k}]] for k in (1, 0))


def test_tables_are_the_authors(host, few_steps):
    sampling, data = few_steps.get_model_object("model_sampling"), load_file(GOLDEN)
    index, x, output = data["indices"], data["sample"], data["model_output"]
    sigma = data["sigmas"]
    assert len(sampling.sigmas) == 40
    exact = authors_levels(40)[:-1].flip(0)
    torch.testing.assert_close(sampling.sigmas.double(), exact, rtol=2.0**-23, atol=0)
    assert_recorded(lambda: sampling.calculate_denoised(sigma[index], output, x), data["denoised"])
    assert_recorded(lambda: sampling.timestep(sigma[:-1]), data["timesteps"][:-1], copies=8)
    assert_recorded(lambda: sampling.calculate_input(sigma, torch.ones(41)), data["c_in"], copies=8)


@pytest.mark.parametrize("steps", range(1, 21))
def test_levels_are_the_authors(host, few_steps, steps):
    mode = {"mode": "lcm", "original_steps": 0, "strength": 1.0}
    sigmas = host.run("VideoLCMScheduler", model=few_steps, steps=steps, mode=mode)[0]
    torch.testing.assert_close(sigmas.double(), authors_levels(steps), rtol=2.0**-23, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 10, 13, 20, 39, 40])
def test_core_simple_is_the_same(host, few_steps, steps):
    import comfy.samplers

    mode = {"mode": "lcm", "original_steps": 40, "strength": 1.0}
    ours = host.run("VideoLCMScheduler", model=few_steps, steps=steps, mode=mode)[0]
    core = comfy.samplers.calculate_sigmas(few_steps.get_model_object("model_sampling"), "simple", steps)
    assert torch.equal(core, ours)


def test_strength_takes_the_lower_levels(host, few_steps):
    mode = {"mode": "lcm", "original_steps": 0, "strength": 0.5}
    sigmas = host.run("VideoLCMScheduler", model=few_steps, steps=4, mode=mode)[0]
    torch.testing.assert_close(sigmas[:-1].double(), authors_levels(40)[[20, 25, 30, 35]], rtol=2.0**-23, atol=0)


@pytest.mark.parametrize(
    ("steps", "mode", "words"),
    [
        (4, {"mode": "lcm", "original_steps": 50, "strength": 1.0}, "original_steps is 50; allowed: 40"),
        (41, {"mode": "lcm", "original_steps": 0, "strength": 1.0}, "steps is 41; allowed: 1 to 40"),
        (4, {"mode": "ddim"}, "allowed: .*with mode lcm"),
    ],
)
def test_what_has_no_such_level_is_refused(host, few_steps, steps, mode, words):
    with pytest.raises(ValueError, match=words):
        host.run("VideoLCMScheduler", model=few_steps, steps=steps, mode=mode)


@pytest.mark.parametrize("steps", [1, 4])
def test_sampling_with_growing_guidance_equals_the_authors_loop(host, few_steps, prompt, steps):
    """Core's `lcm` and VideoLinearCFGGuidance against their scheduler's and pipeline's steps, one after another."""
    import comfy.k_diffusion.sampling
    import comfy.sample
    import comfy.samplers

    guided = host.run("VideoLinearCFGGuidance", model=few_steps, min_cfg=1.0)[0]
    noise, fresh = random(FRAMES, 4, 8, 8, seed=3), random(3, FRAMES, 4, 8, 8, seed=4)
    mode = {"mode": "lcm", "original_steps": 0, "strength": 1.0}
    sigmas = host.run("VideoLCMScheduler", model=few_steps, steps=steps, mode=mode)[0]
    model = few_steps.model

    def native():
        recorded = iter(fresh)
        options = {"noise_sampler": lambda *_: next(recorded)}
        lcm = comfy.samplers.KSAMPLER(comfy.k_diffusion.sampling.sample_lcm, options)
        zeros = torch.zeros_like(noise)
        out = comfy.sample.sample_custom(guided, noise, 1.2, lcm, sigmas, *prompt, zeros, disable_pbar=True, seed=0)
        return model.process_latent_in(out)

    def predict(x, sigma, conditioning):
        text, options = conditioning[0]
        return model.diffusion_model(
            torch.cat([x / (sigma**2 + 1).sqrt(), options["concat_latent_image"].expand(FRAMES, -1, -1, -1)], dim=1),
            (0.25 * sigma.log()).expand(FRAMES),
            context=text.expand(FRAMES, -1, -1),
            y=model.encode_adm(**IMAGE).expand(FRAMES, -1),
            num_video_frames=FRAMES,
        )

    def authors():
        x = noise * (sigmas[0] ** 2 + 1).sqrt()
        scale = torch.linspace(1.0, 1.2, FRAMES)[:, None, None, None]
        for index, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            cond, uncond = (predict(x, sigma, conditioning) for conditioning in prompt)
            v = uncond + scale * (cond - uncond)
            x = x / (sigma**2 + 1) - v * sigma / (sigma**2 + 1).sqrt()
            if sigma_next > 0:
                x = x + sigma_next * fresh[index]
        return x

    assert_same(native, authors)


def test_our_sampler_is_core_lcm(host, few_steps, prompt):
    guided = host.run("VideoLinearCFGGuidance", model=few_steps, min_cfg=1.0)[0]
    latent, (positive, negative) = {"samples": torch.zeros(FRAMES, 4, 8, 8)}, prompt
    common = {"seed": 5, "steps": 4, "cfg": 1.2, "model": guided, "positive": positive, "negative": negative}
    ours = host.run("VideoLCMSampler", latent=latent, strength=1.0, noise_device="gpu", **common)[0]["samples"]
    settings = {"sampler_name": "lcm", "scheduler": "simple", "denoise": 1.0}
    theirs = host.run("KSampler", latent_image=latent, **settings, **common)[0]["samples"]
    assert torch.equal(ours, theirs) and ours.isfinite().all() and ours.std() > 0


def test_our_sampler_takes_the_preset_for_its_own(host, few_steps, svd, prompt, caplog):
    latent = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
    common = {"seed": 5, "steps": 2, "cfg": 1.0, "positive": prompt[0], "strength": 1.0, "noise_device": "cpu"}
    host.run("VideoLCMSampler", model=few_steps, latent=latent, **common)
    assert not [r for r in caplog.records if "VideoLCM" in r.getMessage()]
    with pytest.raises(ValueError, match="does not have the timesteps .* preset animatelcm-svd"):
        host.run("VideoLCMSampler", model=svd, latent=latent, **common)
    assert len(svd.get_model_object("model_sampling").sigmas) == 1000  # the MODEL given stays as it is
