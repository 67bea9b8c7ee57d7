"""The files of a cache of latents: one per clip, and ``index.json``, which knows each one's SHA-256; reading them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load
from torch import Tensor

from videolcm_core.files.writing import whole_file

from .source import BrokenSampleError, Kind, Sample, SkipReport

FORMAT = 1
INDEX = "index.json"
EMPTY = "empty.safetensors"


def write_atomically(data: bytes, path: Path) -> None:
    """Write under a temporary name, then rename; a full disk leaves the old file and no remains.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} cannot be written ({error.strerror}); what was encoded so far is kept. Make room and "
            "repeat the command",
        ) from error


class IndexWriter:
    """The list of a cache's files, written whole; rarely enough that writing takes a twentieth of the time at most."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.path, self.key = folder / INDEX, key
        self.entries: dict[str, dict[str, Any]] = {}
        self._written, self._took = -math.inf, 0.0

    def save(self, *, force: bool = False) -> None:
        """Write it if it is time."""
        if not force and time.monotonic() - self._written < max(1.0, 20 * self._took):
            return
        began = time.monotonic()
        content = {"format": FORMAT, **self.key, "entries": self.entries}
        write_atomically(json.dumps(content, indent=0).encode(), self.path)
        self._written = time.monotonic()
        self._took = self._written - began


def read_index(folder: Path) -> dict[str, Any]:
    """The list of a cache's files.

    Raises:
        FileNotFoundError: the folder holds no cache.
        ValueError: the list is damaged or of another version.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Make the cache: python -m training.data.cache --out {folder} ...")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it and make the cache again.") from error
    if index.get("format") != FORMAT:
        raise ValueError(f"{path} has format {index.get('format')}; allowed: {FORMAT}. Make the cache again elsewhere.")
    return index


def read_file(folder: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of a cached clip, checked.

    Raises:
        BrokenSampleError: the file is not what was written.
    """
    path = folder / entry["file"]
    if not path.is_file():
        raise BrokenSampleError(f"damaged cache: {path} is missing; repeat the cache command to make it again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise BrokenSampleError(
            f"damaged cache: {path} has another checksum; repeat the cache command to make it again"
        )
    return load(data)


@dataclass(frozen=True)
class CachedClips:
    """A cache as a `Source`: latents ``float16 [4, F, h, w]`` with caption and text embedding; each file is checked.

    Attributes:
        folder: the cache.
        names: of the entries.
        entries: as in the index.
        empty_text: embedding of no text, ``float16 [L, D]``, for guidance.
    """

    folder: Path
    names: tuple[str, ...]
    entries: tuple[dict[str, Any], ...]
    empty_text: Tensor

    @classmethod
    def open(cls, folder: Path, encoders: Mapping[str, str] | None = None) -> CachedClips:
        """Open a cache.

        Args:
            folder: of the cache.
            encoders: if given, ``Encoders.identity`` that the cache must have.

        Raises:
            FileNotFoundError: there is no cache, or it was not finished.
            ValueError: it is damaged or was made with other encoders.
        """
        index = read_index(folder)
        if encoders is not None and index["encoders"] != dict(encoders):
            raise ValueError(
                f"{folder} was made with other encoders ({index['encoders']}, these are {dict(encoders)}). "
                "Repeat the cache command with --start of this model."
            )
        if not (folder / EMPTY).is_file():
            raise FileNotFoundError(f"{folder} is not finished. Repeat the cache command; it goes on where it stopped.")
        names = tuple(sorted(index["entries"]))
        entries = tuple(index["entries"][name] for name in names)
        return cls(folder, names, entries, load((folder / EMPTY).read_bytes())["text"])

    def only(self, kind: Kind) -> CachedClips:
        """The videos or the images alone."""
        kept = [i for i, entry in enumerate(self.entries) if entry["kind"] == kind]
        return replace(self, names=tuple(self.names[i] for i in kept), entries=tuple(self.entries[i] for i in kept))

    @property
    def groups(self) -> Sequence[int]:
        """Every clip is its own file, and all may be mixed."""
        return (len(self.names),)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The clip and which of its spans."""
        return self.names[index]

    def caption(self, index: int) -> str:
        """Its text."""
        return self.entries[index]["caption"]

    @property
    def left_out(self) -> SkipReport:
        """None: the command that made the cache told of them."""
        return SkipReport()

    @property
    def notes(self) -> Sequence[str]:
        """None, as `left_out`."""
        return ()

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Read one clip's latents.

        Raises:
            BrokenSampleError: the file is not what was written.
        """
        entry = self.entries[index]
        tensors = read_file(self.folder, entry)
        return Sample(name=self.names[index], values=tensors["latents"], caption=entry["caption"], text=tensors["text"])
