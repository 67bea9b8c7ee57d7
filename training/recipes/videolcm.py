"""VideoLCM as its paper states it, as its authors' code does it, and in small for the embedded model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from videolcm_core.files.entries import check_value

from .base import CHOICES, DTYPES, Recipe, check_decay

NEGATIVE_PROMPT: Final = (
    "Distorted, discontinuous, Ugly, blurry, low resolution, motionless, static, disfigured, disconnected limbs, Ugly "
    "faces, incomplete arms"
)
"""What the authors' configuration guides away from."""


@dataclass(frozen=True, kw_only=True)
class VideoLCMRecipe(Recipe):
    """A consistency distillation.

    Attributes:
        image_temporal: whether images pass the layers along time, as single frames. False goes around these layers, for
            teachers that were trained so.
        image_key_scale: factor on the gradients of layers that Stable Diffusion has too.
        w: guidance, ``(1 + w) cond - w uncond``: a scale of ``1 + w`` in ``u + g (c - u)``.
        uncond: what guidance goes away from: "empty" or the "negative" prompt.
        negative_prompt: for ``uncond`` "negative".
        original_steps: intervals of the DDIM grid; skips are 1000 / it.
        grid_draw: "uniform", or "stratified": one interval out of each of ``batch`` equal parts.
        huber_c: of the pseudo-Huber distance.
        timestep_scaling: of the consistency function.
        target_ema: decay of the target network.
        teacher_dropout: whether the teacher is in training mode.
        target_dropout: whether the target network is.
        solver_precision: of the schedule, the solver and the consistency function.
    """

    choices: ClassVar[dict[str, tuple[str, ...]]] = CHOICES | {
        "uncond": ("empty", "negative"),
        "grid_draw": ("uniform", "stratified"),
        "solver_precision": ("float32", "float64"),
    }
    releases: ClassVar[tuple[str, ...]] = ("student", "average", "target")

    image_temporal: bool = True
    image_key_scale: float = 1.0
    w: float = 9.0
    uncond: str = "empty"
    negative_prompt: str = ""
    original_steps: int = 50
    grid_draw: str = "uniform"
    huber_c: float = 0.001
    timestep_scaling: float = 10.0
    target_ema: float = 0.95
    teacher_dropout: bool = False
    target_dropout: bool = False
    solver_precision: str = "float32"

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: with the field, the value and what is allowed.
        """
        super().__post_init__()
        for name in ("original_steps", "timestep_scaling", "w"):  # the exported file must be able to say them
            check_value(name, getattr(self, name))
        check_decay("target_ema", self.target_ema)

    @property
    def solver_dtype(self) -> torch.dtype:
        """Of the schedule, the solver and the consistency function."""
        return DTYPES[self.solver_precision]


def paper() -> VideoLCMRecipe:
    """As arXiv 2312.09109, section 4.1: four GPUs, one with images and three with clips, about 4k iterations.

    Steps of one kind stand for the GPUs of one kind, in the same 1 : 3, so that no rank waits for another. Batch size
    and precision are not stated: the code's 16 on each GPU is taken. Dropout is not stated: it is off in teacher and
    target.
    """
    return VideoLCMRecipe(name="paper", steps=4000, learning_rate=1e-5, w=9.0, uncond="empty", batch=64, image_batch=64)


def authors() -> VideoLCMRecipe:
    """As ``train_videolcm_t2v_entrance.py`` with ``videolcm_t2v_train.yaml``.

    Learning rate 3e-5 with ten steps of warm-up and a cosine to a million (``AnnealingLR``); the negative prompt
    (line 510); no image batches (``frame_lens`` are all 16); teacher and target in training mode, so that dropout
    differs between the three networks; gradients of the 682 keys shared with Stable Diffusion halved; float16 with a
    gradient scaler; the student itself is saved, every 50 steps, 16 clips on each of four GPUs.
    """
    return VideoLCMRecipe(
        name="authors",
        steps=32_000,
        batch=64,
        images=0,
        learning_rate=3e-5,
        rate_schedule="cosine",
        warmup=10,
        image_key_scale=0.5,
        w=9.0,
        uncond="negative",
        negative_prompt=NEGATIVE_PROMPT,
        teacher_dropout=True,
        target_dropout=True,
        precision="fp16",
        teacher_precision="float32",
        solver_precision="float64",
        save_steps=50,
    )


def mini() -> VideoLCMRecipe:
    """The embedded model's: 800 steps of 10 clips, or of 80 frames in every fourth, on a CPU.

    A rate ten times the authors' for a network without much to forget, clipped and decayed; each noise level in every
    step; a slow average is released. A small teacher on a small world needs less guidance; it saw single frames without
    its layers along time.
    """
    return VideoLCMRecipe(
        name="mini",
        steps=800,
        batch=10,
        image_batch=80,
        image_temporal=False,
        learning_rate=2e-4,
        rate_schedule="stable_decay",
        warmup=20,
        rate_decay=0.3,
        clip_norm=1.0,
        w=2.0,
        grid_draw="stratified",
        average_ema=0.99,
        release="average",
        teacher_precision="float32",
        solver_precision="float32",
    )


RECIPES: Final[dict[str, Callable[[], VideoLCMRecipe]]] = {"paper": paper, "authors": authors, "mini": mini}
