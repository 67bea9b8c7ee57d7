"""Our sampling nodes: timesteps, noise, laziness, errors, and the warning about unsuitable settings."""

import logging
from functools import partial

import pytest
import torch
from precision import UNIT, assert_differ, assert_rounded, distance


def lcm_mode(original_steps=50, strength=1.0):
    return {"mode": "lcm", "original_steps": original_steps, "strength": strength}


def sigmas(host, model, steps, mode):
    return host.run("VideoLCMScheduler", model=model, steps=steps, mode=mode)[0]


def sample(host, model, positive, latent, **options):
    settings = {"seed": 1, "steps": 2, "cfg": 1.0, "strength": 1.0, "noise_device": "cpu"} | options
    return host.run("VideoLCMSampler", model=model, positive=positive, latent=latent, **settings)[0]["samples"]


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [(1, [999]), (2, [999, 499]), (4, [999, 759, 499, 259]), (8, [999, 879, 759, 639, 499, 379, 259, 139])],
)
def test_lcm_timesteps(host, model, steps, timesteps):
    sampling = model.get_model_object("model_sampling")
    levels = sigmas(host, model, steps, lcm_mode())
    assert levels[-1] == 0 and sampling.timestep(levels[:-1]).tolist() == timesteps


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 8, 16, 25, 50])
def test_core_simple_is_the_same_grid(host, model, steps):
    import comfy.samplers

    core = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    assert torch.equal(core, sigmas(host, model, steps, lcm_mode()))


def test_strength_is_that_of_diffusers(host, model):
    """Half of the grid, then the steps from it: 499, 379, 259, 139."""
    timesteps = model.get_model_object("model_sampling").timestep(sigmas(host, model, 4, lcm_mode(strength=0.5))[:-1])
    assert timesteps.tolist() == [499, 379, 259, 139]


def test_ddim_timesteps(host, teacher):
    levels = sigmas(host, teacher, 50, {"mode": "ddim"})
    timesteps = teacher.get_model_object("model_sampling").timestep(levels)
    assert timesteps.tolist() == [*range(981, 0, -20), 0] and levels[-1] > 0


SCHEDULERS = ("normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta")
# Core's kl_optimal divides by its number of steps less one: with any model it has no single step.
RUNS = [*((name, steps) for name in SCHEDULERS for steps in (1, 4)), ("kl_optimal", 2), ("kl_optimal", 4)]


@pytest.mark.parametrize(("scheduler", "steps"), RUNS)
def test_every_core_scheduler_stays_finite_and_is_snapped(model, prompt, latent, ksampler, scheduler, steps):
    out = ksampler(model, prompt("a dog"), latent(2), scheduler=scheduler, steps=steps)
    assert out.isfinite().all()


def test_sigma_and_timestep_are_inverse(model, teacher):
    for patcher in (model, teacher):
        sampling = patcher.get_model_object("model_sampling")
        assert torch.equal(sampling.timestep(sampling.sigma(sampling.grid)), sampling.grid)
        assert sampling.sigma_max > sampling.sigma_min > 0
        assert sampling.percent_to_sigma(0.0) > 1e8 and sampling.percent_to_sigma(1.0) == 0


