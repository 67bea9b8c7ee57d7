"""MCM's published LoRAs in Load VideoLCM LoRA, in every layout: the exact names, on narrow networks of that structure.

Names are those of the authors' files, 482 modules of ModelScope's network and 530 of AnimateDiff's; widths are a
tenth of theirs, values are drawn.
"""

import json
import logging
from pathlib import Path

import pytest
import sd15_loras
import torch
from safetensors.torch import load_file, save_file

from videolcm_core.families.vgen.lora import module_names

LISTED = json.loads((Path(__file__).resolve().parents[2] / "golden" / "mcm_lora_modelscope.json").read_text())
RANK, ALPHA = 4, 4
MODELSCOPE = {
    "model_channels": 32,
    "channel_mult": (1, 2, 4, 4),
    "num_res_blocks": 2,
    "attention_scales": (1.0, 0.5, 0.25),
    "context_dim": 24,
    "num_heads": 8,
    "head_dim": 8,
    "concat_channels": 0,
}
METADATA = {"videolcm.head_dim": "8", "videolcm.prediction": "eps", "videolcm.sampling": "teacher"}
PREFIX = sd15_loras.PREFIX


@pytest.fixture(scope="module")
def weights(host, recipe_weights):
    unet3d = host.pack("videolcm_core.networks.vgen.unet3d")
    return recipe_weights(unet3d.UNet3D(unet3d.UNetConfig(**MODELSCOPE)), 17)


@pytest.fixture(scope="module")
def modelscope(host, weights, write_model):
    """A teacher that predicts noise, in the authors' names."""
    name = write_model("modelscope-narrow.safetensors", weights, METADATA)
    return host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp32", sampling="auto")[0]


@pytest.fixture(scope="module")
def modelscope_tensors(weights):
    """peft's tensors of the 482 modules, and the network's key of each."""
    names, tensors, keys = module_names(weights), {}, {}
    for number, name in enumerate(LISTED["layers"]):
        key = f"{names[name]}.weight"
        out, *inner = weights[key].shape
        inner = inner[:1] if name.endswith(("proj_in", "proj_out")) else inner  # kernels of 1 are matrices in diffusers
        generator = torch.Generator().manual_seed(number)
        keys[name] = key
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(RANK, *inner, generator=generator) * 0.1
        ones = [1] * (len(inner) - 1)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(out, RANK, *ones, generator=generator) * 0.1
    return tensors, keys


@pytest.fixture(params=["modelscope", "animatediff"])
def base(request, host, modelscope, modelscope_tensors, animate):
    """A MODEL, peft's tensors for it, how many modules they are, and the preset that is theirs."""
    if request.param == "modelscope":
        return modelscope, modelscope_tensors[0], 482, "mcm"
    return animate(), sd15_loras.peft_tensors(), 530, "mcm-animatediff"


def settings_of(tensors, **changes):
    names = [key.removeprefix(PREFIX).removesuffix(".lora_A.weight") for key in tensors if ".lora_A" in key]
    base = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": names, "use_rslora": False}
    return base | {"use_dora": False, "bias": "none", "base_model_name_or_path": None} | changes


def renamed(tensors, prefix, down="lora_A", up="lora_B"):
    parts = {"lora_A": down, "lora_B": up}
    found = {}
    for key, value in tensors.items():
        name, part = key.removeprefix(PREFIX).removesuffix(".weight").rsplit(".", 1)
        found[f"{prefix}{name}.{parts[part]}.weight"] = value
    return found


def peft(folder, tensors):
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings_of(tensors)))
    return "adapter_model.safetensors"


def unet_lora(folder, tensors):
    peft(folder, tensors)
    (folder / "unet_lora").mkdir()
    save_file(renamed(tensors, "unet.base_model.model."), folder / "unet_lora" / "pytorch_lora_weights.safetensors")
    return "unet_lora/pytorch_lora_weights.safetensors"


def diffusers(folder, tensors):
    save_file(renamed(tensors, "unet."), folder / "pytorch_lora_weights.safetensors")
    return "pytorch_lora_weights.safetensors"


def old_diffusers(folder, tensors):
    save_file(renamed(tensors, "unet.", "lora.down", "lora.up"), folder / "old.safetensors")
    return "old.safetensors"


