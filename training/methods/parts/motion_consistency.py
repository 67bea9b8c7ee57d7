"""MCM's consistency loss: the student's motion at ``t`` must be the target's one guided solver step earlier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from videolcm_core.diffusion.consistency import SIGMA_DATA, consistency_function
from videolcm_core.diffusion.prediction import to_x_0
from videolcm_core.diffusion.schedule import Schedule

from .distance import Distance
from .solver import Pair, Predict, Solver
from .trajectory import noised

Represent = Callable[[Tensor], Tensor]
"""Latents ``[B, C, F, h, w]`` to what is compared, ``[B, ...]``."""


@dataclass(frozen=True, kw_only=True)
class MotionConsistency:
    """One batch to per-sample losses (arXiv 2406.06890, eq. 3 and 6).

    Attributes:
        schedule: its dtype is the precision of the solver.
        prediction: what all three networks predict.
        solver: how the point before is found.
        distance: between the representations.
        timestep_scaling: see `boundary_scalings`; 4 for MCM.
    """

    schedule: Schedule
    prediction: str
    solver: Solver
    distance: Distance
    timestep_scaling: float

    def _f(self, output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents implied by an output, and the consistency function's value."""
        pred_x_0 = to_x_0(self.prediction, output, x_t, self.schedule.alpha_t(t), self.schedule.sigma_t(t))
        return pred_x_0, consistency_function(pred_x_0, x_t, t, SIGMA_DATA, self.timestep_scaling)

    def predicted(self, student: Predict, pair: Pair, text: Tensor) -> dict[str, Tensor]:
        """What the student makes of the noised latents: its output, clean latents and the consistency function."""
        output = student(pair.x_t, pair.t, text)
        pred_x_0, prediction = self._f(output, pair.x_t, pair.t)
        return {"student_output": output, "pred_x_0": pred_x_0, "prediction": prediction}

    def pair(self, x_0: Tensor, noise: Tensor, t: Tensor, t_prev: Tensor) -> Pair:
        """Noised latents and the timesteps; pure noise at the last one."""
        return Pair(x_0=x_0, noise=noise, x_t=noised(self.schedule, x_0, noise, t), t=t, t_prev=t_prev)

    @torch.no_grad()
    def goal(
        self, teacher: Predict, target: Predict, pair: Pair, text: Tensor, uncond: Tensor, w: Tensor | float
    ) -> dict[str, Tensor]:
        """The target's latents at the point that the teacher steps to, and the tensors along the way."""
        x_prev, along = self.solver(teacher, pair, text, uncond, w)
        output = target(x_prev.to(pair.x_t.dtype), pair.t_prev, text)
        pred_x_0, goal = self._f(output, x_prev, pair.t_prev)
        return along | {"target_output": output, "target_pred_x_0": pred_x_0, "target": goal}

    def compare(self, prediction: Tensor, goal: Tensor, represent: Represent, represent_goal: Represent) -> Tensor:
        """Losses ``[B]``; gradients reach the prediction and its representation only."""
        with torch.no_grad():
            wanted = represent_goal(goal)
        return self.distance(represent(prediction), wanted)
