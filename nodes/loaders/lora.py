"""Node for LoRA files in diffusers or peft names."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...videolcm_core.families.vgen.keymaps import vgen_to_diffusers
from ...videolcm_core.files.errors import CheckpointError
from ...videolcm_core.files.reading import load_state_dict
from .. import host
from ..schema import combo, make, schema

log = logging.getLogger(__name__)

FOLDER = "loras"
# Prefixes that diffusers, peft and trainers built on them put before a module's name.
MODULE_PREFIXES = ("", "unet.", "base_model.model.", "unet.base_model.model.")


class VideoLCMLoraLoader(io.ComfyNode):
    """LoRA onto MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMLoraLoader",
            display_name="Load VideoLCM LoRA",
            category="VideoLCM/loaders",
            description="Applies a LoRA trained with diffusers or peft on ModelScope's network (such as MCM's or "
            "Text-To-Video-Finetuning's). LoRA files in VGen's or ComfyUI's own names work in Load LoRA too.",
            search_aliases=["lora", "videolcm lora", "mcm", "diffusers lora", "peft"],
            inputs=[
                make(io.Model, "model", tooltip="The video model; the one given stays as it is."),
                combo("lora_name", host.model_files(FOLDER), None, tooltip="A file in models/loras."),
                make(
                    io.Float,
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of the LoRA to add: 1 as trained, 0 nothing, negative the opposite.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The MODEL with the LoRA on it.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, strength_model: float, **_: Any) -> Any:
        """Load again when the file has changed."""
        return host.file_fingerprint(lora_name, FOLDER), strength_model

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength_model: float) -> io.NodeOutput:
        """Clone the MODEL and patch it."""
        if strength_model == 0:
            return io.NodeOutput(model)
        path = host.model_path(lora_name, FOLDER)
        tensors = load_state_dict(path)[0]
        patches = host.lora_patches(tensors, lora_key_map(model.model))
        patched = model.clone()
        applied = patched.add_patches(patches, strength_model)
        _report(path, tensors, patches, applied)
        return io.NodeOutput(patched)


def lora_key_map(model: Any) -> dict[str, str]:
    """Names that a LoRA file may use for a module -> the MODEL's weight of it.

    Args:
        model: The `BaseModel`.
    """
    key_map = host.unet_lora_keys(model)
    keys = [key for key in model.diffusion_model.state_dict() if key.endswith(".weight")]
    for key in keys:  # peft's folders of students that this pack's training made
        for prefix in MODULE_PREFIXES[1:]:
            key_map[prefix + key.removesuffix(".weight")] = f"diffusion_model.{key}"
    for own, theirs in vgen_to_diffusers(keys).items():
        module = theirs.removesuffix(".weight")
        for name in _spellings(module):
            key_map[name] = f"diffusion_model.{own}"
    return key_map


def _spellings(module: str) -> list[str]:
    names = [prefix + module for prefix in MODULE_PREFIXES]
    # Older diffusers keeps attention LoRAs in processors, without the index of to_out.0.
    processor = module.replace(".to_", ".processor.to_").removesuffix(".0")
    flat = module.replace(".", "_")
    return [*names, processor, f"unet.{processor}", f"lora_unet_{flat}", f"lycoris_{flat}"]


def _report(path: str, tensors: dict[str, Tensor], patches: dict[str, Any], applied: Any) -> None:
    if not applied:
        raise CheckpointError(
            Path(path).name,
            got=f"{len(tensors)} tensors, the first {', '.join(sorted(tensors)[:3])}; none fits this model",
            allowed="LoRA weights for this network in diffusers, peft, kohya or VGen names",
            next_step="Check that the LoRA was trained on this kind of model (ModelScope or VideoLCM text-to-video).",
        )
    log.info("VideoLCM: %s changes %d weights.", Path(path).name, len(applied))
    used = sum(len(getattr(patch, "loaded_keys", ())) for patch in patches.values())
    if used and used < len(tensors):
        log.warning("VideoLCM: %d of %d tensors in %s fit nothing.", len(tensors) - used, len(tensors), Path(path).name)