def kohya(folder, tensors):
    found = {}
    for key, value in renamed(tensors, "", "lora_down", "lora_up").items():
        name, part = key.rsplit(".lora_", 1)
        module = f"lora_unet_{name.replace('.', '_')}"
        found[f"{module}.lora_{part}"], found[f"{module}.alpha"] = value, torch.tensor(float(ALPHA))
    save_file(found, folder / "kohya.safetensors")
    return "kohya.safetensors"


LAYOUTS = {f.__name__: f for f in (peft, unet_lora, diffusers, old_diffusers, kohya)}


@pytest.fixture
def folder(host, request):
    path = host.base / "models" / "loras" / request.node.name.replace("[", "-").replace("/", "-").rstrip("]")
    path.mkdir(parents=True)
    return path


@pytest.fixture
def apply(host, folder):
    def run(model, name, strength=1.0):
        inputs = {"lora_name": f"{folder.name}/{name}", "strength_model": strength}
        return host.run("VideoLCMLoraLoader", model=model, **inputs)[0]

    return run


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)

    def read(level=logging.INFO):
        return " ".join(r.getMessage() for r in caplog.records if r.levelno >= level)

    return read


@pytest.fixture
def weights_of(host):
    """Of the UNet and of the motion modules, as a run has them."""

    def load(model):
        from comfy import model_management

        motion = host.pack("nodes.motion.patch").motion_of(model)
        model_management.load_models_gpu([model, *([motion.patcher] if motion else [])], force_full_load=True)
        states = [model.model.diffusion_model.state_dict(), motion.network.state_dict() if motion else {}]
        return {k: v.clone() for state in states for k, v in state.items()}

    return load


def options_on(model):
    return model.get_model_object("model_sampling").options


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_changes_every_module_and_sets_the_sampling(host, base, folder, apply, weights_of, said, layout):
    model, tensors, count, preset = base
    before = weights_of(model)
    patched = apply(model, LAYOUTS[layout](folder, tensors))
    merged = weights_of(patched)
    changed = {key for key in before if not torch.equal(before[key], merged[key])}
    assert len(changed) == count and "left out" not in said()
    presets = host.pack("nodes.model.presets").PRESETS
    assert options_on(patched) == presets[preset] and f"is sampled with preset {preset} from here on" in said()
    assert "distilled with mcm" in said() and "sampler lcm with simple, 4 steps, cfg 1" in said()
    assert ("alpha" in said(logging.WARNING)) is (layout == "diffusers")  # which has no settings beside it
    (folder / "again").mkdir()
    wanted = weights_of(apply(model, f"again/{peft(folder / 'again', tensors)}"))
    assert all(torch.equal(merged[key], wanted[key]) for key in before)


def test_each_module_gets_its_own_difference(modelscope, modelscope_tensors, folder, apply, weights_of, weights):
    tensors, keys = modelscope_tensors
    merged = weights_of(apply(modelscope, peft(folder, tensors), 0.5))
    for name, key in keys.items():
        down, up = (tensors[f"{PREFIX}{name}.lora_{part}.weight"].flatten(1) for part in "AB")
        wanted = weights[key] + 0.5 * (up @ down).reshape(weights[key].shape)
        torch.testing.assert_close(merged[key], wanted, rtol=1e-5, atol=1e-6, msg=name)
    assert all(torch.equal(merged[key], weights[key]) for key in set(weights) - set(keys.values()))


def test_the_folder_of_a_checkpoint_is_listed(host, modelscope_tensors, folder):
    unet_lora(folder, modelscope_tensors[0])
    listed = host.pack("nodes.host").model_files(*host.pack("nodes.loaders.lora").FOLDERS)
    ours = {Path(name).as_posix() for name in listed if Path(name).parts[0] == folder.name}
    files = ("adapter_model.safetensors", "unet_lora/pytorch_lora_weights.safetensors")
    assert ours == {f"{folder.name}/{file}" for file in files}


@pytest.mark.parametrize("place", ["adapter_config.json", "unet_lora/adapter_config.json"])
def test_settings_make_the_node_run_again(host, modelscope_tensors, folder, place):
    node = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMLoraLoader"]
    name = f"{folder.name}/{unet_lora(folder, modelscope_tensors[0])}"
    before = node.fingerprint_inputs(name, 1.0)
    (folder / place).write_text("{}")
    assert before != node.fingerprint_inputs(name, 1.0)


@pytest.fixture
def by_hand(host):
    settings = {"prediction": "v", "zsnr": True, "original_steps": 50, "beta_schedule": "scaled_linear"}

    def run(model, preset):
        return host.run("VideoLCMSampling", model=model, **settings, timestep_scaling=10.0, preset=preset)[0]

    return run


