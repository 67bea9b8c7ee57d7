"""Joint batches of images and clips: of every four steps one trains on images and three on clips.

The paper trains on four GPUs, one with images and three with clips; here all ranks do the same kind in a step, so that
none waits for another. A batch is a pure function of (seed, step, rank): a resumed run gives the step it stopped at and
gets the batches it would have got, and N ranks draw together what one rank with an N times larger batch draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .source import Kind, Order, Sample, SkipReport, Source, read_or_replace, stack


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


@dataclass(frozen=True, kw_only=True)
class JointOptions:
    """Sizes of the batches and this process's part of them.

    Attributes:
        batch: clips of a step on each rank.
        image_batch: images of a step on each rank.
        ratio: images to clips, the paper's 1 : 3.
        seed: of shuffles and draws.
        rank: of this process, from 0.
        world: number of processes.
    """

    batch: int = 4
    image_batch: int = 16
    ratio: Ratio = Ratio()
    seed: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank is {self.rank} of {self.world} processes; allowed: 0 to {self.world - 1}.")
        if min(self.batch, self.image_batch) < 1:
            raise ValueError(f"the batches are {self.batch} and {self.image_batch}; allowed: 1 or more.")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's samples of a step.

    Attributes:
        kind: of all of them.
        values: pixels ``uint8 [B, F, H, W, 3]``, or latents ``float16 [B, 4, F, h, w]`` from a cache.
        captions: B texts.
        texts: their embeddings ``float16 [B, L, D]``, from a cache.
        names: B names.
        skipped: broken samples met on the way, name and reason.
    """

    kind: Kind
    values: Tensor
    captions: tuple[str, ...]
    texts: Tensor | None
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


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


class JointBatches(Dataset[Batch]):
    """The batch of each step: ``batches[step]``.

    Args:
        videos: clips.
        images: images, or `SingleFrames` of clips.
        options: sizes, ratio and rank.
    """

    def __init__(self, videos: Source, images: Source, options: JointOptions) -> None:
        self.options = options
        self.sources: dict[Kind, Source] = {}
        for kind, source, share in (("video", videos, options.ratio.clips), ("image", images, options.ratio.images)):
            if share and not len(source):
                raise ValueError(
                    f"there is no {kind} to draw from, and the ratio asks for {share} steps of them. Add some, or set "
                    f"that part of the ratio to 0."
                )
            if share:
                self.sources[kind] = source  # type: ignore[index]
        self.orders = {k: Order(s.groups, options.seed + (k == "image")) for k, s in self.sources.items()}
        self._known: dict[Kind, SkipReport] = {k: SkipReport() for k in self.sources}

    def __getitem__(self, step: int) -> Batch:
        o, kind = self.options, self.options.ratio.kind(step)
        count = o.batch if kind == "video" else o.image_batch
        first = o.ratio.before(step) * count * o.world + o.rank * count
        samples, skipped = [], []
        for position in range(first, first + count):
            sample, passed = read_or_replace(
                self.sources[kind],
                self.orders[kind][position],
                (o.seed, int(kind == "image"), position),
                self._known[kind],
            )
            samples.append(sample)
            skipped += passed
        values, texts = stack(samples)
        return Batch(
            kind=kind,
            values=values,
            captions=tuple(s.caption for s in samples),
            texts=texts,
            names=tuple(s.name for s in samples),
            skipped=tuple(skipped),
        )

    def iterate(self, start: int, stop: int, report: SkipReport, workers: int = 0) -> Iterator[Batch]:
        """The batches of steps ``start`` to ``stop``, in order, read ahead by worker processes.

        Args:
            start: first step; the step to resume at.
            stop: step after the last.
            report: gets the broken samples, those that workers met too.
            workers: processes that read; 0 reads in this one. A step is read by one worker, so none is read twice.
        """
        loader: DataLoader[Batch] = DataLoader(
            self,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            # Its own generator: the loader would take a number from the global one, and a resumed run would differ.
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=2 if workers else None,
        )
        for batch in loader:
            for name, reason in batch.skipped:
                report.add(name, reason)
            yield batch
