"""AnimateLCM's alignment of colours: frames get the mean colours of the image that they began with."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ..annotators.opencv import opencv

HUE: Final = 0.03
SATURATION: Final = 1.0
VALUE: Final = 1.0
"""Part of the difference of means that is made up for; the authors' numbers."""
_MOST: Final = (180, 255, 255)
"""Where the authors clip. OpenCV's hue is half a degree in [0, 179]; 180 is red again."""


def match_colours(
    frames: Tensor,
    reference: Tensor,
    hue: float = HUE,
    saturation: float = SATURATION,
    value: float = VALUE,
) -> Tensor:
    """Shift hue, saturation and value of each frame towards the reference's means.

    Of each frame by itself, ``channel + strength * (mean of reference - mean of frame)``, clipped, and cut (not
    rounded) to 8 bits: exactly what AnimateLCM does with what its VAE decodes
    (animatelcm_sd15/animatelcm/utils/util.py, `adjust_colors`, and pipelines/pipeline_animation.py, `decode_latents`;
    golden file hsv_align). The means are of whole images, so sizes need not agree, and the mean of hues is that of
    their numbers: a red that lies on both sides of 0 has one in the middle, which is why so little of it is taken.

    Args:
        frames: ``uint8 [F, H, W, 3]``, RGB.
        reference: ``uint8 [h, w, 3]``, RGB, of any size.
        hue: Part of the difference in hue that is made up for; 0 leaves the hue as it is.
        saturation: Of the saturation.
        value: Of the value, the lightest of red, green and blue.

    Returns:
        ``uint8 [F, H, W, 3]``, on the CPU.

    Raises:
        ImportError: If OpenCV is not there.
    """
    cv2 = opencv("Matching colours")
    wanted = _means(cv2.cvtColor(_array(reference), cv2.COLOR_RGB2HSV))
    matched = np.empty(tuple(frames.shape), dtype=np.uint8)
    for result, frame in zip(matched, _array(frames), strict=True):
        hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
        shift = np.array((hue, saturation, value)) * (wanted - _means(hsv))
        # Cut, not rounded, as the authors' assignment into 8 bits does.
        hsv = np.clip(hsv + shift, 0, _MOST).astype(np.uint8)
        result[...] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return torch.from_numpy(matched)


def to_levels(images: Tensor) -> Tensor:
    """``uint8`` of images in [0, 1], cut as the authors do; a level n of 8 bits, as n / 255, gives n again.

    Args:
        images: Of any shape and floating dtype; values outside [0, 1] are clamped.
    """
    return (images.float().clamp(0.0, 1.0) * 255.0).to(torch.uint8)


def _array(image: Tensor) -> Any:
    return np.ascontiguousarray(image.cpu().numpy())


def _means(hsv: Any) -> Any:
    """Means of the three channels ``[3]``, float64."""
    # One channel at a time, as the authors: over two axes at once numpy adds in another order.
    return np.array([np.mean(hsv[:, :, channel]) for channel in range(3)])
