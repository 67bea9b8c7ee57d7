"""Clips of many shards as one array that is read when it is asked for, so that a corpus may be larger than memory."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

_LOCAL_HEADER: Final = 30
"""Bytes of a zip member's own header before its name and extra field, whose lengths are its last two numbers."""


def mapped_member(path: Path, name: str) -> np.ndarray | None:
    """An array of an ``.npz`` as a read-only memory map.

    Args:
        path: the ``.npz``.
        name: of the array.

    Returns:
        the map; None where the member is compressed, and so cannot be mapped.

    Raises:
        KeyError: there is no such array.
        zipfile.BadZipFile: the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset + _LOCAL_HEADER - 4)
        lengths = np.frombuffer(file.read(4), "<u2")
        file.seek(member.header_offset + _LOCAL_HEADER + int(lengths.sum()))
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, kind = read(file)
        order = "F" if columns_first else "C"
        return np.memmap(path, dtype=kind, mode="r", offset=file.tell(), shape=shape, order=order)  # type: ignore[call-overload]


class Joined:
    """Arrays one after the other, as `numpy.concatenate` would join them, without joining them.

    Args:
        parts: arrays that differ in their first axis alone; at least one.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self.starts = np.concatenate([[0], np.cumsum([len(p) for p in self.parts])])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        return (len(self), *self.parts[0].shape[1:])

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Read some rows, by a slice or by their numbers."""
        rows = np.arange(len(self))[chosen]
        part = np.searchsorted(self.starts, rows, side="right") - 1
        picked = [self.parts[p][row - self.starts[p]] for p, row in zip(part.tolist(), rows.tolist(), strict=True)]
        return np.stack(picked) if picked else np.empty((0, *self.shape[1:]), self.parts[0].dtype)

    def frames(self) -> Joined:
        """Clips ``[N, F, ...]`` as frames ``[N F, ...]``."""
        return Joined([p.reshape(-1, *p.shape[2:]) for p in self.parts])
