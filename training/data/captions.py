"""Which caption a clip has: the one rule of folders and shards, and the report of what has none or loses some.

A caption may stand in these places; the first one that *has* a caption gives it:

1. a file beside the clip with its name (``NAME.json``, ``NAME.txt``, ``NAME.text``, ``NAME.caption``, in this order;
   in a folder ``NAME.mp4.txt`` too). A ``.json`` is a text, or an object with one of `caption_files.CAPTION_COLUMNS`;
   a text's lines are one caption;
2. in a folder, a table that names it: `TABLES` in their order, those of inner folders first. Names are relative to the
   table's folder, or to the whole.

Endings and names of tables count whatever their capitals. Captions that differ are counted and told.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from . import caption_files
from .file_names import FileNames
from .source import BrokenSampleError, CaptionedSource, some
from .tokens import LENGTH, token_counts

TABLES = tuple(f"{stem}{ending}" for stem in ("captions", "metadata") for ending in (".json", ".jsonl", ".csv", ".tsv"))
ENDINGS = (".json", ".txt", ".text", ".caption")
WHERE = (
    f"Write each one's text into NAME.txt beside it or into a table: {TABLES[0]} ({{file: caption}}), .jsonl, .csv or "
    ".tsv, or metadata.*"
)
COUNTED = 100_000
"""Captions whose tokens are counted before a run; more would make it wait."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A clip's caption.

    Attributes:
        caption: on one line; "" where no place has one.
        place: where it stood.
        others: further captions in that place, which are not used.
        differs: another place with another caption, "" for none.
        problem: what is wrong with the places that have none.
    """

    caption: str = ""
    place: str = ""
    others: int = 0
    differs: str = ""
    problem: str = ""


def first_caption(places: Iterable[tuple[str, Callable[[], tuple[str, int]]]]) -> Found:
    """The rule: the first place that has a caption.

    Args:
        places: name of each, and what reads its caption and the number of further ones, as `caption_files.caption_in`.
    """
    found, problems = Found(), []
    for place, read in places:
        try:
            caption, others = read()
        except ValueError as error:
            problems.append(f"{place} {error}")
            continue
        if not caption:
            problems.append(f"{place} has none")
        elif not found.caption:
            found = Found(caption=caption, place=place, others=others)
        elif caption != found.caption and not found.differs:
            found = Found(caption=found.caption, place=found.place, others=found.others, differs=place)
    return found if found.caption else Found(problem="; ".join(problems))


@dataclass(kw_only=True)
class CaptionReport:
    """What a folder's captions came from, and what of them is not used.

    Attributes:
        places: clips by the place of their caption: "beside them", or a table.
        without: clips that have none, with the reason.
        rows: rows that name no clip, with the reason.
        differing: clips with another caption in another place.
        several: clips with more than one caption in one place.
        unread: files that may have been meant as captions, with the reason.
    """

    places: Counter[str] = field(default_factory=Counter)
    without: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)

    def problems(self) -> list[tuple[str, str]]:
        """Clips without caption, and what is wrong with the places that have none ("" for no place)."""
        return [(name, reason.partition(": ")[2]) for name, reason in self.without.items()]

    def lines(self) -> list[str]:
        """For the user, before the first step."""
        told = [f"Captions: {', '.join(f'{n} {place}' for place, n in self.places.items())}."]
        if self.differing:
            told.append(
                f"Differing: {len(self.differing)} clips have another caption in another place, where the first one "
                f"counts: {some(self.differing)}."
            )
        if self.several:
            told.append(
                f"Several: {len(self.several)} clips have more captions than one; the first counts: "
                f"{some(self.several)}."
            )
        told += [f"Not read: {name}: {reason}." for name, reason in self.unread.items()]
        return told


def read_captions(folder: Path, clips: Sequence[str], files: Sequence[str]) -> tuple[dict[str, str], CaptionReport]:
    """The caption of each clip of a folder.

    Args:
        folder: the folder.
        clips: its clips and images, relative, with "/".
        files: all its files.

    Returns:
        captions by clip, and the report; nothing is an error yet but an unclear name.

    Raises:
        ValueError: a text beside two clips; or a table is wrong, and clips have no caption elsewhere.
    """
    report, captions = CaptionReport(), dict[str, str]()
    tables, wrong = _read_tables(folder, clips, files, report)
    beside = _Beside(folder, clips, files)
    takers: dict[str, str] = {}
    for clip in clips:
        rows = [(t, _reader(found[clip])) for t, found in tables.items() if clip in found]
        found = first_caption([*beside.places(clip), *rows])
        if not found.caption:
            report.without[clip] = "no caption" + (f": {found.problem}" if found.problem else "")
            continue
        captions[clip] = found.caption
        if found.place not in tables and (other := takers.setdefault(found.place, clip)) != clip:
            raise ValueError(
                f"{folder} has both {other} and {clip}, and {found.place} cannot tell which it describes. Rename one, "
                f"or write {TABLES[0]}, which names files with their endings."
            )
        report.places[f"from {found.place}" if found.place in tables else "beside them"] += 1
        if found.differs:
            report.differing.append(f"{clip} ({found.place}, {found.differs})")
        if found.others:
            report.several.append(clip)
    if wrong and report.without:
        raise ValueError(f"{folder}: {next(iter(wrong.values()))}")
    report.unread |= wrong | _strangers(files, tables, beside)
    return captions, report


def _reader(value: tuple[str, int]) -> Callable[[], tuple[str, int]]:
    return lambda: value


def _read_tables(
    folder: Path, clips: Sequence[str], files: Sequence[str], report: CaptionReport
) -> tuple[dict[str, dict[str, tuple[str, int]]], dict[str, str]]:
    """Of each table, caption and number of further ones by clip; and the tables that are wrong."""
    tables: dict[str, dict[str, tuple[str, int]]] = {}
    wrong: dict[str, str] = {}
    names = [f for f in files if PurePosixPath(f).name.lower() in TABLES]
    known, everything = FileNames(clips, folder), FileNames(files)
    for name in sorted(names, key=lambda f: (-f.count("/"), TABLES.index(PurePosixPath(f).name.lower()), f)):
        try:
            rows = caption_files.rows_of((folder / name).read_bytes(), name)
            tables[name] = _by_clip(rows, name, known, everything, report)
        except ValueError as error:
            wrong[name] = str(error)
    return tables, wrong


def _by_clip(
    rows: Sequence[caption_files.Row], table: str, known: FileNames, everything: FileNames, report: CaptionReport
) -> dict[str, tuple[str, int]]:
    within = PurePosixPath(table).parent.as_posix().removeprefix(".")
    found: dict[str, tuple[str, int]] = {}
    for row in rows:
        clip = next((c for c in (known.find(f, within) for f in row.files) if c is not None), None)
        if clip is None:
            first = row.files[0] if row.files else "(no file name)"
            there = next((f for f in row.files if everything.find(f, within) is not None), None)
            reason = "there is no such clip" if there is None else "its ending is not that of a clip"
            report.rows.setdefault(first, f"row that names no clip: {reason}; {row.where}")
            continue
        before = found.get(clip, ("", 0))
        if before[0] and row.caption and before[0] != row.caption:
            raise ValueError(f"{row.where}: it has {clip} twice; allowed: one caption a file. Remove one.")
        found[clip] = before if before[0] else (row.caption, row.others)
    return found


class _Beside:
    """The texts beside clips."""

    def __init__(self, folder: Path, clips: Sequence[str], files: Sequence[str]) -> None:
        self.folder = folder
        texts = [f for f in files if PurePosixPath(f).suffix.lower() in ENDINGS]
        self.texts = FileNames(t for t in texts if PurePosixPath(t).name.lower() not in TABLES)
        self.used = {text for clip in clips for text in self.names(clip)}

    def names(self, clip: str) -> list[str]:
        """Those that may be a clip's, in the order of the rule."""
        stem = PurePosixPath(clip).with_suffix("").as_posix()
        wanted = [base + ending for ending in ENDINGS for base in (clip, stem)]
        return list(dict.fromkeys(t for t in map(self.texts.called, wanted) if t is not None))

    def places(self, clip: str) -> list[tuple[str, Callable[[], tuple[str, int]]]]:
        """For `first_caption`."""
        return [(name, self._reader(name)) for name in self.names(clip)]

    def _reader(self, name: str) -> Callable[[], tuple[str, int]]:
        ending = PurePosixPath(name).suffix.lower()
        return lambda: caption_files.caption_in((self.folder / name).read_bytes(), ending)


