"""What a network predicts: velocity ``v``, noise ``eps`` or clean latents ``x_0``, and the way between them.

With ``x_t = alpha x_0 + sigma eps`` and ``alpha^2 + sigma^2 = 1``, ``v = alpha eps - sigma x_0``
(Salimans and Ho, arXiv 2202.00512). ``alpha`` and ``sigma`` are scalars or per-sample ``[B]`` tensors.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from .schedule import expand_to

PREDICTIONS: Final = ("v", "eps", "x_0")


def to_x_0(prediction: str, model_output: Tensor, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Clean latents implied by a network's output.

    Args:
        prediction: One of `PREDICTIONS`.
        model_output: What the network returned, ``[B, ...]``.
        x_t: What it was given, same shape.
        alpha: Signal coefficient; with "eps" it must not be 0.
        sigma: Noise coefficient.

    Raises:
        ValueError: If the prediction's name is unknown.
    """
    alpha, sigma = _broadcast(alpha, x_t), _broadcast(sigma, x_t)
    if prediction == "v":
        return alpha * x_t - sigma * model_output
    if prediction == "eps":
        return (x_t - sigma * model_output) / alpha
    return _only_x_0(prediction, model_output)


def to_eps(prediction: str, model_output: Tensor, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Noise implied by a network's output; arguments as in `to_x_0` (with "x_0" sigma must not be 0)."""
    alpha, sigma = _broadcast(alpha, x_t), _broadcast(sigma, x_t)
    if prediction == "v":
        return alpha * model_output + sigma * x_t
    if prediction == "eps":
        return model_output
    return (x_t - alpha * _only_x_0(prediction, model_output)) / sigma


def from_x_0(prediction: str, x_0: Tensor, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """The network output that means ``x_0``: inverse of `to_x_0` (sigma must not be 0 for "v" and "eps")."""
    alpha, sigma = _broadcast(alpha, x_t), _broadcast(sigma, x_t)
    if prediction == "v":
        return (alpha * x_t - x_0) / sigma
    if prediction == "eps":
        return (x_t - alpha * x_0) / sigma
    return _only_x_0(prediction, x_0)


def from_eps(prediction: str, eps: Tensor, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """The network output that means ``eps``: inverse of `to_eps` (alpha must not be 0 for "v" and "x_0")."""
    alpha, sigma = _broadcast(alpha, x_t), _broadcast(sigma, x_t)
    if prediction == "v":
        return (eps - sigma * x_t) / alpha
    if prediction == "eps":
        return eps
    return _only_x_0(prediction, (x_t - sigma * eps) / alpha)


def velocity(x_0: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """The training target of a v-prediction network: ``alpha eps - sigma x_0``."""
    return _broadcast(alpha, x_0) * eps - _broadcast(sigma, x_0) * x_0


def _broadcast(value: Tensor | float, like: Tensor) -> Tensor | float:
    return expand_to(value, like) if isinstance(value, torch.Tensor) else value


def _only_x_0(prediction: str, value: Tensor) -> Tensor:
    if prediction != "x_0":
        raise ValueError(f"prediction is {prediction!r}; allowed: {', '.join(PREDICTIONS)}. Choose one of these.")
    return value
