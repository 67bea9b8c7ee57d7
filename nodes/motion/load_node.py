"""Node that loads motion modules."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import host
from ..loaders.loading import WEIGHT_DTYPES
from ..schema import combo, schema
from .loading import FOLDERS, load_motion

MotionModule = io.Custom("VIDEOLCM_MOTION_MODULE")
"""Socket between Load and Apply."""


class VideoLCMMotionLoader(io.ComfyNode):
    """File to motion modules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMMotionLoader",
            display_name="Load Motion Module",
            category="VideoLCM/loaders",
            description="Loads motion modules for Stable Diffusion 1.5: AnimateLCM's (text or image to video), "
            "AnimateDiff's v1, v2 and v3, and diffusers' MotionAdapter files. For Apply Motion Module.",
            search_aliases=["animatediff", "animatelcm", "animate diff", "motion module", "motion model", "mm_sd_v15"],
            inputs=[
                combo(
                    "motion_name",
                    host.model_files(*FOLDERS),
                    None,
                    tooltip="A file in models/animatediff_models or models/videolcm, for example "
                    "AnimateLCM_sd15_t2v.ckpt (1.8 GB). What it is, is read from its tensors.",
                ),
                combo(
                    "weight_dtype",
                    list(WEIGHT_DTYPES),
                    "default",
                    advanced=True,
                    tooltip="How the weights are kept in memory. default: as the host judges for your device. fp8 "
                    "halves the memory of fp16 and costs quality.",
                ),
            ],
            outputs=[
                MotionModule.Output(display_name="motion_module", tooltip="For Apply Motion Module."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, motion_name: str, weight_dtype: str) -> Any:
        """Load again when the file has changed."""
        return host.file_fingerprint(motion_name, *FOLDERS), weight_dtype

    @classmethod
    def execute(cls, motion_name: str, weight_dtype: str) -> io.NodeOutput:
        """Load the modules."""
        return io.NodeOutput(load_motion(host.model_path(motion_name, *FOLDERS), weight_dtype))
