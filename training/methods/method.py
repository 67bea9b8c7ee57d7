"""What a method is: what trains, what follows, what is frozen, and the loss of each phase.

The engine runs any method: for each phase and each micro-batch one loss and one backward pass; then each trained
module's gradients are scaled and clipped and its optimiser steps; at the end of the step the followers take theirs. Its
checkpoint is ``{name: state}`` of whatever a method names, so that a new method is a new file and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..engine.randomness import Draws
from ..recipes.base import Recipe

Networks = Mapping[str, Callable[..., Tensor]]
"""What a loss may call, by name: trained modules, followers and frozen ones, in the recipe's precision."""


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Numbers of the optimiser, as ``torch.optim.AdamW`` has them."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A module that trains, with an optimiser of its own.

    Attributes:
        module: what a loss calls.
        weights: the module inside it whose state is kept; None is ``module``.
        parameters: those that train; asked for after the module was spread over processes.
        rate: learning rate of a step.
        clip_norm: largest norm of its gradients; 0 does not clip.
        gradient_scales: factors on gradients before clipping, by the name of a parameter of ``weights``.
        optimizer: numbers of AdamW.
        sometimes_unused: whether a step may leave parameters without gradient.
    """

    module: nn.Module
    weights: nn.Module | None = None
    parameters: Callable[[], list[nn.Parameter]]
    rate: Callable[[int], float]
    clip_norm: float = 0.0
    gradient_scales: Mapping[str, float] = field(default_factory=dict)
    optimizer: AdamW = AdamW()
    sometimes_unused: bool = False


@dataclass(frozen=True, kw_only=True)
class Follower:
    """A module that follows trained weights (EMA); it begins as it is given.

    Attributes:
        module: what a loss calls.
        weights: the module inside it that follows; None is ``module``.
        values: what its parameters follow, by name.
        decay: of a step: ``weights <- decay * weights + (1 - decay) * values``.
    """

    module: nn.Module
    weights: nn.Module | None = None
    values: Callable[[], Mapping[str, Tensor]]
    decay: Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A loss of every step: its name, and the trained modules that it changes."""

    name: str
    trains: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method asks of its inputs.

    Attributes:
        teacher: a frozen diffusion model.
        pixels: real frames beside the latents: the clips' own, or images.
        negative_prompt: the text of `MicroBatch.uncond`.
    """

    teacher: bool = True
    pixels: bool = False
    negative_prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one process computes at a time; tensors are on its device.

    Attributes:
        latents: ``[B, C, F, h, w]``.
        text: ``[B, L, D]``.
        uncond: text of no prompt or of the negative one, ``[1, L, D]``.
        conditions: of each condition the samples that have it, long ``[b]``, and its pixels ``[b, c, F, H, W]``.
        images: whether the samples are single frames.
        samples: their numbers in the step's batch.
        size: of the step's batch, all processes together.
        draws: random numbers of these samples.
        pixels: frames ``[B, 3, F, H, W]`` in [0, 1], where the method needs them and there are no images beside.
        stills: images beside the clips, see `training.data.stills.Stills`.
        captions: of the clips, where the data tells.
    """

    latents: Tensor
    text: Tensor
    uncond: Tensor
    conditions: Mapping[str, tuple[Tensor, Tensor]]
    images: bool
    samples: range
    size: int
    draws: Draws
    pixels: Tensor | None = None
    stills: Any = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses of a micro-batch.

    Attributes:
        values: ``[B]``; their mean is differentiated.
        t: timesteps long ``[B]``, for the curves by noise level.
        told: other numbers by name ``[B]``, for curves and `Method.after_step`; the same names on every process.
    """

    values: Tensor
    t: Tensor
    told: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a method is built from.

    Attributes:
        teacher: see `training.teachers.Teacher`; None where the method needs none.
        student: see `training.students.Student`.
        device: where the run computes.
        fed: names of the conditions that the data has.
        recompute: activation checkpointing.
        autoencoder: decodes latents where a method looks at frames; None is the teacher's, if it has one.
    """

    teacher: Any
    student: Any
    device: torch.device
    fed: frozenset[str] = frozenset()
    recompute: bool = False
    autoencoder: Any = None


class Method(ABC):
    """A method of distillation; see the module's text.

    Attributes:
        name: of the file.
        recipe: all its numbers.
        needs: what it asks for.
        trained: modules that train, by name.
        followers: modules that follow them, by name.
        frozen: modules that do neither, by name.
        phases: the losses of a step, in order.
        released: name of the trained module or follower whose weights are exported.
    """

    name: ClassVar[str]
    recipe: Recipe
    needs: Needs
    trained: Mapping[str, Trained]
    followers: Mapping[str, Follower]
    frozen: Mapping[str, nn.Module]
    phases: tuple[Phase, ...]
    released: str

    @classmethod
    @abstractmethod
    def build(cls, recipe: Any, inputs: Inputs) -> Method:
        """The method that a recipe describes.

        Raises:
            ValueError: the recipe and the inputs do not go together.
        """

    @abstractmethod
    def loss(self, phase: str, networks: Networks, micro: MicroBatch) -> Losses:
        """Losses of a micro-batch; gradients reach the phase's modules only."""

    def identity(self) -> Mapping[str, str]:
        """What else a run must share that goes on with this method's weights, by name."""
        return {}

    def after_step(self, index: int, told: Mapping[str, float]) -> list[str]:
        """Called when a step's modules and followers have moved; a method that adapts itself does it here.

        Args:
            index: of the step.
            told: the means of `Losses.told` over all samples, the same on every process.

        Returns:
            what the user should read, a line each.
        """
        return []

    @abstractmethod
    def released_state(self) -> Mapping[str, Tensor]:
        """The weights that are exported, under the names of the teacher's file."""

    def released_network(self) -> nn.Module:
        """The module that holds the released weights, adapters apart."""
        found = self.trained.get(self.released) or self.followers[self.released]
        return found.weights or found.module

    def sample(self, network: nn.Module, scenes: Any, steps: int, device: torch.device) -> Tensor:
        """Latents ``[N, C, F, h, w]`` of a network with the student's weights, for previews."""
        raise NotImplementedError(f"{self.name} shows no previews while it trains; leave --validate-every out.")

    def sample_teacher(self, scenes: Any, steps: int, device: torch.device) -> Tensor:
        """Latents of the teacher, for previews."""
        raise NotImplementedError(f"{self.name} shows no previews while it trains; leave --validate-every out.")
