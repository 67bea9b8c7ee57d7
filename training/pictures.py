"""Contact sheets and animated pictures of clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from .data import world

_LABEL = 14


def contact_sheet(
    clips: Tensor, combinations: list[world.Combination], path: Path, rows: int = 10, columns: int = 6, zoom: int = 2
) -> None:
    """Write a PNG: one clip a row, its caption above, frames evenly picked over time.

    Args:
        clips: uint8 ``[N, F, H, W, 3]``.
        combinations: what each should show.
        path: the picture.
        rows: clips shown, spread over N so that objects vary.
        columns: frames of each.
        zoom: enlargement.
    """
    from PIL import Image, ImageDraw

    chosen = [int(i) for i in np.linspace(0, min(len(clips), len(world.held_out())) - 1, rows)]
    frames = [int(i) for i in np.linspace(0, clips.shape[1] - 1, columns)]
    side = clips.shape[2] * zoom
    sheet = Image.new("RGB", (columns * side, rows * (side + _LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, index in enumerate(chosen):
        top = row * (side + _LABEL)
        draw.text((3, top + 1), combinations[index].caption, fill="black")
        for column, frame in enumerate(frames):
            image = Image.fromarray(clips[index, frame].numpy()).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(image, (column * side, top + _LABEL))
    sheet.save(path)


def animation(clips: list[Tensor], path: Path, zoom: int = 2, fps: int = world.FPS) -> None:
    """Write an animated WebP of clips side by side, each ``uint8 [F, H, W, 3]``."""
    from PIL import Image

    frames = []
    for index in range(len(clips[0])):
        row = np.concatenate([c[index].numpy() for c in clips], axis=1)
        frames.append(Image.fromarray(row).resize((row.shape[1] * zoom, row.shape[0] * zoom), Image.Resampling.BICUBIC))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // fps, loop=0, quality=80)
