"""Where a trajectory begins, and its noised latents (MCM, "mixed trajectory distillation", section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from videolcm_core.diffusion.prediction import to_x_0
from videolcm_core.diffusion.schedule import Schedule, expand_to

from .solver import Predict


def noised(schedule: Schedule, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Latents at ``t``; at the schedule's last timestep nothing but the noise, where sampling begins.

    Schedules without zero terminal SNR leave a trace of the clip there, which sampling never sees.

    Args:
        schedule: of the teacher.
        x_0: ``[B, C, F, h, w]``.
        noise: the same shape.
        t: long ``[B]``.
    """
    last = expand_to(t == schedule.num_timesteps - 1, x_0)
    return torch.where(last, noise, schedule.add_noise(x_0, noise, t))


@torch.no_grad()
def simulated_origin(student: Predict, schedule: Schedule, prediction: str, noise: Tensor, text: Tensor) -> Tensor:
    """Clean latents that the student makes of pure noise in one step: what its own sampling begins with.

    Without guidance and without the boundary's scalings, as in the authors' code.

    Args:
        student: see `Predict`.
        schedule: of the teacher.
        prediction: what the student predicts.
        noise: ``[B, C, F, h, w]``.
        text: ``[B, L, D]``.
    """
    t = torch.full((len(noise),), schedule.num_timesteps - 1, device=noise.device)
    output = student(noise, t, text)
    return to_x_0(prediction, output, noise, schedule.alpha_t(t), schedule.sigma_t(t)).to(noise.dtype)


def is_simulated(uniform: Tensor, lambda_real: float) -> Tensor:
    """Which samples begin at the student's own latents, bool ``[B]``, from numbers in [0, 1).

    The paper weighs the losses of both origins by ``lambda_real`` (eq. 9); like the authors' code, each sample has one
    of them, with that chance.
    """
    return uniform >= lambda_real
