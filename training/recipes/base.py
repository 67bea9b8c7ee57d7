"""What every recipe has; a method's own recipe adds its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch

from ..engine.rates import warmup_stable_decay

CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "rate_schedule": ("constant", "cosine", "stable_decay"),
    "precision": ("no", "bf16", "fp16"),
    "teacher_precision": ("float32", "bfloat16", "float16"),
}
"""Allowed values of fields that are names."""
DTYPES: Final = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All numbers of a run that its result depends on.

    Attributes:
        name: of the recipe.
        steps: optimiser steps.
        batch: clips of a step, all processes and micro-batches together.
        image_batch: images of an image step.
        images: steps on images to every ``videos`` steps on clips; 0 is none.
        videos: see ``images``.
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
        average_ema: decay of a slow average that is kept beside; 0 keeps none.
        release: which network is exported.
        precision: of the networks' arithmetic ("no" is float32).
        teacher_precision: of the frozen teacher's weights.
        save_steps: steps between checkpoints.
        frame_stride: every so many-th frame of a film is taken; 0 takes them at the teacher's rate.
        crop_area: smallest share of a film's area that is seen, drawn for each clip; 1 sees its middle.
        image_crop_area: the same of images.
        seed: of all draws.
    """

    choices: ClassVar[dict[str, tuple[str, ...]]] = CHOICES
    releases: ClassVar[tuple[str, ...]] = ("student", "average")

    name: str
    steps: int = 4000
    batch: int = 48
    image_batch: int = 48
    images: int = 1
    videos: int = 3
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
    average_ema: float = 0.0
    release: str = "student"
    precision: str = "bf16"
    teacher_precision: str = "bfloat16"
    save_steps: int = 0
    frame_stride: int = 0
    crop_area: float = 1.0
    image_crop_area: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: with the field, the value and what is allowed.
        """
        for field, allowed in (self.choices | {"release": self.releases}).items():
            if (value := getattr(self, field)) not in allowed:
                raise ValueError(f"{field} is {value!r}; allowed: {', '.join(allowed)}.")
        for field in ("batch", "image_batch"):
            if (value := getattr(self, field)) < 1:
                raise ValueError(f"{field} is {value}; allowed: 1 or more.")
        check_decay("average_ema", self.average_ema)
        if self.steps < 0 or self.learning_rate <= 0:
            raise ValueError(
                f"steps is {self.steps} and learning_rate {self.learning_rate}; allowed: 0 or more, and above 0."
            )
        if self.release == "average" and not self.average_ema:
            raise ValueError(
                "release is 'average' but average_ema is 0; give a decay such as 0.999, or release another."
            )

    @property
    def real_frames(self) -> int:
        """Real frames that a step looks at beside each clip's latents; 0 is none."""
        return 0

    @property
    def teacher_dtype(self) -> torch.dtype:
        """Of the frozen teacher's weights."""
        return DTYPES[self.teacher_precision]

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

    def average_decay(self, index: int) -> float:
        """Decay of the slow average at a step: a young one is a plain mean, else the first weights stay for long."""
        return min(self.average_ema, (index + 1) / (index + 10))

    def settings(self) -> dict[str, Any]:
        """All fields by name: numbers, strings and truth values only."""
        return dict(vars(self))


def check_dtype(device: torch.device, dtype: torch.dtype, field: str) -> None:
    """Refuse a precision that a device does not have, such as float64 on Apple's MPS, DirectML and Intel Arc.

    Raises:
        ValueError: it does not.
    """
    try:
        torch.zeros(1, dtype=dtype).to(device)
    except (TypeError, RuntimeError) as error:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"{field} is {name!r} and {device} has no {name} ({str(error)[:120]}); allowed there: float32. Give "
            f"--{field.replace('_', '-')} float32."
        ) from error


def check_decay(field: str, value: float) -> None:
    """Refuse a decay that is none.

    Raises:
        ValueError: it is not in [0, 1).
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{field} is {value}; allowed: 0 up to, not including, 1. The paper's target has 0.95.")