def _strangers(files: Sequence[str], tables: Mapping[str, object], beside: _Beside) -> dict[str, str]:
    """Files in the folder itself that look like captions and are none."""
    meant = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xlsx")
    allowed = f"tables are called {TABLES[0].removesuffix('.json')} or metadata, with .json, .jsonl, .csv or .tsv"
    return {
        f: allowed
        for f in files
        if "/" not in f
        and PurePosixPath(f).suffix.lower() in meant
        and PurePosixPath(f).name.lower() not in TABLES
        and f not in beside.used
    }


def told_before(source: CaptionedSource, where: object) -> str:
    """What is said of a source's captions before the first step: how many, what is left out, which are cut.

    Args:
        source: the samples.
        where: what the user named.
    """
    left_out, notes = source.left_out, source.notes
    lines = [f"{where}: {len(source)} samples with captions."]
    lines += left_out.brief()
    lines += notes
    long, seen = [], 0
    for batch in _batches(_captions(source), 1000):
        seen += len(batch)
        counts = token_counts([caption for _, caption in batch])
        long += [f"{name} ({n})" for (name, _), n in zip(batch, counts, strict=True) if n > LENGTH]
    if long:
        of = f"{seen} captions" if seen == len(source) else f"the first {seen} of {len(source)} captions"
        lines.append(
            f"Cut: {len(long)} of {of} are longer than {LENGTH} tokens, start and end included, and lose what comes "
            f"after: {some(long)}."
        )
    return "\n".join(lines)


def _captions(source: CaptionedSource) -> Iterable[tuple[str, str]]:
    for index in range(min(len(source), COUNTED)):
        try:
            yield source.name(index), source.caption(index)
        except BrokenSampleError:  # counted and named when it is read
            continue


def _batches(items: Iterable[tuple[str, str]], size: int) -> Iterable[list[tuple[str, str]]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