@pytest.mark.parametrize("node", ["ours", "core's"])
def test_a_sampling_chosen_by_hand_stays(host, base, by_hand, folder, apply, said, node):
    model, tensors, _, preset = base
    if node == "ours":
        chosen = by_hand(model, "animatediff-evolved")
    else:
        chosen = host.run("ModelSamplingDiscrete", model=model, sampling="lcm", zsnr=False)[0]
    patched = apply(chosen, peft(folder, tensors))
    assert patched.get_model_object("model_sampling") is chosen.get_model_object("model_sampling")
    assert f"is made for preset {preset}, and how this MODEL is sampled was chosen by hand" in said(logging.WARNING)


@pytest.mark.parametrize("chosen", ["animatediff", "mcm-animatediff", "keep the MODEL's"])
def test_a_sampling_chosen_in_apply_motion_module_stays(animate, folder, apply, said, chosen):
    model = animate(sampling=chosen)
    patched = apply(model, peft(folder, sd15_loras.peft_tensors()))
    assert patched.get_model_object("model_sampling") is model.get_model_object("model_sampling")
    assert ("chosen by hand" in said(logging.WARNING)) is (chosen != "mcm-animatediff")


def test_a_sampling_chosen_after_it_counts(host, base, by_hand, folder, apply):
    model, tensors, *_ = base
    patched = by_hand(apply(model, peft(folder, tensors)), "animatelcm")
    assert options_on(patched) == host.pack("nodes.model.presets").PRESETS["animatelcm"]


@pytest.mark.parametrize("strength", [-1.0, 0.0])
def test_without_the_student_the_sampling_stays(base, folder, apply, said, strength):
    model, tensors, *_ = base
    patched = apply(model, peft(folder, tensors), strength)
    assert patched.get_model_object("model_sampling") is model.get_model_object("model_sampling")
    assert "from here on" not in said().replace("group_norm is video from here on", "")


def test_the_model_that_was_given_stays(base, folder, apply):
    model, tensors, *_ = base
    before = model.get_model_object("model_sampling")
    apply(model, peft(folder, tensors))
    assert model.get_model_object("model_sampling") is before


def test_another_loras_sampling_stays(modelscope, modelscope_tensors, folder, apply):
    """A LoRA of a style, after MCM's, knows of no sampling."""
    tensors = modelscope_tensors[0]
    student = apply(modelscope, peft(folder, tensors))
    save_file(dict(list(tensors.items())[:4]), folder / "style.safetensors")
    (folder / "adapter_config.json").unlink()
    assert options_on(apply(student, "style.safetensors")) == options_on(student)


ENTRIES = {
    "videolcm.sampling": "lcm",
    "videolcm.timestep_scaling": "4",
    "videolcm.method": "mcm",
    "videolcm.base": "teacher.safetensors",
    "videolcm.steps": "2",
    "videolcm.cfg": "1.0",
    "videolcm.sampler": "lcm",
    "videolcm.scheduler": "simple",
}


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_metadata_says_how(modelscope, modelscope_tensors, folder, apply, said, prediction):
    """Of any LoRA; what it does not say is the MODEL's."""
    part = dict(list(modelscope_tensors[0].items())[:4])
    save_file(part, folder / "own.safetensors", ENTRIES | {"videolcm.prediction": prediction})
    patched = apply(modelscope, "own.safetensors")
    before, after = options_on(modelscope), options_on(patched)
    assert (after.distilled, after.timestep_scaling, after.prediction) == (True, 4.0, prediction)
    assert (after.beta_schedule, after.zero_terminal_snr) == (before.beta_schedule, before.zero_terminal_snr)
    for words in ("distilled with mcm", "made for teacher.safetensors", "sampler lcm with simple", "2 steps", "cfg 1"):
        assert words in said()
    assert ("is of another base model" in said(logging.WARNING)) is (prediction == "v")


@pytest.mark.parametrize("entry", ["sampling", "timestep_scaling", "steps", "w_range"])
def test_metadata_that_cannot_be_used(modelscope, modelscope_tensors, folder, apply, entry):
    part = dict(list(modelscope_tensors[0].items())[:4])
    save_file(part, folder / "own.safetensors", ENTRIES | {f"videolcm.{entry}": "[fast]"})
    with pytest.raises(ValueError, match=rf"own.safetensors: got videolcm.{entry} '\[fast\]'; allowed: "):
        apply(modelscope, "own.safetensors")


