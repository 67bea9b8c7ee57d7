"""Positional encodings of frame numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def positional_encoding(frames: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sinusoids of frame numbers ``[frames, dim]``, float32: sine and cosine interleaved (arXiv 1706.03762, 3.5)."""
    half = torch.arange(0, dim, 2, dtype=torch.float32, device=device)
    frequencies = torch.exp(half * (-math.log(10000.0) / dim))
    angles = torch.arange(frames, dtype=torch.float32, device=device)[:, None] * frequencies[None]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
