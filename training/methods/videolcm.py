"""Consistency distillation of a video diffusion model, as in VideoLCM (Wang et al., arXiv 2312.09109)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..networks import Control, VgenNetwork, freeze_unfed
from ..recipes.base import check_dtype
from ..recipes.videolcm import VideoLCMRecipe
from .method import AdamW, Follower, Inputs, Losses, Method, MicroBatch, Needs, Networks, Phase, Trained
from .parts import previews
from .parts.consistency import ConsistencyLoss
from .parts.distance import huber
from .parts.grid import TimestepGrid, stratified
from .parts.guidance import FixedGuidance
from .parts.solver import GuidedDDIM, Predict


class VideoLCM(Method):
    """Student, the target that follows it (eq. 6 of the paper), and a slow average where the recipe has one."""

    name = "videolcm"
    recipe: VideoLCMRecipe
    phases = (Phase(name="consistency", trains=("student",)),)

    def __init__(self, recipe: VideoLCMRecipe, inputs: Inputs) -> None:
        r, teacher, student = recipe, inputs.teacher, inputs.student
        self.recipe, self.teacher, self.student, self.released = r, teacher, student, r.release
        self.needs = Needs(negative_prompt=r.negative_prompt if r.uncond == "negative" else "")
        check_dtype(inputs.device, r.solver_dtype, "solver_precision")
        schedule = teacher.schedule.to(inputs.device, r.solver_dtype)
        self.grid = TimestepGrid.ddim(r.original_steps, schedule.num_timesteps)
        self.guidance = FixedGuidance(r.w)
        self.consistency = ConsistencyLoss(
            schedule=schedule,
            prediction=teacher.prediction,
            solver=GuidedDDIM(schedule, teacher.prediction),
            distance=huber(r.huber_c),
            timestep_scaling=r.timestep_scaling,
        )
        # The followers are copied before the student is moved, spread or compiled.
        target = copy.deepcopy(teacher.network).float().requires_grad_(False).train(r.target_dropout)
        target_follows = Follower(
            module=VgenNetwork(target), weights=target, values=student.effective_state, decay=lambda _: r.target_ema
        )
        self.followers = {"target": target_follows} | ({"average": student.average(r)} if r.average_ema else {})
        network = VgenNetwork(student.network.train(True), recompute=inputs.recompute)
        freeze_unfed(network, inputs.fed)
        spatial = network.groups().get("spatial", []) if r.image_key_scale != 1.0 else []
        self.trained = {
            "student": Trained(
                module=network,
                weights=student.network,
                parameters=student.trainable,
                rate=r.rate,
                clip_norm=r.clip_norm,
                gradient_scales=dict.fromkeys(spatial, r.image_key_scale),
                optimizer=AdamW(beta1=r.beta1, beta2=r.beta2, eps=r.adam_eps, weight_decay=r.weight_decay),
                sometimes_unused=bool(inputs.fed) or (bool(r.images) and not r.image_temporal),
            )
        }
        frozen = teacher.network.to(r.teacher_dtype).requires_grad_(False).train(r.teacher_dropout)
        self.frozen: Mapping[str, nn.Module] = {"teacher": VgenNetwork(frozen)}

    @classmethod
    def build(cls, recipe: VideoLCMRecipe, inputs: Inputs) -> VideoLCM:
        """See `Method`."""
        return cls(recipe, inputs)

    def index(self, micro: MicroBatch) -> Tensor:
        """Interval of each sample, long ``[B]`` on the CPU."""
        uniform = micro.draws.grid
        if self.recipe.grid_draw == "stratified":
            uniform = stratified(uniform, micro.samples, micro.size)
        return self.grid.index(uniform)

    def loss(self, phase: str, networks: Networks, micro: MicroBatch) -> Losses:
        """The student at ``t`` must agree with the target one guided DDIM step of the teacher earlier (eq. 4, 5)."""
        control = Control(pixels=micro.conditions, count=len(micro.latents))
        modes = {"control": control, "temporal": self.recipe.image_temporal or not micro.images}

        def called(name: str) -> Predict:
            return lambda x, t, text: networks[name](x, t, {"text": text, **modes})

        t, t_prev = self.grid.at(self.index(micro).to(micro.latents.device))
        losses, _ = self.consistency(
            called("student"),
            called("teacher"),
            called("target"),
            x_0=micro.latents,
            noise=micro.draws.noise,
            text=micro.text,
            uncond=micro.uncond,
            t=t,
            t_prev=t_prev,
            w=self.guidance(micro.draws.guidance),
        )
        return Losses(values=losses, t=t)

    def released_state(self) -> Mapping[str, Tensor]:
        """Those of the released network, adapters merged."""
        return self.student.effective_state(None if self.released == "student" else self.released_network())

    def sample(self, network: nn.Module, scenes: previews.Scenes, steps: int, device: torch.device) -> Tensor:
        """By multistep consistency sampling."""
        return previews.student_latents(self.recipe, self.teacher, network, scenes, steps, device)

    def sample_teacher(self, scenes: previews.Scenes, steps: int, device: torch.device) -> Tensor:
        """By DDIM at the guidance that is distilled."""
        return previews.teacher_latents(self.recipe.w, self.teacher, scenes, steps, device)


METHOD = VideoLCM
