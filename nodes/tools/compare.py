"""Node that puts several videos side by side, each under its label."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from ..schema import make, schema

MOST = 8
GAP = 8  # pixels between cells
BACKGROUND = 0.08


def names() -> list[str]:
    """Names of the video inputs."""
    return [f"images_{index}" for index in range(1, MOST + 1)]


class VideoLCMCompare(io.ComfyNode):
    """Several IMAGE batches to one, as a grid with labels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMCompare",
            display_name="Compare Videos",
            category="VideoLCM/tools",
            description="Puts up to eight videos into one, side by side, each under its label: one seed at several "
            "step counts, one prompt with and without a condition, a student and its teacher.",
            search_aliases=["compare", "compare steps", "grid", "side by side", "labels", "xy plot", "video grid"],
            inputs=[
                *(
                    make(
                        io.Image,
                        name,
                        optional=True,
                        tooltip=f"Frames of video {index}. Inputs that are not connected are left out; of a shorter "
                        "video the last frame is held.",
                    )
                    for index, name in enumerate(names(), 1)
                ),
                make(
                    io.String,
                    "labels",
                    default="",
                    multiline=True,
                    tooltip="One line for each connected video, from the first. A missing line leaves a video without "
                    "label.",
                ),
                make(
                    io.Int,
                    "columns",
                    default=0,
                    min=0,
                    max=MOST,
                    tooltip="Videos in a row, 1 to 8; 0 chooses the number that makes the grid nearest to a square.",
                ),
                make(
                    io.Int,
                    "size",
                    default=192,
                    min=64,
                    max=1024,
                    step=8,
                    tooltip="Longer side of each video in the grid, in pixels. Small videos are enlarged to it.",
                ),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="Frames of the grid, for Create Video.")],
        )

    @classmethod
    def execute(
        cls,
        labels: str,
        columns: int,
        size: int,
        images_1: Tensor | None = None,
        images_2: Tensor | None = None,
        images_3: Tensor | None = None,
        images_4: Tensor | None = None,
        images_5: Tensor | None = None,
        images_6: Tensor | None = None,
        images_7: Tensor | None = None,
        images_8: Tensor | None = None,
    ) -> io.NodeOutput:
        """Draw the grid.

        Raises:
            ValueError: If no video is connected, or there are more labels than videos.
        """
        given = (images_1, images_2, images_3, images_4, images_5, images_6, images_7, images_8)
        videos = [video for video in given if video is not None]
        lines = [line.strip() for line in labels.strip().splitlines()] if labels.strip() else []
        if not videos:
            raise ValueError(
                f"Compare Videos: no video is connected; allowed: 1 to {MOST}. Connect the frames of a video, such as "
                f"the IMAGE of VAE Decode, to images_1."
            )
        if len(lines) > len(videos):
            raise ValueError(
                f"Compare Videos: {len(lines)} labels for {len(videos)} videos; allowed: at most one line for each "
                f"connected video. Remove a line of labels, or connect its video."
            )
        return io.NodeOutput(grid_of(videos, lines, columns, size))


def grid_of(videos: Sequence[Tensor], labels: Sequence[str], columns: int = 0, size: int = 192) -> Tensor:
    """One video of several.

    Args:
        videos: Frames ``[F, H, W, 3 or 4]`` in [0, 1], of any sizes and lengths; the last frame of a shorter one is
            held.
        labels: Of the videos, in order; those without one get an empty line.
        columns: Videos in a row; 0 for the grid nearest to a square.
        size: Longer side of the largest video in the grid, in pixels.

    Returns:
        ``[F, H, W, 3]`` on the first video's device, with even sides as video codecs need.
    """
    columns = min(columns, len(videos)) or math.ceil(math.sqrt(len(videos)))
    rows, frames = -(-len(videos) // columns), max(len(video) for video in videos)
    first = videos[0]
    fitted = [fit(video.to(first.device, torch.float32)[..., :3], size) for video in videos]
    height, width = (max(video.shape[side] for video in fitted) for side in (1, 2))
    strip = max(18, size // 8) if labels else 0
    whole = (rows * (strip + height + GAP) + GAP, columns * (width + GAP) + GAP)
    grid = torch.full((frames, *(side + side % 2 for side in whole), 3), BACKGROUND, device=first.device)
    for index, video in enumerate(fitted):
        top, left = GAP + index // columns * (strip + height + GAP), GAP + index % columns * (width + GAP)
        if index < len(labels):
            grid[:, top : top + strip, left : left + width] = label(labels[index], strip, width).to(first.device)
        down, right = (height - video.shape[1]) // 2, (width - video.shape[2]) // 2
        held = video[torch.arange(frames, device=first.device).clamp(max=len(video) - 1)]
        y, x = top + strip + down, left + right
        grid[:, y : y + video.shape[1], x : x + video.shape[2]] = held
    return grid


def fit(video: Tensor, size: int) -> Tensor:
    """Frames ``[F, H, W, 3]`` with ``size`` as their longer side."""
    factor = size / max(video.shape[1:3])
    sides = [max(1, round(side * factor)) for side in video.shape[1:3]]
    smaller = factor < 1
    resized = interpolate(video.movedim(-1, 1), sides, mode="bicubic", align_corners=False, antialias=smaller)
    return resized.movedim(1, -1).clamp(0, 1)


def label(text: str, height: int, width: int) -> Tensor:
    """A line of text as ``[height, width, 3]``, made smaller where it is too long."""
    image = Image.new("L", (width, height), round(255 * BACKGROUND))
    pen = ImageDraw.Draw(image)
    points = round(height * 0.75)
    while points > 8 and pen.textlength(text, ImageFont.load_default(points)) > width:
        points -= 1
    pen.text((width / 2, height / 2), text, fill=235, font=ImageFont.load_default(points), anchor="mm")
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).unsqueeze(-1).expand(-1, -1, 3)
