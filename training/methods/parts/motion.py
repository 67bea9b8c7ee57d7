"""Representations of motion: what a video student shares with its teacher, when appearance is to come from images.

MCM (arXiv 2406.06890), section 3.2 and table 5; the consistency loss compares them in place of latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from torch import Tensor

from .correlation import global_correlation, local_correlation
from .frequency import high_frequency, low_frequency
from .motion_head import LARGE, SMALL, HeadSize


def raw(x: Tensor) -> Tensor:
    """Latents as they are, appearance included."""
    return x


def difference(x: Tensor) -> Tensor:
    """Each frame's latents less those before it: ``[B, C, F, h, w]`` to ``[B, C, F - 1, h, w]``."""
    return x[:, :, 1:] - x[:, :, :-1]


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A representation.

    Attributes:
        represent: latents ``[B, C, F, h, w]`` to what is compared; correlations have ``B (F - 1)`` rows.
        head: a module that learns follows, of this size; None has none.
        pairs: whether it compares neighbouring frames, so that a clip needs two.
    """

    represent: Callable[[Tensor], Tensor] = raw
    head: HeadSize | None = None
    pairs: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Represent latents, one row a sample: ``[B, ...]``.

        Raises:
            ValueError: single frames, which have no motion.
        """
        if self.pairs and x.shape[2] < 2:
            raise ValueError(
                f"the clips have {x.shape[2]} frame and the motion representation compares neighbouring frames; "
                "allowed: clips of 2 frames or more, or --motion raw."
            )
        return self.represent(x).reshape(len(x), -1)


MOTIONS: Final[dict[str, Motion]] = {
    "raw": Motion(),
    "difference": Motion(represent=difference, pairs=True),
    "local_correlation": Motion(represent=local_correlation, pairs=True),
    "correlation": Motion(represent=global_correlation, pairs=True),
    "scaled_correlation": Motion(represent=partial(global_correlation, scaled=True), pairs=True),
    "low_frequency": Motion(represent=low_frequency),
    "high_frequency": Motion(represent=high_frequency),
    "learned": Motion(head=SMALL),
    "learned_large": Motion(head=LARGE),
}
"""By name. The authors' ``cd_target`` calls them raw, diff, lcor, gcor, sgcor, freql, freqh, learn and hlearn."""
