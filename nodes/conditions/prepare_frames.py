"""Node that cuts, samples and resizes a clip for a condition."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy_api.latest import io

from .. import host
from ..sampling.latent import check_size
from ..schema import combo, make, schema
from .apply import CATEGORY, IMAGE_OR_VIDEO
from .frames import FIT_TOOLTIP, FITS, frames_of, resize_frames


def frame_indices(count: int, start: int, fps: float, sample_fps: float) -> list[int]:
    """Which frames of a clip stand for ``count`` frames at another rate.

    Args:
        count: How many.
        start: The first one.
        fps: Of the clip.
        sample_fps: Wanted; 0 takes every frame.

    Returns:
        Rising indices; they may lie beyond the clip's end.
    """
    step = fps / sample_fps if sample_fps else 1.0
    # The epsilon keeps rates that divide evenly from slipping a frame by rounding.
    return [start + math.floor(i * step + 1e-6) for i in range(count)]


class VideoLCMPrepareFrames(io.ComfyNode):
    """A clip at the model's length, rate and size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMPrepareFrames",
            display_name="Prepare Condition Frames",
            category=CATEGORY,
            description="Cuts a clip to the model's number of frames, frames per second and size. The models know "
            "video at about 8 frames per second: every frame of a 30 fps film would be slow motion to them.",
            search_aliases=["sample frames", "resize video", "frame rate", "load video frames", "videolcm frames"],
            inputs=[
                make(io.MultiType, "source", types=IMAGE_OR_VIDEO, tooltip="The clip, IMAGE or VIDEO."),
                make(
                    io.Int,
                    "frames",
                    default=16,
                    min=1,
                    max=256,
                    tooltip="How many to make: as many as the latent has. If the clip ends before, its last frame is "
                    "held.",
                ),
                make(
                    io.Int,
                    "start",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="The first frame to take, counted from 0 in the clip's own frames.",
                ),
                make(
                    io.Float,
                    "sample_fps",
                    default=8.0,
                    min=0.0,
                    max=240.0,
                    step=0.1,
                    tooltip="Frames per second to take; 0 takes every frame. The authors' models and videolcm-mini "
                    "make video at 8.",
                ),
                make(
                    io.Int,
                    "width",
                    default=448,
                    min=8,
                    max=2048,
                    step=8,
                    tooltip="Pixels, a multiple of 8; that of the latent. 448 for the authors' models, 64 for "
                    "videolcm-mini.",
                ),
                make(
                    io.Int,
                    "height",
                    default=256,
                    min=8,
                    max=2048,
                    step=8,
                    tooltip="Pixels, a multiple of 8; that of the latent. 256 for the authors' models, 64 for "
                    "videolcm-mini.",
                ),
                combo("fit", FITS, "crop", tooltip=FIT_TOOLTIP),
                make(
                    io.Float,
                    "source_fps",
                    default=8.0,
                    min=0.01,
                    max=1000.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Frames per second of an IMAGE, which does not say. A VIDEO's own rate is used instead.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The frames, for a condition node or an extractor."),
                io.Float.Output(display_name="fps", tooltip="Their rate, for Create Video."),
            ],
        )

    @classmethod
    def execute(
        cls,
        source: Any,
        frames: int,
        start: int,
        sample_fps: float,
        width: int,
        height: int,
        fit: str,
        source_fps: float,
    ) -> io.NodeOutput:
        """Cut, sample and resize.

        Raises:
            ValueError: If the clip cannot be read, starts after its end, or the size is not a multiple of 8.
        """
        host.forget_notes()
        check_size(width, height)
        images, fps = frames_of(source, needed=lambda fps: frame_indices(frames, start, fps, sample_fps)[-1] + 1)
        fps = fps or source_fps
        count = len(images)
        if start >= count:
            raise ValueError(
                f"start is {start} and the clip has {count} frame{'s' * (count > 1)}; allowed: 0 to {count - 1}. "
                f"Choose an earlier start."
            )
        wanted = frame_indices(frames, start, fps, sample_fps)
        host.tell(*_notes(wanted, count, fps, sample_fps))
        chosen = images[torch.tensor([min(index, count - 1) for index in wanted])]
        return io.NodeOutput(resize_frames(chosen, width, height, fit), float(sample_fps or fps))


def _notes(wanted: list[int], count: int, fps: float, sample_fps: float) -> list[str]:
    if count == 1 and len(wanted) > 1:
        return ["the clip has one frame: it is repeated, a still video."]
    notes = []
    held = sum(index >= count for index in wanted)
    if held:
        notes.append(
            f"the clip ends before frame {wanted[-1]}: its last frame is held for {held} of {len(wanted)} frames. Take "
            f"a longer clip, fewer frames, or a higher sample_fps."
        )
    if sample_fps > fps * 1.001:
        notes.append(f"the clip has {fps:g} frames per second and {sample_fps:g} are taken: frames repeat.")
    return notes
