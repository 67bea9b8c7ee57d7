"""Node that cuts, samples and resizes a clip for a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...videolcm_core.media.instants import frame_numbers
from ...videolcm_core.media.resize import FITS, resize_frames
from .. import host
from ..sampling.latent import check_size
from ..schema import combo, make, schema
from .apply import CATEGORY, IMAGE_OR_VIDEO
from .films import ONE_FRAME, Clip, film_of, held_note, repeat_note, sample_film, start_error
from .frames import FIT_TOOLTIP, frames_of


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
                    default=64,
                    min=8,
                    max=2048,
                    step=8,
                    tooltip="Pixels, a multiple of 8; that of the latent. 64 for videolcm-mini, 448 for the authors' "
                    "models.",
                ),
                make(
                    io.Int,
                    "height",
                    default=64,
                    min=8,
                    max=2048,
                    step=8,
                    tooltip="Pixels, a multiple of 8; that of the latent. 64 for videolcm-mini, 256 for the authors' "
                    "models.",
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
        film = film_of(source)

        def shape(frame: Tensor) -> Tensor:
            return resize_frames(frame, width, height, fit)

        if film is None:
            clip = _by_number(source, frames, start, sample_fps, source_fps, shape)
        else:
            clip = sample_film(film, frames, start, sample_fps, shape)
        host.tell(*clip.notes)
        return io.NodeOutput(clip.frames, clip.fps)


def _by_number(
    source: Any, frames: int, start: int, sample_fps: float, source_fps: float, shape: Callable[[Tensor], Tensor]
) -> Clip:
    """Frames of an IMAGE, or of a VIDEO that a node made: they have a constant rate and no time stamps."""
    images, fps = frames_of(source)
    fps, count = fps or source_fps, len(images)
    if start >= count:
        raise start_error(start, count)
    wanted = frame_numbers(frames, start, fps, sample_fps)
    # Each is resized once and alone: 48 times the same large photo fills any memory.
    chosen = sorted({min(index, count - 1) for index in wanted})
    shaped = []
    for index in chosen:
        host.check_interrupted()
        shaped.append(shape(images[index : index + 1]))
    repeated = torch.tensor([chosen.index(min(index, count - 1)) for index in wanted])
    taken = torch.cat(shaped) if len(shaped) == len(wanted) else torch.cat(shaped)[repeated]
    return Clip(taken, float(sample_fps or fps), _notes(wanted, count, fps, sample_fps))


def _notes(wanted: list[int], count: int, fps: float, sample_fps: float) -> list[str]:
    if count == 1 and len(wanted) > 1:
        return [ONE_FRAME]
    notes = []
    held = sum(index >= count for index in wanted)
    if held:
        notes.append(held_note(f"frame {wanted[-1]}", held, len(wanted)))
    if sample_fps > fps * 1.001:
        notes.append(repeat_note(fps, sample_fps))
    return notes
