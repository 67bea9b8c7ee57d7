"""Consistency distillation of a video diffusion model, as in VideoLCM (Wang et al., arXiv 2312.09109)."""

from __future__ import annotations

import torch
from torch import Tensor

from videolcm_core.diffusion.consistency import TIMESTEP_SCALING
from videolcm_core.diffusion.schedule import Schedule

from . import parts
from .parts import Network


class ConsistencyDistillation:
    """One batch to per-sample losses: the student at ``t`` must agree with the target one teacher step earlier.

    Steps and numbers follow the authors' ``tools/train/train_videolcm_t2v_entrance.py``, lines 518-671. Whether
    dropout is on is the caller's choice, by the mode of the networks (the authors leave it on in all three).
    Other methods are other choices of the parts, which can all be given.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: str = "v",
        original_steps: int = 50,
        huber_c: float = 0.001,
        timestep_scaling: float = TIMESTEP_SCALING,
        *,
        guidance: parts.GuidancePolicy | None = None,
        solver: parts.Solver | None = None,
        source: parts.TrajectorySource = parts.from_data,
        projection: parts.Projection = parts.raw,
        target_projection: parts.Projection | None = None,
        distance: parts.Distance | None = None,
        weighting: parts.Weighting = parts.uniform_weights,
        adversary: parts.Adversary | None = None,
    ) -> None:
        """Compose the method.

        Args:
            schedule: Its dtype is the precision of the solver; the authors use float64.
            prediction: What all three networks predict.
            original_steps: Intervals that the teacher steps over.
            huber_c: Width of the quadratic part of the loss, in latent units.
            timestep_scaling: See `consistency.boundary_scalings`.
            guidance: Of the teacher; None is a fixed w of 9.
            solver: Of the teacher; None is DDIM with guidance.
            source: Where trajectories begin.
            projection: Of the student's value before it is compared.
            target_projection: Of the target's; None is the same.
            distance: Between the two; None is pseudo-Huber with ``huber_c``.
            weighting: Of the intervals.
            adversary: Adds its loss; None adds none.
        """
        self.schedule = schedule
        self.parameterization = parts.Parameterization(schedule, prediction)
        self.timesteps = parts.TimestepGrid.ddim(original_steps, schedule.num_timesteps)
        self.boundary = parts.Boundary(timestep_scaling=timestep_scaling)
        self.guidance = guidance or parts.FixedGuidance(9.0)
        self.solver = solver or parts.GuidedDDIM(schedule, prediction)
        self.source, self.weighting, self.adversary = source, weighting, adversary
        self.projection, self.target_projection = projection, target_projection or projection
        self.distance = distance or parts.PseudoHuber(huber_c)

    @property
    def grid(self) -> Tensor:
        """Timesteps that the student is trained at, long ``[N]``."""
        return self.timesteps.t

    @property
    def grid_prev(self) -> Tensor:
        """Timesteps that the teacher steps to, long ``[N]``."""
        return self.timesteps.t_prev

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
        w: Tensor | float | None = None,
        source_uniform: Tensor | None = None,
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
            w: Guidance above the conditional prediction, a scale of ``1 + w`` in ``u + g (c - u)``; None asks the
                policy.
            source_uniform: Numbers ``[B]`` in [0, 1) for the trajectory source; None draws them.

        Returns:
            Losses ``[B]``, and the tensors along the way by name.
        """
        uniform = torch.rand(len(x_0), device=x_0.device) if source_uniform is None else source_uniform
        if index is None:
            index = torch.randint(len(self.grid), (len(x_0),), device=x_0.device)
        noise = torch.randn_like(x_0) if noise is None else noise
        w = self.guidance(uniform) if w is None else w
        x_0 = self.source(student, x_0, noise, context, uniform)
        t, t_prev = self.timesteps.at(index)
        pair = parts.Pair(x_0=x_0, noise=noise, x_t=self.schedule.add_noise(x_0, noise, t), t=t, t_prev=t_prev)

        student_output = student(pair.x_t, t, context)
        pred_x_0 = self.parameterization.x_0(student_output, pair.x_t, t)
        prediction = self.boundary(pred_x_0, pair.x_t, t)
        with torch.no_grad():
            x_prev, along = self.solver(teacher, pair, context, uncond_context, w)
            target_output = target(x_prev.to(x_0.dtype), t_prev, context)
            target_pred_x_0 = self.parameterization.x_0(target_output, x_prev, t_prev)
            goal = self.boundary(target_pred_x_0, x_prev, t_prev)
            projected_goal = self.target_projection(goal)

        losses = self.distance(self.projection(prediction), projected_goal)
        losses = self.weighting(index, len(self.grid)) * losses
        if self.adversary is not None:
            losses = losses + self.adversary.generator_loss(pred_x_0, context)
        along |= {
            "t": t,
            "t_prev": t_prev,
            "x_t": pair.x_t,
            "student_output": student_output,
            "pred_x_0": pred_x_0,
            "prediction": prediction,
            "target_output": target_output,
            "target_pred_x_0": target_pred_x_0,
            "target": goal,
        }
        return losses, along
