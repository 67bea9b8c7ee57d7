"""Consistency distillation on any number of processes: one task for every recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..methods import parts
from ..methods.consistency_distillation import ConsistencyDistillation
from ..recipes.recipe import Recipe
from .loop import set_learning_rate
from .networks import Predictor, TargetNetwork, checkpoint_activations, local, set_temporal, spatial_parameters
from .processes import fill, fill_optimizer, optimizer_state, shard, share, whole
from .progress import bin_means, bin_sums
from .randomness import Draws, draw_samples, seed_dropout

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Draw(Protocol):
    """Draws random numbers of some samples; see `draw_samples`."""

    def __call__(self, shape: Sequence[int], samples: range, *, seed: int, step: int) -> Draws:
        """Draw."""
        ...


class TeacherLike(Protocol):
    """The part of a teacher that distillation needs."""

    @property
    def network(self) -> nn.Module:
        """The frozen diffusion model."""

    @property
    def schedule(self) -> Any:
        """Its noise schedule."""

    @property
    def prediction(self) -> str:
        """What it predicts."""


class StudentLike(Protocol):
    """The part of a student that distillation needs."""

    @property
    def network(self) -> nn.Module:
        """What trains."""

    def trainable(self) -> list[nn.Parameter]:
        """Its parameters that train."""

    def effective_state(self) -> Mapping[str, Tensor]:
        """Its weights by the names of the teacher's network, adapters merged."""


class BatchesLike(Protocol):
    """The part of the data that distillation needs; see `data.batches`."""

    def size(self, step: int) -> int:
        """Samples of a step, all processes together."""

    def uncond_context(self, text: str = "") -> Tensor:
        """Context of no prompt, or of a negative one, ``[1, L, D]``."""

    def batch(self, step: int, samples: range) -> Any:
        """Latents, context and conditions of some samples of a step."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How the work is laid out; no number of the result depends on it but by rounding.

    Attributes:
        accumulation: parts that a process computes its batch in.
        checkpointing: compute activations again in the backward pass.
        compile: compile the networks.
        shard: spread parameters, gradients and optimiser over the processes (FSDP).
    """

    accumulation: int = 1
    checkpointing: bool = False
    compile: bool = False
    shard: bool = False


def build_method(recipe: Recipe, teacher: TeacherLike, device: torch.device) -> ConsistencyDistillation:
    """The method that a recipe describes."""
    schedule = teacher.schedule.to(device, _DTYPES[recipe.solver_precision])
    return ConsistencyDistillation(
        schedule,
        teacher.prediction,
        recipe.original_steps,
        recipe.huber_c,
        recipe.timestep_scaling,
        guidance=parts.FixedGuidance(recipe.w),
    )


