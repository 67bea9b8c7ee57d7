"""Node that changes how a MODEL is sampled."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...videolcm_core.diffusion.prediction import PREDICTIONS
from ...videolcm_core.diffusion.schedule import BETA_SCHEDULES
from ..model.model_sampling import SamplingOptions, VideoLCMModelSampling
from ..schema import combo, make, schema


class VideoLCMSampling(io.ComfyNode):
    """Change how a MODEL's output is understood."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMSampling",
            display_name="VideoLCM Model Sampling",
            category="VideoLCM/patch",
            description="Sets what a consistency model predicts and on which timesteps it was distilled. The loaders "
            "set this from the file; this node is for files that say nothing, and for experiments.",
            search_aliases=["model sampling", "lcm", "v prediction", "zero terminal snr", "mcm", "animatelcm"],
            inputs=[
                make(io.Model, "model", tooltip="The MODEL to change; the one given stays as it is."),
                combo(
                    "prediction",
                    PREDICTIONS,
                    "v",
                    tooltip="What the network predicts: v (VideoLCM, TF-T2V), eps (ModelScope, Stable Diffusion 1.5) "
                    "or x_0, the clean video.",
                ),
                make(
                    io.Boolean,
                    "zsnr",
                    default=True,
                    tooltip="Zero terminal SNR: the last timestep is pure noise. On for VideoLCM and TF-T2V, off for "
                    "ModelScope and Stable Diffusion.",
                ),
                make(
                    io.Int,
                    "original_steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="Length of the grid of timesteps the model was distilled on.",
                ),
                combo(
                    "beta_schedule",
                    BETA_SCHEDULES,
                    "scaled_linear",
                    advanced=True,
                    tooltip="scaled_linear: Stable Diffusion, VideoLCM. linear: AnimateLCM (diffusers' names).",
                ),
                make(
                    io.Float,
                    "timestep_scaling",
                    default=10.0,
                    min=0.01,
                    max=1000.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Of the boundary scaling: 10 for VideoLCM and LCM, 4 for MCM.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The changed MODEL.")],
        )

    @classmethod
    def execute(
        cls, model: Any, prediction: str, zsnr: bool, original_steps: int, beta_schedule: str, timestep_scaling: float
    ) -> io.NodeOutput:
        """Clone the MODEL and replace its sampling object."""
        options = SamplingOptions(
            prediction=prediction,
            beta_schedule=beta_schedule,
            zero_terminal_snr=zsnr,
            original_steps=original_steps,
            timestep_scaling=timestep_scaling,
        )
        patched = model.clone()
        patched.add_object_patch("model_sampling", VideoLCMModelSampling(options))
        return io.NodeOutput(patched)
