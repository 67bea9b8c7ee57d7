"""A folder of clips and images with captions: ``NAME.txt`` beside each, or one table for all.

Tables: ``captions.json`` ({file: caption}, or a list of objects), ``captions.csv`` (with a header) or
``metadata.jsonl`` (an object a line); the file's column is ``file_name``, ``file`` or ``path``, the caption's
``caption`` or ``text``. Files are named relative to the folder, and may lie in folders of it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch

from .decode import IMAGES, VIDEOS, FrameSampling, decode_image, decode_video
from .source import BrokenSampleError, Kind, Sample, SkipReport

TABLES = ("captions.json", "captions.csv", "metadata.jsonl")
FILE_COLUMNS = ("file_name", "file", "path")
CAPTION_COLUMNS = ("caption", "text")
Missing = Literal["error", "skip"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A file with its caption; ``name`` is relative to the folder, with "/"."""

    name: str
    kind: Kind
    caption: str


@dataclass(frozen=True)
class ClipFolder:
    """The clips and images of a folder, as a `Source`.

    Attributes:
        folder: where they lie.
        clips: which, by name.
        sampling: how they are read.
        left_out: those without caption, and captions without file.
    """

    folder: Path
    clips: tuple[Clip, ...]
    sampling: FrameSampling
    left_out: SkipReport

    @classmethod
    def scan(cls, folder: Path, sampling: FrameSampling, missing: Missing = "error") -> ClipFolder:
        """Find clips and captions; no clip is opened yet.

        Args:
            folder: the folder.
            sampling: how to read the clips.
            missing: what to do about clips without caption: stop, or leave them out.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: no clip, no captions, clips without caption, or a name that stands for two.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder. Give the folder that holds the clips and their captions.")
        files = sorted(_files(folder), key=lambda f: f.as_posix())
        if not files:
            allowed = " ".join(sorted(VIDEOS | IMAGES))
            raise ValueError(f"{folder} has no clip and no image; allowed endings: {allowed}. Is it the right folder?")
        captions, left_out = _captions(folder, files), SkipReport()
        without = [f.as_posix() for f in files if not captions.get(f.as_posix(), "").strip()]
        if without and (missing == "error" or len(without) == len(files)):
            raise ValueError(
                f"{len(without)} of {len(files)} clips in {folder} have no caption: {_some(without)}. Write each one's "
                f"text into NAME.txt beside it or into {TABLES[0]} ({{file: caption}})"
                + ("." if len(without) == len(files) else ", or leave them out (--missing-captions skip).")
            )
        for name in without:
            left_out.add(name, "no caption")
        for name in sorted(captions.keys() - {f.as_posix() for f in files}):
            left_out.add(name, "missing: it has a caption, but there is no such clip")
        clips = tuple(
            Clip(name=f.as_posix(), kind=_kind(f), caption=captions[f.as_posix()].strip())
            for f in files
            if f.as_posix() not in left_out.reasons
        )
        return cls(folder, clips, sampling, left_out)

    def only(self, kind: Kind) -> ClipFolder:
        """The videos or the images alone."""
        return replace(self, clips=tuple(c for c in self.clips if c.kind == kind))

    @property
    def groups(self) -> Sequence[int]:
        """Every clip is its own file, and all may be mixed."""
        return (len(self.clips),)

    def __len__(self) -> int:
        return len(self.clips)

    def name(self, index: int) -> str:
        """Path in the folder."""
        return self.clips[index].name

    def kind(self, index: int) -> Kind:
        """Clip or image."""
        return self.clips[index].kind

    def caption(self, index: int) -> str:
        """Its text."""
        return self.clips[index].caption

    def stamp(self, index: int) -> str:
        """Size and time of the file: while they stay, its content is taken to stay."""
        status = (self.folder / self.clips[index].name).stat()
        return f"{status.st_size}:{status.st_mtime_ns}"

    def digest(self, index: int) -> str:
        """SHA-256 of the file."""
        with (self.folder / self.clips[index].name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Decode one clip, ``uint8 [F, H, W, 3]`` (F 1 for images).

        Raises:
            BrokenSampleError: it cannot be used.
        """
        clip = self.clips[index]
        path = self.folder / clip.name
        if not path.is_file():
            raise BrokenSampleError("missing: the file was there when the run began")
        decoded = decode_image(path, self.sampling) if clip.kind == "image" else decode_video(path, self.sampling, rng)
        return Sample(name=clip.name, values=torch.from_numpy(decoded), caption=clip.caption)


