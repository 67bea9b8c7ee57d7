"""Writing checkpoint files."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from .checksums import CHECKSUM_KEY, UNKNOWN, write_checksum

_HOST = re.sub(r"[^\w-]", "", platform.node()) or "host"


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes the file when the block ends, or goes away when it fails.

    A reader, or a kill in the middle, never meets half a file. The name holds the writer's host, process and a random
    number, so that two writers never share it; what killed writers of the same file left is removed first.

    Args:
        path: the file; its folder must be there.

    Yields:
        a path in the same folder, with the same suffix.
    """
    path = Path(path)
    _remove_strays(path)
    mark = f"{_HOST}-{os.getpid()}-{threading.get_ident() % 10**6}-{secrets.token_hex(3)}"
    temporary = path.with_name(f".{path.stem}.{mark}.part{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_strays(path: Path) -> None:
    """Remove what writers of a file left that no longer run; only those of this host can be told."""
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.{_HOST}-(\d+)-\d+-[0-9a-f]{{6}}\.part{re.escape(path.suffix)}")
    with contextlib.suppress(OSError):
        for entry in path.parent.iterdir():
            found = pattern.fullmatch(entry.name)
            if found and not _runs(int(found[1])):
                entry.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process of this host runs; where that cannot be asked, it is taken to."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def save_safetensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write tensors whole or not at all: to a temporary name in the same folder, then renamed.

    Args:
        tensors: Of any layout; each is written contiguous, and tensors that share memory are written apart.
        path: Ends in ".safetensors"; its folder is made.
        metadata: Strings beside the tensors; a checksum of the tensors is added.

    Returns:
        The path.

    Raises:
        ValueError: If the name does not end in ".safetensors".
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"the file is called {path.name}; allowed: a name ending in .safetensors. Rename it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        save_file(_apart(tensors), temporary, metadata={**(metadata or {}), CHECKSUM_KEY: UNKNOWN})
        write_checksum(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # safetensors writes for its owner alone; a shared models folder must be readable
    return path


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, none of which shares memory with another or is part of a larger one."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != value.numel() * value.element_size():
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        apart[key] = value
    return apart
