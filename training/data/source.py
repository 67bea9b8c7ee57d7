"""What all training data has in common: samples by number, a report of what is broken, an order to draw in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

Kind = Literal["video", "image"]


def reason_of(error: BaseException) -> str:
    """What an error says, or its kind where it says nothing (an error itself is always true)."""
    return str(error) or type(error).__name__


def some(names: Sequence[str], count: int = 5) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


class BrokenSampleError(Exception):
    """This sample cannot be used; the text says why. A run counts it, names it and goes on."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip or image with its text.

    Attributes:
        name: of the clip, as reports show it.
        values: pixels ``uint8 [F, H, W, 3]``, or from a cache latents ``float16 [4, F, h, w]``.
        caption: its text.
        text: its embedding ``float16 [L, D]``, from a cache only.
        index: its number in the source, -1 where nothing needs it.
        frames: pixels beside latents ``uint8 [F, H, W, 3]``, where a source has both.
    """

    name: str
    values: Tensor
    caption: str
    text: Tensor | None = None
    index: int = -1
    frames: Tensor | None = None


class Source(Protocol):
    """Samples by number. Reading one is a pure function of (index, rng), so any process may read any sample."""

    @property
    def groups(self) -> Sequence[int]:
        """How many samples lie together in each file; they add up to the length."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What reports call the sample."""

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Read one sample.

        Raises:
            BrokenSampleError: it cannot be used.
        """


@dataclass
class SkipReport:
    """The samples that were left out, each once, with the reason."""

    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Count a sample; a second time changes nothing."""
        self.reasons.setdefault(name, reason)

    def summary(self, total: int, shown: int = 20) -> str:
        """Such as "2 of 9 samples were left out", then one line each, at most ``shown``."""
        count = len(self.reasons)
        if not count:
            return f"All {total} samples could be used."
        lines = [f"{count} of {total} samples were left out:"]
        lines += [f"  {name}: {reason}" for name, reason in list(self.reasons.items())[:shown]]
        if count > shown:
            kinds = Counter(reason.split(":")[0] for reason in list(self.reasons.values())[shown:])
            lines.append("  and " + ", ".join(f"{n} more ({kind})" for kind, n in kinds.most_common()))
        return "\n".join(lines)

    def brief(self) -> list[str]:
        """A line for each kind of reason, with its first names."""
        kinds: dict[str, list[str]] = {}
        for name, reason in self.reasons.items():
            kind, _, more = reason.partition(":")
            kinds.setdefault(kind, []).append(f"{name} ({more.strip()})" if more else name)
        return [f"Left out: {len(names)} ({kind}): {some(names)}." for kind, names in kinds.items()]


class CaptionedSource(Source, Protocol):
    """A `Source` whose captions can be read alone."""

    @property
    def left_out(self) -> SkipReport:
        """Samples that cannot be used, found while scanning."""

    @property
    def notes(self) -> Sequence[str]:
        """What else was noticed about the captions while scanning, a line each."""

    def caption(self, index: int) -> str:
        """A sample's text.

        Raises:
            BrokenSampleError: it cannot be read.
        """


class EncodableSource(CaptionedSource, Protocol):
    """What can be cached: a `Source` that tells when a clip changed."""

    def kind(self, index: int) -> Kind:
        """Clip or image."""

    def stamp(self, index: int) -> str:
        """Changes when the file is written; cheap."""

    def digest(self, index: int) -> str:
        """SHA-256 of the file."""


class Order:
    """A seeded shuffle of a source that never ends: position to sample number.

    A run's place in its data is one number, the position, so a resumed run goes on exactly where it stopped. Files are
    shuffled, and samples within windows of ``window`` files: neighbours in the order lie in few files, which a disk
    reads faster, and a folder (one group) is shuffled whole.

    Args:
        groups: samples in each file.
        seed: with the epoch, seeds the shuffle.
        window: files whose samples are mixed.
    """

    def __init__(self, groups: Sequence[int], seed: int, window: int = 16) -> None:
        if sum(groups) < 1:
            raise ValueError("there is no sample to draw from; allowed: 1 or more. Check the folder of the clips.")
        self.sizes, self.seed, self.window = np.asarray(groups, dtype=np.int64), seed, window
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self.length = int(self.sizes.sum())
        self._epoch, self._indices = -1, np.empty(0, dtype=np.int64)

    def epoch(self, number: int) -> np.ndarray:
        """All sample numbers in the order of one epoch, ``int64 [N]``."""
        if number != self._epoch:
            rng = np.random.default_rng([self.seed, number])
            groups = rng.permutation(len(self.sizes))
            parts = []
            for first in range(0, len(groups), self.window):
                chosen = groups[first : first + self.window]
                parts.append(np.concatenate([self.starts[g] + np.arange(self.sizes[g]) for g in chosen]))
                rng.shuffle(parts[-1])
            self._epoch, self._indices = number, np.concatenate(parts)
        return self._indices

    def __getitem__(self, position: int) -> int:
        return int(self.epoch(position // self.length)[position % self.length])


def read_or_replace(
    source: Source, index: int, seed: Sequence[int], known: SkipReport
) -> tuple[Sample, list[tuple[str, str]]]:
    """Read a sample; a broken one is replaced by another, the same in every run.

    Args:
        source: the samples.
        index: the wanted one.
        seed: seeds the sample's draws (start frame) and the replacement.
        known: broken samples met so far, so that they are not opened again; new ones are added.

    Returns:
        the sample, and name and reason of each broken one that was passed over.

    Raises:
        ValueError: no sample of the source can be used.
    """
    skipped: list[tuple[str, str]] = []
    first = int(np.random.default_rng([*seed, 1]).integers(len(source)))
    for attempt in range(len(source) + 1):
        current = index if attempt == 0 else (first + attempt - 1) % len(source)
        name = source.name(current)
        if name not in known.reasons:
            try:
                sample = source.read(current, np.random.default_rng([*seed, 0]))
                return (sample if sample.index >= 0 else replace(sample, index=current)), skipped
            except BrokenSampleError as error:
                known.add(name, str(error))
        skipped.append((name, known.reasons[name]))
    raise ValueError(
        f"none of the {len(source)} samples can be used. {known.summary(len(source))}\n"
        "Mend or replace these files, or loosen the sampling (fewer frames, lower fps, short clips held)."
    )
