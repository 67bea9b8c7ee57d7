"""The batch of every step, from whatever data: `open_batches` is the one entry.

The global batch of a step is a pure function of (seed, step). Its samples are numbered from 0; a rank asks for its
range of numbers, so that N processes draw together exactly what one process draws alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from .encoders import Encoders, token_row
from .mixing import Ratio, SingleFrames
from .source import Order, Sample, SkipReport, Source, read_or_replace
from .stills import Stills

Drawn = Literal["video", "image", "still"]
"""What a source is drawn for: steps of clips, steps of images, images beside clips."""
_SEEDS: Final[dict[Drawn, int]] = {"video": 0, "image": 1, "still": 2}
UNKNOWN_TOKEN = 0  # CLIP id 0, "!": hardly in captions, so that a small text encoder reads it as an unknown word


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One process's part of a step's batch.

    Attributes:
        latents: float32 ``[B, 4, F, h, w]``, F 1 for images.
        context: text embeddings float32 ``[B, L, D]``, or token ids long ``[B, 77]``.
        images: whether this is a step of images.
        extra: ``captions`` (B texts), ``names``, and ``index`` long ``[B]``, each one's number in its source.
        pixels: the clips' frames float32 ``[B, 3, F, H, W]`` in [0, 1], where they are asked for.
        stills: single images beside the clips, where they are asked for.
    """

    latents: Tensor
    context: Tensor
    images: bool
    extra: dict[str, Any] = field(default_factory=dict)
    pixels: Tensor | None = None
    stills: Stills | None = None


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A sample and the images that are drawn beside it."""

    sample: Sample
    beside: tuple[Sample, ...] = ()


class Batches(Protocol):
    """Batches by step."""

    skipped: SkipReport

    def size(self, step: int) -> int:
        """Samples of a step, of all processes together: steps of images have more."""

    def images(self, step: int) -> bool:
        """Whether a step trains on images."""

    def uncond_context(self, text: str = "") -> Tensor:
        """Context without a prompt (or with a negative one), in the form of `Batch.context`: ``[1, ...]``."""

    def batch(self, step: int, samples: range) -> Batch:
        """Some samples of a step's batch."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How a step's batch is drawn.

    Attributes:
        batch: clips of a step, of all processes together.
        image_batch: images of a step, of all processes together.
        ratio: images to clips, the paper's 1 : 3.
        seed: of shuffles and draws.
        ids: contexts are token ids, to train a text encoder with.
        drop_text: probability that a sample's text is left out, for guidance.
        unknown_words: probability that a token becomes the unknown one; with ``ids`` only.
        workers: threads that read samples.
        read_ahead: steps that are read before they are asked for.
        pixels: whether steps of clips have frames beside latents.
        stills: images beside each clip, of a set of their own.
    """

    batch: int = 4
    image_batch: int = 16
    ratio: Ratio = Ratio()
    seed: int = 0
    ids: bool = False
    drop_text: float = 0.0
    unknown_words: float = 0.0
    workers: int = 2
    read_ahead: int = 1
    pixels: bool = False
    stills: int = 0

    def __post_init__(self) -> None:
        if min(self.batch, self.image_batch) < 1:
            raise ValueError(f"the batches are {self.batch} and {self.image_batch}; allowed: 1 or more.")
        for name in ("drop_text", "unknown_words"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {value}; allowed: 0 to 1.")
        for name in ("workers", "read_ahead", "stills"):
            if (count := getattr(self, name)) < 0:
                raise ValueError(f"{name} is {count}; allowed: 0 or more.")


class SourceBatches:
    """Batches of sources of clips and images.

    Args:
        videos: clips; pixels are encoded when they are read, latents taken as they are.
        images: images, or `mixing.SingleFrames` of clips.
        options: sizes, ratio and draws.
        encoders: for pixels, and for captions without embedding.
        empty_text: embedding of no text ``[L, D]``, where there are no encoders.
        stills: images that are drawn beside clips.
    """

    def __init__(
        self,
        videos: Source,
        images: Source,
        options: BatchOptions,
        encoders: Encoders | None = None,
        empty_text: Tensor | None = None,
        stills: Source | None = None,
    ) -> None:
        self.options, self.encoders, self._empty = options, encoders, empty_text
        self.sources: dict[Drawn, Source] = {}
        shares: tuple[tuple[Drawn, Source, int], ...] = (
            ("video", videos, options.ratio.clips),
            ("image", images, options.ratio.images),
        )
        for kind, source, share in shares:
            if share and not len(source):
                raise ValueError(
                    f"there is no {kind} to draw from, and the ratio asks for {share} steps of them. Add some, or set "
                    "that part of the ratio to 0."
                )
            if share:
                self.sources[kind] = source
        if options.stills:
            if stills is None:
                raise ValueError(f"stills is {options.stills} and there is no set of images. Give one, or leave it 0.")
            self.sources["still"] = stills
        self.orders = {k: Order(s.groups, options.seed + _SEEDS[k]) for k, s in self.sources.items()}
        self.skipped, self._scanned_out = SkipReport(), 0
        self._known: dict[Drawn, SkipReport] = {k: SkipReport() for k in self.sources}
        self._locks = {k: threading.Lock() for k in self.sources}
        self._pool = ThreadPoolExecutor(options.workers) if options.workers else None
        self._ahead: dict[tuple[int, range], list[Future[_Read]]] = {}

    def leave_out(self, report: SkipReport) -> None:
        """Count samples that a scan left out, so that `left_out` tells of them too."""
        self.skipped.reasons.update(report.reasons)
        self._scanned_out += len(report.reasons)

    def left_out(self) -> str:
        """For the end of a run: which samples could not be used, and of how many; "" where all could."""
        once = {id(s): s for s in self.sources.values()}.values()
        sources = [s for s in once if not (isinstance(s, SingleFrames) and "video" in self.sources)]
        return self.skipped.summary(sum(map(len, sources)) + self._scanned_out) if self.skipped.reasons else ""

    def images(self, step: int) -> bool:
        """Whether a step trains on images."""
        return self.options.ratio.kind(step) == "image"

    def size(self, step: int) -> int:
        """Samples of a step, of all processes together."""
        return self.options.image_batch if self.images(step) else self.options.batch

    def uncond_context(self, text: str = "") -> Tensor:
        """Context without a prompt, or with a negative one: ``[1, L, D]``, or ids ``[1, 77]``.

        Raises:
            ValueError: a negative prompt, and nothing to encode it.
        """
        if self.options.ids:
            return token_row(text)[None]
        if self.encoders is not None:
            return self.encoders.text(text).float()[None]
        if text or self._empty is None:
            raise ValueError(
                f"there is no text encoder for the negative prompt {text!r}; allowed: no negative prompt. Give the "
                "encoders (--vae, --text-encoder, or a teacher's all-in-one file)."
            )
        return self._empty.float()[None]

    def batch(self, step: int, samples: range) -> Batch:
        """Some samples of a step's batch.

        Args:
            step: from 0.
            samples: of the step's `size` numbers those that are wanted; read ahead for the steps that follow.

        Raises:
            ValueError: a number beyond the step's size, or no sample can be used.
        """
        if samples and not 0 <= min(samples) <= max(samples) < self.size(step):
            raise ValueError(f"samples {samples} of step {step}; allowed: 0 to {self.size(step) - 1}.")
        read = self._take(step, samples)
        # A step of another kind has another size; a process's share of it is taken to be the same.
        start, stop = (edge / self.size(step) for edge in (samples.start, samples.stop))
        for later in range(step + 1, step + 1 + self.options.read_ahead if self._pool else step):
            size = self.size(later)
            self._submit(later, range(round(start * size), round(stop * size), samples.step))
        return self._batch(step, samples, read)

    def _take(self, step: int, samples: range) -> list[_Read]:
        if self._pool is None:
            return [self._read(step, number) for number in samples]
        self._submit(step, samples)
        futures = self._ahead.pop((step, samples))
        for key in [k for k in self._ahead if k[0] < step]:  # read for nothing: the run was set to another step
            for future in self._ahead.pop(key):
                future.cancel()
        return [future.result() for future in futures]

    def _submit(self, step: int, samples: range) -> None:
        if (step, samples) not in self._ahead:
            assert self._pool is not None
            self._ahead[step, samples] = [self._pool.submit(self._read, step, number) for number in samples]

    def _read(self, step: int, number: int) -> _Read:
        """A sample of a step, with the images beside it."""
        kind, count = self.options.ratio.kind(step), self.options.stills
        position = self.options.ratio.before(step) * self.size(step) + number
        sample = self._drawn(kind, position)
        if kind == "image" or not count:
            return _Read(sample=sample)
        return _Read(sample=sample, beside=tuple(self._drawn("still", position * count + i) for i in range(count)))

    def _drawn(self, kind: Drawn, position: int) -> Sample:
        """The sample at a position of an order; one that is broken is replaced by another, the same in every run."""
        with self._locks[kind]:  # the order keeps one epoch
            wanted = self.orders[kind][position]
        seed = (self.options.seed, _SEEDS[kind], position)
        sample, passed = read_or_replace(self.sources[kind], wanted, seed, self._known[kind])
        for name, reason in passed:
            self.skipped.add(name, reason)
        return sample

    def _batch(self, step: int, samples: range, read: Sequence[_Read]) -> Batch:
        o, images, captions = self.options, self.images(step), []
        contexts, latents = [], []
        for number, sample in zip(samples, (r.sample for r in read), strict=True):
            rng = np.random.default_rng([o.seed, step, number, 7])
            dropped = rng.random() < o.drop_text
            caption = "" if dropped else sample.caption
            captions.append(caption)
            contexts.append(self._context(caption, None if dropped else sample.text, rng))
            latents.append(self._latents(sample, int(rng.integers(2**62))))
        extra = {
            "captions": tuple(captions),
            "names": tuple(r.sample.name for r in read),
            "index": torch.tensor([r.sample.index for r in read]),
        }
        return Batch(
            latents=torch.stack(latents),
            context=torch.stack(contexts),
            images=images,
            extra=extra,
            pixels=torch.stack([_pixels(r.sample) for r in read]) if o.pixels and not images else None,
            stills=self._stills([still for r in read for still in r.beside]) if o.stills and not images else None,
        )

    def _stills(self, drawn: Sequence[Sample]) -> Stills:
        """The images beside all clips of a batch, of one size."""
        count = self.options.stills
        text = torch.stack([self.uncond_context(s.caption)[0] if s.text is None else s.text.float() for s in drawn])
        return Stills(
            pixels=torch.stack([_pixels(s)[:, 0] for s in drawn]).unflatten(0, (-1, count)),
            text=text.unflatten(0, (-1, count)),
            captions=tuple(s.caption for s in drawn),
        )

    def _context(self, caption: str, text: Tensor | None, rng: np.random.Generator) -> Tensor:
        if self.options.ids:
            ids = token_row(caption)
            hidden = torch.from_numpy(rng.random(len(ids)) < self.options.unknown_words) & (ids < 49406)
            return ids.masked_fill(hidden, UNKNOWN_TOKEN)
        return self.uncond_context(caption)[0] if text is None else text.float()

    def _latents(self, sample: Sample, seed: int) -> Tensor:
        if sample.values.dtype != torch.uint8:
            return sample.values.float()
        if self.encoders is None:
            raise ValueError(
                f"{sample.name} are pixels and there is no autoencoder; needed to train on clips without a cache. Give "
                "a teacher's all-in-one file, or --vae and --text-encoder."
            )
        return self.encoders.latents(sample.values, seed).float()


def _pixels(sample: Sample) -> Tensor:
    """Frames of a sample, float32 ``[3, F, H, W]`` in [0, 1].

    Raises:
        ValueError: it has latents only.
    """
    frames = sample.values if sample.values.dtype == torch.uint8 else sample.frames
    if frames is None:
        raise ValueError(
            f"{sample.name} are latents, and real frames are wanted beside them; allowed: --clips or --shards without "
            "--cache, a corpus, or images of their own (--image-set)."
        )
    return frames.permute(3, 0, 1, 2).float().div(255)
