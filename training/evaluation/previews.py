"""Contact sheets of clips with their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

_LABEL = 14


def contact_sheet(
    clips: Tensor, prompts: Sequence[str], path: Path, rows: int = 10, columns: int = 6, zoom: int = 2
) -> None:
    """Write a PNG: one clip a row, its prompt above, frames evenly picked over time.

    Args:
        clips: uint8 ``[N, F, H, W, 3]``.
        prompts: what each should show, N texts.
        path: the image.
        rows: clips shown, spread over N so that prompts vary.
        columns: frames of each.
        zoom: enlargement.
    """
    from PIL import Image, ImageDraw

    chosen = [int(i) for i in np.linspace(0, min(len(clips), len(prompts)) - 1, rows)]
    frames = [int(i) for i in np.linspace(0, clips.shape[1] - 1, columns)]
    width, height = clips.shape[3] * zoom, clips.shape[2] * zoom
    sheet = Image.new("RGB", (columns * width, rows * (height + _LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, index in enumerate(chosen):
        top = row * (height + _LABEL)
        draw.text((3, top + 1), prompts[index], fill="black")
        for column, frame in enumerate(frames):
            image = Image.fromarray(clips[index, frame].numpy()).resize((width, height), Image.Resampling.BICUBIC)
            sheet.paste(image, (column * width, top + _LABEL))
    sheet.save(path)
