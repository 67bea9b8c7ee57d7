"""Values of the pixel conditions: what the network takes, and the images that stand for them between nodes.

The network's ranges are the authors' (``inference_videolcm_vcomposer_entrance.py``, lines 149-154 and 414-430).
Images are ``[F, H, W, 3]``, in [0, 1] so that they can be previewed, saved and made by other preprocessors.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

DEPTH_SCALE: Final = 2.0
"""Network value of white in a depth image: clamp(MiDaS / 20, 0, 10) of near things is about 2."""
DEPTH_MAX: Final = 10.0
MOTION_RANGE: Final = 32.0
"""Pixels of displacement from mid grey to white in a motion image."""


def depth_from_image(image: Tensor, depth_scale: float = DEPTH_SCALE) -> Tensor:
    """Inverse depth of a grey image, near bright.

    Args:
        image: ``[F, H, W, 3]``; values above 1 are kept, as an extractor may give them.
        depth_scale: Network value of white.

    Returns:
        ``[F, 1, H, W]`` in [0, 10].
    """
    return (luma(image) * depth_scale).clamp(0.0, DEPTH_MAX)


def depth_to_image(depth: Tensor, depth_scale: float = DEPTH_SCALE) -> Tensor:
    """The image of inverse depth ``[F, 1, H, W]``: ``[F, H, W, 3]``."""
    return (depth / depth_scale).movedim(1, -1).expand(-1, -1, -1, 3)


def sketch_from_image(image: Tensor) -> Tensor:
    """Lines, bright on black: ``[F, H, W, 3]`` to ``[F, 1, H, W]`` in [0, 1]."""
    return luma(image).clamp(0.0, 1.0)


def rgb_from_image(image: Tensor) -> Tensor:
    """Colours: ``[F, H, W, 3]`` to ``[F, 3, H, W]`` in [0, 1]."""
    return image.movedim(-1, 1).clamp(0.0, 1.0)


def luma(image: Tensor) -> Tensor:
    """Brightness (Rec. 601), which leaves grey as it is: ``[F, H, W, 3]`` to ``[F, 1, H, W]``."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=image.dtype, device=image.device)
    return (image * weights).sum(-1)[:, None]


def motion_to_image(motion: Tensor) -> Tensor:
    """The image of displacements: red is x, green is y, mid grey is rest.

    Args:
        motion: ``[F, 2, H, W]`` in pixels, x to the right and y down, of what is at a pixel since the frame before.

    Returns:
        ``[F, H, W, 3]``; displacements beyond 32 pixels leave [0, 1].
    """
    moved = motion.movedim(1, -1) / (2 * MOTION_RANGE) + 0.5
    return torch.cat([moved, torch.full_like(moved[..., :1], 0.5)], dim=-1)


def motion_from_image(image: Tensor) -> Tensor:
    """Displacements of an image from `motion_to_image`: ``[F, H, W, 3]`` to pixels ``[F, 2, H, W]``."""
    return (image[..., :2].movedim(-1, 1) - 0.5) * (2 * MOTION_RANGE)


def masked_from_frames(rgb: Tensor, hole: Tensor) -> Tensor:
    """Frames with a hole, and what is visible.

    Args:
        rgb: ``[F, 3, H, W]`` in [0, 1].
        hole: ``[F, 1, H, W]``, 1 where the model shall paint.

    Returns:
        ``[F, 4, H, W]``: colours in [-1, 1] times visibility, then visibility.
    """
    visible = 1.0 - hole
    return torch.cat([(rgb * 2.0 - 1.0) * visible, visible.expand(len(rgb), -1, -1, -1)], dim=1)
