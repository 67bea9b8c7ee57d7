"""How the point before is found: the teacher's step from ``t`` to ``t_prev``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.diffusion.solvers import guided_teacher_step

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``predict(x_t, t, text)``, everything else bound."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a teacher's step begins from.

    Attributes:
        x_0: where the trajectory begins ``[B, C, F, h, w]``.
        noise: of the same shape.
        x_t: noised at ``t``.
        t: long ``[B]``.
        t_prev: long ``[B]``, where to arrive.
    """

    x_0: Tensor
    noise: Tensor
    x_t: Tensor
    t: Tensor
    t_prev: Tensor


class Solver(Protocol):
    """How the point before is found."""

    def __call__(
        self, teacher: Predict, pair: Pair, text: Tensor, uncond: Tensor, w: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``x_prev`` at ``pair.t_prev``, and the tensors along the way by name."""
        ...


@dataclass(frozen=True)
class GuidedDDIM:
    """One DDIM step of the teacher under classifier-free guidance, prompt and negative prompt in one batch."""

    schedule: Schedule
    prediction: str = "v"

    def __call__(
        self, teacher: Predict, pair: Pair, text: Tensor, uncond: Tensor, w: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """VideoLCM eq. 5; see `guided_teacher_step`."""
        x_t, t = pair.x_t, pair.t
        both = torch.cat([text, uncond.expand(len(x_t), -1, -1)])
        with_prompt, without = teacher(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        step = guided_teacher_step(with_prompt, without, x_t, t, pair.t_prev, self.schedule, w, self.prediction)
        along = {
            "cond_output": with_prompt,
            "uncond_output": without,
            "cond_pred_x_0": step.cond_pred_x_0,
            "uncond_pred_x_0": step.uncond_pred_x_0,
            "teacher_pred_x_0": step.pred_x_0,
            "teacher_pred_eps": step.pred_eps,
            "x_prev": step.x_prev,
        }
        return step.x_prev, along


@dataclass(frozen=True)
class SameNoise:
    """No teacher: the same data and noise at the level before (consistency training)."""

    schedule: Schedule

    def __call__(
        self, teacher: Predict, pair: Pair, text: Tensor, uncond: Tensor, w: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise ``x_0`` at ``t_prev``."""
        x_prev = self.schedule.add_noise(pair.x_0, pair.noise, pair.t_prev)
        return x_prev, {"x_prev": x_prev}
