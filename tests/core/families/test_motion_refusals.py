"""What is no file of motion modules, or a damaged one, is refused by name, with the loader that takes it."""

import re

import pytest
import torch
from broken_files import TENSOR_KINDS, broken
from motion_weights import BLOCK, motion, with_tables
from safetensors.torch import save_file

from videolcm_core.families.animatediff.detection import read_motion
from videolcm_core.families.animatediff.keymaps import motion_to_diffusers
from videolcm_core.families.foreign import foreign_family
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.reading import load_state_dict
from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig


@pytest.fixture(scope="module")
def weights():
    return motion()


def refused(tensors, message, next_step=""):
    with pytest.raises(CheckpointError, match=message) as error:
        read_motion(tensors, {}, "given.ckpt")
    text = str(error.value)
    assert text.startswith("given.ckpt: got ") and "; allowed: " in text and len(text) < 1000
    assert next_step in text
    return error.value


def small(*keys, shape=(8, 8)):
    return {key: torch.zeros(shape) for key in keys}


CHOOSE = "Choose a file of motion modules in Load Motion Module."
FOREIGN = {
    "nothing": ({}, "no motion modules among 0 keys", CHOOSE),
    "unknown": (small("layer.weight"), "no motion modules among layer.weight", CHOOSE),
    "hotshot": (small("down_blocks.0.temporal_attentions.0.norm.weight"), "HotshotXL", CHOOSE),
    "hotshot renamed": (small(f"{BLOCK}.pos_encoder.positional_encoding"), "HotshotXL", CHOOSE),
    "controlnet": (small("control_model.input_hint_block.0.weight"), "a ControlNet", "Load ControlNet Model"),
    "diffusers controlnet": (small("controlnet_down_blocks.0.weight"), "a ControlNet", "Load ControlNet Model"),
    "text": (small("text_model.encoder.layers.0.self_attn.q_proj.weight"), "a text encoder", "Load CLIP"),
    "vae": (small("encoder.conv_in.weight", "decoder.conv_in.weight"), "an autoencoder", "Load VAE"),
    "motion lora": (
        small(f"{BLOCK}.transformer_blocks.0.attention_blocks.0.processor.to_q_lora.down.weight"),
        "a LoRA, not a whole model",
        "LoRA loader",
    ),
    "peft": (small(f"base_model.model.{BLOCK}.lora_A.weight"), "a LoRA", "LoRA loader"),
    "kohya": (small("lora_unet_mid_block.lora_up.weight"), "a LoRA", "LoRA loader"),
    "sparse control": (
        {**small(f"{BLOCK}.norm.weight"), **small("controlnet_cond_embedding.conv_in.weight")},
        "a ControlNet",
        "Load ControlNet Model",
    ),
    "xl": (small("conditioner.embedders.1.model.weight"), "Stable Diffusion XL", CHOOSE),
    "wan": (small("blocks.0.cross_attn.q.weight", "head.modulation"), "Wan", CHOOSE),
    "svd": (small("time_stack.0.weight"), "Stable Video Diffusion", CHOOSE),
    "encoder": (small("img_encoder.conv_in.weight"), "image encoder without motion modules", "AnimateLCM_sd15_i2v"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_named(name):
    tensors, message, next_step = FOREIGN[name]
    refused(tensors, message, next_step)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_checkpoints_are_named_with_their_loader(prefix):
    image = SD15UNet(SD15Config(model_channels=32), device="meta").state_dict()
    refused({prefix + key: value for key, value in image.items()}, "Stable Diffusion 1.x", "Load Checkpoint")
    video = UNet3D(UNetConfig(model_channels=64), device="meta").state_dict()
    refused({prefix + key: value for key, value in video.items()}, "VGen family", "Load VideoLCM Checkpoint")


def test_motion_modules_are_named_by_the_other_loaders(weights):
    for tensors in (weights, motion_to_diffusers(weights), with_tables(weights, 4)):
        assert foreign_family(tensors) == "an AnimateDiff or AnimateLCM motion module"


@pytest.mark.parametrize("to_file", [dict, motion_to_diffusers], ids=["authors", "diffusers"])
def test_modules_for_sdxl_are_refused(weights, to_file):
    levels = r"(down|up)_blocks\.[012]\."
    refused(to_file({k: v for k, v in weights.items() if re.match(levels, k)}), "three levels, for Stable Diffusion XL")


@pytest.mark.parametrize("to_file", [dict, motion_to_diffusers], ids=["authors", "diffusers"])
@pytest.mark.parametrize(
    "lost",
    [
        "down_blocks.0.motion_modules.0.",
        "down_blocks.2.",
        "down_blocks.3.",
        "up_blocks.",
        "up_blocks.1.motion_modules.2.",
        "down_blocks.3.motion_modules.1.temporal_transformer.proj_out.bias",
        "mid_block.motion_modules.0.temporal_transformer.norm.",
    ],
)
def test_incomplete_sets_are_refused(weights, to_file, lost):
    left = to_file({key: value for key, value in weights.items() if not key.startswith(lost)})
    refused(left, r"missing keys|on the levels|no down_blocks\.0", "get it again" if "0.m" in lost else "")


def test_more_modules_than_there_are_places_are_refused(weights):
    refused(
        {**weights, "up_blocks.0.motion_modules.3.temporal_transformer.norm.bias": torch.ones(96)}, "unexpected keys"
    )


@pytest.mark.parametrize(
    "part", ["norm.weight", "proj_in.weight", "transformer_blocks.0.attention_blocks.0.to_q.weight"]
)
@pytest.mark.parametrize("kind", sorted(set(TENSOR_KINDS) - {"nan", "inf"}))
def test_broken_tensors_are_refused(weights, kind, part):
    refused(broken(weights, kind, f"{BLOCK}.{part}"), "got ")


@pytest.mark.parametrize("kind", sorted(set(TENSOR_KINDS) - {"nan", "inf"}))
@pytest.mark.parametrize("index", [0, 1])
def test_broken_tables_are_refused(weights, kind, index):
    name = f"{BLOCK}.transformer_blocks.0.attention_blocks.{index}.pos_encoder.pe"
    refused(broken(with_tables(weights, 24), kind, name), "got ")


@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_numbers_that_are_none_are_refused(tmp_path, weights, kind, name):
    path, tensors = tmp_path / name, broken(weights, kind, f"{BLOCK}.proj_in.bias")
    save_file(tensors, path) if name.endswith("s") else torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=rf"NaN or infinite values in {re.escape(BLOCK)}.proj_in.bias"):
        load_state_dict(path)


@pytest.mark.parametrize("channels", [0, 7, 48, 8224, 2**40])
def test_absurd_sizes_are_refused(weights, channels):
    norm = torch.empty(channels, device="meta")
    error = refused({**weights, f"{BLOCK}.norm.weight": norm}, rf"norm.weight of shape \[{channels}\]")
    assert "multiple of 32 up to 8192" in error.allowed


def test_a_table_for_too_many_frames_has_to_be_there(weights):
    name = f"{BLOCK}.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
    refused({**with_tables(weights, 4), name: torch.empty(1, 2**40, 64, device="meta")}, "pos_encoder.pe of shape")
