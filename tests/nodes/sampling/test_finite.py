"""Results that are not finite end the run at the step where it happened, in every sampler."""

import time

import pytest
import torch
from windows import context_windows


def ours(host, model, positive, latent, **_):
    return host.run(
        "VideoLCMSampler",
        model=model,
        positive=positive,
        latent=latent,
        seed=1,
        steps=4,
        cfg=1.0,
        strength=1.0,
        noise_device="cpu",
    )[0]["samples"]


def core(host, model, positive, latent, sampler="lcm", steps=4):
    return host.run(
        "KSampler",
        model=model,
        positive=positive,
        negative=positive,
        latent_image=latent,
        seed=1,
        steps=steps,
        cfg=1.0,
        sampler_name=sampler,
        scheduler="simple",
        denoise=1.0,
    )[0]["samples"]


def heun(host, model, positive, latent):
    return core(host, model, positive, latent, "heun")


def custom(host, model, positive, latent):
    sigmas = host.run(
        "VideoLCMScheduler", model=model, steps=4, mode={"mode": "lcm", "original_steps": 50, "strength": 1.0}
    )[0]
    sampler = host.run("SamplerVideoLCM", noise_device="cpu", s_noise=1.0, noise_clip_std=0.0)[0]
    guider = host.run("BasicGuider", model=model, conditioning=positive)[0]
    noise = host.run("RandomNoise", noise_seed=1)[0]
    return host.run(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )[0]["samples"]


SAMPLERS = [ours, core, heun, custom]


def broken_at(model, step, value=float("nan")):
    """A MODEL whose network gives a number that is not finite from a step on, in one frame."""
    patched = model.clone()
    calls = []

    def wrapper(apply, args):
        out = apply(args["input"], args["timestep"], **args["c"])
        sigmas = args["c"]["transformer_options"]["sample_sigmas"]
        calls.append(None)
        if float(args["timestep"][0]) <= float(sigmas[step - 1]) * 1.0001:
            out = out.clone()
            out[0, 0, 0, 0] = value
        return out

    patched.set_model_unet_function_wrapper(wrapper)
    return patched, calls


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("run", SAMPLERS)
def test_the_step_is_named(host, model, prompt, latent, run, step, value):
    patched, _ = broken_at(model, step, value)
    with pytest.raises(ValueError, match=rf"Step {step} of 4 \(sigma ") as error:
        run(host, patched, prompt("a dog"), latent(3))
    text = str(error.value)
    assert "in 1 of 3 frames" in text and "Usual causes" in text and "fp16" in text and len(text) < 1500
    assert run(host, model, prompt("a dog"), latent(3)).isfinite().all()


def test_it_stops_there(host, model, prompt, latent):
    patched, calls = broken_at(model, 2)
    with pytest.raises(ValueError, match="Step 2 of 4"):
        core(host, patched, prompt("a dog"), latent())
    assert len(calls) == 2


@pytest.mark.parametrize("run", SAMPLERS)
def test_a_broken_latent_is_told_from_a_broken_network(host, model, prompt, latent, run):
    given = latent(3)
    given["samples"] = torch.full_like(given["samples"], float("nan"))
    with pytest.raises(ValueError, match="Step 1 of 4 .* the latent or the noise given to the sampler"):
        run(host, model, prompt("a dog"), given)


@pytest.mark.parametrize("run", [ours, core])
def test_a_broken_prompt_is_named(host, model, prompt, latent, run):
    positive = prompt("a dog")
    positive = [[torch.full_like(positive[0][0], float("inf")), positive[0][1]]]
    with pytest.raises(ValueError, match="Step 1 of 4 .* the encoded positive prompt"):
        run(host, model, positive, latent(3))


@pytest.mark.parametrize("run", [ours, core])
def test_broken_weights_are_named(host, model, prompt, latent, run):
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    patched = model.clone()
    weight = model.model.state_dict()[key]
    patched.add_patches({key: ("diff", (torch.full_like(weight, float("inf")),))}, 1.0)
    with pytest.raises(
        ValueError, match=r"Step 1 of 4 .* 1 weights of the model, the first middle_block\.0\.in_layers"
    ):
        run(host, patched, prompt("a dog"), latent(3))
    assert run(host, model, prompt("a dog"), latent(3)).isfinite().all()


