"""Node for LoRA files of every trainer."""

from __future__ import annotations

import logging
import os
from typing import Any

from comfy_api.latest import io

from ...videolcm_core.families.foreign import lora_base
from ...videolcm_core.families.vgen.lora import fit_lora
from ...videolcm_core.files.errors import CheckpointError
from ...videolcm_core.files.guard import reading
from ...videolcm_core.files.lora import LoraFile, read_lora
from ...videolcm_core.files.lora_config import CONFIG_NAME
from ...videolcm_core.files.lora_fit import LoraFit
from .. import host
from ..schema import combo, make, schema
from .lora_patches import UNET, make_patches

log = logging.getLogger(__name__)

FOLDER = "loras"
_LONGEST = 160  # characters of a name in a message


class VideoLCMLoraLoader(io.ComfyNode):
    """LoRA onto MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMLoraLoader",
            display_name="Load VideoLCM LoRA",
            category="VideoLCM/loaders",
            description="Applies a LoRA of kohya, peft, diffusers or Text-To-Video-Finetuning (both of its kinds) to a "
            "video model, such as MCM's for ModelScope. Alpha and rank of a peft folder are read from its "
            "adapter_config.json.",
            search_aliases=["lora", "videolcm lora", "mcm", "diffusers lora", "peft", "dora", "stable_lora"],
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
        """Load again when the file or the settings beside it have changed."""
        beside = os.path.join(os.path.dirname(lora_name), CONFIG_NAME)
        return host.file_fingerprint(lora_name, FOLDER), host.file_fingerprint(beside, FOLDER), strength_model

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength_model: float) -> io.NodeOutput:
        """Clone the MODEL and patch it.

        Raises:
            CheckpointError: If the file is unusable, or nothing in it fits the model.
        """
        host.forget_notes()
        if strength_model == 0:
            return io.NodeOutput(model)
        path = host.model_path(lora_name, FOLDER)
        with reading(path):
            lora = read_lora(path)
            state = model.model.diffusion_model.state_dict()
            shapes = {key: value.shape for key, value in state.items()}
            fit = fit_lora(lora, shapes)
            patched = model.clone()
            applied = patched.add_patches(make_patches(lora, fit, shapes), strength_model)
            _report(lora, fit, [key.removeprefix(UNET) for key in applied])
        return io.NodeOutput(patched)


def _report(lora: LoraFile, fit: LoraFit, applied: list[str]) -> None:
    left = {"of another shape": fit.misshapen, "not in this model": fit.unknown}
    named = [f"{len(names)} {cause} (first {_cut(names[0])})" for cause, names in left.items() if names]
    if fit.text:
        named.append(f"{len(fit.text)} for a text encoder (first {_cut(fit.text[0])}; Load LoRA takes those)")
    if not applied:
        raise CheckpointError(
            lora.file,
            f"{' and '.join(named) or 'no LoRA tensors'}; none fits this model. {lora_base(lora)}",
            "a LoRA for this network in kohya, peft, diffusers, stable_lora or cloneofsimo layout",
            "Check that it was trained on this kind of model (ModelScope or VideoLCM text-to-video, of this size).",
        )
    log.info("VideoLCM: %s changes %d weights, scale from %s.", lora.file, len(applied), _scale_of(lora))
    if named:
        host.tell(f"{lora.file}: {len(applied)} weights changed, left out: {', '.join(named)}.")
    if lora.guessed:
        host.tell(
            f"{lora.file} does not say its alpha, so alpha was taken to be the rank. Put the {CONFIG_NAME} of its "
            f"training beside it, or set strength_model to alpha / rank."
        )


def _scale_of(lora: LoraFile) -> str:
    return lora.config.source if lora.config else "the file" if not lora.guessed else "its rank"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
