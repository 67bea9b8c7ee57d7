"""WebDataset shards: tar files in which ``KEY.mp4`` and ``KEY.json`` (or ``KEY.jpg`` and ``KEY.txt``) are one sample.

The format is read here with ``tarfile``, not with the package ``webdataset``: that one streams, so it can neither go on
at an exact sample after a kill nor give N ranks x M workers disjoint parts of equal length (its issues 234 and 271 say
so). Here each shard is listed once, a sample is read by its offset, and order, split and resume are those of any other
`Source`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from tqdm import tqdm

from videolcm_core.files.writing import whole_file

from .caption_files import caption_in
from .captions import ENDINGS, first_caption
from .decode import IMAGES, VIDEOS, FrameSampling, decode_image, decode_video
from .file_names import canonical, caseless
from .source import BrokenSampleError, Kind, Sample, SkipReport, reason_of

_VERSION = 2  # of the kept lists: one of another version is made again
_COLUMNS = ("keys", "kinds", "offsets", "sizes", "text_offsets", "text_sizes", "text_endings")


def expand(pattern: str) -> list[Path]:
    """The shards that a pattern names.

    Args:
        pattern: a folder, or a path with ``{000..012}`` and ``{a,b}`` parts.

    Raises:
        FileNotFoundError: a shard is not there, or the folder has none.
    """
    folder = Path(pattern)
    if folder.is_dir():
        if not (found := sorted(folder.glob("*.tar"))):
            raise FileNotFoundError(f"{folder} has no .tar file. Give the folder of the shards, or a pattern of them.")
        return found
    choices = [_choices(part) for part in re.split(r"(\{[^{}]*\})", pattern)]
    paths = [Path("".join(parts)) for parts in itertools.product(*choices)]
    if absent := [p for p in paths if not p.is_file()]:
        raise FileNotFoundError(
            f"{len(absent)} of {len(paths)} shards of {pattern} are not there, first {absent[0]}. Mend the pattern."
        )
    return paths


def _choices(part: str) -> list[str]:
    if not part.startswith("{"):
        return [part]
    if numbers := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part):
        first, last = numbers.groups()
        return [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return part[1:-1].split(",")


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of one shard lie, as columns: ten million samples take some hundred megabytes, not gigabytes.

    Attributes:
        path: the shard.
        columns: ``[n]`` arrays named as in ``_COLUMNS``; offsets and sizes in bytes.
        broken: key and reason of samples that cannot be used.
    """

    path: Path
    columns: dict[str, np.ndarray]
    broken: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.columns["keys"])


def index_shard(path: Path) -> ShardIndex:
    """List a shard. One that is cut off gives the samples before the cut."""
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    broken: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                stem, _, ending = place.name.partition(".")
                if not member.isfile() or not stem or not ending:
                    continue
                key = canonical((place.parent / stem).as_posix())
                if members.setdefault(key, {}).setdefault("." + ending.lower(), member) is not member:
                    broken[key] = f"duplicate: the shard has {member.name} twice"
            # At a damaged header the iteration just ends; a whole archive ends with a block of zeros.
            if any(_read(path, archive.offset, tarfile.BLOCKSIZE)):  # type: ignore[attr-defined]
                raise tarfile.ReadError(f"no member at byte {archive.offset}")  # type: ignore[attr-defined]
    except (tarfile.TarError, OSError) as error:
        broken["(rest)"] = f"damaged shard: {reason_of(error)}"
    end = path.stat().st_size
    rows = []
    for key, parts in _joined(members).items():
        reason, row = _row(path, key, parts, end)
        if key in broken or row is None:
            broken.setdefault(key, reason)
        else:
            rows.append(row)
    kinds = (np.bytes_, np.bool_, np.int64, np.int64, np.int64, np.int64, np.bytes_)
    columns: dict[str, np.ndarray] = {
        name: np.array([row[i] for row in rows], dtype=kind)
        for i, (name, kind) in enumerate(zip(_COLUMNS, kinds, strict=True))
    }
    return ShardIndex(path, columns, tuple(broken.items()))


