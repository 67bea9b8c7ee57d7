"""Dense motion of clips by OpenCV's optical flow, without weights."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from .frames import OnFrames
from .opencv import opencv

FLOW_SIDE: Final = 256
"""Pixels of the shorter side that small clips are enlarged to: the flow's patches are 8 pixels on half the size."""


def dense_motion(frames: Tensor, done: OnFrames | None = None) -> Tensor:
    """How far what is at each pixel has moved since the frame before.

    The dense inverse search flow of OpenCV (preset medium) from each frame to the one before, reversed. At the edges of
    things and where something comes into view it is a guess; across a cut it means nothing.

    Args:
        frames: ``[F, H, W, 3]`` in [0, 1].
        done: Told after each frame how many are done.

    Returns:
        float32 ``[F, 2, H, W]`` on the CPU, in pixels, x to the right and y down; zero in the first frame.
    """
    cv2 = opencv("the optical flow")
    scale = _enlargement(*frames.shape[1:3])
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    motion = torch.zeros(len(frames), 2, *frames.shape[1:3])
    before = None
    for index, frame in enumerate(frames):
        now = _enlarged_grey(cv2, frame, scale)
        if before is not None:
            motion[index] = _displacement(cv2, flow, now, before, scale)
        before = now
        if done is not None:
            done(index + 1)
    return motion


def _enlargement(height: int, width: int) -> int:
    """Whole factor that brings the shorter side near `FLOW_SIDE`, unless the other side would become huge."""
    return max(1, min(round(FLOW_SIDE / min(height, width)), 8 * FLOW_SIDE // max(height, width)))


def _enlarged_grey(cv2: Any, frame: Tensor, scale: int) -> np.ndarray:
    pixels = (frame.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return grey if scale == 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def _displacement(cv2: Any, flow: Any, now: np.ndarray, before: np.ndarray, scale: int) -> Tensor:
    """``[2, H, W]`` in pixels of the clip."""
    # Where each pixel of now was before, so the way it came is the opposite.
    vectors = flow.calc(now, before, None)
    if scale > 1:
        size = (now.shape[1] // scale, now.shape[0] // scale)
        vectors = cv2.resize(vectors, size, interpolation=cv2.INTER_AREA) / scale
    return -torch.from_numpy(np.ascontiguousarray(vectors)).movedim(-1, 0)
