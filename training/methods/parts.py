"""The parts that every consistency method is composed of; a method is a choice of them.

A part is a pure function or a small frozen object. Methods that draw something (guidance, where a trajectory begins)
get uniform numbers from outside, so that a step does not depend on how its samples are spread over processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from videolcm_core.diffusion.consistency import SIGMA_DATA, TIMESTEP_SCALING, consistency_function, pseudo_huber
from videolcm_core.diffusion.prediction import to_x_0
from videolcm_core.diffusion.schedule import Schedule, distillation_grid
from videolcm_core.diffusion.solvers import guided_teacher_step

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``network(x_t, t, context)``."""


@dataclass(frozen=True)
class TimestepGrid:
    """Pairs of neighbouring timesteps.

    Attributes:
        t: long ``[N]``, ascending.
        t_prev: long ``[N]``, each one's predecessor.
    """

    t: Tensor
    t_prev: Tensor

    @classmethod
    def ddim(cls, original_steps: int = 50, num_timesteps: int = 1000) -> TimestepGrid:
        """19, 39, ..., 999 and before them 0, 19, ..., 979: skips of k = 20 for 50."""
        return cls(*distillation_grid(original_steps, num_timesteps))

    def index(self, uniform: Tensor) -> Tensor:
        """Interval of each sample, long ``[B]``, from numbers in [0, 1)."""
        return (uniform * len(self.t)).long().clamp(max=len(self.t) - 1)

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """``t`` and ``t_prev`` of intervals ``[B]``, on their device."""
        return self.t.to(index.device)[index], self.t_prev.to(index.device)[index]


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


@dataclass(frozen=True)
class Boundary:
    """The consistency function ``c_skip(t) x_t + c_out(t) pred_x_0``."""

    sigma_data: float = SIGMA_DATA
    timestep_scaling: float = TIMESTEP_SCALING

    def __call__(self, pred_x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Blend so that the value at ``t = 0`` is ``x_t``."""
        return consistency_function(pred_x_0, x_t, t, self.sigma_data, self.timestep_scaling)


class GuidancePolicy(Protocol):
    """Chooses ``w`` of ``(1 + w) cond - w uncond`` for each sample."""

    def __call__(self, uniform: Tensor) -> Tensor:
        """``w`` ``[B]`` from numbers ``[B]`` in [0, 1)."""
        ...


@dataclass(frozen=True)
class FixedGuidance:
    """The same ``w`` always; VideoLCM uses 9."""

    w: float = 9.0

    def __call__(self, uniform: Tensor) -> Tensor:
        """``w`` for each sample."""
        return torch.full_like(uniform, self.w, dtype=torch.float32)


@dataclass(frozen=True)
class UniformGuidance:
    """``w`` drawn from an interval."""

    low: float
    high: float

    def __call__(self, uniform: Tensor) -> Tensor:
        """``w`` for each sample."""
        return (self.low + (self.high - self.low) * uniform).float()


class Solver(Protocol):
    """How the point before is found."""

    def __call__(
        self, teacher: Network, pair: Pair, context: Tensor, uncond_context: Tensor, w: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``x_prev`` at ``pair.t_prev``, and the tensors along the way by name."""
        ...


@dataclass(frozen=True)
class GuidedDDIM:
    """One DDIM step of the teacher under classifier-free guidance, prompt and negative prompt in one batch."""

    schedule: Schedule
    prediction: str = "v"

    def __call__(
        self, teacher: Network, pair: Pair, context: Tensor, uncond_context: Tensor, w: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """VideoLCM eq. 5; see `guided_teacher_step`."""
        x_t, t = pair.x_t, pair.t
        both = torch.cat([context, uncond_context.expand(len(x_t), -1, -1)])
        cond, uncond = teacher(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        step = guided_teacher_step(cond, uncond, x_t, t, pair.t_prev, self.schedule, w, self.prediction)
        along = {
            "cond_output": cond,
            "uncond_output": uncond,
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
        self, teacher: Network, pair: Pair, context: Tensor, uncond_context: Tensor, w: Tensor | float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise ``x_0`` at ``t_prev``."""
        x_prev = self.schedule.add_noise(pair.x_0, pair.noise, pair.t_prev)
        return x_prev, {"x_prev": x_prev}


class TrajectorySource(Protocol):
    """Where trajectories begin: data, or what the student makes itself."""

    def __call__(self, student: Network, x_0: Tensor, noise: Tensor, context: Tensor, uniform: Tensor) -> Tensor:
        """Latents to noise, of the shape of ``x_0``, without gradient."""
        ...


def from_data(student: Network, x_0: Tensor, noise: Tensor, context: Tensor, uniform: Tensor) -> Tensor:
    """The data, always."""
    return x_0


Projection = Callable[[Tensor], Tensor]
"""Latents to what is compared, ``[B, ...]`` to ``[B, ...]``."""


def raw(latents: Tensor) -> Tensor:
    """Compare the latents themselves."""
    return latents


class Distance(Protocol):
    """Compares what two networks say."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """A number for each sample, ``[B]``."""
        ...


@dataclass(frozen=True)
class PseudoHuber:
    """Mean of ``sqrt(d^2 + c^2) - c``."""

    c: float = 0.001

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `pseudo_huber`."""
        return pseudo_huber(prediction, target, self.c)


Weighting = Callable[[Tensor, int], Tensor]
"""Weights ``[B]`` of intervals ``[B]``, given how many intervals there are."""


def uniform_weights(index: Tensor, intervals: int) -> Tensor:
    """1 for every interval."""
    return torch.ones(len(index), device=index.device)


class Adversary(Protocol):
    """A discriminator beside the consistency loss; it owns its optimiser."""

    def generator_loss(self, pred_x_0: Tensor, context: Tensor) -> Tensor:
        """Losses ``[B]`` that are added to the student's."""
        ...


@dataclass(frozen=True)
class Parameterization:
    """What a network's output means."""

    schedule: Schedule
    prediction: str = "v"

    def x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Clean latents implied by an output, in the schedule's precision."""
        return to_x_0(self.prediction, output, x_t, self.schedule.alpha_t(t), self.schedule.sigma_t(t))
