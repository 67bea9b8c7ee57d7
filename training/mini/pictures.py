"""Contact sheets and animated images of clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from videolcm_core.media.condition_values import DEPTH_SCALE, motion_to_image

from ..data import conditions
from . import world

_LABEL = 14


def animation(clips: list[Tensor], path: Path, zoom: int = 2, fps: int = world.FPS) -> None:
    """Write an animated WebP of clips side by side, each ``uint8 [F, H, W, 3]``."""
    from PIL import Image

    frames = []
    for index in range(len(clips[0])):
        row = np.concatenate([c[index].numpy() for c in clips], axis=1)
        frames.append(Image.fromarray(row).resize((row.shape[1] * zoom, row.shape[0] * zoom), Image.Resampling.BICUBIC))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // fps, loop=0, quality=80)


def compress(source: Path, target: Path) -> None:
    """An image as JPEG."""
    from PIL import Image

    Image.open(source).convert("RGB").save(target, quality=88)


def condition_images(clips: conditions.Clips, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Conditions as videos to look at, uint8 ``[N, F, H, W, 3]`` by name."""
    shown = {}
    for name in names:
        value = conditions.exact_condition(name, clips)
        if name == "motion":
            frames = motion_to_image(value.transpose(1, 2).flatten(0, 1) * 3).unflatten(0, (len(value), -1))
        elif name == "masked":
            frames = (value[:, :3] * 0.5 + 0.5).permute(0, 2, 3, 4, 1)
        else:
            scale = 1 / DEPTH_SCALE if name == "depth" else 1.0
            frames = (value * scale).permute(0, 2, 3, 4, 1).expand(-1, -1, -1, -1, 3)
        shown[f"given: {name.replace('_', ' ')}"] = (frames.clamp(0, 1) * 255).round().byte()
    return shown


def comparison_sheet(
    videos: dict[str, Tensor],
    combinations: list[world.Combination],
    path: Path,
    scenes: int = 4,
    columns: int = 4,
    zoom: int = 2,
) -> None:
    """Write a PNG: for some scenes, each kind of video in a row, named at its left.

    Args:
        videos: uint8 ``[N, F, H, W, 3]`` by name.
        combinations: the scenes' captions.
        path: the image.
        scenes: how many, spread over N so that objects vary; two are side by side.
        columns: frames of each.
        zoom: enlargement.
    """
    from PIL import Image, ImageDraw

    first = next(iter(videos.values()))
    chosen = [int(i) for i in np.linspace(0, len(first) - 1, scenes + 2)[1:-1]]
    frames = [int(i) for i in np.linspace(0, first.shape[1] - 1, columns)]
    side, margin, gap = first.shape[2] * zoom, 110, 10
    block = margin + columns * side + gap
    height = _LABEL + len(videos) * side + gap
    sheet = Image.new("RGB", (2 * block, (scenes + 1) // 2 * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(chosen):
        left, top = place % 2 * block, place // 2 * height
        draw.text((left + margin, top + 1), combinations[index].caption, fill="black")
        for row, (name, video) in enumerate(videos.items()):
            y = top + _LABEL + row * side
            draw.text((left + 3, y + side // 2 - 6), name.replace(" cfg", "\ncfg"), fill="black")
            for column, frame in enumerate(frames):
                image = Image.fromarray(video[index, frame].numpy()).resize((side, side), Image.Resampling.BICUBIC)
                sheet.paste(image, (left + margin + column * side, y))
    sheet.save(path)
