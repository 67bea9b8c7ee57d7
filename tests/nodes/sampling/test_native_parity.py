"""Native sampling equals the authors' loops: golden data through core's own samplers.

Bounds follow from the problem, on any CPU: the same graph is run in float64, and in float64 with the roundings of
float32 put in (tests/support/precision.py). What these make of the result is the effect of float32 on it, with the
guidance of 9 and the 50 steps that multiply it; the authors' values and ours are each within twice that of the exact
result.
"""

import json
from pathlib import Path

import pytest
import torch
from precision import assert_recorded
from safetensors import safe_open

HERE = Path(__file__).resolve()
# Beside the repository there may be a folder with every golden file; the repository has most.
GOLDEN = (
    HERE.parents[4] / "shared" / "golden" / "videolcm",
    HERE.parents[2] / "golden",
    HERE.parents[2] / "golden" / "native",
)
CONDITIONS = {"mask": "masked", "depthmap": "depth", "text": None}
LCM_CASES = [
    ("videolcm_t2v", (1, 2, 4, 6)),
    ("videolcm_vcomposer_depth", (1, 2, 4)),
    ("videolcm_vcomposer_masked_local_image", (4,)),
    ("videolcm_vcomposer_sketch", (2,)),
]


def read(name):
    for folder in GOLDEN:
        if (folder / name).exists():
            with safe_open(folder / name, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    raise FileNotFoundError(f"golden file {name} is in none of {[str(folder) for folder in GOLDEN]}")


@pytest.fixture
def golden_model(host, write_model, recipe_weights):
    """A MODEL of a golden file's network, its weights by recipe, through Load VideoLCM Model."""

    def load(metadata, sampling):
        unet3d = host.pack("videolcm_core.networks.vgen.unet3d")
        io_file = metadata["weights"].replace(".weights.", ".io.")
        _, io_metadata = read(io_file)
        sizes = json.loads(metadata["config"])
        names = json.loads(io_metadata["video_compositions"])
        config = unet3d.UNetConfig(
            model_channels=sizes["dim"],
            channel_mult=tuple(sizes["dim_mult"]),
            num_res_blocks=sizes["num_res_blocks"],
            attention_scales=tuple(sizes["attn_scales"]),
            context_dim=sizes["context_dim"],
            num_heads=sizes["num_heads"],
            head_dim=sizes["head_dim"],
            conditions=frozenset(CONDITIONS.get(n, n) for n in names) - {None},
        )
        assert float(io_metadata.get("recipe_gain", 1)) == 1
        tensors = recipe_weights(unet3d.UNet3D(config, device="meta"), int(io_metadata["recipe_seed"]))
        name = write_model(f"golden-{io_file}", tensors, {"videolcm.head_dim": str(sizes["head_dim"])})
        return host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp32", sampling=sampling)[0]

    return load


def frames(video):
    """``[1, C, F, H, W]`` to frames as the batch."""
    return video[0].movedim(1, 0)


def pictures(video):
    """``[1, C, F, H, W]`` to IMAGE ``[F, H, W, C]``, grey repeated."""
    images = frames(video.float()).movedim(1, -1)
    return images.expand(*images.shape[:3], 3) if images.shape[-1] == 1 else images


def conditioning(host, data):
    """The prompt, with the pixel conditions of a golden file through our nodes."""
    positive = [[data["y"], {}]]
    apply = {"strength": 1.0, "invert": False, "fit": "stretch", "depth_scale": 2.0}
    # The authors' values of depth are twice those of its picture.
    pixels = {
        "depth": pictures(data["depth"]) / 2 if "depth" in data else None,
        "sketch": pictures(data["sketch"]) if "sketch" in data else None,
        "first frame": pictures(data["local_image"]) if "local_image" in data else None,
    }
    for name, images in pixels.items():
        if images is not None:
            positive = host.run("VideoLCMApplyCondition", positive=positive, condition=name, frames=images, **apply)[0]
    if "masked" in data:
        masked = pictures(data["masked"])
        positive = host.run(
            "VideoLCMInpaintCondition",
            positive=positive,
            frames=masked[..., :3] / 2 + 0.5,
            mask=1 - masked[..., 3],
            strength=1.0,
            fit="stretch",
        )[0]
    return positive


def sample(model, sampler, sigmas, noise, positive, negative=None, cfg=1.0):
    import comfy.sample

    latent = torch.zeros_like(noise)
    out = comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative or positive, latent, disable_pbar=True, seed=0
    )
    return model.model.process_latent_in(out)


@pytest.mark.parametrize(("name", "counts"), LCM_CASES)
def test_core_lcm_equals_the_authors_loop(host, golden_model, name, counts):
    import comfy.k_diffusion.sampling
    import comfy.samplers

    data, metadata = read(f"e2e_lcm_{name}.safetensors")
    model = golden_model(metadata, "videolcm")
    for n in (n for n in counts if f"n{n}.noise" in data):
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", n)
        ours = host.run("VideoLCMScheduler", model=model, steps=n, mode=lcm_mode())[0]
        assert torch.equal(ours, sigmas)

        def compute(n=n, sigmas=sigmas):
            recorded = iter(data.get(f"n{n}.step_noise", torch.zeros(0)))
            options = {"noise_sampler": lambda *_: frames(next(recorded))}
            sampler = comfy.samplers.KSAMPLER(comfy.k_diffusion.sampling.sample_lcm, options)
            return sample(model, sampler, sigmas, frames(data[f"n{n}.noise"]), conditioning(host, data))

        assert_recorded(compute, frames(data[f"n{n}.final"]))


def lcm_mode(original_steps=50, strength=1.0):
    return {"mode": "lcm", "original_steps": original_steps, "strength": strength}


def test_core_euler_equals_the_authors_ddim_with_guidance(host, golden_model):
    import comfy.samplers

    data, metadata = read("e2e_ddim50_tft2v_t2v.safetensors")
    model = golden_model(metadata, "teacher")
    sigmas = host.run("VideoLCMScheduler", model=model, steps=50, mode={"mode": "ddim"})[0]

    def compute():
        out = sample(
            model,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            frames(data["noise"]),
            [[data["y"], {}]],
            [[data["y_negative"], {}]],
            cfg=float(metadata["guide_scale"]),
        )
        # The authors end at timestep 0, not at clean latents: there x_t = alpha_t x, with x as the host scales it.
        return out / (1 + sigmas[-1] ** 2).sqrt()

    assert_recorded(compute, frames(data["final"]))