class DistillationTask:
    """Student, the target network that follows it, and a slow average where the recipe has one.

    Args:
        batches: data of every step.
        teacher: frozen; its network is copied where it must differ from the target's.
        student: begins as the teacher.
        recipe: all numbers.
        accelerator: of this process.
        scale: how the work is laid out.
        method: what is trained; None is the recipe's consistency distillation.
        draw: noise, timesteps and the like of some samples.

    Raises:
        ValueError: the batch cannot be divided over the processes.
    """

    def __init__(
        self,
        batches: BatchesLike,
        teacher: TeacherLike,
        student: StudentLike,
        recipe: Recipe,
        accelerator: Accelerator,
        scale: Scale | None = None,
        method: ConsistencyDistillation | None = None,
        draw: Draw = draw_samples,
    ) -> None:
        self.draw = draw
        self.batches, self.recipe, self.accelerator, self.scale = batches, recipe, accelerator, scale or Scale()
        self.student = student
        device = accelerator.device
        self.method = method or build_method(recipe, teacher, device)
        # The averages are copied before the student is moved, spread or compiled.
        self.target = TargetNetwork(teacher.network, recipe.target_ema, dropout=recipe.target_dropout)
        self.average = TargetNetwork(teacher.network, recipe.average_ema) if recipe.average_ema else None
        self._prepare_student()
        self.teacher = Predictor(
            teacher.network.to(_DTYPES[recipe.teacher_precision]).requires_grad_(False).train(recipe.teacher_dropout)
        )
        for predictor in [self.teacher] + [n.predictor for n in (self.target, self.average) if n is not None]:
            self._place(predictor)
        if self.scale.compile:
            for network in (self.predictor, self.teacher, self.target.predictor):
                network.forward = torch.compile(network.forward)  # type: ignore[method-assign]
        negative = recipe.negative_prompt if recipe.uncond == "negative" else ""
        self.uncond = batches.uncond_context(negative).to(device)
        share(batches.size(0), 0, accelerator.num_processes, self.scale.accumulation)

    def _place(self, predictor: Predictor) -> None:
        """Move a network that follows to the device, spread like the student."""
        if self.scale.shard:
            # The average takes no part in a step: its precision is that of its weights.
            shard(self.accelerator, predictor, self.recipe.precision)
        else:
            predictor.to(self.accelerator.device)

    def _prepare_student(self) -> None:
        r, network = self.recipe, self.student.network
        if self.scale.checkpointing:
            checkpoint_activations(network)  # type: ignore[arg-type]
        network.train(True)
        positions = _positions(network, spatial_parameters(network))
        self.predictor: nn.Module = Predictor(network)
        if self.scale.shard:  # replaces the parameters, so that it comes before the optimiser
            shard(self.accelerator, self.predictor, r.precision)
        optimizer = torch.optim.AdamW(
            self.student.trainable(),
            lr=r.learning_rate,
            betas=(r.beta1, r.beta2),
            eps=r.adam_eps,
            weight_decay=r.weight_decay,
            fused=not self.scale.shard,
        )
        self.optimizer: Any = optimizer
        if not self.scale.shard:
            self.predictor, self.optimizer = self.accelerator.prepare(self.predictor, optimizer)
        parameters = list(network.parameters())
        self.spatial = [parameters[i] for i in positions]

    def description(self) -> dict[str, Any]:
        """The recipe, kept in the checkpoint."""
        return self.recipe.settings()

    def state(self) -> dict[str, Any]:
        """Networks and optimiser; every process must call it."""
        state: dict[str, Any] = {
            "student": whole(self.student.network.state_dict()),
            "target": whole(self.target.state_dict()),
            "optimizer": optimizer_state(self.predictor, _inner(self.optimizer)),
        }
        if self.average is not None:
            state["average"] = whole(self.average.state_dict())
        scaler = self.accelerator.scaler
        return state | ({"scaler": scaler.state_dict()} if scaler is not None else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        fill(self.student.network, state["student"])
        fill(self.target.network, state["target"])
        if self.average is not None:
            fill(self.average.network, state["average"])
        fill_optimizer(self.predictor, _inner(self.optimizer), state["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def released_state(self) -> dict[str, Tensor]:
        """The weights that the recipe exports, by the teacher's names; every process must call it."""
        network = {"average": self.average, "target": self.target}.get(self.recipe.release)
        return whole(network.state_dict() if network is not None else self.student.effective_state())

    def grid_index(self, draws: Draws, samples: range, size: int) -> Tensor:
        """Interval of each sample, long ``[B]``."""
        uniform = draws.grid
        if self.recipe.grid_draw == "stratified":
            # One grid point in each of `size` equal parts: every noise level has its share in every step.
            uniform = (torch.tensor(list(samples), dtype=torch.float64, device=uniform.device) + uniform) / size
        return self.method.timesteps.index(uniform)

    def losses(self, step: int, samples: range) -> tuple[Tensor, Tensor]:
        """Losses ``[B]`` and timesteps ``[B]`` of some samples of a step."""
        device = self.accelerator.device
        batch = self.batches.batch(step, samples)
        x_0, context = batch.latents.to(device), batch.context.to(device)
        if not self.recipe.image_temporal:
            for part in (self.student.network, self.teacher.network, self.target.network):
                set_temporal(part, not batch.images)
        draws = self.draw(x_0.shape[1:], samples, seed=self.recipe.seed, step=step).to(device)
        conditions = {k: (i.to(device), p.to(device)) for k, (i, p) in batch.extra.get("conditions", {}).items()}
        count = len(x_0)

        def network(predictor: nn.Module) -> parts.Network:
            def predict(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
                with self.accelerator.autocast():
                    return predictor(x, t, c, conditions, count)

            return predict

        losses, along = self.method.loss(
            network(self.predictor),
            network(self.teacher),
            network(self.target.predictor),
            x_0,
            context,
            self.uncond,
            index=self.grid_index(draws, samples, self.batches.size(step)),
            noise=draws.noise,
            w=self.method.guidance(draws.guidance),
            source_uniform=draws.source,
        )
        return losses, along["t"]

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One optimiser step; its numbers are the same on every process."""
        a, size, rate = self.accelerator, self.batches.size(index), self.recipe.rate(index)
        set_learning_rate(_inner(self.optimizer), rate)
        parts_of_mine = share(size, a.process_index, a.num_processes, self.scale.accumulation)
        sums = torch.zeros(2, 5, device=a.device)
        for micro, samples in enumerate(parts_of_mine):
            seed_dropout(self.recipe.seed, index, micro, a.process_index)
            with a.accumulate(self.predictor):
                losses, t = self.losses(index, samples)
                sums += bin_sums(losses, t, self.method.schedule.num_timesteps)
                a.backward(losses.mean())
                if a.sync_gradients:
                    norm = self._finish_gradients()
                    if math.isfinite(norm) or a.scaler is not None:  # a scaler passes over such steps by itself
                        self.optimizer.step()
                    self.optimizer.zero_grad(set_to_none=True)
        sums = a.reduce(sums, "sum")
        loss = float(sums[0].sum() / sums[1].sum())
        if not math.isfinite(norm) and a.scaler is None:
            return {"loss": loss if not math.isfinite(loss) else math.nan}
        self._follow(index)
        return {"loss": loss, **bin_means(sums), "grad_norm": norm, "rate": rate, "samples": float(size)}

    def _finish_gradients(self) -> float:
        """Scale, measure and clip the gradients."""
        r, trained = self.recipe, self.student.trainable()
        if r.image_key_scale != 1.0:
            mine = [local(p.grad) for p in self.spatial if p.grad is not None]
            torch._foreach_mul_(mine, r.image_key_scale)
        norm = self.accelerator.clip_grad_norm_(trained, r.clip_norm or math.inf)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _follow(self, index: int) -> None:
        """Let target and average take their step."""
        effective = self.student.effective_state()
        self.target.update(effective)
        if self.average is not None:
            # A young average is a plain mean; else the first weights would stay in it for long.
            self.average.decay = min(self.recipe.average_ema, (index + 1) / (index + 10))
            self.average.update(effective)


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def _positions(network: nn.Module, chosen: list[nn.Parameter]) -> list[int]:
    wanted = {id(p) for p in chosen}
    return [i for i, p in enumerate(network.parameters()) if id(p) in wanted]
