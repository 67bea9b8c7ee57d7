"""The finished student as a folder that diffusers reads, for a teacher that came as one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videolcm_core.families.vgen.keymaps import vgen_to_diffusers
from videolcm_core.networks.vgen.unet3d import UNetConfig

from ..teachers import Teacher
from .export import LcmSettings, student_metadata

HEADS = 8  # of the first temporal transformer in every UNet3DConditionModel


def export_diffusers(
    folder: Path,
    student_state: Mapping[str, Tensor],
    teacher: Teacher,
    *,
    recipe: Mapping[str, Any],
    settings: LcmSettings | None = None,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write ``unet/``, ``scheduler/`` (LCMScheduler) and ``videolcm.json`` (the metadata of `export.export_student`).

    Args:
        folder: made if it is missing; a diffusers pipeline's folder takes them in place of its own.
        student_state: weights under the teacher's keys.
        teacher: base of the student.
        recipe: how it was trained.
        settings: for the sampler.
        dtype: of the weights.

    Returns:
        The folder.

    Raises:
        ValueError: diffusers has no such network.
        ImportError: diffusers is not installed.
    """
    from diffusers import LCMScheduler, UNet3DConditionModel

    settings = settings or LcmSettings()
    network: Any = UNet3DConditionModel(**diffusers_config(teacher.config, teacher.file))
    names = vgen_to_diffusers(student_state)
    # Its convolutions of kernel 1 on tokens are matrices there.
    weights = {names[k]: v.squeeze(-1) if v.ndim == 3 else v for k, v in student_state.items()}
    network.load_state_dict(weights)
    network.to(dtype).save_pretrained(str(folder / "unet"))
    scheduler: Any = LCMScheduler(
        beta_schedule=teacher.settings.beta_schedule,
        prediction_type={"v": "v_prediction", "eps": "epsilon", "x_0": "sample"}[teacher.prediction],
        rescale_betas_zero_snr=teacher.zero_terminal_snr,
        original_inference_steps=settings.original_steps,
        timestep_scaling=settings.timestep_scaling,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.save_pretrained(str(folder / "scheduler"))
    (folder / "videolcm.json").write_text(
        json.dumps(student_metadata(teacher, settings, recipe), indent=1), encoding="utf-8"
    )
    return folder


def diffusers_config(config: UNetConfig, file: str) -> dict[str, Any]:
    """Arguments of the UNet3DConditionModel of a shape.

    Raises:
        ValueError: there is none.
    """
    levels = len(config.channel_mult)
    attended = [2.0**-level in config.attention_scales for level in range(levels)]
    reasons = []
    if config.conditions or config.use_fps:
        reasons.append(f"encoders for {', '.join(sorted(config.conditions)) or 'frames per second'}")
    if config.num_heads != HEADS:
        reasons.append(f"{config.num_heads} heads in its first temporal transformer (diffusers: {HEADS})")
    if reasons:
        raise ValueError(
            f"{file} cannot be a UNet3DConditionModel: it has {' and '.join(reasons)}. Export one safetensors file."
        )
    down = ["CrossAttnDownBlock3D" if a else "DownBlock3D" for a in attended]
    up = ["CrossAttnUpBlock3D" if a else "UpBlock3D" for a in reversed(attended)]
    return {
        "in_channels": config.in_channels + config.concat_channels,
        "out_channels": config.out_channels,
        "block_out_channels": [config.model_channels * mult for mult in config.channel_mult],
        "layers_per_block": config.num_res_blocks,
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": config.head_dim,
        "down_block_types": down,
        "up_block_types": up,
    }
