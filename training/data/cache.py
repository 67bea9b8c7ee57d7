"""Latents and text embeddings of own clips, encoded once.

``python -m training.data.cache --clips DIR --start models/videolcm-mini-teacher.safetensors --out DIR``. One file per
clip, and ``index.json`` with each one's SHA-256 and what it was made from. The same command resumes after any
interruption, makes damaged files again, follows clips and captions that changed, and begins anew when the encoders or
the sampling changed. Stable Diffusion's latents are drawn once for each take, with a seed from the clip's name.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from safetensors.torch import save
from tqdm import tqdm

from videolcm_core.networks.text_encoder import START, TextEncoder

from ..engine.commands import run_command
from .cache_files import EMPTY, INDEX, IndexWriter, read_file, read_index, write_atomically
from .captions import told_before
from .clip_folder import ClipFolder, Missing
from .decode import Fit, FrameSampling, Short, Start
from .encoders import Encoders, chosen_encoders
from .shards import ShardSet
from .source import BrokenSampleError, EncodableSource, Sample, SkipReport
from .tokens import tokenize

_OURS = re.compile(r"\.?[0-9a-f]{24}(\..+\.part)?\.safetensors(\.part)?")


@dataclass
class CacheReport:
    """What a run of the command did.

    Attributes:
        encoded: clips encoded by this run, and those of ``remade``.
        kept: clips that were there.
        remade: files that were damaged.
        removed: files of clips that are gone.
        anew: why everything was encoded again, or "".
        skipped: clips that could not be used.
    """

    encoded: int
    kept: int
    remade: list[str]
    removed: int
    anew: str
    skipped: SkipReport

    def summary(self, total: int) -> str:
        """For the user."""
        lines = [f"{self.encoded} encoded, {self.kept} were there, {self.removed} removed."]
        lines += [f"Begun anew: {self.anew}."] if self.anew else []
        lines += [f"Damaged, made again: {file}" for file in self.remade]
        return "\n".join([*lines, self.skipped.summary(total)])


def build(
    source: EncodableSource,
    sampling: FrameSampling,
    encoders: Encoders,
    out: Path,
    *,
    takes: int = 1,
    seed: int = 0,
    workers: int = 2,
) -> CacheReport:
    """Encode what the cache does not hold yet.

    Args:
        source: the clips.
        sampling: how ``source`` reads them.
        encoders: autoencoder and text encoder.
        out: folder of the cache.
        takes: how many random spans of each clip; images have one.
        seed: of the spans.
        workers: threads that decode.

    Raises:
        ValueError: no clip can be used, or the folder holds a cache of other clips.
        OSError: the disk is full.
    """
    out.mkdir(parents=True, exist_ok=True)
    key = {"encoders": encoders.identity, "sampling": sampling.settings(), "seed": seed}
    index, report = IndexWriter(out, key), CacheReport(0, 0, [], 0, "", SkipReport(dict(source.left_out.reasons)))
    old = _old_entries(out, key, report)
    work = [(i, take) for i in range(len(source)) for take in range(takes if source.kind(i) == "video" else 1)]
    if old and not {_entry_name(source, *w) for w in work} & old.keys():
        raise ValueError(
            f"{out} holds the cache of other clips (first {next(iter(old))}). Give another folder, or delete it."
        )
    todo = [w for w in tqdm(work, desc="check", unit="clip") if not _keep(source, w, old, index, out, report)]
    bar = tqdm(_decoded(source, todo, seed, workers, report), desc="encode", unit="clip", total=len(todo))
    try:
        for (i, take), made_from, sample in bar:
            name = _entry_name(source, i, take)
            drawn = int(np.random.default_rng([seed, zlib.crc32(name.encode())]).integers(2**62))
            data = save({"latents": encoders.latents(sample.values, drawn), "text": encoders.text(sample.caption)})
            file = hashlib.sha256(name.encode()).hexdigest()[:24] + ".safetensors"
            write_atomically(data, out / file)
            checksum = hashlib.sha256(data).hexdigest()
            entry = {"file": file, "sha256": checksum, "kind": source.kind(i), "caption": sample.caption}
            index.entries[name] = entry | made_from
            report.encoded += 1
            index.save()
    finally:
        index.save(force=True)
    if not index.entries:
        raise ValueError(f"no clip can be used. {report.skipped.summary(len(source))}")
    write_atomically(save({"text": encoders.text("")}), out / EMPTY)
    _clean(out, index, report)
    return report


def _entry_name(source: EncodableSource, i: int, take: int) -> str:
    return f"{source.name(i)}#{take}"


def _old_entries(out: Path, key: dict[str, Any], report: CacheReport) -> dict[str, dict[str, Any]]:
    """Entries of an earlier run that was made the same way."""
    if not (out / INDEX).exists():
        return {}
    try:
        old = read_index(out)
    except ValueError as error:
        report.anew = str(error)
        return {}
    labels = {"encoders": "the encoders' weights", "sampling": "the sampling", "seed": "the seed"}
    changed = [labels[name] for name, value in key.items() if old.get(name) != value]
    report.anew = f"{' and '.join(changed)} changed" if changed else ""
    return {} if changed else old["entries"]


def _keep(
    source: EncodableSource,
    work: tuple[int, int],
    old: dict[str, dict[str, Any]],
    index: IndexWriter,
    out: Path,
    report: CacheReport,
) -> bool:
    """Take over an entry if its clip, its caption and its file are as they were."""
    name = _entry_name(source, *work)
    entry = old.get(name)
    try:
        if entry is None or entry["caption"] != source.caption(work[0]):
            return False
        stamp = source.stamp(work[0])
        if entry["stamp"] != stamp and entry["source_sha256"] != source.digest(work[0]):
            return False
    except (OSError, BrokenSampleError):  # reading the clip will say what is wrong
        return False
    try:
        read_file(out, entry)
    except BrokenSampleError:
        report.remade.append(f"{entry['file']} ({name})")
        return False
    index.entries[name] = {**entry, "stamp": stamp}
    report.kept += 1
    return True


def _decoded(
    source: EncodableSource, todo: Sequence[tuple[int, int]], seed: int, workers: int, report: CacheReport
) -> Iterator[tuple[tuple[int, int], dict[str, str], Sample]]:
    """Work, what its file is, and its sample, in order; threads decode ahead, and broken clips are counted."""

    def read(i: int, take: int) -> tuple[dict[str, str], Sample]:
        # Before the file is decoded: a file that is written meanwhile counts as changed the next time.
        made_from = {"stamp": source.stamp(i), "source_sha256": source.digest(i)}
        rng = np.random.default_rng([seed, zlib.crc32(source.name(i).encode()), take])
        return made_from, source.read(i, rng)

    ahead: deque[tuple[tuple[int, int], Future[tuple[dict[str, str], Sample]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        remaining = iter(todo)
        while True:
            while len(ahead) < 2 * workers and (work := next(remaining, None)) is not None:
                ahead.append((work, pool.submit(read, *work)))
            if not ahead:
                return
            work, future = ahead.popleft()
            try:
                yield work, *future.result()
            except BrokenSampleError as error:
                report.skipped.add(source.name(work[0]), str(error))
            except OSError as error:
                report.skipped.add(source.name(work[0]), f"cannot be read: {error}")


def _clean(out: Path, index: IndexWriter, report: CacheReport) -> None:
    """Remove files that no entry names: of clips that are gone, and remains of a kill."""
    listed = {entry["file"] for entry in index.entries.values()}
    for path in out.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in listed:
            path.unlink()
            report.removed += ".part" not in path.name


def unknown_words(text: TextEncoder, captions: Sequence[str]) -> float:
    """Share of the captions' tokens for which a text encoder with a small vocabulary has no row of its own."""
    ids = tokenize(list(captions))
    words = ids < START
    return float((text.rows(ids)[words] == 0).float().mean()) if words.any() else 0.0


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--clips", type=Path, help="folder of clips and images with captions")
    where.add_argument("--shards", help="WebDataset shards: a folder, or a pattern such as DIR/{000..012}.tar")
    parser.add_argument("--start", type=Path, help="all-in-one model whose encoders are used")
    parser.add_argument("--vae", type=Path, help="Stable Diffusion's autoencoder, in place of --start")
    parser.add_argument("--text-encoder", type=Path, help="OpenCLIP ViT-H, such as open_clip_pytorch_model.bin")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--fps", type=float, default=8.0, help="frames per second of the taken frames (default 8)")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--span", choices=get_args(Start), default="random", help="which part of a long clip")
    parser.add_argument("--short", choices=get_args(Short), default="skip", help="clips that are too short")
    parser.add_argument("--fit", choices=get_args(Fit), default="crop", help="other proportions")
    parser.add_argument("--missing-captions", choices=get_args(Missing), default="error")
    parser.add_argument("--takes", type=int, default=1, help="random parts of each clip (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="threads that decode (default 2)")
    parser.add_argument("--device", default="cpu", help="where to encode: cpu, cuda")
    o = parser.parse_args(arguments)
    if min(o.takes, o.workers) < 1 or (o.takes > 1 and o.span != "random"):
        parser.error("--takes and --workers must be 1 or more, and more than one take needs --span random")
    sampling = FrameSampling(
        frames=o.frames, fps=o.fps, width=o.width, height=o.height, start=o.span, short=o.short, fit=o.fit
    )
    source: EncodableSource
    if o.clips:
        source = ClipFolder.scan(o.clips, sampling, o.missing_captions)
    else:
        source = ShardSet.scan(o.shards, sampling, o.out / "shards")
    print(told_before(source, o.clips or o.shards), flush=True)
    encoders = chosen_encoders(o.start, o.vae, o.text_encoder, o.device)
    report = build(source, sampling, encoders, o.out, takes=o.takes, seed=o.seed, workers=o.workers)
    print(report.summary(len(source) + len(source.left_out.reasons)))
    captions = sorted({entry["caption"] for entry in read_index(o.out)["entries"].values()})
    text = encoders.text_encoder.cpu()
    if isinstance(text, TextEncoder) and (unknown := unknown_words(text, captions[:10_000])):
        print(f"{unknown:.0%} of the captions' words are unknown to the text encoder of {o.start.name}.")


if __name__ == "__main__":
    run_command(main)
