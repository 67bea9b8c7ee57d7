"""Consistency distillation of a video diffusion model, as in VideoLCM (Wang et al., arXiv 2312.09109)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from videolcm_core.consistency import TIMESTEP_SCALING, consistency_function, pseudo_huber
from videolcm_core.prediction import to_x_0
from videolcm_core.schedule import Schedule, distillation_grid
from videolcm_core.solvers import guided_teacher_step

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``network(x_t, t, context)``."""


class ConsistencyDistillation:
    """One batch to per-sample losses: the student at ``t`` must agree with the target one teacher step earlier.

    Steps and numbers follow the authors' ``tools/train/train_videolcm_t2v_entrance.py``, lines 518-671. Whether
    dropout is on is the caller's choice, by the mode of the networks (the authors leave it on in all three).
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: str = "v",
        original_steps: int = 50,
        huber_c: float = 0.001,
        timestep_scaling: float = TIMESTEP_SCALING,
    ) -> None:
        """Set up the grid.

        Args:
            schedule: Its dtype is the precision of the solver; the authors use float64.
            prediction: What all three networks predict.
            original_steps: Intervals that the teacher steps over.
            huber_c: Width of the quadratic part of the loss, in latent units.
            timestep_scaling: See `consistency.boundary_scalings`.
        """
        self.schedule = schedule
        self.prediction = prediction
        self.huber_c = huber_c
        self.timestep_scaling = timestep_scaling
        self.grid, self.grid_prev = distillation_grid(original_steps, schedule.num_timesteps)

    def loss(
        self,
        student: Network,
        teacher: Network,
        target: Network,
        x_0: Tensor,
        context: Tensor,
        uncond_context: Tensor,
        index: Tensor | None = None,
        noise: Tensor | None = None,
        w: Tensor | float = 9.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of one batch; gradients reach the student only.

        Args:
            student: Network in training.
            teacher: Frozen diffusion model.
            target: Moving average of the student.
            x_0: Clean latents ``[B, C, F, H, W]``.
            context: Text ``[B, L, D]``.
            uncond_context: Empty or negative prompt, ``[1, L, D]`` or ``[B, L, D]``.
            index: Interval of each sample, long ``[B]`` in [0, original_steps); None draws uniformly.
            noise: Gaussian noise like ``x_0``; None draws it.
            w: Guidance above the conditional prediction; a scale of ``1 + w`` in ``u + g (c - u)``.

        Returns:
            Losses ``[B]``, and the tensors along the way by name.
        """
        batch = x_0.shape[0]
        if index is None:
            index = torch.randint(len(self.grid), (batch,), device=x_0.device)
        noise = torch.randn_like(x_0) if noise is None else noise
        t, t_prev = (grid.to(x_0.device)[index] for grid in (self.grid, self.grid_prev))
        x_t = self.schedule.add_noise(x_0, noise, t)

        student_output = student(x_t, t, context)
        pred_x_0, prediction = self._consistent(student_output, x_t, t)
        with torch.no_grad():
            # Prompt and negative prompt in one batch: one call of the teacher.
            both = torch.cat([context, uncond_context.expand(batch, -1, -1)])
            cond_output, uncond_output = teacher(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
            step = guided_teacher_step(cond_output, uncond_output, x_t, t, t_prev, self.schedule, w, self.prediction)
            x_prev = step.x_prev.to(x_0.dtype)
            target_output = target(x_prev, t_prev, context)
            target_pred_x_0, goal = self._consistent(target_output, step.x_prev, t_prev)

        losses = pseudo_huber(prediction, goal, self.huber_c)
        along = {
            "t": t, "t_prev": t_prev, "x_t": x_t, "student_output": student_output, "pred_x_0": pred_x_0,
            "prediction": prediction, "cond_output": cond_output, "uncond_output": uncond_output,
            "cond_pred_x_0": step.cond_pred_x_0, "uncond_pred_x_0": step.uncond_pred_x_0,
            "teacher_pred_x_0": step.pred_x_0, "teacher_pred_eps": step.pred_eps, "x_prev": step.x_prev,
            "target_output": target_output, "target_pred_x_0": target_pred_x_0, "target": goal,
        }  # fmt: skip
        return losses, along

    def _consistent(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents implied by an output, and the consistency function's value."""
        alpha, sigma = self.schedule.alpha_t(t), self.schedule.sigma_t(t)
        pred_x_0 = to_x_0(self.prediction, model_output, x_t, alpha, sigma)
        return pred_x_0, consistency_function(pred_x_0, x_t, t, timestep_scaling=self.timestep_scaling)