def _joined(members: dict[str, dict[str, tarfile.TarInfo]]) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Samples whose clip and text differ in capitals only, where no other sample is called so, become one."""
    alike: dict[str, list[str]] = {}
    for key in members:
        alike.setdefault(caseless(key), []).append(key)
    joined = dict(members)
    for keys in alike.values():
        clips = [k for k in keys if not members[k].keys().isdisjoint(VIDEOS | IMAGES)]
        others = [k for k in keys if k not in clips]
        if len(clips) == 1 and len(others) == 1 and members[clips[0]].keys().isdisjoint(ENDINGS):
            joined[clips[0]] = members[clips[0]] | joined.pop(others[0])
    return joined


def _row(path: Path, key: str, parts: dict[str, tarfile.TarInfo], end: int) -> tuple[str, tuple | None]:
    """The columns of a sample, or why it has none."""
    if any(member.offset_data + member.size > end for member in parts.values()):
        return "cut off: the shard ends before it", None
    media = [e for e in parts if e in VIDEOS | IMAGES]
    if len(media) != 1:
        return f"{'no' if not media else 'more than one'} video or image: {' '.join(parts)}", None
    found = first_caption((e, partial(_caption, path, parts[e], e)) for e in ENDINGS if e in parts)
    if not found.caption:
        return f"no caption: {found.problem or ' '.join(parts)}", None
    image, words = parts[media[0]], parts[found.place]
    kind = media[0] in IMAGES
    return "", (
        key.encode(),
        kind,
        image.offset_data,
        image.size,
        words.offset_data,
        words.size,
        found.place.encode(),
    )


def _caption(path: Path, member: tarfile.TarInfo, ending: str) -> tuple[str, int]:
    return caption_in(_read(path, member.offset_data, member.size), ending)


def _cached_index(path: Path, folder: Path | None) -> ShardIndex:
    """List a shard, or read its list from the folder of lists."""
    if folder is None:
        return index_shard(path)
    status = path.stat()
    stamp = f"{_VERSION}:{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    cache = folder / f"{path.stem}_{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.npz"
    if (known := _read_index(cache, path)) is not None:
        return known
    index = index_shard(path)
    folder.mkdir(parents=True, exist_ok=True)
    # Ranks that list at the same time write different files and rename them onto one name.
    with whole_file(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, broken=np.array(json.dumps(index.broken)), **index.columns)  # type: ignore[arg-type]
    return index


def _read_index(cache: Path, path: Path) -> ShardIndex | None:
    """The kept list of a shard; None where there is none, or a damaged one."""
    try:
        with np.load(cache, allow_pickle=False) as saved:
            broken = tuple((key, reason) for key, reason in json.loads(str(saved["broken"])))
            return ShardIndex(path, {name: saved[name] for name in _COLUMNS}, broken)
    except Exception:  # numpy, zipfile and zlib have their own kinds
        return None


def _read(path: Path, offset: int, size: int) -> bytes:
    """Bytes of a file. Opened for each read: a file shared by forked workers would share its position."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


