"""An MCM student that was trained here, in the graph: kohya's file, peft's folder and the merged file are one model."""

import json
from types import SimpleNamespace

import pytest
import tiny_mcm
import torch
from safetensors import safe_open

from training.engine.processes import open_accelerator
from training.engine.task import MethodTask, Scale
from training.methods import Inputs, find_method
from training.students import (
    LcmSettings,
    LoraOptions,
    export_lora_kohya,
    export_lora_peft,
    export_student,
    lora_student,
    lora_tensors,
    student_metadata,
)
from training.teachers import load_teacher

UNIT = torch.finfo(torch.float32).eps
WIDTH = 32  # of the text
FILES = {"merged": "mcm.safetensors", "kohya": "mcm-kohya.safetensors", "peft": "mcm/adapter_model.safetensors"}
TEACHER = {"videolcm.prediction": "eps", "videolcm.zero_terminal_snr": "false", "videolcm.sampling": "teacher"}


class Batches:
    """Random latents and texts of the tiny network; no frames, which only the adversary needs."""

    def size(self, step):
        return 2

    def uncond_context(self, text=""):
        return torch.full((1, 3, WIDTH), 0.1)

    def batch(self, step, samples):
        generator = torch.Generator().manual_seed(step)
        latents = torch.randn(len(samples), 4, 3, 8, 8, generator=generator)
        context = torch.randn(len(samples), 3, WIDTH, generator=generator)
        return SimpleNamespace(latents=latents, context=context, images=False, pixels=None, extra={})


@pytest.fixture(scope="module")
def base(host, unet_state_dict, write_model):
    """A teacher that predicts noise, as ModelScope does."""
    return write_model("mcm-teacher.safetensors", unet_state_dict, {**TEACHER, "videolcm.head_dim": "64"})


@pytest.fixture(scope="module")
def student(host, base):
    """Two steps of MCM, and the student's files in float32."""
    with torch.inference_mode(False):
        teacher = load_teacher(host.base / "models" / "videolcm" / base)
        recipe = tiny_mcm.tiny_recipe("", steps=2, batch=2, adversarial_weight=0.0, learning_rate=0.02, adam_eps=1e-8)
        lora = lora_student(teacher, LoraOptions(rank=4, alpha=6), seed=1)
        accelerator = open_accelerator("no", 1, cpu=True)
        inputs = Inputs(teacher=teacher, student=lora, device=accelerator.device)
        task = MethodTask(Batches(), find_method("mcm").build(recipe, inputs), accelerator, Scale())
        for step in range(recipe.steps):
            task.step(step, torch.Generator())
        settings = LcmSettings.of(recipe, "mcm")
        entries = student_metadata(teacher, settings, recipe.settings())
        network, models = task.method.released_network(), host.base / "models"
        export_student(
            models / "videolcm" / FILES["merged"],
            task.released_state(),
            teacher,
            recipe=recipe.settings(),
            settings=settings,
            dtype=torch.float32,
        )
        kohya = models / "loras" / FILES["kohya"]
        export_lora_kohya(kohya, lora, network, dtype=torch.float32, teacher=teacher, metadata=entries)
        export_lora_peft(models / "loras" / "mcm", lora, network, teacher=teacher, metadata=entries)
    return lora, recipe


@pytest.fixture(scope="module")
def load(host):
    return lambda name: host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp32", sampling="auto")[0]


@pytest.fixture(scope="module")
def forms(host, base, student, load):
    """The student as each MODEL; core's loader does not read how it is sampled, which the preset then says."""

    def with_lora(node, name):
        return host.run(node, model=load(base), lora_name=name, strength_model=1.0)[0]

    core = with_lora("LoraLoaderModelOnly", FILES["kohya"])
    unused = {"prediction": "v", "zsnr": True, "original_steps": 50, "beta_schedule": "scaled_linear"}
    return {
        "merged": load(FILES["merged"]),
        "kohya": with_lora("VideoLCMLoraLoader", FILES["kohya"]),
        "peft": with_lora("VideoLCMLoraLoader", FILES["peft"]),
        "core": host.run("VideoLCMSampling", model=core, **unused, timestep_scaling=10.0, preset="mcm")[0],
    }


def weights_of(model):
    from comfy import model_management

    model_management.load_models_gpu([model], force_full_load=True)
    return {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}


