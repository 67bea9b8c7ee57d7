"""The MODEL, CLIP and VAE in core's own nodes, untouched."""

import pytest
import torch
from precision import UNIT, assert_differ, assert_same, distance
from windows import context_windows


def guided(host, model, positive, negative, latent, cfg, **options):
    return host.run(
        "KSampler",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        cfg=cfg,
        **({"seed": 1, "steps": 2, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0} | options),
    )[0]["samples"]


def test_ksampler_is_our_sampler(host, model, prompt, latent, ksampler):
    ours = host.run(
        "VideoLCMSampler",
        model=model,
        positive=prompt("a dog"),
        latent=latent(),
        seed=1,
        steps=4,
        cfg=1.0,
        strength=1.0,
        noise_device="cpu",
    )
    core = ksampler(model, prompt("a dog"), latent(), steps=4)
    assert core.shape == (3, 4, 8, 8) and core.isfinite().all()
    assert torch.equal(ours[0]["samples"], core)
    # The last step adds no noise, so the denoised latents are the samples: the same numbers.
    assert torch.equal(ours[1]["samples"], core)


def test_prompt_and_seed_matter(model, prompt, latent, ksampler):
    base = ksampler(model, prompt("a dog"), latent())
    assert torch.equal(base, ksampler(model, prompt("a dog"), latent()))
    assert not torch.equal(base, ksampler(model, prompt("a car"), latent()))
    assert not torch.equal(base, ksampler(model, prompt("a dog"), latent(), seed=2))


def test_sampler_custom_advanced(host, model, prompt, latent, ksampler):
    sigmas = host.run("VideoLCMScheduler", model=model, steps=4, mode=lcm_mode())[0]
    sampler = host.run("SamplerVideoLCM", noise_device="cpu", s_noise=1.0, noise_clip_std=0.0)[0]
    guider = host.run("BasicGuider", model=model, conditioning=prompt("a dog"))[0]
    noise = host.run("RandomNoise", noise_seed=1)[0]
    out = host.run(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent()
    )[0]["samples"]
    assert torch.equal(out, ksampler(model, prompt("a dog"), latent(), steps=4))


def lcm_mode(original_steps=50, strength=1.0):
    return {"mode": "lcm", "original_steps": original_steps, "strength": strength}


def test_guidance_of_the_teacher(host, teacher, prompt, latent):
    dog, car, size = prompt("a dog"), prompt("a car"), latent()
    strong = guided(host, teacher, dog, car, size, 4.0)
    assert strong.isfinite().all()
    assert_differ(lambda: guided(host, teacher, dog, car, size, 1.0), strong)
    # Guidance is linear in the predictions: at equal prompts it changes nothing.
    assert_same(lambda: guided(host, teacher, dog, dog, size, 4.0), lambda: guided(host, teacher, dog, car, size, 1.0))


def test_prompts_of_different_lengths_batch_as_they_run_apart(host, teacher, prompt, latent, monkeypatch):
    import comfy.samplers

    dog, long = prompt("a dog"), prompt("a dog " * 50)
    assert long[0][0].shape[1] > 77
    can_concat = comfy.samplers.can_concat_cond

    def run(rule):
        monkeypatch.setattr(comfy.samplers, "can_concat_cond", rule)
        return guided(host, teacher, dog, long, latent(), 3.0)

    assert_same(lambda: run(can_concat), lambda: run(lambda a, b: a is b))


def test_text_is_kept_once_per_video(host, model, prompt, latent, ksampler, monkeypatch):
    seen = []
    unet = type(model.model.diffusion_model)
    predict = unet._predict

    def spy(self, x, timesteps, context=None, *args, **kwargs):
        seen.append((tuple(x.shape), tuple(context.shape)))
        return predict(self, x, timesteps, context, *args, **kwargs)

    monkeypatch.setattr(unet, "_predict", spy)
    ksampler(model, prompt("a dog"), latent(5), prompt("a car"), cfg=2.0)
    assert seen == [((10, 4, 8, 8), (2, 77, 32))] * 2


def test_one_prompt_per_frame(model, prompt, latent, ksampler):
    dog, car = prompt("a dog")[0][0], prompt("a car")[0][0]
    same = [[dog.expand(3, -1, -1), {}]]
    assert_same(
        lambda: ksampler(model, [[dog.expand(1, -1, -1), {}]], latent()), lambda: ksampler(model, same, latent())
    )
    mixed = [[torch.cat([dog, dog, car]), {}]]
    assert_differ(lambda: ksampler(model, prompt("a dog"), latent()), ksampler(model, mixed, latent()))


