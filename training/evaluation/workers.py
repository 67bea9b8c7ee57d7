"""Chunks of clips, sampled and measured by worker processes; every chunk is a file, so that nothing is done twice."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.corpus import Corpus
from ..engine.files import load_tensors, save_atomically
from .measures import Chunk, Measure, with_judges
from .models import Sampled, file_hash, load_model
from .prompts import Prompt, in_turn
from .sampling import Stopwatch, reconstruct, sample_videos
from .sources import HeldOut, RowSource


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker needs to know.

    Attributes:
        out: folder of the caches.
        prompts: what is asked for, in turn.
        corpus: folder of the rendered corpus that real clips come from; None where there is none.
        weights: file of each measure's network, by `Measure.weights`.
        device: of the sampled networks and of the measures that have a large one.
        threads: of a worker. One: two workers of one thread do more than one worker of two.
    """

    out: Path
    prompts: tuple[Prompt, ...]
    corpus: Path | None = None
    weights: dict[str, Path] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1


class Workshop:
    """One worker's networks and data, read when first needed."""

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        self.setup = setup
        self.measures = measures_of(setup)
        self._held_out: dict[Path | None, HeldOut] = {}
        self._models: dict[RowSource, Sampled] = {}
        self._judges: dict[str, Any] = {}

    def held_out(self, source: RowSource) -> HeldOut:
        """The real clips that a source is, or begins with; errors as in `held_out_of`."""
        if source.corpus not in self._held_out:
            self._held_out[source.corpus] = held_out_of(self.setup, source)
        return self._held_out[source.corpus]

    def model(self, source: RowSource) -> Sampled:
        """The network of a source."""
        key = replace(source, kind="cell", clips=0, data="", label="", row=None, given=())
        if key not in self._models:
            assert source.weights is not None
            self._models = {key: load_model(source.weights, source.parts, self.setup.device, source.encoders)}
        return self._models[key]

    def judge(self, name: str) -> Any:
        """The network of a measure."""
        measure = self.measures[name]
        if measure.weights and name not in self._judges:
            judge = measure.load(self.setup.weights[measure.weights])
            self._judges[name] = judge.to(self.setup.device) if measure.on_device else judge
        return self._judges.get(name)

    def videos(self, source: RowSource, chunk: range) -> Tensor:
        """Clips of a chunk, made when they are not on disk; uint8 ``[n, F, H, W, 3]``."""
        if source.kind == "real":
            return self.held_out(source).videos(chunk)
        path = chunk_path(source.folder(self.setup.out), "clips", chunk)
        if (found := load_tensors(path)) is None:
            watch = Stopwatch()
            found = {"value": self._make(source, chunk, watch), "seconds": watch.seconds}
            save_atomically(found, path)
        return found["value"]

    def prompts(self, chunk: range) -> list[Prompt]:
        """What the clips of a chunk are asked to show."""
        return in_turn(self.setup.prompts, chunk.stop)[chunk.start :]

    def _make(self, source: RowSource, chunk: range, watch: Stopwatch) -> Tensor:
        model = self.model(source)
        if source.kind == "autoencoded":
            return reconstruct(model, self.held_out(source).videos(chunk))
        assert source.row is not None
        prompts = self.prompts(chunk)
        if not source.given:
            return sample_videos(model, source.row, prompts, chunk, watch=watch)
        pixels = self.held_out(source).given(source.given, chunk)

        def encode(noise: Tensor) -> Tensor | None:
            on_device = {name: value.to(noise.device) for name, value in pixels.items()}
            return model.unet.encode_conditions((noise.shape[-2], noise.shape[-1]), noise.shape[2], **on_device)

        return sample_videos(model, source.row, prompts, chunk, encode, watch)

    def measure(self, source: RowSource, chunk: range, name: str) -> None:
        """The numbers of one measure of a chunk, on disk afterwards."""
        path = chunk_path(source.folder(self.setup.out), measure_key(name, self.measures[name], self.setup), chunk)
        if load_tensors(path) is not None:
            return
        videos = self.videos(source, chunk)
        partners = self._partners(source, chunk) if self.measures[name].pairs else None
        prompts = self.prompts(chunk)
        rows = self.measures[name].rows(self.judge(name), Chunk(videos=videos, prompts=prompts, partners=partners))
        save_atomically({"value": rows}, path)

    def _partners(self, source: RowSource, chunk: range) -> Tensor | None:
        """Clips of the same prompts from the next seeds; each clip is in one pair."""
        period = len(self.setup.prompts)
        other = range(chunk.start + period, chunk.stop + period)
        if chunk.start // period % 2 or period % len(chunk) or other.stop > source.clips:
            return None
        return self.videos(source, other)


def chunk_path(folder: Path, key: str, chunk: range) -> Path:
    """File of a chunk; a shorter last chunk is another file, so that a run of more clips makes its own."""
    return folder / f"{key}_{chunk.start:06d}-{chunk.stop:06d}.pt"


def measures_of(setup: Setup) -> dict[str, Measure]:
    """All measures, with those of the corpus's judges."""
    return with_judges("" if setup.corpus is None else Corpus.open(setup.corpus).judges)