@pytest.mark.parametrize("prediction", ["v", "eps", "x_0"])
@pytest.mark.parametrize("zsnr", [True, False])
def test_denoised_is_the_consistency_function_of_the_core(host, prediction, zsnr):
    ours = host.pack("nodes.model.model_sampling")
    core = {name: host.pack(f"videolcm_core.diffusion.{name}") for name in ("schedule", "prediction", "consistency")}
    sampling = ours.VideoLCMModelSampling(ours.SamplingOptions(prediction=prediction, zero_terminal_snr=zsnr))
    schedule = core["schedule"].Schedule.create(zero_terminal_snr=zsnr, dtype=torch.float64)
    generator = torch.manual_seed(0)
    for t in (19, 499, 979, 999):
        x_t, output = (torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
        alpha, sigma_t = schedule.alpha_t(torch.tensor(t)), schedule.sigma_t(torch.tensor(t))
        if prediction == "eps" and alpha == 0:
            continue
        sigma = sampling.sigma_at(torch.tensor([t, t]))
        x_0 = core["prediction"].to_x_0(prediction, output, x_t, alpha, sigma_t)
        expected = core["consistency"].consistency_function(x_0, x_t, torch.tensor(t))
        # At the host's scale the sample is x_t / alpha, with its own stand-in for alpha 0.
        host_x = x_t * (1 + sigma[0].double() ** 2).sqrt()
        # Of float32 numbers the same is made in float64, but for the float32 table of sigmas. An error of UNIT in sigma
        # is one of up to UNIT in alpha and sigma_t each, of which eps divides by alpha.
        narrow_x, narrow = host_x.float(), output.float()
        exact = assert_rounded(partial(sampling.calculate_denoised, sigma, narrow, narrow_x), copies=4)
        largest = max(x_t.abs().max(), output.abs().max()).item() / (alpha.item() if prediction == "eps" else 1.0)
        assert distance(exact.values[""], expected) <= exact.bound() + 4 * UNIT * largest


ALL_STEPS = range(1, 1001)


@pytest.mark.parametrize("zsnr", [True, False])
@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear"])
def test_every_grid_has_the_schedule_of_the_core(host, zsnr, beta_schedule):
    """A grid that does not divide 1000 ends before timestep 999, where there still is signal: 30 steps of 33 at 989."""
    ours = host.pack("nodes.model.model_sampling")
    schedules = host.pack("videolcm_core.diffusion.schedule")
    exact = schedules.Schedule.create(beta_schedule, zsnr, dtype=torch.float64)
    for steps in ALL_STEPS:
        options = ours.SamplingOptions(original_steps=steps, zero_terminal_snr=zsnr, beta_schedule=beta_schedule)
        sampling = ours.VideoLCMModelSampling(options)
        t = schedules.distillation_grid(steps)[0]
        assert torch.equal(sampling.grid, t)
        alpha, sigma_t = sampling._alpha_sigma(sampling.sigmas)
        # sigma is rounded to float32 once (half a unit in 2**24) and goes through a square, a root and a quotient.
        torch.testing.assert_close(alpha.double(), exact.alpha_t(t), rtol=8 * 2.0**-24, atol=0, msg=f"{steps} steps")
        torch.testing.assert_close(sigma_t.double(), exact.sigma_t(t), rtol=8 * 2.0**-24, atol=0, msg=f"{steps} steps")
        assert bool(alpha[-1] == 0) == (zsnr and int(t[-1]) == 999)
        assert torch.equal(sampling.timestep(sampling.sigmas), t)


@pytest.mark.parametrize("steps", [1, 3, 7, 30, 48, 50, 333, 334, 500, 501, 999, 1000])
@pytest.mark.parametrize("zsnr", [True, False])
def test_the_largest_noise_level_of_every_grid_is_denoised_as_in_the_core(host, steps, zsnr):
    """Also where the sampler's first step is not pure noise."""
    ours = host.pack("nodes.model.model_sampling")
    core = {name: host.pack(f"videolcm_core.diffusion.{name}") for name in ("schedule", "prediction", "consistency")}
    sampling = ours.VideoLCMModelSampling(ours.SamplingOptions(original_steps=steps, zero_terminal_snr=zsnr))
    t = core["schedule"].lcm_timesteps(1, steps)
    assert torch.equal(sampling.timestep(sampling.sigma_max[None]), t)
    schedule = core["schedule"].Schedule.create(zero_terminal_snr=zsnr, dtype=torch.float64)
    x_t, output = (torch.randn(2, 4, 3, 3, generator=torch.manual_seed(n), dtype=torch.float64) for n in (0, 1))
    x_0 = core["prediction"].to_x_0("v", output, x_t, schedule.alpha_t(t), schedule.sigma_t(t))
    expected = core["consistency"].consistency_function(x_0, x_t, t)
    sigma = sampling.sigma_max.expand(2)
    host_x = x_t * (1 + sigma[0].double() ** 2).sqrt()
    found = sampling.calculate_denoised(sigma, output.float(), host_x.float())
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


def test_terminal_timestep_ignores_the_noise(host):
    """With zero terminal SNR the first prediction is -v exactly, whatever the sample."""
    sampling = host.pack("nodes.model.model_sampling").VideoLCMModelSampling()
    output = torch.randn(2, 4, 3, 3, generator=torch.manual_seed(0))
    sigma = sampling.sigma_max.expand(2)
    found = sampling.calculate_denoised(sigma, output, 4518 * torch.ones(2, 4, 3, 3))
    # c_out is 1 - 1.25e-9 and c_skip 2.5e-9 there: -v but for a rounding or two, and a trace of a sample near 1.
    assert distance(found, -output) <= 2 * UNIT * output.abs().max() + 2.6e-9


def test_cpu_step_noise_depends_on_the_seed_alone(host, model, prompt, latent):
    size = latent()
    first = sample(host, model, prompt("a dog"), size, steps=3)
    torch.manual_seed(12345)
    torch.rand(7)
    assert torch.equal(sample(host, model, prompt("a dog"), size, steps=3), first)
    noise = host.pack("nodes.sampling.sigmas").step_noise
    x = torch.zeros(3, 4, 8, 8)
    draws = [noise(x.to(dtype), 5, "cpu")(None, None) for dtype in (torch.float32, torch.float64)]
    assert torch.equal(draws[0], draws[1].float()) and draws[1].dtype == torch.float64


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_noise_without_a_seed_leaves_torchs_own_seed_alone(host, device):
    """The rest of the process goes on with the numbers it would have had; the noise is drawn from them."""
    noise, x = host.pack("nodes.sampling.sigmas").step_noise, torch.zeros(1, 4, 2, 2, 2)
    before = torch.initial_seed()
    try:
        drawn = []
        for _ in range(2):
            torch.manual_seed(5)
            source = noise(x, None, device)
            drawn.append([source(None, None), source(None, None)])
            assert torch.initial_seed() == 5
    finally:
        torch.manual_seed(before)
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(*drawn[0])


def test_gpu_noise_is_the_hosts(host, model, prompt, latent, ksampler):
    assert torch.equal(
        sample(host, model, prompt("a dog"), latent(), noise_device="gpu"), ksampler(model, prompt("a dog"), latent())
    )


def test_step_noise_options(host, model, prompt, latent):
    def run(**options):
        sampler = host.run(
            "SamplerVideoLCM", **({"noise_device": "cpu", "s_noise": 1.0, "noise_clip_std": 0.0} | options)
        )[0]
        return host.run(
            "SamplerCustom",
            model=model,
            add_noise=True,
            noise_seed=1,
            cfg=1.0,
            positive=prompt("a dog"),
            negative=prompt(""),
            sampler=sampler,
            sigmas=sigmas(host, model, 2, lcm_mode()),
            latent_image=latent(),
        )[0]["samples"]

    base = run()
    assert not torch.equal(run(s_noise=0.5), base) and not torch.equal(run(noise_clip_std=1.0), base)
    assert torch.equal(run(noise_clip_std=10.0), base)


def test_negative_prompt_is_asked_for_only_with_guidance(host):
    node = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMSampler"]
    assert node.check_lazy_status(cfg=1.0, negative=None, model=None, steps=4) == []
    assert node.check_lazy_status(cfg=2.0, negative=None, model=None, steps=4) == ["negative"]
    assert node.check_lazy_status(cfg=2.0, negative=[1], model=None, steps=4) == []
    assert node.check_lazy_status(cfg=2.0, model=None, steps=4) == []  # not linked: nothing to ask for


def test_guidance_without_a_negative_prompt_is_an_error(host, model, prompt, latent):
    with pytest.raises(ValueError, match=r"cfg is 2.0 and no negative prompt is connected.*set cfg to 1"):
        sample(host, model, prompt("a dog"), latent(), cfg=2.0)


def test_guidance_with_a_negative_prompt(host, model, prompt, latent):
    out = sample(host, model, prompt("a dog"), latent(), cfg=2.0, negative=prompt("a car"))
    assert_differ(lambda: sample(host, model, prompt("a dog"), latent()), out)


@pytest.mark.parametrize(
    ("steps", "strength", "allowed"), [(0, 1.0, "1 to 50"), (51, 1.0, "1 to 50"), (4, 0.05, "1 to 2")]
)
def test_steps_outside_the_grid(host, model, prompt, latent, steps, strength, allowed):
    with pytest.raises(ValueError, match=f"steps is {steps}; allowed: {allowed}"):
        sample(host, model, prompt("a dog"), latent(), steps=steps, strength=strength)


@pytest.mark.parametrize(
    ("width", "height", "frames", "words"),
    [(65, 64, 16, "width is 65.*multiples of 8.*Use 64"), (64, 100, 16, "height is 100"), (64, 64, 0, "frames is 0")],
)
def test_empty_latent_sizes(host, width, height, frames, words):
    with pytest.raises(ValueError, match=words):
        host.run("VideoLCMEmptyLatent", width=width, height=height, frames=frames)


@pytest.mark.parametrize("frames", [1, 200])
def test_unusual_lengths(host, model, prompt, latent, frames):
    assert sample(host, model, prompt("a dog"), latent(frames), steps=1).shape == (frames, 4, 8, 8)


def test_sizes_the_network_does_not_halve(host, model, prompt, latent):
    assert sample(host, model, prompt("a dog"), latent(2, 72, 88)).shape == (2, 4, 11, 9)


@pytest.mark.parametrize("text", ["", "dog " * 1250])
def test_unusual_prompts(host, model, prompt, latent, text):
    assert sample(host, model, prompt(text), latent(2)).isfinite().all()


def test_latents_of_other_video_models(host, model, prompt, ksampler):
    """Empty latents of 16 channels and five dimensions: our sampler makes one video of them, core's warns."""
    other = host.run("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1)[0]
    assert other["samples"].shape == (1, 16, 3, 8, 8)
    assert sample(host, model, prompt("a dog"), other).shape == (3, 4, 8, 8)
    assert ksampler(model, prompt("a dog"), other).shape == (1, 4, 3, 8, 8)


def test_latents_that_do_not_fit(host, model, prompt, ksampler):
    filled = {"samples": torch.ones(3, 16, 8, 8)}
    for run in (lambda: sample(host, model, prompt("a dog"), filled), lambda: ksampler(model, prompt("a dog"), filled)):
        with pytest.raises(ValueError, match=r"shape \[3, 16, 8, 8\].*\[frames, 4, height / 8.*Empty VideoLCM Latent"):
            run()
    with pytest.raises(ValueError, match=r"2 videos.*one video a run"):
        sample(host, model, prompt("a dog"), {"samples": torch.zeros(2, 4, 3, 8, 8)})


def test_wrong_text_encoder(host, model, latent):
    foreign = [[torch.zeros(1, 77, 768), {}]]
    with pytest.raises(ValueError, match=r"encoded 768 wide; this VideoLCM model takes 32.*CLIP output"):
        sample(host, model, foreign, latent())


def test_inputs_stay_as_they_were(host, model, prompt, latent):
    given, text = latent(), prompt("a dog")
    given["samples"] = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(0))
    before, words = given["samples"].clone(), text[0][0].clone()
    weights = {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    sampling = model.get_model_object("model_sampling")
    sample(host, model, text, given, strength=0.5)
    changed = host.run(
        "VideoLCMSampling",
        model=model,
        prediction="eps",
        zsnr=False,
        original_steps=25,
        beta_schedule="linear",
        timestep_scaling=4.0,
    )[0]
    assert torch.equal(given["samples"], before) and set(given) >= {"samples", "downscale_ratio_spacial"}
    assert torch.equal(text[0][0], words)
    assert all(torch.equal(v, weights[k]) for k, v in model.model.diffusion_model.state_dict().items())
    assert changed is not model and model.get_model_object("model_sampling") is sampling


def test_model_sampling_node(host, model, prompt, latent, ksampler):
    def patched(**options):
        settings = {
            "prediction": "v",
            "zsnr": True,
            "original_steps": 50,
            "beta_schedule": "scaled_linear",
            "timestep_scaling": 10.0,
        }
        return host.run("VideoLCMSampling", model=model, **(settings | options))[0]

    base = ksampler(model, prompt("a dog"), latent())
    assert torch.equal(ksampler(patched(), prompt("a dog"), latent()), base)
    assert not torch.equal(ksampler(patched(prediction="x_0"), prompt("a dog"), latent()), base)
    coarse = patched(original_steps=4).get_model_object("model_sampling")
    assert coarse.grid.tolist() == [249, 499, 749, 999]
    with pytest.raises(ValueError, match="original_steps is 0; allowed: 1 to 1000"):
        patched(original_steps=0)


def test_guard_warns_once_about_unsuitable_settings(model, prompt, latent, ksampler, caplog):
    def warnings(frames=3, **options):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            ksampler(model, prompt("a dog"), latent(frames), prompt(""), **options)
        return [r.getMessage() for r in caplog.records if "may disappoint" in r.getMessage()]

    assert warnings() == []
    assert "cfg is 8" in warnings(cfg=8.0)[0]
    assert "the sampler is euler" in warnings(sampler_name="euler")[0]
    assert "leaves the grid" in warnings(scheduler="karras", steps=4)[0]
    assert "one frame" in warnings(frames=1)[0]
    every = warnings(frames=1, cfg=8.0, sampler_name="euler", scheduler="karras", steps=4)
    assert len(every) == 1 and every[0].count(";") == 3


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_guard_names_the_hosts_caches_of_steps(host, model, prompt, latent, ksampler, caplog, node):
    values = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    cached = host.run(node, model=model, **values)[0]
    with caplog.at_level(logging.WARNING):
        ksampler(cached, prompt("a dog"), latent(), steps=4)
    assert any("EasyCache or LazyCache leaves out steps" in record.getMessage() for record in caplog.records)
    teacher = host.run("VideoLCMCheckpointLoader", ckpt_name="videolcm-mini-teacher.safetensors")[0]
    slow = host.run(node, model=teacher, **values)[0]
    cached_steps = host.pack("nodes.model.guard").cached_steps
    assert cached_steps(slow.get_model_object("model_sampling"), slow.model_options) == []
    assert cached_steps(cached.get_model_object("model_sampling"), cached.model_options)


def test_guard_names_a_size_and_length_that_the_model_was_not_trained_on(host, ksampler, caplog):
    model, clip, *_ = host.run("VideoLCMCheckpointLoader", ckpt_name="videolcm-mini.safetensors")
    text = host.run("CLIPTextEncode", clip=clip, text="a horse")[0]

    def told(width, height, frames):
        caplog.clear()
        latent = host.run("VideoLCMEmptyLatent", width=width, height=height, frames=frames)[0]
        with caplog.at_level(logging.WARNING):
            ksampler(model, text, latent, steps=1)
        return caplog.text

    assert "may disappoint" not in told(64, 64, 16)
    assert "the latent is 128 x 128 pixels and the model was trained at 64 x 64 (connect the model" in told(
        128, 128, 16
    )
    assert "has 32 frames and the model was trained on 16; for more frames use Context Windows" in told(64, 64, 32)


@pytest.mark.parametrize(
    ("prompt_text", "unknown"),
    [
        ("a horse jumps up and down on sand", []),
        ("a (dragon:1.2) and a castle on sand, dragon", ["dragon", "castle"]),
        ("", []),
    ],
)
def test_words_that_the_embedded_model_does_not_know_are_named(host, caplog, prompt_text, unknown):
    _, clip, *_ = host.run("VideoLCMCheckpointLoader", ckpt_name="videolcm-mini.safetensors")
    with caplog.at_level(logging.WARNING):
        host.run("CLIPTextEncode", clip=clip, text=prompt_text)
    if not unknown:
        assert "does not know" not in caplog.text
        return
    assert f"does not know {', '.join(unknown)}" in caplog.text and "It knows: " in caplog.text
    assert "horse" in caplog.text and "snowman" in caplog.text.split("It knows")[1]


def test_guard_names_patches_without_effect(model, prompt, latent, ksampler, caplog):
    patched = model.clone()
    patched.set_model_patch(lambda args: args, "double_block")
    with caplog.at_level(logging.WARNING):
        ksampler(patched, prompt("a dog"), latent())
    assert "without effect on this network: double_block" in caplog.text


def test_sampler_warns_about_other_models(host, teacher, prompt, latent, caplog):
    with caplog.at_level(logging.WARNING):
        sample(host, teacher, prompt("a dog"), latent(2), steps=1)
    assert "a teacher" in caplog.text
