"""The consistency loss: the student at ``t`` must agree with the target one solver step earlier."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from videolcm_core.diffusion.consistency import SIGMA_DATA, TIMESTEP_SCALING, consistency_function
from videolcm_core.diffusion.prediction import to_x_0
from videolcm_core.diffusion.schedule import Schedule

from .distance import Distance, huber
from .solver import Pair, Predict, Solver


@dataclass(frozen=True, kw_only=True)
class ConsistencyLoss:
    """One batch to per-sample losses, as in the authors' ``train_videolcm_t2v_entrance.py``, lines 518-671.

    Whether dropout is on is the caller's choice, by the mode of the networks (the authors leave it on in all three).

    Attributes:
        schedule: its dtype is the precision of solver and consistency function; the authors use float64.
        prediction: what all three networks predict.
        solver: how the point before is found.
        distance: between student and target; the paper's pseudo-Huber.
        timestep_scaling: see `boundary_scalings`.
    """

    schedule: Schedule
    prediction: str = "v"
    solver: Solver
    distance: Distance = field(default_factory=huber)
    timestep_scaling: float = TIMESTEP_SCALING

    def _f(self, output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents implied by an output, and the consistency function's value."""
        pred_x_0 = to_x_0(self.prediction, output, x_t, self.schedule.alpha_t(t), self.schedule.sigma_t(t))
        return pred_x_0, consistency_function(pred_x_0, x_t, t, SIGMA_DATA, self.timestep_scaling)

    def __call__(
        self,
        student: Predict,
        teacher: Predict,
        target: Predict,
        *,
        x_0: Tensor,
        noise: Tensor,
        text: Tensor,
        uncond: Tensor,
        t: Tensor,
        t_prev: Tensor,
        w: Tensor | float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of one batch; gradients reach the student only.

        Args:
            student: in training.
            teacher: frozen diffusion model.
            target: follows the student.
            x_0: clean latents ``[B, C, F, h, w]``.
            noise: Gaussian, like ``x_0``.
            text: ``[B, L, D]``.
            uncond: empty or negative prompt, ``[1, L, D]`` or ``[B, L, D]``.
            t: long ``[B]``.
            t_prev: long ``[B]``, where the solver arrives.
            w: guidance above the conditional prediction, a scale of ``1 + w`` in ``u + g (c - u)``; ``[B]``.

        Returns:
            losses ``[B]``, and the tensors along the way by name.
        """
        pair = Pair(x_0=x_0, noise=noise, x_t=self.schedule.add_noise(x_0, noise, t), t=t, t_prev=t_prev)
        output = student(pair.x_t, t, text)
        pred_x_0, prediction = self._f(output, pair.x_t, t)
        with torch.no_grad():
            x_prev, along = self.solver(teacher, pair, text, uncond, w)
            target_output = target(x_prev.to(x_0.dtype), t_prev, text)
            target_pred_x_0, goal = self._f(target_output, x_prev, t_prev)
        along |= {"t": t, "t_prev": t_prev, "x_t": pair.x_t, "student_output": output, "pred_x_0": pred_x_0}
        along |= {"prediction": prediction, "target_output": target_output, "target_pred_x_0": target_pred_x_0}
        return self.distance(prediction, goal), along | {"target": goal}
