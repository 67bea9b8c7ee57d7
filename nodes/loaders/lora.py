"""Node for LoRA files of every trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from comfy_api.latest import io

from ...videolcm_core.files.guard import reading
from ...videolcm_core.files.lora import read_lora
from ...videolcm_core.files.lora_config import config_places
from .. import host
from ..schema import combo, make, schema
from .lora_report import convention, report
from .lora_sampling import read_sampling, set_sampling
from .lora_target import target_of

FOLDERS: Final = ("loras", host.MOTION_LORA_FOLDER)


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
            "VideoLCM or ModelScope MODEL, or to Stable Diffusion 1.5 and the motion modules on it: AnimateLCM's, "
            "MCM's and AnimateDiff's. A LoRA for few steps sets how the MODEL is sampled. The log says how many "
            "weights it changed, the node what it left out.",
            search_aliases=[
                *("lora", "videolcm lora", "mcm", "diffusers lora", "peft", "dora", "stable_lora"),
                *("animatelcm lora", "animatediff lora", "motion lora", "lcm lora"),
            ],
            inputs=[
                make(
                    io.Model,
                    "model",
                    tooltip="A VideoLCM or ModelScope MODEL, or Stable Diffusion 1.5. A LoRA for motion modules goes "
                    "after Apply Motion Module. The MODEL given stays as it is.",
                ),
                combo(
                    "lora_name",
                    host.model_files(*FOLDERS),
                    None,
                    tooltip="A file in models/loras or models/animatediff_motion_lora, for example "
                    "AnimateLCM_sd15_t2v_lora.safetensors. Alpha and rank of a peft folder are read from its "
                    "adapter_config.json.",
                ),
                make(
                    io.Float,
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of the LoRA to add: 1 as trained (AnimateLCM's 0.8 to 1), 0 nothing, negative "
                    "the opposite.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The MODEL with the LoRA on it.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, strength_model: float, **_: Any) -> Any:
        """Load again when the file or the settings beside it have changed."""
        files = (lora_name, *(str(place) for place in config_places(Path(lora_name))))
        return *(host.file_fingerprint(name, *FOLDERS) for name in files), strength_model

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength_model: float) -> io.NodeOutput:
        """Clone the MODEL and patch it.

        Raises:
            CheckpointError: If the file is unusable, or nothing in it fits the MODEL.
        """
        host.forget_notes()
        if strength_model == 0:
            return io.NodeOutput(model)
        path = host.model_path(lora_name, *FOLDERS)
        with reading(path):
            lora = read_lora(path)
            target = target_of(model, lora.file)
            fit = target.fit(lora)
            sampling = read_sampling(lora, fit, target)
            group_norm, note = convention(lora.file, sampling.group_norm, target.motion)
            patched, of_unet, of_motion = target.patched(lora, fit, strength_model, group_norm)
            report(lora, fit, target, of_unet, of_motion)
            if of_motion and note:
                host.tell(note)
            if strength_model > 0:
                set_sampling(patched, lora, sampling)
        return io.NodeOutput(patched)