def held_out_of(setup: Setup, source: RowSource) -> HeldOut:
    """The real clips of a source: of its own corpus, or of the evaluation's.

    Raises:
        ValueError: there is no corpus.
    """
    if (folder := source.corpus or setup.corpus) is None:
        raise ValueError("real clips are asked for and there is no corpus; give --corpus DIR.")
    return HeldOut(Corpus.open(folder))


def measure_key(name: str, measure: Measure, setup: Setup) -> str:
    """Name of a measure's files: other weights or settings are other files."""
    known = "".join(f"-{k}{v}" for k, v in measure.settings.items())
    return name + known + (f"-{_hash(setup.weights[measure.weights])}" if measure.weights else "")


_HASHES: dict[tuple[Path, float], str] = {}


def _hash(path: Path) -> str:
    if path.is_dir():
        path = max(path.iterdir(), key=lambda p: p.stat().st_size if p.is_file() else 0)
    key = (path, path.stat().st_mtime)
    if key not in _HASHES:
        _HASHES[key] = file_hash(path)[:8]
    return _HASHES[key]


_workshop: Workshop | None = None


def _open_workshop(setup: Setup) -> None:
    global _workshop
    _workshop = Workshop(setup)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """End this worker when the command that started it is gone, killed say; else it would wait for work for ever."""
    parent.join()
    os._exit(1)


def _work(source: RowSource, chunk: range, names: tuple[str, ...]) -> int:
    assert _workshop is not None
    if not names:
        _workshop.videos(source, chunk)
    for name in names:
        _workshop.measure(source, chunk, name)
    return len(chunk)


class Workers:
    """Runs chunks in ``count`` processes; one runs them in this process. The results are the same."""

    def __init__(self, setup: Setup, pool: ProcessPoolExecutor | None) -> None:
        self.setup, self.pool, self.measures = setup, pool, measures_of(setup)

    def _key(self, name: str) -> str:
        return measure_key(name, self.measures[name], self.setup)

    def run(self, source: RowSource, names: Sequence[str]) -> None:
        """Make and measure every chunk of a source that is not on disk yet."""
        # A pair's second clip may be another worker's: it must be there before pairs are measured.
        together = tuple(n for n in names if not self.measures[n].pairs)
        self._pass(source, together)
        if pairs := tuple(n for n in names if self.measures[n].pairs):
            self._pass(source, pairs)

    def _pass(self, source: RowSource, names: tuple[str, ...]) -> None:
        folder = source.folder(self.setup.out)
        folder.mkdir(parents=True, exist_ok=True)
        keys = [self._key(n) for n in names] + (["clips"] if source.kind != "real" else [])
        waiting = [c for c in source.chunks if any(load_tensors(chunk_path(folder, k, c)) is None for k in keys)]
        if not waiting:
            return
        what = f"{source.name}: {', '.join(names) or 'clips'}"
        done = source.clips - sum(len(c) for c in waiting)
        with tqdm(total=source.clips, initial=done, desc=what, unit="clip", mininterval=5.0) as bar:
            for count in self._finished(source, waiting, names):
                bar.update(count)

    def _finished(self, source: RowSource, chunks: list[range], names: tuple[str, ...]) -> Iterator[int]:
        if self.pool is None:
            for chunk in chunks:
                yield _work(source, chunk, names)
            return
        futures: list[Future[int]] = [self.pool.submit(_work, source, chunk, names) for chunk in chunks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()

    def rows(self, source: RowSource, name: str) -> Tensor:
        """Numbers of all clips of a source, ``[clips, ...]``."""
        key, folder = self._key(name), source.folder(self.setup.out)
        return torch.cat([torch.load(chunk_path(folder, key, c), weights_only=True)["value"] for c in source.chunks])

    def clips(self, source: RowSource, count: int) -> Tensor:
        """The first clips of a source, uint8 ``[count, F, H, W, 3]``."""
        folder = source.folder(self.setup.out)
        chunks = [c for c in source.chunks if c.start < count]
        if source.kind == "real":
            return held_out_of(self.setup, source).videos(range(min(count, source.clips)))
        found = [torch.load(chunk_path(folder, "clips", c), weights_only=True)["value"] for c in chunks]
        return torch.cat(found)[:count]

    def seconds(self, source: RowSource) -> dict[str, float]:
        """Median seconds a clip of each stage, as sampled here (``CHUNK`` clips at once)."""
        if source.kind != "cell":
            return {}
        folder = source.folder(self.setup.out)
        parts = [torch.load(chunk_path(folder, "clips", c), weights_only=True)["seconds"] for c in source.chunks]
        sizes = [len(c) for c in source.chunks]
        return {
            stage: float(torch.tensor([p[stage] / n for p, n in zip(parts, sizes, strict=True)]).median())
            for stage in ("text", "network", "decode")
        }


@contextmanager
def open_workers(setup: Setup, count: int) -> Iterator[Workers]:
    """Start the processes; end them, unfinished chunks dropped, when the block is left.

    Args:
        setup: of each.
        count: processes; one works in this process, with ``setup.threads`` threads.
    """
    if count <= 1:
        _open_workshop(setup)
        yield Workers(setup, None)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_open_workshop, initargs=(setup,))
    try:
        yield Workers(setup, pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