def sample(host, model, steps):
    """A short video by VideoLCM Sampler."""
    text = [[torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(3)), {}]]
    latent = {"samples": torch.zeros(3, 4, 8, 8)}
    settings = {"seed": 5, "steps": steps, "cfg": 1.0, "strength": 1.0, "noise_device": "cpu"}
    return host.run("VideoLCMSampler", model=model, positive=text, latent=latent, **settings)[0]["samples"]


def test_training_changed_every_adapted_weight(student, base, load, forms):
    lora, before, after = student[0], weights_of(load(base)), weights_of(forms["merged"])
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {f"{name}.weight" for name in lora_tensors(lora.network)} and len(changed) > 50
    assert max(float((after[key] - before[key]).abs().max()) for key in changed) > 1e-2


@pytest.mark.parametrize("form", ["kohya", "peft", "core"])
def test_every_form_has_the_merged_weights(forms, form):
    wanted, found = weights_of(forms["merged"]), weights_of(forms[form])
    for key, value in wanted.items():
        # A sum of four products and a weight, rounded in another order.
        assert float((found[key] - value).abs().max()) <= 8 * UNIT * max(1.0, float(value.abs().max())), key


def test_every_form_is_sampled_as_mcm(host, forms, load, base):
    mcm = host.pack("nodes.model.presets").PRESETS["mcm"]
    assert {
        name: model.get_model_object("model_sampling").options == mcm for name, model in forms.items()
    } == dict.fromkeys(forms, True)
    assert not load(base).get_model_object("model_sampling").options.distilled


@pytest.mark.parametrize("steps", [1, 4])
def test_every_form_makes_the_same_video(host, forms, load, base, steps):
    videos = {name: sample(host, model, steps) for name, model in forms.items()}
    wanted = videos.pop("merged")
    teacher = sample(host, load(base), steps)
    size = float(wanted.std())
    assert float((teacher - wanted).std()) > 0.01 * size
    for name, video in videos.items():
        assert float((video - wanted).abs().max()) <= 1e-4 * size, name


@pytest.mark.parametrize("form", FILES)
def test_every_file_says_what_it_is(host, student, form, base):
    folder = "videolcm" if form == "merged" else "loras"
    with safe_open(host.base / "models" / folder / FILES[form], "pt") as file:
        said = {key.removeprefix("videolcm."): text for key, text in file.metadata().items()}
    assert (said["method"], said["base"], said["sampling"]) == ("mcm", base, "lcm")
    assert (said["prediction"], said["timestep_scaling"], said["original_steps"]) == ("eps", "4.0", "50")
    assert (said["sampler"], said["scheduler"], said["steps"], said["cfg"]) == ("lcm", "simple", "4", "1.0")
    assert (said["w"], json.loads(said["w_range"])) == ("10.0", [5.0, 15.0])
    assert json.loads(said["recipe"])["motion"] == student[1].motion


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_the_node_says_what_the_file_says(host, student, base, load, caplog, form):
    caplog.set_level("INFO")
    host.run("VideoLCMLoraLoader", model=load(base), lora_name=FILES[form], strength_model=1.0)
    said = " ".join(r.getMessage() for r in caplog.records)
    for words in (
        "distilled with mcm",
        f"made for {base}",
        "sampler lcm with simple",
        "4 steps",
        "cfg 1",
        "preset mcm",
    ):
        assert words in said
    assert not [r for r in caplog.records if r.levelname == "WARNING" and "VideoLCM" in r.getMessage()]


def test_peft_itself_reads_the_folder(host, base, student, forms):
    from peft import PeftModel

    with torch.inference_mode(False):
        network = load_teacher(host.base / "models" / "videolcm" / base).network
        merged = PeftModel.from_pretrained(network, str(host.base / "models" / "loras" / "mcm")).merge_and_unload()
        found = merged.state_dict()
    for key, value in weights_of(forms["merged"]).items():
        assert float((found[key] - value).abs().max()) <= 8 * UNIT * max(1.0, float(value.abs().max())), key


def test_a_saved_graph_keeps_the_sampling(host, forms, load):
    """Save Model writes the LoRA into the weights, and how they are sampled into the file."""
    host.run("ModelSave", model=forms["kohya"], filename_prefix="mcm-saved")
    saved = next((host.base / "output").glob("mcm-saved*.safetensors"))
    name = saved.rename(host.base / "models" / "videolcm" / saved.name).name
    again = load(name)
    assert again.get_model_object("model_sampling").options == forms["kohya"].get_model_object("model_sampling").options
    wanted = weights_of(forms["kohya"])
    assert all(torch.equal(value, wanted[key]) for key, value in weights_of(again).items())
