"""The consistency function ``f(x_t, t) = c_skip(t) x_t + c_out(t) pred_x_0``, with ``f(x, 0) = x``."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .schedule import NUM_TIMESTEPS, expand_to

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
        ``c_skip`` and ``c_out``, float64 on the CPU, of the shape of ``t``.
    """
    scaled = t.detach().to("cpu", torch.float64) * timestep_scaling
    c_skip = sigma_data**2 / (scaled**2 + sigma_data**2)
    c_out = scaled / (scaled**2 + sigma_data**2).sqrt()
    return c_skip, c_out


@lru_cache(16)
def _table(
    sigma_data: float, timestep_scaling: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both scalings at every timestep, rounded once from float64: ``[NUM_TIMESTEPS + 1]`` each, on the device.

    Computed on the CPU, because not every device has float64; kept, so that a step waits for no copy.
    """
    with torch.inference_mode(False), torch.no_grad():
        exact = boundary_scalings(torch.arange(NUM_TIMESTEPS + 1), sigma_data, timestep_scaling)
        return exact[0].to(dtype).to(device), exact[1].to(dtype).to(device)


def _scalings(like: Tensor, t: Tensor, sigma_data: float, timestep_scaling: float) -> tuple[Tensor, Tensor]:
    """``c_skip`` and ``c_out`` at ``t`` in the dtype and on the device of ``like``."""
    if t.dtype in (torch.int64, torch.int32) and t.device == like.device:
        c_skip, c_out = _table(sigma_data, timestep_scaling, like.dtype, like.device)
        return c_skip[t], c_out[t]
    c_skip, c_out = boundary_scalings(t, sigma_data, timestep_scaling)
    return c_skip.to(like.dtype).to(like.device), c_out.to(like.dtype).to(like.device)


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
    c_skip, c_out = (expand_to(c, pred_x_0) for c in _scalings(pred_x_0, t, sigma_data, timestep_scaling))
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


def loss_weights(n: Tensor, num: int, delta: float, gamma: float) -> Tensor:
    """AnimateLCM's weights of the loss, ``(1 - delta n / num)^gamma``: more where there is less noise.

    arXiv 2402.00769, eq. 10 (``lambda_n`` in section 4.2), which states no numbers for ``delta`` and ``gamma``.

    Args:
        n: Indices into the distillation grid, smallest noise first, 0 to ``num``; of any shape.
        num: Number of intervals of the grid.
        delta: 0 to 1; 0 weighs all alike, 1 gives the last index none.
        gamma: At least 0; the larger, the less the high noise counts.

    Returns:
        float32, of the shape of ``n``.

    Raises:
        ValueError: If ``delta`` or ``gamma`` is outside its range.
    """
    if not 0.0 <= delta <= 1.0:
        raise ValueError(f"delta is {delta}; allowed: 0 to 1. Use 0 to weigh every noise level alike.")
    if not gamma >= 0.0:
        raise ValueError(f"gamma is {gamma}; allowed: 0 and above. Use 0 to weigh every noise level alike.")
    return (1.0 - delta * n.float() / num) ** gamma