def test_five_dimensional_latents(model, prompt, latent, ksampler):
    video = {"samples": torch.zeros(1, 4, 3, 8, 8)}
    flat = ksampler(model, prompt("a dog"), latent(3), denoise=1.0, seed=5)
    assert ksampler(model, prompt("a dog"), video).shape == (1, 4, 3, 8, 8)
    # Noise is drawn in another order there; with the same noise the numbers are the same.
    noise = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(0))
    t = torch.full((3,), 999.0)
    unet, context = model.model.diffusion_model, prompt("a dog")[0][0]
    video = noise.movedim(0, 1)[None]
    assert_same(
        lambda: unet(noise, t, context, transformer_options={"cond_or_uncond": [0]}),
        lambda: unet(video, t[:1], context, transformer_options={"cond_or_uncond": [0]})[0].movedim(1, 0),
    )
    assert flat.shape == (3, 4, 8, 8)


@pytest.mark.parametrize("frames", [1, 3])
def test_noise_mask(host, model, prompt, latent, ksampler, frames):
    """What the mask keeps is kept, per frame or on all frames."""
    given = latent()
    given["samples"] = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(2))
    mask = torch.zeros(frames, 64, 64)
    mask[:, :, 32:] = 1
    masked = host.run("SetLatentNoiseMask", samples=given, mask=mask)[0]
    out = ksampler(model, prompt("a dog"), masked)
    # What is kept is scaled for the network and back: two roundings.
    bound = 2 * UNIT * given["samples"].abs().max()
    assert distance(out[..., :4], given["samples"][..., :4]) <= bound
    assert (out[..., 4:] - given["samples"][..., 4:]).abs().amax((1, 2, 3)).min() > bound, "a frame is not sampled"


def test_area_conditioning(host, model, prompt, latent, ksampler):
    left = host.run("ConditioningSetArea", conditioning=prompt("a car"), width=32, height=64, x=0, y=0, strength=1.0)[0]
    both = host.run("ConditioningCombine", conditioning_1=prompt("a dog"), conditioning_2=left)[0]
    out = ksampler(model, both, latent())
    assert out.isfinite().all()
    assert_differ(lambda: ksampler(model, prompt("a dog"), latent())[..., :4], out[..., :4])


def test_area_of_odd_size(host, model, prompt, latent, ksampler):
    part = host.run("ConditioningSetArea", conditioning=prompt("a car"), width=40, height=24, x=8, y=8, strength=1.0)[0]
    both = host.run("ConditioningCombine", conditioning_1=prompt("a dog"), conditioning_2=part)[0]
    assert ksampler(model, both, latent()).isfinite().all()


@pytest.mark.parametrize("frames", [1, 3])
def test_mask_conditioning(host, model, prompt, latent, ksampler, frames):
    mask = torch.zeros(frames, 64, 64)
    mask[..., 32:] = 1
    masked = host.run(
        "ConditioningSetMask", conditioning=prompt("a car"), mask=mask, strength=1.0, set_cond_area="default"
    )[0]
    both = host.run("ConditioningCombine", conditioning_1=prompt("a dog"), conditioning_2=masked)[0]
    out = ksampler(model, both, latent())
    assert out.isfinite().all()
    assert_differ(lambda: ksampler(model, prompt("a dog"), latent()), out)


def test_timestep_range(host, model, prompt, latent, ksampler):
    early = host.run("ConditioningSetTimestepRange", conditioning=prompt("a car"), start=0.0, end=0.5)[0]
    late = host.run("ConditioningSetTimestepRange", conditioning=prompt("a dog"), start=0.5, end=1.0)[0]
    both = host.run("ConditioningCombine", conditioning_1=early, conditioning_2=late)[0]
    assert ksampler(model, both, latent(), steps=4).isfinite().all()


