"""MCM as its paper states it, and as its authors' code does it where that differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from videolcm_core.files.entries import check_value

from ..methods.parts.features import FEATURES, check_feature_size
from .base import CHOICES, Recipe, check_decay

MOTION_NAMES: Final = (
    "raw",
    "difference",
    "local_correlation",
    "correlation",
    "scaled_correlation",
    "low_frequency",
    "high_frequency",
    "learned",
    "learned_large",
)


@dataclass(frozen=True, kw_only=True)
class MCMRecipe(Recipe):
    """Motion from a video teacher, appearance from images (arXiv 2406.06890). The student is a LoRA: --lora 64.

    Attributes:
        motion: what the consistency loss compares, see `methods.parts.motion`.
        head_ema: decay of the twin of a learned representation.
        w_low: guidance is drawn from here, ``cond + w (cond - uncond)``: a scale of ``1 + w`` in ``u + g (c - u)``.
        w_high: to here.
        original_steps: intervals of the DDIM grid.
        huber_c: of the pseudo-Huber distance.
        timestep_scaling: of the consistency function.
        lambda_real: chance that a trajectory begins at a clip and not at the student's own latents.
        adversarial_weight: of the frame adversary in the student's loss; 0 trains without.
        adversarial_loss: "hinge", "wgan" (the hinge less 1) or "bce".
        penalty_weight: of the penalty on the discriminator's gradient; 0 leaves it out.
        penalty_limit: a penalty from here on multiplies its weight by ``penalty_factor``; 0 never does.
        penalty_factor: see ``penalty_limit``.
        penalty_wait: steps that a raised weight is given before it may be raised again.
        disc_rate: peak of the discriminator's learning rate; it follows the student's schedule.
        disc_frames: frames of a clip that the discriminator sees.
        disc_group: clips whose frames share its norms' statistics.
        real_by_part: real frames one out of each part of the clip, and not any.
        real_decoded: real images pass the autoencoder before the discriminator sees them: where it is much softer than
            they are, that alone would tell made from real.
        augments: DiffAugment on what the discriminator sees.
        features: its frozen network, see the table in `methods.parts.features`.
        features_file: weights of that network.
        feature_size: side of what that network sees, pixels.
        disc_text: its vector of a caption: "own" is the mean of the model's tokens, "clip" CLIP's projection.
        disc_text_file: weights of CLIP's text side, for "clip".
    """

    choices: ClassVar[dict[str, tuple[str, ...]]] = CHOICES | {
        "motion": MOTION_NAMES,
        "adversarial_loss": ("hinge", "wgan", "bce"),
        "features": tuple(FEATURES),
        "disc_text": ("own", "clip"),
    }

    batch: int = 128
    images: int = 0
    videos: int = 1
    motion: str = "learned"
    head_ema: float = 0.95
    w_low: float = 5.0
    w_high: float = 15.0
    original_steps: int = 50
    huber_c: float = 0.001
    timestep_scaling: float = 4.0
    lambda_real: float = 0.5
    adversarial_weight: float = 1.0
    adversarial_loss: str = "hinge"
    penalty_weight: float = 0.0
    penalty_limit: float = 100.0
    penalty_factor: float = 5.0
    penalty_wait: int = 500
    disc_rate: float = 5e-5
    disc_frames: int = 2
    disc_group: int = 4
    real_by_part: bool = False
    real_decoded: bool = False
    augments: bool = True
    features: str = "dinov2_s14"
    features_file: str = ""
    feature_size: int = 224
    disc_text: str = "own"
    disc_text_file: str = ""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: with the field, the value and what is allowed.
        """
        super().__post_init__()
        for name in ("original_steps", "timestep_scaling"):  # the exported file must be able to say them
            check_value(name, getattr(self, name))
        check_decay("head_ema", self.head_ema)
        if self.images:
            raise ValueError(f"images is {self.images}; allowed for MCM: 0. Single frames have no motion to distil.")
        if not 0.0 <= self.w_low <= self.w_high:
            raise ValueError(f"w_low is {self.w_low} and w_high {self.w_high}; allowed: 0 <= w_low <= w_high.")
        if not 0.0 <= self.lambda_real <= 1.0:
            raise ValueError(f"lambda_real is {self.lambda_real}; allowed: 0 to 1. The paper's is 0.5.")
        for name in ("adversarial_weight", "penalty_weight"):
            if (value := getattr(self, name)) < 0.0:
                raise ValueError(f"{name} is {value}; allowed: 0 or more.")
        for name in ("disc_frames", "disc_group", "feature_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 or more.")
        for name in ("penalty_limit", "penalty_wait"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name} is {value}; allowed: 0 or more.")
        if self.penalty_factor < 1.0:
            raise ValueError(f"penalty_factor is {self.penalty_factor}; allowed: 1 or more.")
        if self.adversarial_weight:
            check_feature_size(self.features, self.feature_size)
        if self.disc_rate <= 0.0:
            raise ValueError(f"disc_rate is {self.disc_rate}; allowed: above 0.")

    @property
    def real_frames(self) -> int:
        """As many as of the made ones."""
        return self.disc_frames if self.adversarial_weight else 0

    @property
    def w(self) -> float:
        """The middle of the range, which a file's entries and the teacher's previews have."""
        return (self.w_low + self.w_high) / 2.0

    def disc_rate_at(self, index: int) -> float:
        """Learning rate of the discriminator at a step."""
        return self.rate(index) * self.disc_rate / self.learning_rate


def paper() -> MCMRecipe:
    """As arXiv 2406.06890, section 4: 30k iterations of 128 clips, learning rates 5e-6 and 5e-5, hinge loss.

    The range of w is ModelScope's; AnimateDiff's is 7 to 8. Schedule, precision and clipping are not stated: constant,
    bfloat16 and none. The gradient penalty is mentioned and left out of the formulas, and so it is here.
    """
    return MCMRecipe(name="paper", steps=30_000, learning_rate=5e-6)


def authors() -> MCMRecipe:
    """As the published scripts: the same but a cosine with warm-up, another rate, a penalty, clipped, float16.

    The discriminator's rate is 1e-4 after their scaling; real frames are drawn by part of the clip; "wgan" has the
    hinge's gradients. Two epochs of 2,467,378 clips are 38,554 steps of the nominal batch, which their gradients, not
    shared as meant, do not have. They train with the 8-bit AdamW of bitsandbytes; here it is AdamW.
    """
    return MCMRecipe(
        name="authors",
        steps=38_554,
        learning_rate=5e-6,
        rate_schedule="cosine",
        warmup=500,
        rate_steps=38_554,
        clip_norm=10.0,
        adversarial_loss="wgan",
        penalty_weight=1e-5,
        disc_rate=1e-4,
        real_by_part=True,
        frame_stride=8,
        crop_area=0.75,
        image_crop_area=0.5,
        precision="fp16",
        save_steps=500,
    )


def mini() -> MCMRecipe:
    """For the embedded models, whose clips are small and few, and whose autoencoder is soft; --lora 16 is enough."""
    return MCMRecipe(
        name="mini",
        steps=150,
        batch=8,
        learning_rate=1e-4,  # at 5e-4 a student that is its own target falls apart
        rate_schedule="stable_decay",
        warmup=10,
        rate_decay=0.3,
        clip_norm=1.0,
        w_low=1.0,
        w_high=3.0,
        disc_rate=3e-4,
        features="alexnet",
        features_file="runs/metrics/lpips_alex_v0.1.pt",
        feature_size=128,
        real_decoded=True,
    )


RECIPES: Final[dict[str, Callable[[], MCMRecipe]]] = {"paper": paper, "authors": authors, "mini": mini}
