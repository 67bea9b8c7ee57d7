"""The graph of an AnimateDiff-Evolved user here: the same files where they lie, LoRA, cfg, `lcm` with `sgm_uniform`.

`sgm_uniform` meets the timesteps of the model's grid with noise levels up to 4 % beside them. How much that matters is
measured on a network in closed form, since random weights predict no noise.
"""

import pytest
import torch
from precision import distance

EVOLVED = "animatediff-evolved"
CORES_LCM = "core's ModelSamplingDiscrete lcm"
LORA = "AnimateLCM_sd15_t2v_lora.safetensors"
MODULE = "AnimateLCM_sd15_t2v.ckpt"


@pytest.fixture(scope="module")
def files(host, golden_weights, write_model):
    """What AnimateDiff-Evolved's folders hold: the module as a pickle with positions left out, and the LoRA."""
    torch.save({"state_dict": golden_weights("motion")}, host.base / "models" / "animatediff_models" / MODULE)
    return MODULE, write_model(LORA, golden_weights("lcm_lora"), None, folder="loras")


@pytest.fixture
def told(host, monkeypatch):
    messages = []
    monkeypatch.setattr(host.pack("nodes.host"), "tell", lambda *texts: messages.extend(texts))
    return messages


@pytest.fixture
def queue(host, files, sd15_checkpoint, ksampler):
    """``queue(sampling, strength, scheduler)``: the user's graph from the checkpoint to the latent."""
    model, clip, _ = sd15_checkpoint
    positive, negative = (host.run("CLIPTextEncode", clip=clip, text=text)[0] for text in ("a dog runs", "blurry"))

    def run(sampling, strength=0.8, scheduler="sgm_uniform", **options):
        motion = host.run("VideoLCMMotionLoader", motion_name=files[0], weight_dtype="fp32")[0]
        with_lora = host.run("LoraLoaderModelOnly", model=model, lora_name=files[1], strength_model=strength)[0]
        inputs = {"model": with_lora, "motion_module": motion, "sampling": sampling, "group_norm": "auto", "scale": 1.0}
        animated = host.run("VideoLCMMotionApply", **inputs)[0]
        latent = host.run("EmptyLatentImage", width=64, height=64, batch_size=16)[0]
        settings = {"steps": 4, "cfg": 1.5, "scheduler": scheduler} | options
        return ksampler(animated, positive, latent, negative, **settings)

    return run


@pytest.mark.parametrize(
    ("sampling", "strength", "cfg"), [("auto", 0.8, 1.5), (EVOLVED, 0.8, 1.5), (EVOLVED, 1.0, 2.0), ("auto", 1.0, 1.0)]
)
def test_the_users_graph_runs_with_at_most_a_note(queue, told, sampling, strength, cfg):
    video = queue(sampling, strength, cfg=cfg)
    assert video.shape == (16, 4, 8, 8) and video.isfinite().all()
    assert told == []  # nothing that would worry them
    exact = queue(sampling, strength, "simple", cfg=cfg)
    assert 0 < distance(video, exact) < 0.05 * exact.std()  # measured: 1.7 % auto, 2.3 % as AnimateDiff-Evolved


class Gaussian(torch.nn.Module):
    """The exact noise prediction for frames of spread 0.6 around a mean, trained on AnimateLCM's betas."""

    def __init__(self, host, mean):
        super().__init__()
        self.mean, self.dtype = mean, torch.float32
        presets = host.pack("nodes.model.presets").PRESETS
        self.trained = host.pack("nodes.model.model_sampling").VideoLCMModelSampling(presets["animatelcm"])

    def forward(self, x, timesteps, **_):
        level = self.trained.sigma_at(timesteps.long()).view(-1, 1, 1, 1)
        alpha, sigma = 1 / (1 + level**2).sqrt(), level / (1 + level**2).sqrt()
        return sigma * (x - alpha * self.mean) / (0.36 * alpha**2 + sigma**2)


@pytest.fixture
def sampled(host, sd15, sample):
    """``sampled(preset, scheduler, steps)``: core's `lcm` on a MODEL with that network."""
    generator = torch.Generator().manual_seed(1)
    mean, noise, *steps_noise = (torch.randn(1, 4, 16, 8, 8, generator=generator) for _ in range(12))
    by_hand = {"prediction": "v", "zsnr": True, "original_steps": 50, "beta_schedule": "scaled_linear"}

    def run(preset, scheduler, steps):
        if preset == CORES_LCM:
            model = host.run("ModelSamplingDiscrete", model=sd15, sampling="lcm", zsnr=False)[0]
        else:
            model = host.run("VideoLCMSampling", model=sd15, **by_hand, timestep_scaling=10.0, preset=preset)[0]
        model.add_object_patch("diffusion_model", Gaussian(host, mean[0].movedim(1, 0)))
        return sample(model, noise, steps_noise, [[torch.zeros(1, 7, 48), {}]], steps=steps, scheduler=scheduler)

    return run


@pytest.mark.parametrize("steps", [4, 6, 8])
@pytest.mark.parametrize("preset", ["animatelcm", EVOLVED])
def test_their_scheduler_is_near_the_grid_and_others_are_not(sampled, preset, steps):
    exact = sampled(preset, "simple", steps)

    def off(scheduler):
        return ((sampled(preset, scheduler, steps) - exact).std() / exact.std()).item()

    theirs = off("sgm_uniform")
    assert 0 < theirs < 0.02  # measured: 0.4 to 1.3 %
    assert all(off(scheduler) > 10 * theirs for scheduler in ("normal", "karras", "ddim_uniform"))


# The levels between timesteps, which only sgm_uniform meets, are interpolated by core and by us over different tables.
@pytest.mark.parametrize(("scheduler", "bound"), [("simple", 5e-6), ("sgm_uniform", 1e-3)])
def test_the_preset_is_what_their_lcm_schedule_does(sampled, scheduler, bound):
    """Theirs is core's own "lcm", on Stable Diffusion's betas; the authors' betas give another video."""
    theirs, ours, authors = (sampled(name, scheduler, 4) for name in (CORES_LCM, EVOLVED, "animatelcm"))
    assert distance(ours, theirs) < bound * theirs.std()
    assert (authors - theirs).std() > 0.1 * theirs.std()