def test_context_windows(host, model, prompt, latent, ksampler):
    windowed = context_windows(host, model, 4, 2)
    out = ksampler(windowed, prompt("a dog"), latent(8))
    assert out.shape == (8, 4, 8, 8) and out.isfinite().all()
    assert_differ(lambda: ksampler(model, prompt("a dog"), latent(8)), out)
    short = latent(4)
    assert torch.equal(ksampler(windowed, prompt("a dog"), short), ksampler(model, prompt("a dog"), short))
    free = context_windows(host, model, 4, 2, freenoise=True)
    assert ksampler(free, prompt("a dog"), latent(8), cfg=1.0).isfinite().all()


def test_context_windows_with_guidance(host, teacher, prompt, latent):
    windowed = context_windows(host, teacher, 4, 2)
    assert guided(host, windowed, prompt("a dog"), prompt("a car"), latent(8), 3.0).shape == (8, 4, 8, 8)


def test_free_u_patches_the_blocks(host, model, prompt, latent, ksampler):
    patched = host.run("FreeU_V2", model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]
    out = ksampler(patched, prompt("a dog"), latent())
    assert out.isfinite().all()
    assert_differ(lambda: ksampler(model, prompt("a dog"), latent()), out)


def test_wrappers_around_the_network(model, prompt, latent, ksampler):
    import comfy.patcher_extension as extension

    calls = []

    def wrapper(executor, *args, **kwargs):
        calls.append(args[0].shape)
        return executor(*args, **kwargs)

    wrapped = model.clone()
    wrapped.add_wrapper_with_key(extension.WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    base = ksampler(model, prompt("a dog"), latent())
    assert torch.equal(ksampler(wrapped, prompt("a dog"), latent()), base)
    assert calls == [(3, 4, 8, 8)] * 2


def test_empty_patches_change_nothing(model, prompt, latent, ksampler):
    """The loop with places for patches and ControlNet computes what the core's own loop computes."""
    patched = model.clone()
    patched.set_model_output_block_patch(lambda h, skip, options: (h, skip))
    patched.set_model_input_block_patch(lambda h, options: h)
    base = ksampler(model, prompt("a dog"), latent())
    assert torch.equal(ksampler(patched, prompt("a dog"), latent()), base)


def test_vae_decode_tiled_and_encode(host, checkpoint, model, prompt, latent, ksampler):
    vae = checkpoint[2]
    samples = {"samples": ksampler(model, prompt("a dog"), latent())}
    images = host.run("VAEDecode", samples=samples, vae=vae)[0]
    assert images.shape == (3, 64, 64, 3) and images.isfinite().all()
    # One tile, decoded by the same network, in another order of additions; then divided by its own weights.
    assert_same(
        lambda: host.run("VAEDecode", samples=samples, vae=vae)[0],
        lambda: host.run(
            "VAEDecodeTiled", samples=samples, vae=vae, tile_size=512, overlap=64, temporal_size=64, temporal_overlap=8
        )[0],
    )
    assert host.run("VAEEncode", pixels=images, vae=vae)[0]["samples"].shape == (3, 4, 8, 8)


def test_video_to_video(host, checkpoint, model, prompt):
    pixels = torch.rand(3, 64, 64, 3, generator=torch.manual_seed(1))
    encoded = host.run("VAEEncode", pixels=pixels, vae=checkpoint[2])[0]
    run = {
        "model": model,
        "positive": prompt("a dog"),
        "latent": encoded,
        "seed": 1,
        "steps": 2,
        "cfg": 1.0,
        "noise_device": "cpu",
    }
    weak = host.run("VideoLCMSampler", **run, strength=0.1)[0]["samples"]
    assert weak.isfinite().all()
    assert_differ(lambda: host.run("VideoLCMSampler", **run, strength=1.0)[0]["samples"], weak)


def test_previews_use_the_checkpoints_colours(model, prompt, latent, monkeypatch):
    import comfy.cli_args
    import comfy.utils
    import latent_preview

    monkeypatch.setattr(comfy.cli_args.args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: shown.append(preview))
    latent_format = model.model.latent_format
    assert latent_format.latent_rgb_factors[0] == [0.3, 0.1, 0.0] and latent_format.taesd_decoder_name is None
    callback = latent_preview.prepare_callback(model, 2)
    callback(0, torch.ones(3, 4, 8, 8), None, 2)
    _, image, _ = shown[0]
    assert image.size == (8, 8)
    expected = (0.5 * (1 + torch.tensor([0.5, 0.5, 0.5])) * 255).int().tolist()
    assert all(abs(a - b) <= 1 for a, b in zip(image.getpixel((0, 0)), expected, strict=True))
