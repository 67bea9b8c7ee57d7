"""Node that puts motion modules into a MODEL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from comfy_api.latest import io

from ...videolcm_core.files.entries import GROUP_NORMS
from .. import host
from ..model.model_sampling import SamplingOptions, VideoLCMModelSampling
from ..model.presets import PRESETS
from ..schema import combo, make, schema
from .guard import attach_motion_guard
from .load_node import MotionModule
from .patch import Motion, motion_of, set_motion
from .slots import check_unet

AUTO: Final = "auto"
KEEP: Final = "keep the MODEL's"
MOTION_PRESETS: Final = (
    "animatelcm",
    "animatelcm-50",
    "animatelcm-i2v",
    "animatediff-evolved",
    "mcm-animatediff",
    "animatediff",
)
SAMPLING_CHOICES: Final = (AUTO, *MOTION_PRESETS, KEEP)


class VideoLCMMotionApply(io.ComfyNode):
    """MODEL and motion modules to MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMMotionApply",
            display_name="Apply Motion Module",
            category="VideoLCM/patch",
            description="Makes a Stable Diffusion 1.5 MODEL draw videos: motion modules run inside core's own UNet, "
            "and the MODEL is sampled as they were trained. LoRAs, ControlNets, context windows and saving go on "
            "working.",
            search_aliases=["animatediff", "animatelcm", "animate diff", "motion module", "motion model", "4 steps"],
            inputs=[
                make(io.Model, "model", tooltip="Any Stable Diffusion 1.5 MODEL; the one given stays as it is."),
                MotionModule.Input("motion_module", tooltip="From Load Motion Module."),
                combo(
                    "sampling",
                    list(SAMPLING_CHOICES),
                    AUTO,
                    tooltip="How the MODEL is sampled. auto: as the file needs. animatelcm: as its authors (linear "
                    "betas, 100-step grid). animatelcm-50: the 50-step grid. animatelcm-i2v: image to video (200, "
                    "last beta 0.014). animatediff-evolved: what its lcm schedule does (scaled_linear betas, 50). "
                    "mcm-animatediff: MCM. animatediff: the slow teacher, 20 steps or more with cfg 7. keep: what the "
                    "MODEL had.",
                ),
                combo(
                    "group_norm",
                    [AUTO, *GROUP_NORMS],
                    AUTO,
                    advanced=True,
                    tooltip="Statistics of the modules' group norm. frame: of each frame (AnimateDiff, AnimateLCM). "
                    "video: of all frames (diffusers, and LoRAs trained with it: MCM). auto: what the file says, frame "
                    "for the authors' files, video for diffusers'.",
                ),
                make(
                    io.Float,
                    "scale",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the motion: 1 as trained, less is calmer, 0 gives frames that know nothing of "
                    "one another.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="For VideoLCM Sampler or KSampler with lcm.")],
        )

    @classmethod
    def execute(cls, model: Any, motion_module: Motion, sampling: str, group_norm: str, scale: float) -> io.NodeOutput:
        """Clone the MODEL and give it the modules.

        Raises:
            ValueError: If the MODEL is not Stable Diffusion 1.5.
        """
        host.forget_notes()
        check_unet(model, motion_module.network, motion_module.file)
        before = motion_of(model)
        if before is not None:
            host.tell(f"this MODEL had {before.file} already; {motion_module.file} takes its place.")
        chosen = group_norm != AUTO
        motion = replace(
            motion_module,
            group_norm=group_norm if chosen else motion_module.group_norm,
            group_norm_chosen=chosen,
            sampling_chosen=sampling != AUTO,
            scale=scale,
        )
        patched = model.clone()
        set_motion(patched, motion)
        attach_motion_guard(patched)
        options = sampling_of(motion, sampling)
        if options is not None:
            patched.add_object_patch("model_sampling", VideoLCMModelSampling(options))
        return io.NodeOutput(patched)


def sampling_of(motion: Motion, choice: str) -> SamplingOptions | None:
    """How a MODEL with these modules is sampled; None leaves it as it is.

    Args:
        motion: The modules.
        choice: One of `SAMPLING_CHOICES`.
    """
    if choice == KEEP:
        return None
    if choice != AUTO:
        return PRESETS[choice]
    if motion.settings.sampling is None:
        host.tell(
            f"{motion.file} does not tell whether it is AnimateLCM or AnimateDiff v2, which have the same tensors in "
            "this layout; it is sampled as AnimateLCM. If the video is noise, choose sampling animatediff with 20 "
            "steps or more, or put a LoRA for few steps on the MODEL."
        )
        return PRESETS["animatelcm"]
    return SamplingOptions.of(motion.settings)
