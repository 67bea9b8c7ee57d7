"""What looks wrong about the images of a condition. Nothing is refused: the user may mean it."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ...videolcm_core.media.condition_values import luma
from .pixels import STILLS

INVERTIBLE: Final = ("depth", "sketch", "single_sketch")


def condition_notes(kind: str, frames: Tensor, invert: bool) -> list[str]:
    """Sentences about the images of a condition.

    Args:
        kind: The network's name of the condition.
        frames: ``[F, H, W, 3]`` as given.
        invert: Whether black is taken for white.
    """
    notes = []
    if invert and kind not in INVERTIBLE:
        notes.append("invert has no effect here: it is for depth and sketches.")
    if kind in INVERTIBLE:
        frames = frames[:1] if kind in STILLS else frames
        # One by one: the colours of all frames at once would be two more copies of a long clip.
        grey = torch.cat([luma(1.0 - frame if invert else frame) for frame in frames.split(1)])
        notes += _depth_notes(grey, frames, invert) if kind == "depth" else _sketch_notes(grey, invert)
    if kind == "motion" and float((frames[..., 2] - 0.5).abs().mean()) > 0.1:
        notes.append("this does not look like a motion image, in which blue is mid grey. Take it from VideoLCM Motion.")
    return notes


def _depth_notes(grey: Tensor, frames: Tensor, invert: bool) -> list[str]:
    if float(grey.max()) < 1 / 255:
        return ["the depth is all black: everything is infinitely far. Check the node it comes from."]
    notes = []
    if far_is_bright(grey):
        notes.append(
            "the top of this depth is brighter than the bottom, as if the sky were nearer than the ground; this model "
            f"takes near as bright. If far is bright here, turn invert {'off' if invert else 'on'}."
        )
    if float((frames.amax(-1) - frames.amin(-1)).mean()) > 0.05:
        notes.append("the depth has colours, of which only the brightness is used. Choose a grey output of its node.")
    return notes


def _sketch_notes(grey: Tensor, invert: bool) -> list[str]:
    if float(grey.max()) < 1 / 255:
        return ["the sketch is all black: it has no lines. Lower the thresholds of the node it comes from."]
    if float(grey.mean()) > 0.5:
        return [
            "this sketch is mostly white; this model takes bright lines on black. If it is dark lines on white, turn "
            f"invert {'off' if invert else 'on'}."
        ]
    return []


def far_is_bright(grey: Tensor) -> bool:
    """Whether the upper third of ``[F, 1, H, W]`` is clearly brighter than the lower third, over all frames."""
    rows = grey.mean(dim=(0, 1, 3))
    third = max(1, len(rows) // 3)
    difference = float(rows[:third].mean() - rows[-third:].mean())
    return difference > 0.2 * float(grey.max() - grey.min()) and difference > 0.02


def mask_notes(mask: Tensor) -> list[str]:
    """Sentences about a mask ``[F, H, W]``, 1 where the model paints."""
    if float(mask.max()) <= 0.5:
        return ["the mask is empty: nothing is painted anew. White (1) marks what the model shall paint."]
    if float(mask.min()) > 0.5:
        return ["the mask covers everything: nothing of the frames is seen. Black (0) marks what is kept."]
    return []