@dataclass(frozen=True)
class ShardSet:
    """The samples of many shards, as a `Source`.

    Attributes:
        shards: the listed shards.
        sampling: how samples are read.
        left_out: those that cannot be used, found while listing.
        chosen: of each shard, the rows that are used.
        notes: what else was noticed about the captions.
    """

    shards: tuple[ShardIndex, ...]
    sampling: FrameSampling
    left_out: SkipReport
    chosen: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def scan(cls, pattern: str, sampling: FrameSampling, index_folder: Path | None = None) -> ShardSet:
        """List the shards of a pattern; no sample is decoded.

        Args:
            pattern: see `expand`.
            sampling: how to read the samples.
            index_folder: keeps the lists, so that they are made once.

        Raises:
            FileNotFoundError: a shard is not there.
            ValueError: no shard has a usable sample.
        """
        report = SkipReport()
        paths = expand(pattern)
        shards = tuple(_cached_index(p, index_folder) for p in tqdm(paths, desc="list shards", disable=len(paths) < 20))
        for shard in shards:
            for key, reason in shard.broken:
                report.add(f"{shard.path.name}/{key}", reason)
        total = sum(map(len, shards))
        if not total:
            texts = " or ".join(f"KEY{ending}" for ending in ENDINGS)
            raise ValueError(
                f"{pattern} has no usable sample. {report.summary(len(report.reasons))}\n"
                f"Needed: KEY.mp4 (or an image) with {texts}, in a .tar that is not compressed."
            )
        return cls(shards, sampling, report, tuple(np.arange(len(s)) for s in shards))

    def only(self, kind: Kind) -> ShardSet:
        """The videos or the images alone."""
        wanted = kind == "image"
        kept = [c[s.columns["kinds"][c] == wanted] for s, c in zip(self.shards, self.chosen, strict=True)]
        return replace(self, chosen=tuple(kept))

    @property
    def groups(self) -> Sequence[int]:
        """Samples of each shard."""
        return [len(c) for c in self.chosen]

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.groups)

    def _find(self, index: int) -> tuple[ShardIndex, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}; allowed: 0 to {len(self) - 1}.")
        at = int(np.searchsorted(self._ends, index, side="right"))
        rows = self.chosen[at]
        return self.shards[at], int(rows[index - (int(self._ends[at]) - len(rows))])

    def name(self, index: int) -> str:
        """Shard and key."""
        shard, row = self._find(index)
        return f"{shard.path.name}/{shard.columns['keys'][row].decode()}"

    def kind(self, index: int) -> Kind:
        """Clip or image."""
        shard, row = self._find(index)
        return "image" if shard.columns["kinds"][row] else "video"

    def caption(self, index: int) -> str:
        """Its text.

        Raises:
            BrokenSampleError: the text cannot be read.
        """
        shard, row = self._find(index)
        columns = shard.columns
        data = self._bytes(shard, int(columns["text_offsets"][row]), int(columns["text_sizes"][row]))
        try:
            text, _ = caption_in(data, columns["text_endings"][row].decode())
        except ValueError as error:
            raise BrokenSampleError(f"no caption: its text {reason_of(error)}") from error
        if not text:
            raise BrokenSampleError("no caption: its text is empty")
        return text

    def stamp(self, index: int) -> str:
        """Of the shard: size and time; of the sample: where it lies."""
        shard, row = self._find(index)
        status = shard.path.stat()
        place = (int(shard.columns[c][row]) for c in ("offsets", "sizes"))
        return ":".join(map(str, (status.st_size, status.st_mtime_ns, *place)))

    def digest(self, index: int) -> str:
        """SHA-256 of the video or image."""
        return hashlib.sha256(self._media(index)).hexdigest()

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Decode one sample, ``uint8 [F, H, W, 3]`` (F 1 for images).

        Raises:
            BrokenSampleError: it cannot be used.
        """
        caption, data = self.caption(index), self._media(index)
        image = self.kind(index) == "image"
        decoded = decode_image(data, self.sampling, rng) if image else decode_video(data, self.sampling, rng)
        return Sample(name=self.name(index), values=torch.from_numpy(decoded), caption=caption)

    def _media(self, index: int) -> bytes:
        shard, row = self._find(index)
        return self._bytes(shard, int(shard.columns["offsets"][row]), int(shard.columns["sizes"][row]))

    @staticmethod
    def _bytes(shard: ShardIndex, offset: int, size: int) -> bytes:
        try:
            data = _read(shard.path, offset, size)
        except OSError as error:
            raise BrokenSampleError(f"damaged shard: {reason_of(error)}") from error
        if len(data) < size:
            raise BrokenSampleError("cut off: the shard ends before it")
        return data
