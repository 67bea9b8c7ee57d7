"""Results that are computed once and kept: one helper, whose file names hash all that the result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import load_tensors, save_atomically
from .processes import by_one_process


def fingerprint(model: nn.Module) -> str:
    """Hash of a model's weights, names included."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def digest_of(inputs: Mapping[str, Any]) -> str:
    """One hash of named inputs: numbers, texts, lists and mappings of them, and tensors.

    Raises:
        TypeError: an input is something else, whose text need not say what it is.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return [str(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest()]
        raise TypeError(f"{type(value).__name__} cannot name a cache; give numbers, texts, tensors, or a hash.")

    text = json.dumps(dict(inputs), sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cached(
    folder: Path, name: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Any]], *, alone: bool = False
) -> dict[str, Any]:
    """What ``make`` gives for these inputs: read from the folder, or made and kept there; one process makes it.

    Args:
        folder: of the caches; made if it is missing.
        name: of the kind of result, without what it depends on.
        inputs: everything that the result depends on, see `digest_of`; change a number in it when the code changes.
        make: computes the result, tensors and plain values by name.
        alone: whether this process alone asks; else all of a run's processes must, and the first one makes it.

    Returns:
        the result as it is read from the file. A damaged file is made again.
    """
    path = folder / f"{name}_{digest_of(inputs)}.pt"

    def once() -> None:
        if load_tensors(path) is None:
            save_atomically(make(), path)

    once() if alone else by_one_process(once)
    found = load_tensors(path)
    if found is None:
        raise OSError(f"{path} was written and cannot be read; look at that disk, and repeat the same command.")
    return found
