"""The consistency function ``f(x_t, t) = c_skip(t) x_t + c_out(t) pred_x_0``, with ``f(x, 0) = x``."""

from __future__ import annotations

import torch
from torch import Tensor

from .schedule import expand_to

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def boundary_scalings(
    t: Tensor, sigma_data: float = SIGMA_DATA, timestep_scaling: float = TIMESTEP_SCALING
) -> tuple[Tensor, Tensor]:
    """Scalings that make ``f`` the identity at ``t = 0``.

    As in "Latent Consistency Models" (arXiv 2310.04378, appendix) and diffusers' LCMScheduler.

    Args:
        t: Integer or float timesteps of any shape.
        sigma_data: Spread of the data, in latent units.
        timestep_scaling: Factor on ``t``; 10 for VideoLCM, 4 for MCM.

    Returns:
        ``c_skip`` and ``c_out``, float64, of the shape of ``t``.
    """
    scaled = t.to(torch.float64) * timestep_scaling
    c_skip = sigma_data**2 / (scaled**2 + sigma_data**2)
    c_out = scaled / (scaled**2 + sigma_data**2).sqrt()
    return c_skip, c_out


def consistency_function(
    pred_x_0: Tensor,
    x_t: Tensor,
    t: Tensor,
    sigma_data: float = SIGMA_DATA,
    timestep_scaling: float = TIMESTEP_SCALING,
) -> Tensor:
    """Blend the predicted clean latents with the input so that the boundary condition holds.

    Args:
        pred_x_0: Clean latents implied by the network, ``[B, ...]``.
        x_t: Its input, same shape.
        t: Timesteps ``[B]`` or a scalar tensor.
        sigma_data: See `boundary_scalings`.
        timestep_scaling: See `boundary_scalings`.
    """
    c_skip, c_out = (
        expand_to(c.to(pred_x_0.dtype), pred_x_0) for c in boundary_scalings(t, sigma_data, timestep_scaling)
    )
    return c_skip * x_t + c_out * pred_x_0


def pseudo_huber(prediction: Tensor, target: Tensor, c: float = 0.001) -> Tensor:
    """Pseudo-Huber distance per sample: mean of ``sqrt((a - b)^2 + c^2) - c`` over all but dimension 0.

    Args:
        prediction: ``[B, ...]``.
        target: Same shape.
        c: Width of the quadratic part; the authors use 0.001.

    Returns:
        float32 (or wider) ``[B]``.
    """
    error = prediction.float() - target.float()
    return ((error**2 + c**2).sqrt() - c).flatten(1).mean(dim=1)
