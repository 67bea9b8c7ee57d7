"""MCM and AnimateLCM as presets, in the host: the timesteps and the four steps of diffusers' LCMScheduler."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "mcm"
RECORDED = load_file(GOLDEN / "lcm_sampling.safetensors")
TIMESTEPS = json.loads((GOLDEN / "lcm_timesteps.json").read_text())["values"]
GRIDS = {"mcm": 50, "mcm-animatediff": 50, "animatelcm-50": 50, "animatelcm": 100, "animatelcm-i2v": 200}
BY_HAND = {"prediction": "v", "zsnr": True, "original_steps": 50, "beta_schedule": "scaled_linear"}
BETAS = {
    "scaled_linear": np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
    "linear": np.linspace(0.00085, 0.012, 1000),
}
SCHEDULES = {"mcm": "scaled_linear", "mcm-animatediff": "linear", "animatelcm": "linear", "animatelcm-50": "linear"}


@pytest.fixture
def sampled_as(host, teacher):
    """The tiny MODEL with a preset."""

    def run(preset):
        return host.run("VideoLCMSampling", model=teacher, **BY_HAND, timestep_scaling=10.0, preset=preset)[0]

    return run


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("preset", GRIDS)
@pytest.mark.parametrize("scheduler", ["core's simple", "VideoLCM Scheduler"])
def test_timesteps_are_the_recorded_ones(host, sampled_as, preset, steps, scheduler):
    import comfy.samplers

    model = sampled_as(preset)
    sampling = model.get_model_object("model_sampling")
    if scheduler == "core's simple":
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    else:
        mode = {"mode": "lcm", "original_steps": 0, "strength": 1.0}
        sigmas = host.run("VideoLCMScheduler", model=model, steps=steps, mode=mode)[0]
    assert sampling.timestep(sigmas[:-1]).tolist() == TIMESTEPS[f"orig{GRIDS[preset]}_steps{steps}"]


@pytest.mark.parametrize("preset", SCHEDULES)
def test_noise_levels_are_those_of_the_betas(sampled_as, preset):
    kept = np.cumprod(1 - BETAS[SCHEDULES[preset]])
    sampling = sampled_as(preset).get_model_object("model_sampling")
    wanted = ((1 - kept) / kept) ** 0.5
    np.testing.assert_allclose(sampling.sigmas.numpy(), wanted[sampling.grid.numpy()], rtol=1e-6)


@pytest.fixture
def four_steps(host, sampled_as, monkeypatch):
    """The recorded run of MCM's ModelScope student: outputs of the network and noise are the recorded ones."""
    import comfy.sample
    import comfy.samplers

    ours = host.pack("nodes.sampling.sigmas")

    def frames(name):
        return RECORDED[f"modelscope.{name}"][0].movedim(1, 0)

    def run(preset):
        model = sampled_as(preset)
        asked, outputs, noise = [], iter(range(4)), iter(range(3))

        def network(x, timesteps, *args, **kwargs):
            asked.append(int(timesteps[0]))
            return frames(f"eps{next(outputs)}").to(x)

        monkeypatch.setattr(model.model.diffusion_model, "forward", network)
        monkeypatch.setattr(ours, "step_noise", lambda *_: lambda *_: frames(f"noise{next(noise)}"))
        text, zeros = [[torch.zeros(1, 4, 32), {}]], torch.zeros_like(frames("x0"))
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
        out = comfy.sample.sample_custom(
            model, frames("x0"), 1.0, ours.make_sampler(), sigmas, text, text, zeros, disable_pbar=True, seed=0
        )
        return model.model.process_latent_in(out), asked

    return run


def test_four_steps_of_mcm_are_the_recorded_ones(four_steps):
    found, asked = four_steps("mcm")
    assert asked == RECORDED["modelscope.timesteps"].tolist()
    wanted = RECORDED["modelscope.denoised3"][0].movedim(1, 0)
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("preset", ["mcm-animatediff", "videolcm"])
def test_other_presets_are_other_runs(four_steps, preset):
    found, _ = four_steps(preset)
    wanted = RECORDED["modelscope.denoised3"][0].movedim(1, 0)
    assert float((found - wanted).abs().max()) > 0.1 * float(wanted.std())
