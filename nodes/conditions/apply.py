"""Nodes that add conditions to CONDITIONING."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...videolcm_core.media.condition_values import DEPTH_SCALE
from ...videolcm_core.media.resize import FITS
from .. import host
from ..schema import combo, make, schema
from .frames import FIT_TOOLTIP, checked_mask, frames_of
from .notes import INVERTIBLE, condition_notes, mask_notes
from .pixels import CONDITIONS_KEY, KINDS, STILLS, Condition
from .style import STYLE_KEY, Style

CATEGORY = "VideoLCM/conditioning"
IMAGE_OR_VIDEO = [io.Image, io.Video]
OFF = "strength is 0: this condition is left out."


def _branches_in() -> list[Any]:
    return [
        make(io.Conditioning, "positive", tooltip="What to show, from CLIP Text Encode or another condition node."),
        make(
            io.Conditioning,
            "negative",
            optional=True,
            tooltip="What to avoid. Optional: a distilled model at cfg 1 does not use it. It gets the condition too, "
            "as the authors keep structure on in both branches of guidance.",
        ),
    ]


def _branches_out() -> list[Any]:
    return [
        io.Conditioning.Output(
            display_name="positive", tooltip="With the condition, for a sampler or the next condition node."
        ),
        io.Conditioning.Output(
            display_name="negative", tooltip="With the condition. Without a negative input: an empty text with it."
        ),
    ]


def _strength() -> Any:
    return make(
        io.Float,
        "strength",
        default=1.0,
        min=0.0,
        max=2.0,
        step=0.01,
        tooltip="Factor on the encoded condition. The models were trained at 1; 0 leaves the condition out.",
    )


def _fit() -> Any:
    return combo("fit", FITS, "crop", advanced=True, tooltip=FIT_TOOLTIP)


def both_branches(positive: Any, negative: Any | None, key: str, value: Any, uncond: Any) -> io.NodeOutput:
    """Positive and negative with a condition added; those given stay as they are.

    Args:
        positive: CONDITIONING.
        negative: CONDITIONING, or None for an empty text.
        key: Under which conditions of this sort travel.
        value: For the positive branch.
        uncond: For the negative branch.
    """
    negative = _empty_text(positive) if negative is None else negative
    return io.NodeOutput(
        host.append_to_conditioning(positive, key, (value,)), host.append_to_conditioning(negative, key, (uncond,))
    )


def _empty_text(positive: Any) -> Any:
    """Zeros for the text, as core's ConditioningZeroOut, with the pixel conditions that are there already."""
    empty = []
    for text, extra in positive:
        styles = {STYLE_KEY: tuple(style.uncond() for style in extra[STYLE_KEY])} if STYLE_KEY in extra else {}
        empty.append([torch.zeros_like(text), {**extra, **styles}])
    return empty


def _unchanged(positive: Any, negative: Any | None) -> io.NodeOutput:
    host.tell(OFF)
    return io.NodeOutput(positive, _empty_text(positive) if negative is None else negative)


