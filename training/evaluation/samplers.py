"""The samplers that a table compares, by name; each is a function of noise and a guided network to clean latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from videolcm_core.diffusion.prediction import to_eps, to_x_0
from videolcm_core.diffusion.samplers import StepNoise, sample_lcm
from videolcm_core.diffusion.schedule import Schedule, ddim_timesteps, lcm_timesteps
from videolcm_core.diffusion.solvers import ddim_step

Predict = Callable[[Tensor, Tensor], Tensor]
"""``network(x [B, C, F, h, w], t [B]) -> prediction``, guidance included."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a checkpoint says about its sampling.

    Attributes:
        schedule: of its noise.
        prediction: of the network.
        original_steps: length of the grid that a student was distilled on.
        timestep_scaling: of a student's boundary condition.
    """

    schedule: Schedule
    prediction: str
    original_steps: int = 50
    timestep_scaling: float = 10.0


Sampler = Callable[[Predict, Tensor, int, Settings, StepNoise], Tensor]
"""``sampler(network, noise, steps, settings, step_noise) -> latents``."""


@dataclass(frozen=True, kw_only=True)
class SamplerChoice:
    """A sampler with what the table says of it."""

    title: str
    run: Sampler
    guided: bool = True


def trailing_timesteps(steps: int, num_timesteps: int = 1000) -> Tensor:
    """Evenly spaced from pure noise down: 999, 749, 499, 249 for 4 (arXiv 2305.08891, section 3.3).

    Raises:
        ValueError: steps outside 1 to ``num_timesteps``.
    """
    if not 1 <= steps <= num_timesteps:
        raise ValueError(f"steps is {steps}; allowed: 1 to {num_timesteps}. Choose a number in this range.")
    return (num_timesteps - torch.arange(steps) * (num_timesteps / steps)).round().long() - 1


def ddim(
    network: Predict,
    noise: Tensor,
    steps: int,
    settings: Settings,
    step_noise: StepNoise,
    grid: Callable[[int], Tensor] = ddim_timesteps,
) -> Tensor:
    """DDIM without added noise along a grid of timesteps; the last step arrives at the level of t = 0.

    On the authors' grid it gives the numbers of `videolcm_core.diffusion.samplers.sample_ddim`.

    Args:
        network: guided.
        noise: ``[B, C, F, h, w]``.
        steps: how many.
        settings: of the network.
        step_noise: not used.
        grid: from the number of steps to decreasing timesteps.
    """
    schedule, prediction = settings.schedule, settings.prediction
    timesteps = grid(steps).to(noise.device)
    arrivals = torch.cat([timesteps[1:], timesteps.new_zeros(1)])
    x = noise
    for t, t_prev in zip(timesteps, arrivals, strict=True):
        output = network(x, t.expand(len(x)))
        alpha, sigma = schedule.alpha_t(t), schedule.sigma_t(t)
        pred_x_0, pred_eps = to_x_0(prediction, output, x, alpha, sigma), to_eps(prediction, output, x, alpha, sigma)
        x = ddim_step(pred_x_0, pred_eps, schedule.alpha_t(t_prev), schedule.sigma_t(t_prev))
    return x


def dpm_solver(network: Predict, noise: Tensor, steps: int, settings: Settings, step_noise: StepNoise) -> Tensor:
    """DPM-Solver++ (2M) of diffusers on the trailing grid, which starts at pure noise; arguments as `ddim`."""
    from diffusers import DPMSolverMultistepScheduler

    names = {"v": "v_prediction", "eps": "epsilon", "x_0": "sample"}
    table = settings.schedule.alphas_cumprod.cpu().double()
    betas = 1 - table / torch.cat([table.new_ones(1), table[:-1]])
    solver: Any = DPMSolverMultistepScheduler(
        trained_betas=betas.clamp(max=1 - 1e-9).numpy(),
        prediction_type=names[settings.prediction],
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    solver.alphas_cumprod = table.float().clamp(min=2.0**-24)  # what it does itself for a zero terminal signal
    solver.set_timesteps(steps, device=noise.device)
    x = noise
    for t in solver.timesteps:
        x = solver.step(network(x, t.long().expand(len(x))), t, x).prev_sample
    return x


def lcm(network: Predict, noise: Tensor, steps: int, settings: Settings, step_noise: StepNoise) -> Tensor:
    """Multistep consistency sampling; arguments as `ddim`, ``step_noise`` is used."""
    timesteps = lcm_timesteps(steps, settings.original_steps, num_timesteps=settings.schedule.num_timesteps)
    return sample_lcm(
        network,
        noise,
        timesteps,
        settings.schedule,
        settings.prediction,
        timestep_scaling=settings.timestep_scaling,
        step_noise=step_noise,
    )


SAMPLERS: dict[str, SamplerChoice] = {
    "lcm": SamplerChoice(title="LCM", run=lcm, guided=False),
    "ddim": SamplerChoice(title="DDIM", run=ddim),
    "ddim-trailing": SamplerChoice(title="DDIM, even grid from 999", run=partial(ddim, grid=trailing_timesteps)),
    "dpm++": SamplerChoice(title="DPM++ 2M", run=dpm_solver),
}
"""``ddim`` is the authors' own: 981, ..., 1 for 50 steps and 751, 501, 251, 1 for 4."""
