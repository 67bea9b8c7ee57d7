"""A folder of clips and images with captions beside them or in a table; `captions` says where captions may stand.

Files may lie in folders of it, and in linked ones; names that begin with a dot are left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch

from .captions import WHERE, CaptionReport, read_captions
from .decode import IMAGES, VIDEOS, FrameSampling, decode_image, decode_video
from .file_names import find_files
from .source import BrokenSampleError, Kind, Sample, SkipReport, some

Missing = Literal["error", "skip"]


@dataclass(frozen=True, kw_only=True)
class ClipFile:
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
        notes: what else was noticed about the captions.
    """

    folder: Path
    clips: tuple[ClipFile, ...]
    sampling: FrameSampling
    left_out: SkipReport
    notes: tuple[str, ...] = ()

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
        files, unusable = find_files(folder)
        names = [f for f in files if _kind(f) is not None]
        if not names:
            allowed = " ".join(sorted(VIDEOS | IMAGES))
            raise ValueError(f"{folder} has no clip and no image; allowed endings: {allowed}. Is it the right folder?")
        captions, report = read_captions(folder, names, files)
        if report.without and (missing == "error" or not captions):
            raise ValueError(_without(folder, len(names), report))
        left_out = SkipReport({n: reason for n, reason in unusable.items() if _kind(n) is not None} | report.without)
        for name, reason in report.rows.items():
            left_out.add(name, reason)
        report.unread |= {n: reason for n, reason in unusable.items() if _kind(n) is None}
        clips = tuple(
            ClipFile(name=name, kind=kind, caption=captions[name])
            for name in names
            if name in captions and (kind := _kind(name)) is not None
        )
        return cls(folder, clips, sampling, left_out, tuple(report.lines()))

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
        """ClipFile or image."""
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
        decoded = (
            decode_image(path, self.sampling, rng) if clip.kind == "image" else decode_video(path, self.sampling, rng)
        )
        return Sample(name=clip.name, values=torch.from_numpy(decoded), caption=clip.caption)


def _sha256(file: Any) -> str:
    """For Python 3.10, which has no ``hashlib.file_digest``."""
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def _kind(name: str) -> Kind | None:
    """By its ending; None for other files."""
    ending = PurePosixPath(name).suffix.lower()
    return "image" if ending in IMAGES else "video" if ending in VIDEOS else None


def _without(folder: Path, count: int, report: CaptionReport) -> str:
    """The error about clips without caption: which, why, and what was found instead."""
    names = [f"{name} ({why})" if why else name for name, why in report.problems()]
    way_out = "." if len(names) == count else ", or leave them out (--missing-captions skip)."
    told = [f"{len(names)} of {count} clips in {folder} have no caption: {some(names)}. {WHERE}{way_out}"]
    if report.rows:
        rows = [f"{name} ({reason.partition(': ')[2]})" for name, reason in report.rows.items()]
        told.append(f"{len(rows)} rows name no clip: {some(rows)}.")
    told += [f"Not read: {name}: {reason}." for name, reason in report.unread.items()]
    return " ".join(told)
