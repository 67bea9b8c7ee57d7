"""Line drawings by OpenCV, without weights: bright lines on black."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .opencv import opencv


def _grey(frames: Tensor) -> np.ndarray:
    """Brightness as uint8 ``[F, H, W]``."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=frames.device, dtype=torch.float32)
    return ((frames.float() * weights).sum(-1) * 255).round().clamp(0, 255).byte().cpu().numpy()


def canny_edges(frames: Tensor, low: int = 60, high: int = 160, blur: float = 1.0) -> Tensor:
    """Canny edges, one pixel wide.

    Args:
        frames: ``[F, H, W, 3]`` in [0, 1].
        low: Gradient (0 to 1020) above which an edge is continued.
        high: Gradient above which an edge starts; not below ``low``.
        blur: Standard deviation in pixels of a blur before, which keeps texture out of the lines; 0 is none.

    Returns:
        float32 ``[F, H, W]``, 0 or 1.

    Raises:
        ValueError: If ``low`` is above ``high``.
        ImportError: Without OpenCV.
    """
    cv2 = opencv("the sketch")
    if low > high:
        raise ValueError(f"low threshold {low} is above the high one {high}; allowed: low <= high. Swap them.")
    grey = _grey(frames)
    if blur > 0:
        grey = np.stack([cv2.GaussianBlur(frame, (0, 0), blur) for frame in grey])
    lines = [cv2.Canny(frame, low, high) for frame in grey]
    return torch.from_numpy(np.stack(lines)).float() / 255


def pencil_sketch(frames: Tensor, line_width: float = 0.02, contrast: float = 1.6) -> Tensor:
    """A soft pencil drawing: where a pixel is darker than its surroundings, by colour dodge, on black.

    Args:
        frames: ``[F, H, W, 3]`` in [0, 1].
        line_width: Standard deviation of the surroundings, as a share of the shorter side.
        contrast: Factor on the lines' brightness.

    Returns:
        float32 ``[F, H, W]`` in [0, 1].
    """
    cv2 = opencv("the sketch")
    sigma = max(0.8, line_width * min(frames.shape[1:3]))
    drawn = [_dodge(cv2, grey.astype(np.float32) / 255, sigma) for grey in _grey(frames)]
    return (torch.from_numpy(np.stack(drawn)) * contrast).clamp(0, 1)


def _dodge(cv2: Any, grey: np.ndarray, sigma: float) -> np.ndarray:
    """How much darker each pixel of ``[H, W]`` is than its surroundings, relative to them."""
    around = cv2.GaussianBlur(grey, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.clip(1.0 - (grey + 0.02) / (around + 0.02), 0.0, 1.0)
