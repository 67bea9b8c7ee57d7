"""Where clips come from: real ones, real ones through an autoencoder, or a cell's samples; and their conditions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import conditions
from ..mini import corpus, world
from .sampling import Row

CHUNK = 8
"""Clips sampled at once. Part of the protocol: another batch rounds differently."""
REAL, AUTOENCODED = "real", "real, autoencoded"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A line of the table before it is measured.

    Attributes:
        kind: "real", "autoencoded" or "cell".
        weights: file of the network ("cell") or autoencoder ("autoencoded"); its content's hash names the cache.
        parts: files that complete a running checkpoint.
        hashes: of all of them.
        row: of a cell.
        given: conditions beside the caption.
        label: its name in the table, where it is no cell.
        clips: how many.
    """

    kind: str
    clips: int
    label: str = ""
    weights: Path | None = None
    parts: tuple[Path, ...] = ()
    hashes: tuple[str, ...] = ()
    row: Row | None = None
    given: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In the table."""
        return self.row.name if self.row else self.label or (REAL if self.kind == "real" else AUTOENCODED)

    def folder(self, out: Path) -> Path:
        """Where its chunks are kept: another file, sampler, guidance, condition or batch is another folder."""
        row = asdict(self.row) | {"model": ""} if self.row else None
        identity = {"format": 1, "kind": self.kind, "hashes": self.hashes, "row": row, "given": self.given}
        digest = hashlib.sha256(json.dumps(identity | {"chunk": CHUNK}, sort_keys=True).encode()).hexdigest()[:10]
        slug = "".join(c if c.isalnum() or c in "@.+" else "-" for c in self.name)
        return out / "cells" / f"{slug}-{digest}"

    @property
    def chunks(self) -> list[range]:
        """Numbers of its clips, `CHUNK` at a time."""
        return [range(i, min(i + CHUNK, self.clips)) for i in range(0, self.clips, CHUNK)]


class HeldOut:
    """The held-out clips in the order of the prompts: clip i shows combination i modulo their number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._clips: np.ndarray | None = None
        self._conditions: conditions.ConditionClips | None = None

    @property
    def unseen(self) -> list[world.Combination]:
        """Combinations that no model was trained on."""
        return world.held_out()

    @property
    def clips(self) -> np.ndarray:
        """uint8 ``[N, F, H, W, 3]``, all clips of the first combination first, read once."""
        if self._clips is None:
            self._clips, _ = corpus.load_corpus(self.folder, self.unseen)
        return self._clips

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.clips)

    def rows(self, indices: range) -> Tensor:
        """Places of the clips in the corpus; after the last one it starts again."""
        kinds, per = len(self.unseen), self.count // len(self.unseen)
        return torch.tensor([(i % kinds) * per + (i // kinds) % per for i in indices])

    def videos(self, indices: range) -> Tensor:
        """Real clips, uint8 ``[n, F, H, W, 3]``."""
        return torch.from_numpy(self.clips[self.rows(indices).numpy()])

    def given(self, names: tuple[str, ...], indices: range) -> dict[str, Tensor]:
        """Conditions of clips, ``[n, c, F, H, W]`` by name, as the network takes them."""
        if self._conditions is None:
            self._conditions = conditions.load_conditions(self.folder, self.unseen)
        clips = self._conditions.take(self.rows(indices))
        return {name: conditions.exact_condition(name, clips) for name in names}
