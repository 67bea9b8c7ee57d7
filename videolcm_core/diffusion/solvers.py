"""Deterministic solver steps ``x_t -> x_prev``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .prediction import to_eps, to_x_0
from .schedule import Schedule, expand_to


def ddim_step(pred_x_0: Tensor, pred_eps: Tensor, alpha_prev: Tensor | float, sigma_prev: Tensor | float) -> Tensor:
    """DDIM without noise: ``alpha_prev pred_x_0 + sigma_prev pred_eps`` (arXiv 2010.02502, eq. 12, eta 0).

    Args:
        pred_x_0: Predicted clean latents ``[B, ...]``.
        pred_eps: Predicted noise, same shape.
        alpha_prev: Signal coefficient to arrive at, scalar or ``[B]``.
        sigma_prev: Noise coefficient to arrive at, scalar or ``[B]``.
    """
    if isinstance(alpha_prev, torch.Tensor):
        alpha_prev = expand_to(alpha_prev, pred_x_0)
    if isinstance(sigma_prev, torch.Tensor):
        sigma_prev = expand_to(sigma_prev, pred_eps)
    return alpha_prev * pred_x_0 + sigma_prev * pred_eps


class TeacherStep(NamedTuple):
    """One guided teacher step: where it arrives and what it went through."""

    x_prev: Tensor
    pred_x_0: Tensor
    pred_eps: Tensor
    cond_pred_x_0: Tensor
    uncond_pred_x_0: Tensor


def guided_teacher_step(
    cond_output: Tensor,
    uncond_output: Tensor,
    x_t: Tensor,
    t: Tensor,
    t_prev: Tensor,
    schedule: Schedule,
    w: Tensor | float = 9.0,
    prediction: str = "v",
) -> TeacherStep:
    """One DDIM step of the teacher under classifier-free guidance.

    VideoLCM eq. 5, ``(1 + w) Psi_cond - w Psi_uncond``: guidance scale ``g = 1 + w`` in the convention
    ``u + g (c - u)``.

    Args:
        cond_output: Teacher's output with the prompt ``[B, ...]``.
        uncond_output: Teacher's output with the empty or negative prompt, same shape.
        x_t: Noised latents, same shape.
        t: Long ``[B]``.
        t_prev: Long ``[B]``, where to arrive.
        schedule: Its dtype is the precision of the step (the authors use float64).
        w: Guidance above the plain conditional prediction; scalar or ``[B]``.
        prediction: What the teacher predicts.
    """
    if isinstance(w, torch.Tensor):
        w = expand_to(w, x_t)
    alpha, sigma = schedule.alpha_t(t), schedule.sigma_t(t)
    cond = to_x_0(prediction, cond_output, x_t, alpha, sigma)
    uncond = to_x_0(prediction, uncond_output, x_t, alpha, sigma)
    pred_x_0 = cond + w * (cond - uncond)
    pred_eps = to_eps(prediction, cond_output + w * (cond_output - uncond_output), x_t, alpha, sigma)
    x_prev = ddim_step(pred_x_0, pred_eps, schedule.alpha_t(t_prev), schedule.sigma_t(t_prev))
    return TeacherStep(x_prev, pred_x_0, pred_eps, cond, uncond)


def teacher_free_step(x_t: Tensor, x_0: Tensor, t: Tensor, t_prev: Tensor, schedule: Schedule) -> Tensor:
    """One DDIM step with the score that clean latents imply: no teacher is asked.

    AnimateLCM's adaptation without a teacher (arXiv 2402.00769, eq. 11 and 12) puts
    ``-(x_t - alpha_t x_0) / sigma_t^2`` in the place of the teacher's score. The step then keeps the noise of ``x_t``:
    it arrives at ``x_0`` noised by the same noise to ``t_prev``.

    Args:
        x_t: ``x_0`` noised to ``t``, ``[B, ...]``.
        x_0: Clean latents, same shape.
        t: Long ``[B]``; sigma is above 0 at every one.
        t_prev: Long ``[B]``, where to arrive.
        schedule: Its dtype is the precision of the step.
    """
    eps = to_eps("x_0", x_0, x_t, schedule.alpha_t(t), schedule.sigma_t(t))
    return ddim_step(x_0, eps, schedule.alpha_t(t_prev), schedule.sigma_t(t_prev))
