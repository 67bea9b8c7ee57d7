"""PyTorch's files: a pickle of tensors, read with ``weights_only`` and held to what the file itself contains."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from .errors import CheckpointError, shorten
from .guard import AGAIN, cause
from .pickle_depth import nests_too_deeply
from .safetensors_file import MOST_TENSORS, PRIVATE_MOST

UNNAMED: Final = "unnamed."
"""Before the numbers that tensors of a plain list get for names."""
FORMATS: Final = "a safetensors file, a PyTorch file of tensors (.pth, .pt, .bin, .ckpt) or a diffusers folder"
_TENSORS: Final = "a dictionary of tensors"
_LARGER: Final = 4
"""Times the file's own size that its tensors may have together: weights that are tied lie in it once."""
_PICKLES: Final = 5
"""In a file of the old format: magic number, version, system, content, names of the storages."""
_SAVE_AGAIN: Final = "Save it again where it was made: tensors contiguous, on the CPU, with torch.save or safetensors."


def read_pickle(path: Path, head: bytes) -> tuple[dict[str, Tensor], int | None]:
    """Tensors of a file and the training step beside them.

    Args:
        path: Of the file.
        head: Its first bytes.

    Raises:
        CheckpointError: If it is damaged, holds anything but tensors, or tensors larger than itself.
    """
    size, is_zip = path.stat().st_size, zipfile.is_zipfile(path)
    if head[:2] == b"PK" and not is_zip:
        raise CheckpointError(path.name, "a truncated PyTorch file", FORMATS, AGAIN)
    if is_zip:
        _check_archive(path, size)
    _check_depth(path, is_zip)
    try:
        # Mapped files that are rewritten kill the process: see `safetensors_file`.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip and size > PRIVATE_MOST)
    except pickle.UnpicklingError as error:
        # torch's messages name the first global that it refused to import.
        if "global" in str(error).lower():
            raise CheckpointError(
                path.name,
                "a pickle with code or Python objects inside, which was not run",
                "files that hold tensors only",
                "Get a safetensors copy, or convert the file where you trust it.",
            ) from error
        raise CheckpointError(path.name, "a damaged or foreign pickle", FORMATS, AGAIN) from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Damaged pickles call what they find with any arguments: every built-in exception was seen.
        raise CheckpointError(path.name, f"an unreadable or truncated file ({cause(error)})", FORMATS, AGAIN) from error
    return _unwrap(path.name, content, size)


def _check_archive(path: Path, size: int) -> None:
    """Refuse archives that would unpack to more than they are: torch stores its tensors as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(path.name, f"a damaged archive ({cause(error)})", FORMATS, AGAIN) from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        next_step = "Unpack it, or save it again with torch.save."
        raise CheckpointError(path.name, "a compressed archive", "archives as torch.save writes them", next_step)
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(path.name, "an archive that promises more than it holds", FORMATS, AGAIN)
    names = {Path(entry.filename).name for entry in entries}
    if "constants.pkl" in names:
        next_step = "Get the weights (state_dict) of the network instead."
        raise CheckpointError(path.name, "a TorchScript program", "files that hold tensors only", next_step)
    if "data.pkl" not in names:
        raise CheckpointError(path.name, "a zip archive without a PyTorch pickle", FORMATS, AGAIN)


def _check_depth(path: Path, is_zip: bool) -> None:
    """Refuse pickles whose keys would take longer to hash than anybody waits."""
    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if Path(n).name == "data.pkl")
                deep = nests_too_deeply(archive.read(name))
        else:
            with path.open("rb") as file:
                # The old format is several pickles, one after the other, and then the numbers.
                deep = any(nests_too_deeply(file) for _ in range(_PICKLES))
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(path.name, f"a damaged archive ({cause(error)})", FORMATS, AGAIN) from error
    if deep:
        raise CheckpointError(path.name, "a pickle of deeply nested tuples", _TENSORS, AGAIN)


def _unwrap(file: str, content: Any, size: int) -> tuple[dict[str, Tensor], int | None]:
    step = None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        step = content.get("step")
        content = content["state_dict"]
    if isinstance(content, list) and content and all(isinstance(value, torch.Tensor) for value in content):
        content = {f"{UNNAMED}{number}": value for number, value in enumerate(content)}
    if not isinstance(content, Mapping):
        raise CheckpointError(file, f"a {type(content).__name__}", _TENSORS, AGAIN)
    # Names of other kinds are left out: the text of a nested one can be endless.
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(file, "a dictionary without tensors", _TENSORS, AGAIN)
    _check_sizes(file, tensors, size)
    whole = isinstance(step, int | float) and step == step and abs(step) < 2**63
    return tensors, int(step) if whole and step is not None else None


def _check_sizes(file: str, tensors: Mapping[str, Tensor], size: int) -> None:
    """Refuse tensors that are no plain numbers in memory, and those that would grow when they are used.

    A tensor of stride 0 repeats one number of the file a billion times, and many tensors can share the same bytes.
    """
    if len(tensors) > MOST_TENSORS:
        raise CheckpointError(file, f"{len(tensors)} tensors", f"at most {MOST_TENSORS}", "Choose another file.")
    total = 0
    for key, value in tensors.items():
        kind = _kind(value)
        if kind is not None:
            got = f"{kind} in {shorten(key)}"
            raise CheckpointError(file, got, "plain tensors of numbers on the CPU", _SAVE_AGAIN)
        length = value.numel() * value.element_size()
        total += length
        if length > value.untyped_storage().nbytes():
            got = f"{shorten(key)} of shape {list(value.shape)[:8]}, of which the file holds a part only"
            raise CheckpointError(file, got, "tensors that are in the file with all their values", _SAVE_AGAIN)
    if total > _LARGER * size + (1 << 20):
        got = f"tensors of {total} bytes in a file of {size}"
        raise CheckpointError(file, got, "tensors that are in the file with all their values", _SAVE_AGAIN)


def _kind(value: Tensor) -> str | None:
    """What a tensor is, if it is no plain one."""
    if value.layout is not torch.strided:
        return "a sparse tensor"
    if value.is_nested or value.is_quantized:
        return "a nested or quantized tensor"
    if value.device.type != "cpu":
        return f"a tensor without values ({value.device.type})"
    return None
