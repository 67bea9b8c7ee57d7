"""The guidance scale as a network's input, where it is distilled with many (LCM, arXiv 2310.04378, appendix)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def guidance_embedding(w: Tensor, dim: int = 256) -> Tensor:
    """Features of ``1000 w``: sines, then cosines, of frequencies 1 to 1/10000.

    MCM's students have it without LoRA only.

    Args:
        w: ``[B]``.
        dim: at least 4; an odd one ends with a zero.

    Returns:
        float32 ``[B, dim]``.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=w.device)
    frequencies = torch.exp(steps * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * w.float()[:, None] * frequencies
    return functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))
