"""Writing checkpoint files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_safetensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write tensors whole or not at all: to a temporary name in the same folder, then renamed.

    Args:
        tensors: Of any layout; each is written contiguous, and tensors that share memory are written apart.
        path: Ends in ".safetensors"; its folder is made.
        metadata: Strings beside the tensors.

    Returns:
        The path.

    Raises:
        ValueError: If the name does not end in ".safetensors".
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"the file is called {path.name}; allowed: a name ending in .safetensors. Rename it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A reader, or a kill in the middle, must never meet half a file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(_apart(tensors), temporary, metadata=dict(metadata or {}))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # safetensors writes for its owner alone; a shared models folder must be readable
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
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
