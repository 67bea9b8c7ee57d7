"""Narrow files under the names that the workflows on Stable Diffusion 1.5 ask for.

Weights are those of `sd15_loras`; text encoder and VAE have the layouts of the embedded files, the VAE is theirs.
Core's checkpoint loader knows the published width alone, so the checkpoint has a name of its own for ours, and core's
ControlNet loader takes T2I-Adapters of every width, so one stands under the ControlNet's name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sd15_loras import MOTION, UNET, filled, kohya_tensors, motion_weights, peft_tensors, unet_weights
from torch import Tensor

import setup
from videolcm_core.networks.animatediff.motion import MotionConfig, MotionNetwork
from videolcm_core.networks.text_encoder import TextConfig, TextEncoder

CHECKPOINT = "sd15-narrow.safetensors"
TEXT = {
    "hidden_size": UNET.context_dim,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 64,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
GAIN = 0.8
POSITIONS = 32
"""Of AnimateDiff v2's files."""


def checkpoint() -> dict[str, Tensor]:
    """An all-in-one file: narrow UNet and text encoder, the embedded VAE."""
    words = torch.tensor([320, 550, 1929, 4558, 49406, 49407], dtype=torch.int32)
    shapes = TextEncoder(words, TextConfig(**TEXT)).state_dict()
    text = {k: filled(k, v.shape, GAIN) for k, v in shapes.items() if k != "vocabulary"} | {"vocabulary": words}
    mini = load_file(setup.ROOT / "models" / "videolcm-mini.safetensors")
    vae = {key: value for key, value in mini.items() if key.startswith("first_stage_model.")}
    return unet_weights("model.diffusion_model.") | {f"cond_stage_model.{k}": v for k, v in text.items()} | vae


def with_positions(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """AnimateDiff's own files bring the positions along."""
    tables = {
        key.replace("to_q.weight", "pos_encoder.pe"): filled(key + ".pe", (1, POSITIONS, value.shape[1]), 0.1)
        for key, value in weights.items()
        if key.endswith("to_q.weight")
    }
    return weights | tables


def image_encoder() -> dict[str, Tensor]:
    """Of AnimateLCM's image-to-video file."""
    network = MotionNetwork(MotionConfig(channels=MOTION.channels, image_encoder=True), device="meta")
    shapes = {key: value.shape for key, value in network.state_dict().items() if key.startswith("img_encoder.")}
    return {key: filled(key, shape, GAIN) for key, shape in shapes.items()}


def depth_adapter() -> dict[str, Tensor]:
    """Core's T2I-Adapter at the width of the UNet: an RGB image in squares of 8."""
    shapes: dict[str, tuple[int, ...]] = {"conv_in.weight": (32, 3 * 64, 3, 3), "conv_in.bias": (32,)}
    widths = [32, 64, 128, 128]
    for level, width in enumerate(widths):
        for block in (0, 1):
            name, before = f"body.{2 * level + block}", widths[max(0, level - 1)] if block == 0 else width
            if before != width:
                shapes |= {f"{name}.in_conv.weight": (width, before, 1, 1), f"{name}.in_conv.bias": (width,)}
            for layer, kernel in (("block1", 3), ("block2", 1)):
                shapes |= {f"{name}.{layer}.weight": (width, width, kernel, kernel), f"{name}.{layer}.bias": (width,)}
    return {key: filled(key, shape, GAIN) for key, shape in shapes.items()}


def write_files(models: Path) -> None:
    """Write all of them into a host's folder of models."""
    motion = motion_weights()
    metadata = {"videolcm.text_config": json.dumps(TEXT)}
    _save(models / "videolcm" / CHECKPOINT, checkpoint(), metadata)
    for name, tensors in (
        ("AnimateLCM_sd15_t2v.ckpt", motion),
        ("AnimateLCM_sd15_i2v.ckpt", motion | image_encoder()),
        ("mm_sd_v15_v2.ckpt", {f"module.{key}": value for key, value in with_positions(motion).items()}),
    ):
        _pickle(models / "animatediff_models" / name, {"state_dict": tensors})
    for kind in ("t2v", "i2v"):
        _save(models / "loras" / f"AnimateLCM_sd15_{kind}_lora.safetensors", kohya_tensors())
    mcm = models / "loras" / "animatediff-webvid"
    _save(mcm / "adapter_model.safetensors", peft_tensors())
    (mcm / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    _pickle(models / "controlnet" / "control_v11f1p_sd15_depth.pth", depth_adapter())


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)


def _pickle(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
