"""The checks of AnimateDiff's reference files read sizes, seeds and frames from the files, and fail on one wrong value.

A folder of the same layout is written here with our own network, so it says nothing of the authors' numbers; those are
in tests/golden.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
sys.path[:0] = [str(GOLDEN.parent), str(GOLDEN.parent / "support" / "golden")]

import parity  # noqa: E402
from animatediff_networks import Probes, forward, networks_of, recipe_weights  # noqa: E402
from reference import Reference  # noqa: E402

from videolcm_core.diffusion.samplers import sample_lcm  # noqa: E402
from videolcm_core.diffusion.schedule import Schedule, lcm_timesteps  # noqa: E402
from videolcm_core.families.animatediff.keymaps import diffusers_motion_name, sd15_to_diffusers  # noqa: E402
from videolcm_core.networks.animatediff.motion import MotionConfig, MotionModule, MotionNetwork  # noqa: E402
from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet  # noqa: E402

SEED, FRAMES, SIZE, TOKENS = 29, 3, (9, 14), 4
CONFIG = SD15Config(model_channels=32, channel_mult=(1, 2, 2, 4), context_dim=24)
WIDTHS = tuple(32 * mult for mult in CONFIG.channel_mult)
WEIGHTS = "weights_unet.json + weights_motion.json"
TARGETS = ("attn1.to_q", "attn2.to_k", "proj_in", "conv1", "ff.net.2")


def write_lists(folder):
    """Shape lists of every network and of two LoRAs."""
    unet = SD15UNet(CONFIG, device="meta").state_dict()
    both = MotionNetwork(MotionConfig(WIDTHS, image_encoder=True), device="meta").state_dict()
    encoder = {key: value for key, value in both.items() if key.startswith("img_encoder.")}
    motion = {key: value for key, value in both.items() if key not in encoder}
    modules = {name.removesuffix(".weight"): unet[key] for key, name in sd15_to_diffusers(unet).items()}
    kohya, peft = {}, {}
    for name, value in modules.items():
        if name.endswith(TARGETS):
            down, up = [2, *value.shape[1:]], [value.shape[0], 2, *[1] * (value.ndim - 2)]
            own = f"lora_unet_{name.replace('.', '_')}"
            kohya |= {f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up, f"{own}.alpha": []}
    for key, value in motion.items():
        if (name := diffusers_motion_name(key).removesuffix(".weight")).endswith(TARGETS):
            factors = {"A": [2, value.shape[1]], "B": [value.shape[0], 2]}
            peft |= {f"base_model.model.{name}.lora_{part}.weight": shape for part, shape in factors.items()}
    named = {"unet": {f"model.diffusion_model.{key}": value for key, value in unet.items()}, "motion": motion}
    named |= {"i2v": encoder, "lcm_lora": kohya, "mcm_lora": peft}
    for name, tensors in named.items():
        shapes = {key: list(getattr(value, "shape", value)) for key, value in tensors.items()}
        described = {"recipe": {"seed": SEED, "gain": 0.7}, "constant": {".alpha": 0.25}, "tensors": shapes}
        (folder / f"weights_{name}.json").write_text(json.dumps(described))


class Recorder:
    """Writes files of the layout with our own network in float32."""

    def __init__(self, folder):
        self.folder, self._generator = folder, torch.Generator().manual_seed(SEED)

    def randn(self, *shape):
        return torch.randn(*shape, generator=self._generator)

    def start(self, name, metadata):
        tensors = {"context": self.randn(2, TOKENS, CONFIG.context_dim)}
        return Reference(self.folder / f"{name}.safetensors", {"weights": WEIGHTS, **metadata}, tensors)

    def write(self, reference, tensors):
        tensors = {
            key: value.clone(memory_format=torch.contiguous_format)
            for key, value in {**reference.tensors, **tensors}.items()
        }
        save_file(tensors, reference.path, {key: json.dumps(value) for key, value in reference.metadata.items()})

    def unet_forward(self, name, norm, cases):
        reference = self.start(name, {"groupnorm": norm})
        networks, tensors = networks_of(reference), {}
        for frames, t in cases:
            x = tensors[f"x_{frames}"] = self.randn(1, 4, frames, *SIZE)
            with Probes(networks.motion, names := networks.motion.names()) as seen:
                tensors[f"y_{frames}_{t}"] = forward(networks, reference, x, t, across_frames="across" in norm)
            tensors[f"probe_{frames}_{t}"] = torch.stack([seen[name] for name in names])
        self.write(reference, tensors)

    def lora_forward(self, name, weights, norm, strengths):
        reference = self.start(name, {"lora": f"{weights}, some words", "groupnorm": norm})
        networks, x = networks_of(reference), self.randn(1, 4, FRAMES, *SIZE)
        save_file(recipe_weights(self.folder / weights), lora := self.folder / "lora.weights.safetensors")
        fit, tensors = networks.fit(lora), {"x": x}
        for end, strength in strengths.items():
            merged = networks.merged(fit, strength)
            tensors[f"y_40{end}"] = forward(networks, reference, x, 40, across_frames="across" in norm, weights=merged)
        self.write(reference, tensors)

    def i2v_forward(self):
        reference = self.start("i2v_forward", {"weights": f"{WEIGHTS} + weights_i2v.json"})
        networks, x = networks_of(reference), self.randn(1, 4, FRAMES, *SIZE)
        image = self.randn(1, 4, *SIZE)
        encode = networks.motion.img_encoder
        features = encode(image.expand(FRAMES, -1, -1, -1), FRAMES)
        tensors = {"x": x, "img_latent": image}
        tensors["y_60"] = forward(networks, reference, x, 60, features)
        tensors["y_60_scale0.5"] = forward(
            networks, reference, x, 60, encode(image.expand(FRAMES, -1, -1, -1), FRAMES, 0.5)
        )
        kept = {f"feature{level}": f[None].transpose(1, 2)[:, :, [0, -1]] for level, f in enumerate(features)}
        self.write(reference, {**tensors, **kept})

    def lcm_steps(self):
        timesteps = lcm_timesteps(2, 40)
        said = {"guidance_scale": 1.7, "steps": 2, "original_inference_steps": 40, "beta": [0.00085, 0.013, "linear"]}
        reference = self.start("lcm_2step_orig40_cfg", {**said, "timesteps": timesteps.tolist()})
        networks, start, noise = networks_of(reference), self.randn(1, 4, FRAMES, *SIZE), []
        schedule = Schedule.create("linear", zero_terminal_snr=False, beta_end=0.013)
        tensors = {"start": start}

        def predict(x, t):
            uncond, cond = forward(networks, reference, x, int(t[0])).chunk(2)
            eps = uncond + 1.7 * (cond - uncond)
            tensors.setdefault("eps_0", eps)
            return eps

        def draw(x, index):
            noise.append(self.randn(*x.shape))
            return noise[-1]

        def keep(index, t, x, denoised):
            tensors[f"denoised_{index}"] = denoised

        tensors["final"] = sample_lcm(predict, start, timesteps, schedule, "eps", draw, callback=keep)
        self.write(reference, tensors | {f"noise_{index}": value for index, value in enumerate(noise)})

    def motion_module(self):
        module = MotionModule(96)
        weights = {key: 0.2 * self.randn(*value.shape) for key, value in module.state_dict().items()}
        module.load_state_dict(weights)
        x = self.randn(1, 96, 5, 2, 3)
        frames = x[0].transpose(0, 1)
        tensors = {"x_5": x, **{f"weights.{key}": value for key, value in weights.items()}}
        for name, across in (("author", False), ("diffusers", True)):
            tensors[f"y_{name}_5"] = module(frames, 5, across)[None].transpose(1, 2)
        self.write(Reference(self.folder / "motion_module.safetensors", {"channels": 96}, {}), tensors)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("widths")
    write_lists(folder)
    recorder = Recorder(folder)
    with torch.no_grad():
        recorder.motion_module()
        recorder.unet_forward("unet_forward_author", "per frame", ((FRAMES, 777), (1, 5)))
        recorder.unet_forward("unet_forward_diffusers", "across frames", ((FRAMES, 5),))
        recorder.lora_forward("lcm_lora_forward", "weights_lcm_lora.json", "", {"_0.6": 0.6})
        recorder.lora_forward("mcm_lora_forward", "weights_mcm_lora.json", "across frames", {"": 1.0})
        recorder.i2v_forward()
        recorder.lcm_steps()
    return folder


OUTPUTS = {
    "motion_module": ("y_author_5", "y_diffusers_5"),
    "unet_forward_author": (f"y_{FRAMES}_777", "probe_1_5"),
    "unet_forward_diffusers": (f"y_{FRAMES}_5",),
    "lcm_lora_forward": ("y_40_0.6",),
    "mcm_lora_forward": ("y_40",),
    "i2v_forward": ("y_60", "y_60_scale0.5", "feature3"),
    "lcm_2step_orig40_cfg": ("eps_0", "denoised_0", "final"),
}
INPUTS = {
    "motion_module": "weights.temporal_transformer.proj_out.bias",
    "lcm_2step_orig40_cfg": "noise_0",
}


def failures(path):
    results = list(parity.check_file(path))
    assert results
    return {r.case.removesuffix(", recorded") for r in results if not r.passed}


def with_wrong(folder, tmp_path, name, tensors):
    """A copy of a file in which one number of each of these tensors is wrong."""
    for listed in folder.glob("weights_*.json"):
        (tmp_path / listed.name).write_bytes(listed.read_bytes())
    path = folder / f"{name}.safetensors"
    stored = load_file(path)
    for tensor in tensors:
        value = stored[tensor] = stored[tensor].clone()
        value.view(-1)[value.numel() // 2] += 1e-3 * value.std()
    metadata = {key: json.dumps(value) for key, value in Reference.open(path).metadata.items()}
    save_file(stored, tmp_path / path.name, metadata)
    return tmp_path / path.name


@pytest.mark.parametrize("name", OUTPUTS)
def test_other_sizes_pass(folder, name):
    assert failures(folder / f"{name}.safetensors") == set()


@pytest.mark.parametrize("name", OUTPUTS)
def test_one_wrong_value_of_each_result_fails(folder, tmp_path, name):
    assert failures(with_wrong(folder, tmp_path, name, OUTPUTS[name])) == set(OUTPUTS[name])


@pytest.mark.parametrize("name", INPUTS)
def test_one_wrong_value_of_an_input_fails(folder, tmp_path, name):
    assert failures(with_wrong(folder, tmp_path, name, [INPUTS[name]]))


def test_another_seed_fails(folder, tmp_path, capsys):
    for source in folder.glob("*"):
        if source.name.startswith(("weights_", "unet_forward_diffusers")):
            (tmp_path / source.name).write_bytes(source.read_bytes())
    listed = tmp_path / "weights_motion.json"
    described = json.loads(listed.read_text())
    listed.write_text(json.dumps({**described, "recipe": {"seed": SEED + 1, "gain": 0.7}}))
    assert parity.main([str(tmp_path)]) == 1
    assert "FAILED" in capsys.readouterr().out
