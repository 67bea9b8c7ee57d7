"""The rendered corpus as a `Source`: latents of every clip and its mirror image, with the caption in varied forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..mini import captions, world
from . import latents
from .source import Sample

WHOLE = (1.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class CorpusClips:
    """Clips of the rendered corpus; number i is row i of `LatentClips` (from the middle on, mirror images).

    Attributes:
        data: latents and what each shows.
        shares: how often each form of a caption is drawn, as in `captions.CLIPS`; `WHOLE` is the whole caption.
        single: whether clips are read as one frame, drawn anew every time.
    """

    data: latents.LatentClips
    shares: tuple[float, ...] = WHOLE
    single: bool = False

    @classmethod
    def open(cls, folder: Path, autoencoder: Any, shares: tuple[float, ...] = WHOLE) -> CorpusClips:
        """Encode the training combinations of a corpus, or read what was encoded before (kept beside the corpus).

        Raises:
            FileNotFoundError: the folder holds no corpus.
        """
        if not folder.is_dir() or not any(folder.iterdir()):
            raise FileNotFoundError(
                f"{folder} holds no rendered corpus. Make it: python -m training.mini.corpus --furniture DIR "
                f"--out {folder}"
            )
        seen = world.training_combinations()
        return cls(data=latents.cached_latents(folder, autoencoder, seen), shares=shares)

    @cached_property
    def _forms(self) -> list[list[str]]:
        return [captions.caption_forms(c) for c in world.combinations()]

    @property
    def groups(self) -> Sequence[int]:
        """All clips lie in one file, and all may be mixed."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.data.labels)

    def name(self, index: int) -> str:
        """What the clip shows, and its number."""
        return f"{self._forms[int(self.data.labels[index])][captions.FULL]} #{index}"

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """One clip's latents ``float16 [4, F, h, w]`` (F 1 where single)."""
        values = self.data.latents[index]
        if self.single:
            values = values.narrow(1, int(rng.integers(values.shape[1])), 1)
        shares = np.asarray(self.shares) / np.sum(self.shares)
        form = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right").clip(max=len(shares) - 1))
        caption = self._forms[int(self.data.labels[index])][form]
        return Sample(name=self.name(index), values=values, caption=caption, index=index)


def vocabulary() -> torch.Tensor:
    """Sorted CLIP ids that occur in the corpus's captions, in any form."""
    return captions.CaptionTokens().vocabulary
