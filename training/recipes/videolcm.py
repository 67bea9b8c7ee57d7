"""VideoLCM as its paper states it, as its authors' code does it, and in small for the embedded model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .recipe import Recipe

NEGATIVE_PROMPT: Final = (
    "Distorted, discontinuous, Ugly, blurry, low resolution, motionless, static, disfigured, disconnected limbs, Ugly "
    "faces, incomplete arms"
)
"""What the authors' configuration guides away from."""


def paper() -> Recipe:
    """As arXiv 2312.09109, section 4.1: four GPUs, one with images and three with clips, about 4k iterations.

    Steps of one kind stand for the GPUs of one kind, in the same 1 : 3, so that no rank waits for another. Batch size
    and precision are not stated: the code's 16 on each GPU is taken. Dropout is not stated: it is off in teacher and
    target.
    """
    return Recipe(name="paper", steps=4000, learning_rate=1e-5, w=9.0, uncond="empty", batch=64, image_batch=64)


def authors() -> Recipe:
    """As ``train_videolcm_t2v_entrance.py`` with ``videolcm_t2v_train.yaml``.

    Learning rate 3e-5 with ten steps of warm-up and a cosine to a million (``AnnealingLR``); the negative prompt
    (line 510); no image batches (``frame_lens`` are all 16); teacher and target in training mode, so that dropout
    differs between the three networks; gradients of the 682 keys shared with Stable Diffusion halved; float16 with a
    gradient scaler; the student itself is saved, every 50 steps, 16 clips on each of four GPUs.
    """
    return Recipe(
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
        save_steps=50,
    )


def mini() -> Recipe:
    """The embedded model's: 800 steps of 10 clips, or of 80 frames in every fourth, on a CPU.

    A rate ten times the authors' for a network without much to forget, clipped and decayed; each noise level in every
    step; a slow average is released. A small teacher on a small world needs less guidance; it saw single frames without
    its layers along time.
    """
    return Recipe(
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


RECIPES: Final[dict[str, Callable[[], Recipe]]] = {"paper": paper, "authors": authors, "mini": mini}
