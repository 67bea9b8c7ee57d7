"""MCM's LoRAs in a real server: each published layout is in the list, makes the same video, and is sampled as MCM."""

import copy
import json

import mcm_loras
import numpy as np
import pytest
import sd15_files
import sd15_loras
from mcm_loras import LAYOUTS
from safetensors.torch import save_file
from templates import FOLDER

import comfy_server
import setup
from prompts import frames_in, inputs_of, notes, sampler_of, set_checkpoint

UNET = "model.diffusion_model."
TEACHER = "modelscope-narrow.safetensors"
SMALL = {"width": 64, "height": 64, "frames": 8}


def write_modelscope(models):
    """An all-in-one file of the narrow network, with the text encoder and the VAE of the narrow SD1.5."""
    tensors = {k: v for k, v in sd15_files.checkpoint().items() if not k.startswith(UNET)}
    tensors |= mcm_loras.modelscope_weights(UNET)
    metadata = mcm_loras.TEACHER | {"videolcm.text_config": json.dumps(sd15_files.TEXT)}
    save_file(tensors, models / "videolcm" / TEACHER, metadata)


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    """With both bases and each layout of a LoRA for each: ``loras/<base>/<layout>/...``."""
    base = tmp_path_factory.mktemp("mcm")
    tree, python = setup.host_tree(request.param), setup.venv_python()
    made = comfy_server.ComfyServer(tree, python, base, arguments=("--cpu", "--preview-method", "none"))
    setup.link_pack(made.base, setup.PACK_NAME)
    models = made.base / "models"
    sd15_files.write_files(models)
    write_modelscope(models)
    loras = {
        "modelscope": mcm_loras.modelscope_tensors(mcm_loras.modelscope_weights())[0],
        "animatediff": sd15_loras.peft_tensors(),
    }
    names = {}
    for kind, tensors in loras.items():
        for layout, write in LAYOUTS.items():
            folder = models / "loras" / kind / layout
            folder.mkdir(parents=True)
            names[kind, layout] = f"{kind}/{layout}/{write(folder, tensors)}"
    with made:
        yield made, names


def prompt_of(kind):
    """A shipped prompt, small and of one step; the LoRA is the node "lora"."""
    if kind == "modelscope":
        prompt = json.loads((FOLDER / "api" / "videolcm_text_to_video.json").read_text())
        set_checkpoint(prompt, TEACHER)
        before = sampler_of(prompt)["model"]
    else:
        prompt = json.loads((FOLDER / "api" / "videolcm_mcm_animatediff.json").read_text())
        loader = next(node for node in prompt.values() if node["class_type"] == "CheckpointLoaderSimple")
        loader |= {"class_type": "VideoLCMCheckpointLoader", "inputs": {"ckpt_name": sd15_files.CHECKPOINT}}
        inputs_of(prompt, "VideoLCMMotionApply")["sampling"] = "auto"
        before = inputs_of(prompt, "VideoLCMLoraLoader")["model"]
    lora = {"model": before, "lora_name": "", "strength_model": 1.0}
    prompt["lora"] = {"class_type": "VideoLCMLoraLoader", "inputs": lora}
    sampler_of(prompt).update(model=["lora", 0], steps=1)
    inputs_of(prompt, "VideoLCMEmptyLatent").update(SMALL)
    return prompt


def with_lora(prompt, name, strength=1.0):
    prompt = copy.deepcopy(prompt)
    prompt["lora"]["inputs"] |= {"lora_name": name, "strength_model": strength}
    return prompt


def film(server, prompt):
    result = server.queue(prompt)
    assert result.ok, result.errors
    return np.stack(frames_in(server.path(result.videos[0]))), " ".join(notes(result))


PRESETS = {"modelscope": "mcm", "animatediff": "mcm-animatediff"}


@pytest.mark.parametrize("server", [setup.NEWEST_HOST], indirect=True)
@pytest.mark.parametrize("kind", PRESETS)
def test_every_layout_makes_the_same_video(server, kind):
    server, names = server
    listed = server.object_info()["VideoLCMLoraLoader"]["input"]["required"]["lora_name"]
    assert set(names.values()) <= set(listed[1]["options"])
    prompt, films = prompt_of(kind), {}
    for layout in LAYOUTS:
        films[layout], told = film(server, with_lora(prompt, names[kind, layout]))
        assert f"is sampled with preset {PRESETS[kind]} from here on" in told and "4 steps, cfg 1" in told, layout
        assert "left out" not in told and "may disappoint" not in told
    assert all(np.array_equal(shown, films["peft"]) for shown in films.values())
    without, _ = film(server, with_lora(prompt, names[kind, "peft"], 0.0))
    assert np.abs(without.astype(float) - films["peft"]).mean() > 1


@pytest.mark.parametrize("server", [setup.NEWEST_HOST], indirect=True)
@pytest.mark.parametrize("kind", PRESETS)
def test_a_lora_of_the_other_base_is_an_error_on_the_node(server, kind):
    server, names = server
    (other,) = set(PRESETS) - {kind}
    result = server.queue(with_lora(prompt_of(kind), names[other, "peft"]))
    assert result.status == "error" and result.error["node_type"] == "VideoLCMLoraLoader"
    assert "layers of another network" in result.errors[0] and "adapter_model.safetensors: got" in result.errors[0]
