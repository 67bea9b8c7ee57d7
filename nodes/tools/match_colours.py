"""Node that gives a video the colours of the image it began with."""

from __future__ import annotations

from typing import Any, Final

import torch
from comfy_api.latest import io
from torch import Tensor

from ...videolcm_core.media.colours import HUE, SATURATION, VALUE, match_colours, to_levels
from .. import host
from ..conditions.frames import frames_of
from ..schema import make, schema

_CHUNK: Final = 8


class VideoLCMMatchColours(io.ComfyNode):
    """Frames with the mean hue, saturation and value of a reference image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMMatchColours",
            display_name="Match Colours",
            category="VideoLCM/tools",
            description="Shifts the colours of each frame so that their means are those of a reference image: "
            "AnimateLCM's alignment of a video with the image it was made from. For any frames.",
            search_aliases=[
                "match colours",
                "match colors",
                "color match",
                "color correction",
                "hsv",
                "animatelcm",
                "colour drift",
                "image to video",
            ],
            inputs=[
                make(io.Image, "images", tooltip="Frames of the video, such as the IMAGE of VAE Decode."),
                make(
                    io.Image,
                    "reference",
                    tooltip="The image whose colours the video should have, of any size; of several frames the first.",
                ),
                _strength("hue", HUE, "hue"),
                _strength("saturation", SATURATION, "saturation"),
                _strength("value", VALUE, "value (brightness)"),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", tooltip="The frames in 8 bits; an alpha channel is kept as it is."
                )
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, reference: Tensor, hue: float, saturation: float, value: float) -> io.NodeOutput:
        """Match every frame.

        Raises:
            ValueError: If there is no frame, or an input is no image.
            ImportError: If OpenCV is not there.
        """
        frames, wanted, matched = _read(images, "images"), to_levels(_read(reference, "reference")[0]), []
        done = host.frame_progress(len(frames))
        for start in range(0, len(frames), _CHUNK):
            part = match_colours(to_levels(frames[start : start + _CHUNK]), wanted, hue, saturation, value)
            matched.append(part.to(torch.float32) / 255)
            done(start + len(part))
        result = torch.cat(matched)
        if images.shape[-1] == 4:
            result = torch.cat([result, images[..., 3:].to(result)], dim=-1)
        return io.NodeOutput(result.to(device=host.intermediate_device(), dtype=host.intermediate_dtype()))


def _strength(name: str, default: float, what: str) -> Any:
    return make(
        io.Float,
        name,
        default=default,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip=f"How much of the difference in {what} is made up for: 0 leaves it as it is, 1 makes up for all. "
        f"AnimateLCM's authors take {default:g}.",
    )


def _read(images: Tensor, name: str) -> Tensor:
    """Frames ``[F, H, W, 3]`` float32, with the input's name in what goes wrong."""
    try:
        return frames_of(images)[0]
    except ValueError as error:
        raise ValueError(f"Match Colours, {name}: {error}") from error
