"""Checksums of model files: whether a file is still what was written.

A file that this project writes carries one in its metadata, by the ModelSpec standard: SHA-256 of all bytes after the
header, the tensors. A ``SHA256SUMS`` beside a file, in the form of the command ``sha256sum``, is asked first: it covers
the header too, and gives files a checksum that were written before.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import IO, Final

from .safetensors_file import read_header

CHECKSUM_KEY: Final = "modelspec.hash_sha256"
"""In the metadata; the value is ``0x`` and 64 hexadecimal digits."""
SUMS_NAME: Final = "SHA256SUMS"
UNKNOWN: Final = "0x" + "0" * 64
"""Stands in the metadata while the tensors are not yet written."""
_BLOCK: Final = 1 << 20
_MOST_SUMS: Final = 1 << 20


def fits_checksum(path: str | Path) -> bool | None:
    """Whether a file's bytes fit its checksum; None where there is none, or the file cannot be read.

    Args:
        path: Of the file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            recorded = recorded_sum(path)
            if recorded is not None:
                return _sha256(file) == recorded
            header = read_header(file, path.stat().st_size)
            said = header.metadata.get(CHECKSUM_KEY, "")
            if not re.fullmatch(r"0x[0-9a-fA-F]{64}", said):
                return None
            file.seek(header.data)
            return f"0x{_sha256(file)}" == said.lower()
    except (OSError, ValueError):
        return None


def recorded_sum(path: Path) -> str | None:
    """SHA-256 of the whole file by the ``SHA256SUMS`` beside it, None where that does not name it.

    Raises:
        OSError: If the list is there and cannot be read.
    """
    sums = path.parent / SUMS_NAME
    if not sums.is_file() or sums.stat().st_size > _MOST_SUMS:
        return None
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.strip())
        if match and match[2] == path.name:
            return match[1].lower()
    return None


def write_checksum(path: Path) -> None:
    """Put the checksum of a new file's tensors in the place of `UNKNOWN`."""
    with path.open("rb+") as file:
        header = read_header(file, path.stat().st_size)
        file.seek(header.data)
        digest = _sha256(file)
        file.seek(0)
        at = file.read(header.data).index(UNKNOWN.encode())
        file.seek(at)
        file.write(f"0x{digest}".encode())


def _sha256(file: IO[bytes]) -> str:
    """Of the rest of a file."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
