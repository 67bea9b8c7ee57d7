"""Training by any method on any number of processes; it knows no paper and no network class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from ..methods.method import Losses, Method, MicroBatch, Networks, Phase, Trained
from .followers import follow, local
from .processes import fill, fill_optimizer, optimizer_state, shard, share, whole
from .progress import bin_means, bin_sums
from .randomness import Draws, draw_samples, seed_dropout
from .rates import set_learning_rate


class Draw(Protocol):
    """Draws random numbers of some samples; see `draw_samples`."""

    def __call__(self, shape: Sequence[int], samples: range, *, seed: int, step: int, phase: int = 0) -> Draws:
        """Draw."""
        ...


class BatchesLike(Protocol):
    """The part of the data that training needs; see `data.batches`."""

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
        accumulation: micro-batches that a process computes its batch in.
        compile: compile the networks.
        shard: spread parameters, gradients and optimiser over the processes (FSDP).
    """

    accumulation: int = 1
    compile: bool = False
    shard: bool = False


@dataclass(kw_only=True)
class _Running:
    """A trained module as this process runs it."""

    spec: Trained
    module: nn.Module
    optimizer: Any
    scales: dict[str, float] = field(default_factory=dict)

    @property
    def inner(self) -> torch.optim.Optimizer:
        """The optimiser inside accelerate's."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    @property
    def weights(self) -> nn.Module:
        """What is kept."""
        return self.spec.weights or self.spec.module


class MethodTask:
    """A method's trained modules with their optimisers, its followers and frozen modules, and a step of all of them.

    Args:
        batches: data of every step.
        method: what is trained, and its numbers.
        accelerator: of this process.
        scale: how the work is laid out.
        draw: noise, timesteps and the like of some samples.

    Raises:
        ValueError: the batch cannot be divided over the processes, or the data lacks what the method needs.
    """

    def __init__(
        self,
        batches: BatchesLike,
        method: Method,
        accelerator: Accelerator,
        scale: Scale | None = None,
        draw: Draw = draw_samples,
    ) -> None:
        self.batches, self.method, self.accelerator, self.draw = batches, method, accelerator, draw
        self.recipe: Any = method.recipe
        self.scale = scale or Scale()
        self.running = {name: self._prepare(spec) for name, spec in method.trained.items()}
        for module in (*method.frozen.values(), *(f.module for f in method.followers.values())):
            self._place(module)
        if self.scale.compile:
            for module in self._modules(()).values():
                module.compile()
        self.uncond = batches.uncond_context(method.needs.negative_prompt).to(accelerator.device)
        share(batches.size(0), 0, accelerator.num_processes, self.scale.accumulation)

    def _place(self, module: nn.Module) -> None:
        """Move a module that does not train to the device, spread like those that do."""
        if self.scale.shard:
            # A follower that no loss calls takes no part in a step: its precision is that of its weights.
            shard(self.accelerator, module, self.recipe.precision)
        else:
            module.to(self.accelerator.device)

    def _prepare(self, spec: Trained) -> _Running:
        module, numbers = spec.module, spec.optimizer
        if self.scale.shard:  # replaces the parameters, so that it comes before the optimiser
            shard(self.accelerator, module, self.recipe.precision)
        optimizer: Any = torch.optim.AdamW(
            spec.parameters(),
            lr=spec.rate(0),
            betas=(numbers.beta1, numbers.beta2),
            eps=numbers.eps,
            weight_decay=numbers.weight_decay,
            fused=not self.scale.shard,
        )
        if not self.scale.shard:
            if (ddp := self.accelerator.ddp_handler) is not None:
                ddp.find_unused_parameters = spec.sometimes_unused
            module, optimizer = self.accelerator.prepare(module, optimizer)
        return _Running(spec=spec, module=module, optimizer=optimizer, scales=dict(spec.gradient_scales))

    def _modules(self, trains: Sequence[str]) -> dict[str, nn.Module]:
        """All modules that a loss may call; those that a phase trains as the processes share them."""
        trained = {n: r.module if n in trains or not trains else r.spec.module for n, r in self.running.items()}
        return trained | {n: f.module for n, f in self.method.followers.items()} | dict(self.method.frozen)

    def _networks(self, phase: Phase) -> Networks:
        def called(module: nn.Module) -> Callable[..., Tensor]:
            def call(*arguments: Any, **named: Any) -> Tensor:
                with self.accelerator.autocast():
                    return module(*arguments, **named)

            return call

        return {name: called(module) for name, module in self._modules(phase.trains).items()}

    def description(self) -> dict[str, Any]:
        """The recipe, kept in the checkpoint."""
        return self.recipe.settings() | {"method": self.method.name}

    @property
    def released(self) -> str:
        """Name in `state` of the weights that a run releases."""
        return self.method.released

    def state(self) -> dict[str, Any]:
        """Weights and optimisers by name; every process must call it."""
        state: dict[str, Any] = {n: whole(r.weights.state_dict()) for n, r in self.running.items()}
        state |= {n: whole((f.weights or f.module).state_dict()) for n, f in self.method.followers.items()}
        state |= {key: optimizer_state(r.spec.module, r.inner) for key, r in self._optimizers()}
        scaler = self.accelerator.scaler
        return state | ({"scaler": scaler.state_dict()} if scaler is not None else {})

    def _optimizers(self) -> list[tuple[str, _Running]]:
        """Optimisers with their names in the state: a method with one module calls it just so."""
        one = len(self.running) == 1
        return [("optimizer" if one else f"optimizer.{name}", r) for name, r in self.running.items()]

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave.

        Raises:
            ValueError: it has other parts, or parts of other networks.
        """
        optimizers = self._optimizers()
        wanted = [*self.running, *self.method.followers, *(key for key, _ in optimizers)]
        if missing := [name for name in wanted if name not in state]:
            raise ValueError(
                f"the checkpoint has {', '.join(sorted(state))} and lacks {', '.join(missing)}, which this recipe "
                "keeps; allowed: a checkpoint of the same method and recipe. Give another --out, or the options it "
                "began with."
            )
        weights = {n: r.weights for n, r in self.running.items()}
        weights |= {n: f.weights or f.module for n, f in self.method.followers.items()}
        for name, module in weights.items():
            fill(module, state[name], name)
        for key, r in optimizers:
            fill_optimizer(r.spec.module, r.inner, state[key])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def released_state(self) -> dict[str, Tensor]:
        """The weights that the recipe exports, by the teacher's names; every process must call it."""
        return whole(self.method.released_state())

    def micro_batch(self, step: int, samples: range, phase: int) -> MicroBatch:
        """Some samples of a step, on the device, with their random numbers.

        Raises:
            ValueError: the method needs frames and the data has none.
        """
        device, batch = self.accelerator.device, self.batches.batch(step, samples)
        pixels, stills = getattr(batch, "pixels", None), getattr(batch, "stills", None)
        if self.method.needs.pixels and pixels is None and stills is None:
            raise ValueError(
                f"{self.method.name} compares frames, and this data has latents only; allowed: --clips or --shards "
                "without --cache, a corpus, or images beside any data (--image-set). Name one."
            )
        draws = self.draw(batch.latents.shape[1:], samples, seed=self.recipe.seed, step=step, phase=phase)
        given = batch.extra.get("conditions", {})
        return MicroBatch(
            latents=batch.latents.to(device),
            text=batch.context.to(device),
            uncond=self.uncond,
            conditions={k: (i.to(device), p.to(device)) for k, (i, p) in given.items()},
            images=batch.images,
            samples=samples,
            size=self.batches.size(step),
            draws=draws.to(device),
            pixels=None if pixels is None else pixels.to(device),
            stills=None if stills is None else stills.to(device),
            captions=tuple(batch.extra.get("captions", ())),
        )

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One optimiser step of every phase; its numbers are the same on every process."""
        values, told = dict[str, float](), dict[str, float]()
        for number, phase in enumerate(self.method.phases):
            found = self._phase(index, number, phase, told)
            values |= found if not number else {f"{k}/{phase.name}": v for k, v in found.items() if "/" not in k}
            if not math.isfinite(found["loss"]):
                return values
        for follower in self.method.followers.values():
            parameters, goal = dict((follower.weights or follower.module).named_parameters()), follower.values()
            if names := [name for name in parameters if name in goal]:
                follow([parameters[n] for n in names], [goal[n] for n in names], follower.decay(index))
        for line in self.method.after_step(index, told):
            if self.accelerator.is_main_process:
                tqdm.write(line)
        return values | told | {"samples": float(self.batches.size(index))}

    def _phase(self, index: int, number: int, phase: Phase, told: dict[str, float] | None = None) -> dict[str, float]:
        """One phase of a step; a loss or gradient that is not finite changes nothing and is returned as the loss.

        Args:
            index: of the step.
            number: of the phase.
            phase: what it trains.
            told: takes the means of what the method tells.
        """
        a, size, networks = self.accelerator, self.batches.size(index), self._networks(phase)
        chosen = {name: self.running[name] for name in phase.trains}
        for r in chosen.values():
            set_learning_rate(r.inner, r.spec.rate(index))
        micro_batches = share(size, a.process_index, a.num_processes, self.scale.accumulation)
        sums, norms = torch.zeros(2, 5, device=a.device), dict[str, float]()
        said: dict[str, Tensor] = {}
        for micro, samples in enumerate(micro_batches):
            seed_dropout(self.recipe.seed, index, number * len(micro_batches) + micro, a.process_index)
            with a.accumulate(*(r.module for r in chosen.values())):
                losses: Losses = self.method.loss(phase.name, networks, self.micro_batch(index, samples, number))
                sums += bin_sums(losses.values, losses.t)
                said = {n: said.get(n, 0.0) + v.detach().float().sum() for n, v in losses.told.items()}
                a.backward(losses.values.mean())
                if a.sync_gradients:
                    norms = {name: self._finish_gradients(r) for name, r in chosen.items()}
                    # A scaler passes over steps that are not finite by itself.
                    if all(map(math.isfinite, norms.values())) or a.scaler is not None:
                        for r in chosen.values():
                            r.optimizer.step()
                    for r in self.running.values():
                        r.optimizer.zero_grad(set_to_none=True)
        sums = a.reduce(sums, "sum")
        if said and told is not None:
            totals = a.reduce(torch.stack([said[name] for name in sorted(said)]), "sum").tolist()
            told |= {name: total / size for name, total in zip(sorted(said), totals, strict=True)}
        loss = float(sums[0].sum() / sums[1].sum())
        if not all(map(math.isfinite, norms.values())) and a.scaler is None:
            return {"loss": loss if not math.isfinite(loss) else math.nan}
        first = phase.trains[0]
        named = {"grad_norm" if n == first else f"grad_norm/{n}": norm for n, norm in norms.items()}
        return {"loss": loss, **bin_means(sums), **named, "rate": chosen[first].spec.rate(index)}

    def _finish_gradients(self, running: _Running) -> float:
        """Scale, measure and clip the gradients of a module."""
        if running.scales:
            parameters = dict(running.weights.named_parameters())
            for factor in set(running.scales.values()):
                names = [name for name, scale in running.scales.items() if scale == factor]
                mine = [local(g) for n in names if (g := parameters[n].grad) is not None]
                torch._foreach_mul_(mine, factor)
        norm = self.accelerator.clip_grad_norm_(running.spec.parameters(), running.spec.clip_norm or math.inf)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
