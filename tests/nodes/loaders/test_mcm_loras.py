"""MCM's published LoRAs in Load VideoLCM LoRA, in every layout, and what it makes of files that are near them."""

import logging
from pathlib import Path

import mcm_loras
import pytest
import sd15_loras
import torch
from mcm_loras import ALPHA, LAYOUTS, PREFIX, RANK, peft, unet_lora
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def weights():
    return mcm_loras.modelscope_weights()


@pytest.fixture(scope="module")
def modelscope(host, weights, write_model):
    """A teacher that predicts noise, in the authors' names."""
    name = write_model("modelscope-narrow.safetensors", weights, mcm_loras.TEACHER)
    return host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp32", sampling="auto")[0]


@pytest.fixture(scope="module")
def modelscope_tensors(weights):
    return mcm_loras.modelscope_tensors(weights)


@pytest.fixture(params=["modelscope", "animatediff"])
def base(request, host, modelscope, modelscope_tensors, animate):
    """A MODEL, peft's tensors for it, how many modules they are, and the preset that is theirs."""
    if request.param == "modelscope":
        return modelscope, modelscope_tensors[0], 482, "mcm"
    return animate(), sd15_loras.peft_tensors(), 530, "mcm-animatediff"


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
    motion = host.pack("nodes.motion.patch").motion_of(patched)
    assert motion is None or motion.group_norm == "video"
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
    """All layers of space fit the narrow networks; what lies along time tells them apart."""
    name = peft(folder, modelscope_tensors[0])
    for model in (animate(), sd15):
        with pytest.raises(
            ValueError, match="(?s)of 482 layers of another network .*connect a ModelScope MODEL"
        ) as error:
            apply(model, name)
        assert str(error.value).startswith("adapter_model.safetensors: got") and len(str(error.value)) < 1500
        assert "have the right names and shapes by chance" in str(error.value)


def test_animatediffs_on_modelscope(modelscope, folder, apply):
    name = peft(folder, sd15_loras.peft_tensors())
    with pytest.raises(ValueError, match="(?s)252 of 530 layers of another network .*1.5 with motion modules: load"):
        apply(modelscope, name)


PARTS = {
    "discriminator": {"heads.2.cmapper.weight": (64, 1024), "heads.2.main.0.0.weight_orig": (384, 384, 1)},
    "motion head": {"layers.0.0.weight": (64, 4, 1, 1), "conv_out.weight": (4, 64, 1, 1)},
}


@pytest.mark.parametrize("part", PARTS)
def test_what_lies_beside_it_in_a_checkpoint(base, folder, apply, part):
    save_file({name: torch.zeros(shape) for name, shape in PARTS[part].items()}, folder / "part.safetensors")
    words = f"(?s)none fits this model. It is MCM's {part}, .* the LoRA beside it is adapter_model.safetensors"
    with pytest.raises(ValueError, match=words):
        apply(base[0], "part.safetensors")


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
    name = peft(folder, tensors, **changes)
    with pytest.raises(ValueError, match=message) as error:
        apply(model, name)
    assert str(error.value).startswith("adapter_model.safetensors: got") and len(str(error.value)) < 1500


def test_rslora_is_computed(modelscope, modelscope_tensors, folder, apply, weights_of, weights):
    tensors, keys = modelscope_tensors
    name = peft(folder, tensors, use_rslora=True)
    merged = weights_of(apply(modelscope, name))
    module, key = next(iter(keys.items()))
    down, up = (load_file(folder / name)[f"{PREFIX}{module}.lora_{part}.weight"] for part in "AB")
    wanted = weights[key] + ALPHA / RANK**0.5 * (up @ down).reshape(weights[key].shape)
    torch.testing.assert_close(merged[key], wanted, rtol=1e-5, atol=1e-6)