def test_overflow_in_half_precision(host, unet_state_dict, write_model, prompt, latent):
    """The real thing: weights that fit float16, products that do not."""
    large = {k: v * 30000 if k == "middle_block.0.in_layers.2.weight" else v for k, v in unet_state_dict.items()}
    name = write_model("overflow.safetensors", large)
    run = {"model_name": name, "sampling": "auto"}
    half = host.run("VideoLCMModelLoader", **run, weight_dtype="fp16")[0]
    # On a CPU the host computes in float32 whatever the file holds: what a GPU would do is asked for.
    half.model.manual_cast_dtype = None
    with pytest.raises(ValueError, match=r"Step 1 of 4 .*fp16 \(choose weight_dtype bf16 or fp32\)"):
        ours(host, half, prompt("a dog"), latent(3))
    assert (
        ours(host, host.run("VideoLCMModelLoader", **run, weight_dtype="fp32")[0], prompt("a dog"), latent(3))
        .isfinite()
        .all()
    )


def test_a_result_that_the_sampler_broke(host, model, prompt, latent):
    """Every prediction was finite: the mask is not."""
    given = latent(3) | {"noise_mask": torch.full((3, 64, 64), float("nan"))}
    with pytest.raises(ValueError, match="not finite"):
        core(host, model, prompt("a dog"), given)


@pytest.mark.parametrize("overlap", [8, 12])
@pytest.mark.parametrize(
    ("run", "schedule"),
    [(run, "standard_static") for run in SAMPLERS]
    + [(core, name) for name in ("standard_uniform", "looped_uniform", "batched")],
)
def test_windows_that_do_not_move_on_are_refused(host, model, prompt, latent, run, overlap, schedule):
    windowed = context_windows(host, model, overlap=overlap, context_schedule=schedule)
    with pytest.raises(ValueError, match=rf"context_overlap is {overlap} and context_length 8; allowed: .* 0 to 7"):
        run(host, windowed, prompt("a dog"), latent(16))


def test_one_window_needs_no_overlap(host, model, prompt, latent):
    windowed = context_windows(host, model, overlap=12)
    assert core(host, windowed, prompt("a dog"), latent(8), steps=1).isfinite().all()


@pytest.mark.parametrize("fuse", ["pyramid", "flat", "relative", "overlap-linear"])
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "looped_uniform", "batched"])
@pytest.mark.parametrize("overlap", [0, 7])
def test_windows_that_move_on_stay_finite(host, model, prompt, latent, schedule, fuse, overlap):
    windowed = context_windows(host, model, overlap=overlap, context_schedule=schedule, fuse_method=fuse)
    if fuse == "overlap-linear" and (overlap == 0 or schedule == "batched"):
        allowed = 2 if schedule == "batched" else 7  # 10 frames are windows of 8 and 2
        with pytest.raises(
            ValueError, match=f"context_overlap is {overlap} with fuse_method .* allowed: 1 to {allowed}"
        ):
            core(host, windowed, prompt("a dog"), latent(10), steps=1)
    else:
        assert core(host, windowed, prompt("a dog"), latent(10), steps=1).isfinite().all()


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_windows_over_another_dimension(host, model, prompt, latent, dim):
    with pytest.raises(ValueError, match=rf"dim is {dim} for a latent of .* Set dim to 0"):
        core(host, context_windows(host, model, length=3, overlap=2, dim=dim), prompt("a dog"), latent(16))


def test_the_check_costs_next_to_nothing(host, model):
    """A latent of 16 frames at 128 x 128, against a step of the tiny network at that size."""
    finite = host.pack("nodes.model.finite")
    x, context = torch.randn(16, 4, 16, 16), torch.randn(1, 77, 32)
    unet = model.model.diffusion_model

    def seconds(function, repeats):
        function()
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - start) / repeats

    check = seconds(lambda: finite.is_finite(x), 50)
    step = seconds(lambda: unet(x, torch.full((16,), 999.0), context, transformer_options={"cond_or_uncond": [0]}), 2)
    print(f"check {check * 1e3:.3f} ms, step {step * 1e3:.1f} ms")
    assert check < 0.01 * step
