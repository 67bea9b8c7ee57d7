"""Node that loads the clips that come with the pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import InputImpl, io
from torch import Tensor

from ...videolcm_core.media.condition_values import luma
from ...videolcm_core.media.video import Video
from .. import host
from ..schema import combo, schema
from .frames import frames_of

MASK_SUFFIX = "_mask"


def clip_names() -> list[str]:
    """File names of the clips, without their masks."""
    return sorted(path.name for path in host.EXAMPLE_CLIPS.glob("*.mp4") if not path.stem.endswith(MASK_SUFFIX))


class VideoLCMExampleClip(io.ComfyNode):
    """A clip of the pack to VIDEO, MASK and text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        names = clip_names()
        return schema(
            node_id="VideoLCMExampleClip",
            display_name="Load VideoLCM Example",
            category="VideoLCM/loaders",
            description="Loads a short clip that comes with this pack, to try a workflow at once. For your own, use "
            "core's Load Video in its place.",
            search_aliases=["example video", "sample clip", "demo video", "load video", "test clip"],
            inputs=[
                combo(
                    "clip",
                    names,
                    names[0] if names else None,
                    tooltip="A clip in the workflows/clips folder of this pack, rendered by its own training: 128x128 "
                    "at 8 frames per second.",
                ),
            ],
            outputs=[
                io.Video.Output(display_name="VIDEO", tooltip="For Prepare Condition Frames."),
                io.Mask.Output(
                    display_name="MASK",
                    tooltip="1 on the moving object, one mask for each frame; zeros if the clip has none.",
                ),
                io.String.Output(display_name="caption", tooltip="What the clip shows, for CLIP Text Encode."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, clip: str) -> Any:
        """Load again when the file has changed."""
        path = host.EXAMPLE_CLIPS / clip
        return (clip, path.stat().st_mtime_ns) if path.exists() else clip

    @classmethod
    def execute(cls, clip: str) -> io.NodeOutput:
        """Load the clip.

        Raises:
            FileNotFoundError: If there is no such clip.
        """
        if clip not in clip_names():
            raise FileNotFoundError(
                f"{clip}: no such example; allowed: {', '.join(clip_names()) or 'none, the folder is empty'}. Choose "
                f"another, or get workflows/clips of this pack again."
            )
        path = host.EXAMPLE_CLIPS / clip
        video = InputImpl.VideoFromFile(str(path))
        return io.NodeOutput(video, _mask(path, video), _caption(path))


def _mask(path: Path, video: Any) -> Tensor:
    beside = path.with_name(f"{path.stem}{MASK_SUFFIX}{path.suffix}")
    if not beside.exists():
        frames, _ = frames_of(video)
        return torch.zeros(frames.shape[:3])
    frames, _ = frames_of(InputImpl.VideoFromFile(str(beside)))
    # Compression leaves greys along the edge.
    return (luma(frames)[:, 0] > 0.5).float()


def _caption(path: Path) -> str:
    title = Video(str(path), f"The video {path.name}").tags().get("title", "").strip()
    return title or path.stem.replace("_", " ")
