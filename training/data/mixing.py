"""Images and clips in turns: of every four steps one trains on images and three on clips.

The paper trains on four GPUs, one with images and three with clips; here all processes do the same kind in a step, so
that none waits for another. `batches.SourceBatches` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from .source import Kind, Sample, Source


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many steps of each kind follow each other: ``clips`` of clips, then ``images`` of images."""

    images: int = 1
    clips: int = 3

    def __post_init__(self) -> None:
        if min(self.images, self.clips) < 0 or self.images + self.clips < 1:
            raise ValueError(f"the ratio is {self.images} : {self.clips}; allowed: 0 or more each, not both 0.")

    def kind(self, step: int) -> Kind:
        """What a step trains on."""
        return "video" if step % (self.images + self.clips) < self.clips else "image"

    def before(self, step: int) -> int:
        """How many steps of this step's kind came before it."""
        period, place = divmod(step, self.images + self.clips)
        if place < self.clips:
            return period * self.clips + place
        return period * self.images + place - self.clips


@dataclass(frozen=True)
class SingleFrames:
    """Clips as images, where there is no set of images: one frame of each, drawn anew every time."""

    clips: Source

    @property
    def groups(self) -> Sequence[int]:
        """Those of the clips."""
        return self.clips.groups

    def __len__(self) -> int:
        return len(self.clips)

    def name(self, index: int) -> str:
        """The clip's."""
        return self.clips.name(index)

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """One frame, as a clip of one."""
        sample = self.clips.read(index, rng)
        axis = 0 if sample.values.dtype == torch.uint8 else 1
        frame = int(rng.integers(sample.values.shape[axis]))
        return replace(sample, values=sample.values.narrow(axis, frame, 1))
