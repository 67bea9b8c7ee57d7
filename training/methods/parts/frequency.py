"""Slow and fast parts of latents along time, height and width (MCM, "low" and "high frequency components")."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

STOP = 0.25
"""Where the filter has fallen to a half, in units of the highest frequency, along time and in space."""
ORDER = 4


def butterworth(frames: int, height: int, width: int, stop: float = STOP, order: int = ORDER) -> Tensor:
    """A Butterworth low-pass of three axes, ``1 / (1 + (d^2 / stop^2)^order)`` at a distance d from no frequency.

    The middle of an axis of n frequencies is taken at ``n / 2``, as in the authors' code (and FreeInit, arXiv
    2312.07537). For an odd n it lies between two of them, and what is still is damped too: at 5 frames hardly anything
    passes. The paper's clips have 16.

    Args:
        frames: F.
        height: h.
        width: w.
        stop: where it is a half.
        order: how steep it is.

    Returns:
        float64 ``[F, h, w]`` in (0, 1], frequency 0 in the middle (as after ``fftshift``).
    """
    t, y, x = map(_squares, (frames, height, width))
    distance = t[:, None, None] + y[:, None] + x
    return 1.0 / (1.0 + (distance / stop**2) ** order)


def _squares(n: int) -> Tensor:
    """Squared distances from the middle of an axis of n frequencies, ``[n]`` in [0, 1]."""
    return (2.0 * torch.arange(n, dtype=torch.float64) / n - 1.0) ** 2


@lru_cache(32)
def _half(frames: int, height: int, width: int, high: bool, device: torch.device) -> Tensor:
    """What a real input's spectrum is multiplied by, ``[F, h, w // 2 + 1]``; built once a shape.

    The authors keep the real part of what they filter. That part is what the mean of the filter at a frequency and at
    its negative gives, and a real input's spectrum then needs one half only.
    """
    with torch.inference_mode(False), torch.no_grad():
        response = torch.fft.ifftshift(butterworth(frames, height, width))
        negative = response.flip(0, 1, 2).roll((1, 1, 1), (0, 1, 2))
        low = 0.5 * (response + negative)
        return (1.0 - low if high else low)[..., : width // 2 + 1].float().contiguous().to(device)


def low_frequency(x: Tensor) -> Tensor:
    """What the low-pass leaves of latents ``[B, C, F, h, w]``; float32, same shape."""
    return _filtered(x, high=False)


def high_frequency(x: Tensor) -> Tensor:
    """What the low-pass takes away; float32, shape of ``x``."""
    return _filtered(x, high=True)


def _filtered(x: Tensor, *, high: bool) -> Tensor:
    """Half precision is left first: it has transforms of few lengths only, on few devices."""
    axes, sizes = (-3, -2, -1), x.shape[-3:]
    with torch.autocast(x.device.type, enabled=False):
        spectrum = torch.fft.rfftn(x.float(), dim=axes)
        return torch.fft.irfftn(spectrum * _half(*sizes, high, x.device), s=sizes, dim=axes)
