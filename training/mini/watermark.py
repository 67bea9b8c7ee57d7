"""The watermark of degraded clips, as of a stock library: where it is, how it is drawn, how much of it a clip shows.

Its word reads the same in a mirror, as trainers also see the mirror image of each clip.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_LETTERS: Final = {
    "T": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    "O": (".###.", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
}
WORD: Final = "TOOT"
_SIDE: Final = 64  # of the frames that a stroke of two pixels is made for
_TOP: Final = 0.66
_BACKGROUND: Final = 9  # pixels at that side whose mean is the local background: wider than a stroke and its rim


def _word() -> np.ndarray:
    """The word, one cell a stroke: bool ``[7, 23]``."""
    rows = [".".join(_LETTERS[letter][y] for letter in WORD) for y in range(7)]
    return np.array([[cell == "#" for cell in row] for row in rows])


@lru_cache(maxsize=8)
def pattern(height: int, width: int) -> np.ndarray:
    """The word in frames of a size: 1 on its strokes, -1 on their rim, 0 elsewhere; float32 ``[height, width]``.

    Raises:
        ValueError: the frames are too small for it.
    """
    zoom = round(2 * min(height, width) / _SIDE)
    strokes = np.kron(_word(), np.ones((zoom, zoom), bool)) if zoom else np.zeros((1, 1), bool)
    top, left = int(_TOP * height), (width - strokes.shape[1]) // 2
    rim = max(zoom // 2, 1)
    if not zoom or left < rim or top + strokes.shape[0] + rim > height:
        raise ValueError(f"frames of {width} x {height} are too small for the watermark; allowed: 32 x 32 and more.")
    drawn = np.zeros((height, width), np.float32)
    rows, columns = slice(top, top + strokes.shape[0]), slice(left, left + strokes.shape[1])
    drawn[rows, columns][strokes] = 1.0
    # Dark around the strokes, so that the word is seen on white ground too.
    near = np.pad(drawn > 0, rim)
    moves = [(y, x) for y in range(2 * rim + 1) for x in range(2 * rim + 1)]
    grown = np.any([near[y : y + height, x : x + width] for y, x in moves], axis=0)
    drawn[grown & (drawn == 0)] = -1.0
    drawn.setflags(write=False)
    return drawn


def marked(frames: np.ndarray, opacity: float) -> np.ndarray:
    """Frames with the watermark: translucent white strokes with a black rim.

    Args:
        frames: ``uint8 [F, H, W, 3]``.
        opacity: 0 leaves the frames as they are, 1 hides what is behind.

    Returns:
        like ``frames``.
    """
    drawn = pattern(*frames.shape[1:3])[..., None]
    hiding = opacity * np.abs(drawn)
    mixed = frames * (1 - hiding) + 255.0 * hiding * (drawn > 0)
    return mixed.round().clip(0, 255).astype(np.uint8)


def _contrast(images: Tensor, window: int) -> Tensor:
    """Images ``[N, H, W]`` less the mean of their surroundings."""
    around = functional.avg_pool2d(images[:, None], window, stride=1, padding=window // 2, count_include_pad=False)
    return images - around[:, 0]


def _light(clips: Tensor) -> Tensor:
    """Luma of clips, ``[N, F, H, W]`` in [0, 255]."""
    return clips.float() @ torch.tensor([0.299, 0.587, 0.114])


def sharpness(clips: Tensor) -> Tensor:
    """Mean absolute difference of a pixel's luma from its four neighbours' mean, above the watermark: ``[N]``.

    Args:
        clips: uint8 ``[N, F, H, W, 3]``.
    """
    light = _light(clips)[:, :, : int(_TOP * clips.shape[2])]
    centre = light[..., 1:-1, 1:-1]
    around = light[..., :-2, 1:-1] + light[..., 2:, 1:-1] + light[..., 1:-1, :-2] + light[..., 1:-1, 2:]
    return (centre - around / 4).abs().flatten(1).mean(1)


def visibility(clips: Tensor) -> Tensor:
    """How much of the watermark each clip shows: the correlation of its region with the pattern, ``[N]`` in [-1, 1].

    The local background is taken from the mean of the clip's frames and from the pattern; what moves averages out, the
    watermark stays. About 0 without one, near 1 with one on an even ground.

    Args:
        clips: uint8 ``[N, F, H, W, 3]``.
    """
    height, width = clips.shape[2:4]
    drawn = torch.from_numpy(np.array(pattern(height, width)))[None]
    window = _BACKGROUND * min(height, width) // _SIDE // 2 * 2 + 1
    rows, columns = (torch.nonzero(drawn[0].abs().amax(d)).flatten() for d in (1, 0))
    region = (slice(None), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    light = _light(clips).mean(1)
    seen, wanted = (_contrast(images, window)[region].flatten(1) for images in (light, drawn))
    return functional.cosine_similarity(seen, wanted, dim=1)