def test_modelscopes_on_stable_diffusion(animate, sd15, modelscope_tensors, folder, apply):
    name = peft(folder, modelscope_tensors[0])
    for model in (animate(), sd15):
        with pytest.raises(ValueError, match="(?s)trained for ModelScope.*connect a ModelScope MODEL") as error:
            apply(model, name)
        assert str(error.value).startswith("adapter_model.safetensors: got") and len(str(error.value)) < 1500


def test_animatediffs_on_modelscope(modelscope, folder, apply):
    name = peft(folder, sd15_loras.peft_tensors())
    with pytest.raises(ValueError, match="(?s)trained for AnimateDiff.*Stable Diffusion 1.5 with motion modules: load"):
        apply(modelscope, name)


@pytest.mark.parametrize("base", ["animatediff"], indirect=True)
def test_layers_that_fit_by_chance_are_no_fit(modelscope, base, folder, apply, weights, modelscope_tensors):
    """Where even the text has one width: what lies along time tells the networks apart."""
    names = module_names(weights)
    name = next(n for n in sd15_loras.SPATIAL if n.endswith("attn2.to_k"))
    out, inner = weights[f"{names[name]}.weight"].shape
    fits = {f"{PREFIX}{name}.lora_A.weight": torch.ones(4, inner), f"{PREFIX}{name}.lora_B.weight": torch.ones(out, 4)}
    save_file(sd15_loras.peft_tensors(sd15_loras.TEMPORAL[:3]) | fits, folder / "a.safetensors")
    with pytest.raises(ValueError, match="3 of 4 layers of another network .*motion_modules.*1 have the right names"):
        apply(modelscope, "a.safetensors")
    along_time = {key: value for key, value in modelscope_tensors[0].items() if "transformer_in.proj_in" in key}
    save_file(sd15_loras.peft_tensors([name]) | along_time, folder / "b.safetensors")
    with pytest.raises(
        ValueError, match="1 of 2 layers of another network .first .*transformer_in.proj_in.*1 have the"
    ):
        apply(base[0], "b.safetensors")


def test_a_cut_file_is_refused(modelscope, modelscope_tensors, folder, apply):
    path = folder / peft(folder, modelscope_tensors[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"^adapter_model\.safetensors: got .*; allowed: "):
        apply(modelscope, path.name)


def test_tensors_that_are_missing_are_counted(modelscope, modelscope_tensors, folder, apply, said):
    tensors = modelscope_tensors[0]
    peft(folder, tensors)
    gone = {key: value for key, value in tensors.items() if "mid_block.attentions.0" not in key}
    save_file(gone, folder / "adapter_model.safetensors")
    patched = apply(modelscope, "adapter_model.safetensors")
    missing = (len(tensors) - len(gone)) // 2
    words = f"{482 - missing} weights changed, left out: {missing} that adapter_config.json names and the file does not"
    assert words in said(logging.WARNING) and options_on(patched) == options_on(modelscope)


SETTINGS = {
    "another rank": ({"r": 64}, "rank 4 for .* rank 64"),
    "another network": ({"target_modules": ["blocks.0.attn.q"]}, "none of the 1 target_modules"),
    "DoRA": ({"use_dora": True}, "no lora_magnitude_vector"),
    "rslora in words": ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
}


@pytest.mark.parametrize(("changes", "message"), SETTINGS.values(), ids=SETTINGS)
def test_settings_of_another_lora(base, folder, apply, changes, message):
    model, tensors, *_ = base
    name = peft(folder, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(settings_of(tensors, **changes)))
    with pytest.raises(ValueError, match=message) as error:
        apply(model, name)
    assert str(error.value).startswith("adapter_model.safetensors: got") and len(str(error.value)) < 1500


def test_rslora_is_computed(modelscope, modelscope_tensors, folder, apply, weights_of, weights):
    tensors, keys = modelscope_tensors
    name = peft(folder, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(settings_of(tensors, use_rslora=True)))
    merged = weights_of(apply(modelscope, name))
    module, key = next(iter(keys.items()))
    down, up = (load_file(folder / name)[f"{PREFIX}{module}.lora_{part}.weight"] for part in "AB")
    wanted = weights[key] + ALPHA / RANK**0.5 * (up @ down).reshape(weights[key].shape)
    torch.testing.assert_close(merged[key], wanted, rtol=1e-5, atol=1e-6)
