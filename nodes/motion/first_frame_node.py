"""Node for AnimateLCM's image to video."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ...videolcm_core.media.resize import resize_frames
from .. import host
from ..conditions.frames import frames_of
from ..model.guard import check_shape
from ..schema import make, schema
from .first_frame import FirstFrame
from .patch import motion_of, set_motion


class VideoLCMFirstFrame(io.ComfyNode):
    """An image onto a MODEL with AnimateLCM's image-to-video modules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMFirstFrame",
            display_name="Apply AnimateLCM First Frame",
            category="VideoLCM/conditions",
            description="Image to video with AnimateLCM: the file's image encoder adds the image to the UNet. Match "
            "Colours after VAE Decode gives the video the image's colours, as the authors do.",
            search_aliases=["animatelcm i2v", "image to video", "first frame", "start image", "ref_latent", "animate"],
            inputs=[
                make(
                    io.Model,
                    "model",
                    tooltip="From Apply Motion Module with AnimateLCM's image-to-video file (AnimateLCM_sd15_i2v.ckpt, "
                    "which has an image encoder).",
                ),
                make(
                    io.Image,
                    "image",
                    tooltip="The first frame, cut to the video's shape around its middle. A batch of as many images as "
                    "the video has frames gives each frame its own.",
                ),
                make(io.Vae, "vae", tooltip="The VAE of the checkpoint."),
                make(io.Latent, "latent", tooltip="The latent that goes to the sampler: it tells the size."),
                make(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much of the image to add: 1 as trained, 0 nothing.",
                ),
                make(
                    io.Float,
                    "motion_scale",
                    default=0.8,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How far frames may drift from the image: the authors' 0.8. AnimateDiff-Evolved calls it "
                    "ref_drift and sets 0.",
                ),
                make(
                    io.Float,
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Part of the run from which on the image acts.",
                ),
                make(
                    io.Float,
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Part of the run up to which the image acts.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="For VideoLCM Sampler or KSampler with lcm.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        image: torch.Tensor,
        vae: Any,
        latent: dict[str, Any],
        strength: float,
        motion_scale: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        """Encode the image and give it to a clone of the MODEL.

        Raises:
            ValueError: If the MODEL has no image encoder, or image, latent or percents do not fit.
        """
        host.forget_notes()
        motion = motion_of(model)
        if motion is None or motion.network.img_encoder is None:
            got = "no motion modules" if motion is None else f"{motion.file}, which has no image encoder"
            raise ValueError(
                f"This MODEL has {got}; allowed: AnimateLCM's image-to-video modules. Load AnimateLCM_sd15_i2v.ckpt "
                f"with Load Motion Module and put Apply Motion Module before this node."
            )
        if start_percent > end_percent:
            raise ValueError(
                f"start_percent is {start_percent:g} and end_percent {end_percent:g}; allowed: start not after end."
            )
        check_shape(latent["samples"])
        latents = model.model.process_latent_in(_encode(vae, image, latent["samples"]))
        frame = FirstFrame(
            latents=latents, strength=strength, motion_scale=motion_scale, start=start_percent, end=end_percent
        )
        patched = model.clone()
        set_motion(patched, replace(motion, first_frame=frame))
        return io.NodeOutput(patched)


def _encode(vae: Any, image: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Latents ``[N, 4, h, w]`` of images at the size of the latent, as the VAE gives them.

    Raises:
        ValueError: If there is neither one image nor one for each frame, or the VAE is of another family.
    """
    frames = samples.shape[2] if samples.ndim == 5 else len(samples)
    height, width = samples.shape[-2:]
    images, _ = frames_of(image)
    if len(images) not in (1, frames):
        host.tell(f"there are {len(images)} images for {frames} frames: the first is taken.")
        images = images[:1]
    latents = vae.encode(resize_frames(images, 8 * width, 8 * height, "crop"))
    if latents.ndim != 4 or latents.shape[1:] != (4, height, width):
        raise ValueError(
            f"The VAE made latents of shape {list(latents.shape)} of the image; allowed: [images, 4, {height}, "
            f"{width}], those of Stable Diffusion 1.5. Use the VAE of the checkpoint."
        )
    return latents