class VideoLCMApplyCondition(io.ComfyNode):
    """Depth, sketch, first frame or motion to CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMApplyCondition",
            display_name="Apply VideoLCM Condition",
            category=CATEGORY,
            description="Makes the video follow a depth, sketch or motion sequence, or start from an image. Chain "
            "several in any order. Needs a compositional model, such as videolcm-mini-vcomposer.",
            search_aliases=["depth to video", "sketch to video", "image to video", "first frame", "control", "motion"],
            inputs=[
                *_branches_in(),
                combo(
                    "condition",
                    list(KINDS),
                    "depth",
                    tooltip="What the frames are. depth: near is bright. sketch: bright lines on black. single sketch: "
                    "one sketch for all frames. first frame: the image the video starts with. motion: from VideoLCM "
                    "Motion.",
                ),
                make(
                    io.MultiType,
                    "frames",
                    types=IMAGE_OR_VIDEO,
                    tooltip="IMAGE or VIDEO, as many frames as the latent has; any size. Single sketch and first frame "
                    "use the first frame only.",
                ),
                _strength(),
                make(
                    io.Boolean,
                    "invert",
                    default=False,
                    tooltip="Take black for white: for depth in which far is bright, and sketches with dark lines on "
                    "white.",
                ),
                _fit(),
                make(
                    io.Float,
                    "depth_scale",
                    default=DEPTH_SCALE,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    advanced=True,
                    tooltip="What white means in a depth image, at the authors' scale (MiDaS / 20). 2 for VideoLCM "
                    "Depth and for images in which the nearest point of the clip is white.",
                ),
            ],
            outputs=_branches_out(),
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        condition: str,
        frames: Any,
        strength: float,
        invert: bool,
        fit: str,
        depth_scale: float,
        negative: Any = None,
    ) -> io.NodeOutput:
        """Check the frames and add them.

        Raises:
            ValueError: If the frames cannot be used.
        """
        host.forget_notes()
        if strength == 0:
            return _unchanged(positive, negative)
        kind = KINDS[condition]
        images, _ = frames_of(frames, most=1 if kind in STILLS else None)
        host.tell(*condition_notes(kind, images, invert))
        value = Condition(
            kind=kind,
            frames=images[:1] if kind in STILLS else images,
            strength=strength,
            fit=fit,
            depth_scale=depth_scale,
            invert=invert and kind in INVERTIBLE,
        )
        return both_branches(positive, negative, CONDITIONS_KEY, value, value)


class VideoLCMInpaintCondition(io.ComfyNode):
    """Frames with a hole to CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMInpaintCondition",
            display_name="Apply VideoLCM Inpaint",
            category=CATEGORY,
            description="Shows the model the frames outside a mask, so that it paints what belongs inside. Needs a "
            "compositional model, such as videolcm-mini-vcomposer.",
            search_aliases=["inpaint video", "video inpainting", "mask", "remove object", "outpaint"],
            inputs=[
                *_branches_in(),
                make(
                    io.MultiType,
                    "frames",
                    types=IMAGE_OR_VIDEO,
                    tooltip="The video to paint into, IMAGE or VIDEO, as many frames as the latent has; any size.",
                ),
                make(
                    io.Mask,
                    "mask",
                    tooltip="White (1) is painted anew, black (0) is kept. One mask for all frames, or one for each; "
                    "of the same proportions as the frames.",
                ),
                _strength(),
                _fit(),
            ],
            outputs=_branches_out(),
        )

    @classmethod
    def execute(
        cls, positive: Any, frames: Any, mask: Tensor, strength: float, fit: str, negative: Any = None
    ) -> io.NodeOutput:
        """Check frames and mask and add them.

        Raises:
            ValueError: If they cannot be used, or do not fit each other.
        """
        host.forget_notes()
        if strength == 0:
            return _unchanged(positive, negative)
        images, _ = frames_of(frames)
        mask = checked_mask(mask, images)
        host.tell(*mask_notes(mask))
        value = Condition(kind="masked", frames=images, mask=mask, strength=strength, fit=fit)
        return both_branches(positive, negative, CONDITIONS_KEY, value, value)


class VideoLCMStyleCondition(io.ComfyNode):
    """CLIP vision output to CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMStyleCondition",
            display_name="Apply VideoLCM Image Style",
            category=CATEGORY,
            description="Takes the style of an image, through CLIP vision. For the authors' compositional model and "
            "TF-T2V; the embedded models have no image encoder.",
            search_aliases=["style image", "image prompt", "clip vision", "reference image", "ip adapter"],
            inputs=[
                *_branches_in(),
                make(
                    io.ClipVisionOutput,
                    "clip_vision_output",
                    tooltip="From CLIP Vision Encode with OpenCLIP ViT-H, whose embedding is 1024 wide.",
                ),
                make(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Factor on the tokens made of the image. The models were trained at 1; 0 leaves it out.",
                ),
            ],
            outputs=_branches_out(),
        )

    @classmethod
    def execute(cls, positive: Any, clip_vision_output: Any, strength: float, negative: Any = None) -> io.NodeOutput:
        """Add the image's embedding.

        Raises:
            ValueError: If there is no embedding, or its values are not finite.
        """
        host.forget_notes()
        if strength == 0:
            return _unchanged(positive, negative)
        style = Style.of(clip_vision_output, strength)
        return both_branches(positive, negative, STYLE_KEY, style, style.uncond())
