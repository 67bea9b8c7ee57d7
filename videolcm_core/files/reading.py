"""Reading checkpoint files without running anything that is inside them."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..families.vgen.keymaps import diffusers_to_vgen, is_diffusers
from .checksums import CHECKSUM_KEY
from .errors import CheckpointError
from .folders import diffusers_files
from .guard import AGAIN, cause, reading
from .pickle_file import FORMATS, UNNAMED, read_pickle
from .safetensors_file import read_tensors

__all__ = ["UNNAMED", "CheckpointError", "FileInfo", "load_state_dict"]

SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


class FileInfo(NamedTuple):
    """Where tensors came from.

    Attributes:
        file: Name of the file or folder, for messages.
        format: "safetensors" or "pickle".
        diffusers: Whether names were converted from diffusers' UNet3DConditionModel.
        step: Training step written beside the tensors, if any.
    """

    file: str
    format: str
    diffusers: bool = False
    step: int | None = None


def load_state_dict(path: str | Path, check_finite: bool = True) -> tuple[dict[str, Tensor], dict[str, str], FileInfo]:
    """Read tensors from a file or a diffusers folder.

    Accepts bare state dicts and ``{'state_dict', 'step'}``, strips ``module.`` from data-parallel training, and
    renames diffusers' UNet3DConditionModel to the authors' names. Pickles are read with ``weights_only``. Files
    beyond 2 GiB stay on disk (mmap) until used; smaller ones may be rewritten at any time.

    Args:
        path: File or folder.
        check_finite: Refuse NaN and infinite values (reads every tensor once).

    Returns:
        Tensors, metadata and `FileInfo`. Metadata is empty for pickles; of a diffusers folder it holds what its
        configuration says, under our own names.

    Raises:
        CheckpointError: If it is missing, empty, truncated, not a checkpoint, holds code, or NaN or Inf.
    """
    path = Path(path)
    with reading(path):
        return _load(path, check_finite)


def _load(path: Path, check_finite: bool) -> tuple[dict[str, Tensor], dict[str, str], FileInfo]:
    if not path.exists():
        raise CheckpointError(path, "no such file", FORMATS, "Check the path, or put the file there.")
    metadata: dict[str, str] = {}
    files = [path]
    if path.is_dir():
        files, metadata = diffusers_files(path)
    tensors: dict[str, Tensor] = {}
    step: int | None = None
    for file in files:
        part, found, part_step = _read_unchanged(file)
        tensors.update(part)
        metadata = {**metadata, **found}
        step = part_step if step is None else step
    tensors = _strip(tensors, "module.")
    converted = is_diffusers(tensors)
    if converted:
        tensors = diffusers_to_vgen(tensors)
    if check_finite:
        _check_finite(path.name, tensors)
    kind = "safetensors" if files[0].suffix == ".safetensors" else "pickle"
    return tensors, metadata, FileInfo(path.name, kind, converted, step)


def _read_unchanged(path: Path) -> tuple[dict[str, Tensor], dict[str, str], int | None]:
    """Read a file that nobody writes meanwhile: half old and half new weights would load without an error."""
    before = _mark(path)
    try:
        content = _read_file(path)
    except CheckpointError:
        if _mark(path) == before:
            raise
        content = None
    if content is None or _mark(path) != before:
        raise CheckpointError(
            path.name,
            "a file that was written while it was read",
            "a file at rest",
            "Load it again when it is written. Writers should write to another name and rename, as exports do.",
        )
    return content


def _mark(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str], int | None]:
    if path.stat().st_size == 0:
        raise CheckpointError(path.name, "an empty file (0 bytes)", FORMATS, AGAIN)
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith(b"version https://git-lfs"):
        got = "a Git LFS pointer, not the file itself"
        raise CheckpointError(path.name, got, FORMATS, "Run `git lfs pull` where it came from, or download the file.")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(path.name, "a web page saved under this name", FORMATS, AGAIN)
    if path.suffix == ".safetensors" or _looks_like_safetensors(head):
        return (*_read_safetensors(path, head), None)
    tensors, step = read_pickle(path, head)
    return tensors, {}, step


def _looks_like_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**32


def _read_safetensors(path: Path, head: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors, metadata = read_tensors(path)
    except (SafetensorError, OSError, ValueError) as error:
        damaged = _looks_like_safetensors(head) or len(head) < 9
        said = f"a truncated or damaged safetensors file ({cause(error)})"
        got = said if damaged else "a file that is not safetensors inside"
        raise CheckpointError(path.name, got, FORMATS, AGAIN) from error
    # Of this very file: whoever writes these metadata into another one must not take it along.
    metadata.pop(CHECKSUM_KEY, None)
    return tensors, metadata


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if tensors and all(key.startswith(prefix) for key in tensors):
        return {key[len(prefix) :]: value for key, value in tensors.items()}
    return tensors


def _check_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    for key, value in tensors.items():
        if value.is_floating_point() and value.numel() and not _is_finite(value):
            raise CheckpointError(
                name, f"NaN or infinite values in {key}", "finite weights", "Use an earlier or undamaged checkpoint."
            )


def _is_finite(value: Tensor) -> bool:
    if value.element_size() == 1:  # 8-bit floats have no arithmetic on a CPU
        value = value.to(torch.float32)
    # One pass without a mask; a sum can overflow, so only a suspicious one is looked at closely.
    return bool(value.sum(dtype=torch.float32).isfinite()) or bool(value.isfinite().all())
