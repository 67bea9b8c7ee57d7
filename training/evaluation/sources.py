"""The clips of a table's row: real ones, real ones through an autoencoder, or those of a cell."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import conditions
from ..data.corpus import Corpus
from .prompts import Prompt
from .sampling import Row

CHUNK = 8
"""Clips at once: a file each, and the batch of the network."""
REAL, AUTOENCODED = "real", "real, autoencoded"


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """Where a row's clips come from; everything that they depend on.

    Attributes:
        kind: "real", "autoencoded" or "cell".
        weights: file of the network ("cell") or autoencoder ("autoencoded"); its content's hash names the cache.
        parts: files that complete a running checkpoint.
        encoders: Stable Diffusion's autoencoder and text encoder, for networks that came without.
        hashes: of all these files.
        data: hash of the prompts, and of the real clips where they take part.
        row: of a cell.
        given: conditions beside the caption.
        label: its name in the table, where it is no cell.
        corpus: of real clips, where it is another than the evaluation's own.
        clips: how many.
    """

    kind: str
    clips: int
    data: str
    label: str = ""
    weights: Path | None = None
    parts: tuple[Path, ...] = ()
    encoders: tuple[Path, Path] | None = None
    hashes: tuple[str, ...] = ()
    row: Row | None = None
    given: tuple[str, ...] = ()
    corpus: Path | None = None

    @property
    def name(self) -> str:
        """In the table."""
        return self.row.name if self.row else self.label or (REAL if self.kind == "real" else AUTOENCODED)

    def folder(self, out: Path) -> Path:
        """Where its chunks are kept: another file, sampler, guidance, condition, prompt or batch is another folder."""
        row = asdict(self.row) | {"model": ""} if self.row else None
        identity = {"format": 2, "kind": self.kind, "hashes": self.hashes, "row": row, "given": self.given}
        identity |= {"data": self.data, "chunk": CHUNK}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
        slug = "".join(c if c.isalnum() or c in "@.+" else "-" for c in self.name)
        return out / "cells" / f"{slug}-{digest}"

    @property
    def suffix(self) -> str | None:
        """Of the columns of distances to these real clips; None where they are none."""
        if self.kind != "real":
            return None
        return "_" + self.label.removeprefix(f"{REAL}, ") if self.label else ""

    @property
    def chunks(self) -> list[range]:
        """Numbers of its clips, `CHUNK` at a time."""
        return [range(i, min(i + CHUNK, self.clips)) for i in range(0, self.clips, CHUNK)]


def digest_of_prompts(prompts: list[Prompt], corpus: Corpus | None) -> str:
    """What a row's clips depend on beside the network: the texts in their order, and the real clips."""
    texts = [[p.text, dict(p.extra)] for p in prompts]
    shards = [] if corpus is None else corpus.digests(HeldOut(corpus).labels)
    return hashlib.sha256(json.dumps([texts, shards], sort_keys=True).encode()).hexdigest()[:16]


class HeldOut:
    """The held-out clips in the order of the prompts: clip i shows held-out shard i modulo their number.

    Of a corpus that holds nothing out, all clips: a set of images, say.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.labels = corpus.held_out or corpus.training

    @cached_property
    def clips(self) -> np.ndarray:
        """uint8 ``[N, F, H, W, 3]``, all clips of the first shard first, read once."""
        return self.corpus.clips(self.labels)[0]

    @cached_property
    def _conditions(self) -> conditions.ConditionClips:
        return conditions.load_conditions(self.corpus, self.labels)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.corpus.shards[i].clips for i in self.labels)

    def rows(self, indices: range) -> Tensor:
        """Places of the clips in the corpus; after the last one of a shard it starts again."""
        sizes = [self.corpus.shards[i].clips for i in self.labels]
        starts, kinds = np.concatenate([[0], np.cumsum(sizes)[:-1]]), len(sizes)
        return torch.tensor([int(starts[i % kinds]) + (i // kinds) % sizes[i % kinds] for i in indices])

    def videos(self, indices: range) -> Tensor:
        """Real clips, uint8 ``[n, F, H, W, 3]``."""
        return torch.from_numpy(self.clips[self.rows(indices).numpy()])

    def given(self, names: tuple[str, ...], indices: range) -> dict[str, Tensor]:
        """Conditions of clips, ``[n, c, F, H, W]`` by name, as the network takes them."""
        clips = self._conditions.take(self.rows(indices))
        return {name: conditions.exact_condition(name, clips) for name in names}
