"""Safetensors files, read so that neither their content nor another program's writing can do harm.

The library maps a file into memory. A file that is cut or rewritten in place while it is mapped kills the process
(SIGBUS, which no Python code can catch), at loading or at any later use of a weight. So files up to `PRIVATE_MOST` are
read into memory of their own. Larger ones stay mapped, as in the host: a copy of 5 GB beside the network would not fit
many machines.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import torch
from safetensors import safe_open
from torch import Tensor

PRIVATE_MOST: Final = 2 << 30
"""Bytes of the largest file that is copied into memory instead of being mapped."""
MOST_TENSORS: Final = 50_000
"""The largest network of any family that is read here has about 2,000."""
_MOST_HEADER: Final = 50_000_000
_MOST_AXES: Final = 8
_MOST_LENGTH: Final = 1 << 40
_TYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: ``begin`` and ``end`` in bytes from the start of the data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says about its content.

    Attributes:
        data: Where the tensors' bytes begin in the file.
        places: Of the tensors, by name.
        metadata: Strings.
    """

    data: int
    places: dict[str, Place]
    metadata: dict[str, str]


def read_header(file: IO[bytes], size: int) -> Header:
    """The header, checked: nothing in it promises what the file does not hold.

    Args:
        file: Open at its beginning.
        size: Of the file, in bytes.

    Raises:
        ValueError: Saying what is wrong.
    """
    first = file.read(8)
    if len(first) < 8:
        raise ValueError("the file has less than 8 bytes")
    length = struct.unpack("<Q", first)[0]
    if length > min(size - 8, _MOST_HEADER):
        raise ValueError(f"its header should have {length} bytes, of {size} in the file")
    content = file.read(length)
    if len(content) < length:
        raise ValueError("the file ends in its header")
    try:
        entries = json.loads(content.decode("utf-8"), object_pairs_hook=_without_doubles)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no strings")
    if len(entries) > MOST_TENSORS:
        raise ValueError(f"it has {len(entries)} tensors, more than {MOST_TENSORS}")
    places = {name: _place(name, entry) for name, entry in entries.items()}
    _check_places(places, size - 8 - length)
    return Header(8 + length, places, metadata)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("its header has a name twice")
    return entries


def _place(name: str, entry: Any) -> Place:
    name = name[:100]
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"no type, shape and offsets for {name}")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{name} has the type {str(kind)[:40]}")
    if not _are_lengths(shape) or len(shape) > _MOST_AXES:
        raise ValueError(f"{name} has the shape {str(shape)[:80]}")
    if not _are_lengths(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has the offsets {str(offsets)[:80]}")
    place = Place(_TYPES[kind], tuple(shape), *offsets)
    if place.end - place.begin != math.prod(shape) * place.dtype.itemsize:
        raise ValueError(f"{name} of shape {shape} and type {kind} has {place.end - place.begin} bytes")
    return place


def _are_lengths(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_LENGTH for value in values
    )


def _check_places(places: dict[str, Place], size: int) -> None:
    """Refuse tensors that overlap, leave gaps, or do not fill the data: the format allows none of these."""
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != end:
            raise ValueError(f"{name[:100]} begins at {place.begin}, not at {end}")
        end = place.end
    if end != size:
        raise ValueError(f"its tensors take {end} bytes, and {size} are there")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        ValueError: If it is damaged.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = read_header(file, size)
        if size <= PRIVATE_MOST:
            return {name: _private(file, name, header) for name in header.places}, header.metadata
    with safe_open(path, framework="pt") as mapped:
        return {name: mapped.get_tensor(name) for name in header.places}, header.metadata


def _private(file: IO[bytes], name: str, header: Header) -> Tensor:
    place = header.places[name]
    content = torch.empty(place.end - place.begin, dtype=torch.uint8)
    file.seek(header.data + place.begin)
    if len(content) and file.readinto(content.numpy()) != len(content):  # type: ignore[attr-defined]
        raise ValueError(f"the file ends in {name[:100]}")
    return content.view(place.dtype).reshape(place.shape)
