"""The samplers in plain Python: the specification that the nodes are tested against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .consistency import SIGMA_DATA, TIMESTEP_SCALING, consistency_function
from .prediction import to_eps, to_x_0
from .schedule import Schedule, ddim_timesteps
from .solvers import ddim_step

Predict = Callable[[Tensor, Tensor], Tensor]
"""``model(x, t)`` with ``x`` ``[B, ...]`` and long ``t`` ``[B]``, returning the shape of ``x``."""

StepNoise = Callable[[Tensor, int], Tensor]
"""``noise(x, index)``: Gaussian noise of the shape of ``x``, drawn after step ``index``."""


class Callback(Protocol):
    """Called after each step."""

    def __call__(self, index: int, t: Tensor, x: Tensor, denoised: Tensor) -> None:
        """See the samplers: step number, its timestep, the latents after it, the clean latents it predicted."""
        ...


@torch.no_grad()
def sample_lcm(
    model: Predict,
    noise: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    prediction: str = "v",
    step_noise: Tensor | StepNoise | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
    sigma_data: float = SIGMA_DATA,
    timestep_scaling: float = TIMESTEP_SCALING,
) -> Tensor:
    """Multistep consistency sampling: predict clean latents, add noise at the next level, repeat.

    "Latent Consistency Models" (arXiv 2310.04378), algorithm 3; numbers as diffusers' LCMScheduler.

    Args:
        model: The distilled network; guidance is built in, so it is called once per step.
        noise: Where to start ``[B, ...]``: Gaussian noise, or noised latents at ``timesteps[0]``.
        timesteps: Long ``[n]``, decreasing; see `schedule.lcm_timesteps`.
        schedule: The one the network was trained with.
        prediction: What the network predicts.
        step_noise: Noise of the ``n - 1`` steps that add any: ``[n - 1, *noise.shape]``, or a function.
            None draws from ``generator``.
        generator: For ``step_noise`` None, on the device of ``noise``.
        callback: Called after each step.
        sigma_data: See `consistency.boundary_scalings`.
        timestep_scaling: See `consistency.boundary_scalings`.

    Returns:
        Clean latents, shape of ``noise``.
    """
    x = noise
    last = len(timesteps) - 1
    for index, t in enumerate(timesteps.to(noise.device)):
        model_output = model(x, t.expand(x.shape[0]))
        pred_x_0 = to_x_0(prediction, model_output, x, schedule.alpha_t(t), schedule.sigma_t(t))
        denoised = consistency_function(pred_x_0, x, t, sigma_data, timestep_scaling)
        x = denoised
        if index < last:
            fresh = _draw(step_noise, denoised, index, generator)
            x = schedule.add_noise(denoised, fresh, timesteps[index + 1])
        if callback is not None:
            callback(index, t, x, denoised)
    return x


@torch.no_grad()
def sample_ddim(
    model: Predict,
    noise: Tensor,
    num_steps: int,
    schedule: Schedule,
    prediction: str = "v",
    guidance_scale: float = 1.0,
    uncond_model: Predict | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """The authors' deterministic DDIM loop of the teacher, with classifier-free guidance.

    The last step arrives at the noise level of ``t = 0`` (alpha 0.9996), not at the clean latents.

    Args:
        model: The network with the prompt.
        noise: Gaussian noise ``[B, ...]``.
        num_steps: See `schedule.ddim_timesteps`.
        schedule: The one the network was trained with.
        prediction: What the network predicts.
        guidance_scale: ``g`` in ``u + g (c - u)``; 9 in the authors' configurations.
        uncond_model: The network with the negative prompt; needed for a guidance scale other than 1.
        callback: Called after each step.

    Returns:
        Latents, shape of ``noise``.

    Raises:
        ValueError: If guidance is asked for without ``uncond_model``.
    """
    if guidance_scale != 1.0 and uncond_model is None:
        raise ValueError(f"guidance_scale is {guidance_scale} but there is no uncond_model. Pass one, or use 1.")
    x = noise
    stride = schedule.num_timesteps // num_steps
    for index, t in enumerate(ddim_timesteps(num_steps, schedule.num_timesteps).to(noise.device)):
        t_batch = t.expand(x.shape[0])
        model_output = model(x, t_batch)
        if uncond_model is not None and guidance_scale != 1.0:
            uncond_output = uncond_model(x, t_batch)
            model_output = uncond_output + guidance_scale * (model_output - uncond_output)
        alpha, sigma = schedule.alpha_t(t), schedule.sigma_t(t)
        pred_x_0 = to_x_0(prediction, model_output, x, alpha, sigma)
        pred_eps = to_eps(prediction, model_output, x, alpha, sigma)
        t_prev = (t - stride).clamp(min=0)
        x = ddim_step(pred_x_0, pred_eps, schedule.alpha_t(t_prev), schedule.sigma_t(t_prev))
        if callback is not None:
            callback(index, t, x, pred_x_0)
    return x


def _draw(step_noise: Tensor | StepNoise | None, like: Tensor, index: int, generator: torch.Generator | None) -> Tensor:
    if isinstance(step_noise, torch.Tensor):
        return step_noise[index]
    if step_noise is not None:
        return step_noise(like, index)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
