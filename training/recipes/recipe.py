"""What a recipe is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from ..engine.loop import warmup_stable_decay

CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "rate_schedule": ("constant", "cosine", "stable_decay"),
    "uncond": ("empty", "negative"),
    "grid_draw": ("uniform", "stratified"),
    "precision": ("no", "bf16", "fp16"),
    "teacher_precision": ("float32", "bfloat16", "float16"),
    "solver_precision": ("float32", "float64"),
    "release": ("student", "average", "target"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A consistency distillation.

    Attributes:
        name: of the recipe.
        steps: optimiser steps.
        batch: clips of a step, all processes and accumulated parts together.
        image_batch: images of an image step.
        images: steps on images to every ``videos`` steps on clips; 0 is none.
        videos: see ``images``.
        image_temporal: whether images pass the layers along time, as single frames. False goes around these layers, for
            teachers that were trained so.
        learning_rate: its peak.
        rate_schedule: "constant", "cosine" (to 0 at ``rate_steps``) or "stable_decay" (half cosine to 1 % in the last
            ``rate_decay`` of the steps); after the warm-up.
        warmup: steps of linear warm-up; the first has rate 0 where the schedule is "cosine", as in the authors'.
        rate_steps: where a cosine ends.
        rate_decay: share of the steps that decay.
        beta1: of AdamW.
        beta2: of AdamW.
        adam_eps: of AdamW.
        weight_decay: of AdamW.
        clip_norm: largest norm of all gradients; 0 does not clip.
        image_key_scale: factor on the gradients of layers that Stable Diffusion has too.
        w: guidance, ``(1 + w) cond - w uncond``: a scale of ``1 + w`` in ``u + g (c - u)``.
        uncond: what guidance goes away from: "empty" or the "negative" prompt.
        negative_prompt: for ``uncond`` "negative".
        original_steps: intervals of the DDIM grid; skips are 1000 / it.
        grid_draw: "uniform", or "stratified": one interval out of each of ``batch`` equal parts.
        huber_c: of the pseudo-Huber distance.
        timestep_scaling: of the consistency function.
        target_ema: decay of the target network.
        average_ema: decay of a slower average that is kept beside; 0 keeps none.
        teacher_dropout: whether the teacher is in training mode.
        target_dropout: whether the target network is.
        release: which network is exported.
        precision: of the networks' arithmetic ("no" is float32).
        teacher_precision: of the frozen teacher's weights.
        solver_precision: of the schedule, the solver and the consistency function.
        save_steps: steps between checkpoints.
        seed: of all draws.
    """

    name: str
    steps: int = 4000
    batch: int = 48
    image_batch: int = 48
    images: int = 1
    videos: int = 3
    image_temporal: bool = True
    learning_rate: float = 1e-5
    rate_schedule: str = "constant"
    warmup: int = 0
    rate_steps: int = 1_000_000
    rate_decay: float = 0.4
    beta1: float = 0.9
    beta2: float = 0.999
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    image_key_scale: float = 1.0
    w: float = 9.0
    uncond: str = "empty"
    negative_prompt: str = ""
    original_steps: int = 50
    grid_draw: str = "uniform"
    huber_c: float = 0.001
    timestep_scaling: float = 10.0
    target_ema: float = 0.95
    average_ema: float = 0.0
    teacher_dropout: bool = False
    target_dropout: bool = False
    release: str = "student"
    precision: str = "bf16"
    teacher_precision: str = "bfloat16"
    solver_precision: str = "float64"
    save_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: with the field, the value and what is allowed.
        """
        for field, allowed in CHOICES.items():
            if (value := getattr(self, field)) not in allowed:
                raise ValueError(f"{field} is {value!r}; allowed: {', '.join(allowed)}.")
        for field in ("batch", "image_batch", "original_steps"):
            if (value := getattr(self, field)) < 1:
                raise ValueError(f"{field} is {value}; allowed: 1 or more.")
        for field in ("target_ema", "average_ema"):
            if not 0.0 <= (value := getattr(self, field)) < 1.0:
                raise ValueError(
                    f"{field} is {value}; allowed: 0 up to, not including, 1. The paper's target has 0.95."
                )
        if self.steps < 0 or self.learning_rate <= 0:
            raise ValueError(
                f"steps is {self.steps} and learning_rate {self.learning_rate}; allowed: 0 or more, and above 0."
            )
        if self.release == "average" and not self.average_ema:
            raise ValueError(
                "release is 'average' but average_ema is 0; give a decay such as 0.999, or release another."
            )

    def rate(self, index: int) -> float:
        """Learning rate of a step."""
        if self.rate_schedule == "stable_decay":
            return warmup_stable_decay(
                index, self.steps, peak=self.learning_rate, warmup=max(1, self.warmup), decay=self.rate_decay
            )
        if index < self.warmup:
            return self.learning_rate * index / self.warmup
        if self.rate_schedule == "constant":
            return self.learning_rate
        progress = min(1.0, (index - self.warmup) / max(1, self.rate_steps - self.warmup))
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def settings(self) -> dict[str, Any]:
        """All fields by name: numbers, strings and truth values only."""
        return dict(vars(self))
