"""Nodes that make latents."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from .. import host
from ..motion.patch import motion_of
from ..schema import make, schema

LATENT_CHANNELS = 4
DOWNSCALE = 8


class VideoLCMEmptyLatent(io.ComfyNode):
    """Zeros with the frames as the batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMEmptyLatent",
            display_name="Empty VideoLCM Latent",
            category="VideoLCM/latent",
            description="An empty video for the sampler. Its frames are the latent's batch: one video a run.",
            search_aliases=["empty latent video", "videolcm latent", "frames", "video size"],
            inputs=[
                make(
                    io.Model,
                    "model",
                    optional=True,
                    tooltip="Optional. With a model connected, the video gets the size and length that it was trained "
                    "on, as its file says, and width, height and frames below are not used.",
                ),
                make(
                    io.Int,
                    "width",
                    default=64,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Pixels, a multiple of 8. videolcm-mini, which comes with the pack, was trained at 64, the "
                    "authors' models at 448.",
                ),
                make(
                    io.Int,
                    "height",
                    default=64,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Pixels, a multiple of 8. videolcm-mini, which comes with the pack, was trained at 64, the "
                    "authors' models at 256.",
                ),
                make(
                    io.Int,
                    "frames",
                    default=16,
                    min=1,
                    max=256,
                    tooltip="Length of the video. The models were trained on 16 frames; for more, use Context Windows "
                    "(Manual) with dim 0 and length 16.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="LATENT", tooltip="For the latent input of a sampler.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, frames: int, model: Any = None) -> io.NodeOutput:
        """Make the latent.

        Raises:
            ValueError: If a size is not a multiple of 8, there is no frame, or the model is of another family.
        """
        if model is not None:
            width, height, frames = trained_size(model)
        check_size(width, height)
        if frames < 1:
            raise ValueError(f"frames is {frames}; allowed: 1 or more. The models were trained on 16.")
        samples = torch.zeros(
            [frames, LATENT_CHANNELS, height // DOWNSCALE, width // DOWNSCALE],
            device=host.intermediate_device(),
            dtype=host.intermediate_dtype(),
        )
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": DOWNSCALE})


def trained_size(model: Any) -> tuple[int, int, int]:
    """Width and height in pixels and number of frames that a MODEL was trained on, as its file says.

    Raises:
        ValueError: If the MODEL is of another family, whose files do not say.
    """
    settings = getattr(getattr(model.model, "model_config", None), "settings", None)
    motion = motion_of(model)
    file = getattr(settings, "file", None) or getattr(motion, "settings", None)
    if file is None:
        raise ValueError(
            f"model is a {type(model.model).__name__}, which does not say what videos it was trained on; allowed: a "
            "model from Load VideoLCM Checkpoint, Load VideoLCM Model or Apply Motion Module. Disconnect it, and set "
            "the size by hand."
        )
    return file.width, file.height, file.frames


def check_size(width: int, height: int) -> None:
    """Refuse sizes that are not made of whole latent pixels.

    Raises:
        ValueError: Naming the nearest multiple of 8.
    """
    for name, value in (("width", width), ("height", height)):
        if value < DOWNSCALE or value % DOWNSCALE:
            nearest = max(DOWNSCALE, round(value / DOWNSCALE) * DOWNSCALE)
            raise ValueError(f"{name} is {value}; allowed: multiples of {DOWNSCALE}. Use {nearest}.")