def _sha256(file: Any) -> str:
    """For Python 3.10, which has no ``hashlib.file_digest``."""
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> Iterable[PurePosixPath]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in VIDEOS | IMAGES and not hidden and path.is_file():
            yield PurePosixPath(relative.as_posix())


def _kind(file: PurePosixPath) -> Kind:
    return "image" if file.suffix.lower() in IMAGES else "video"


def _some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _captions(folder: Path, files: Sequence[PurePosixPath]) -> dict[str, str]:
    """Caption by file name, from the one place that has them."""
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    beside = {f: folder / f.with_suffix(".txt") for f in files if (folder / f.with_suffix(".txt")).is_file()}
    if len(tables) + bool(beside) > 1:
        places = [t.name for t in tables] + ([f"{len(beside)} NAME.txt files"] if beside else [])
        raise ValueError(f"{folder} has captions in {' and '.join(places)}; allowed: one place. Remove the others.")
    if tables:
        return _table(tables[0])
    stems: dict[PurePosixPath, str] = {}
    for file in files:
        if (other := stems.setdefault(file.with_suffix(""), file.name)) != file.name and file in beside:
            raise ValueError(
                f"{folder} has both {other} and {file.name}, and {beside[file].name} cannot tell which it describes. "
                f"Rename one, or write {TABLES[0]}, which names files with their endings."
            )
    return {f.as_posix(): _text(path) for f, path in beside.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}). Save it again as UTF-8 text.") from error


def _table(path: Path) -> dict[str, str]:
    """Read a table; a file may stand in it once."""
    text = _text(path)
    try:
        if path.suffix == ".json":
            parsed = json.loads(text, object_pairs_hook=_Pairs)
            rows = list(parsed) if isinstance(parsed, _Pairs) else [_row(r, path) for r in parsed]
        elif path.suffix == ".csv":
            rows = [_row(_Pairs(r.items()), path) for r in csv.DictReader(io.StringIO(text, newline=""))]
        else:
            lines = [line for line in text.split("\n") if line.strip()]
            rows = [_row(json.loads(line, object_pairs_hook=_Pairs), path) for line in lines]
    except (json.JSONDecodeError, csv.Error, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}. See the top of training/data/clip_folder.py.") from error
    captions: dict[str, str] = {}
    for name, caption in rows:
        key = PurePosixPath(str(name).replace("\\", "/")).as_posix()
        if not isinstance(caption, str):
            raise ValueError(f"{path}: the caption of {key} is {caption!r}; allowed: a text.")
        if key in captions:
            raise ValueError(f"{path} has {key} twice; allowed: one caption a file. Remove one.")
        captions[key] = caption
    return captions


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs: a dict would hide a file that is named twice."""


def _row(pairs: Any, path: Path) -> tuple[str, Any]:
    if not isinstance(pairs, _Pairs):
        raise ValueError(f"{path} has a row {pairs!r}; allowed: objects with a file and a caption.")
    row = dict(pairs)
    file = next((row[c] for c in FILE_COLUMNS if row.get(c)), None)
    caption = next((row[c] for c in CAPTION_COLUMNS if row.get(c) is not None), None)
    if file is None or caption is None:
        raise ValueError(
            f"{path} has a row with the columns {', '.join(map(str, row))}; needed: one of {', '.join(FILE_COLUMNS)} "
            f"and one of {', '.join(CAPTION_COLUMNS)}."
        )
    return file, caption
