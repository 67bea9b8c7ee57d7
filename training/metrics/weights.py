"""Reading the measures' weights: files of published packages, told by their hash; and frames enlarged for them."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_SIDE = 128


def checked_bytes(path: Path, sha256_start: str, source: str) -> bytes:
    """Content of a weights file.

    Args:
        path: the file.
        sha256_start: first digits of the hash it must have.
        source: the package it comes from, for the message.

    Raises:
        ValueError: the file is another one.
    """
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(sha256_start):
        raise ValueError(f"{path} has SHA-256 {digest[:16]}..., expected {sha256_start}...: take it from {source}.")
    return data


def read_tensors(path: Path, sha256_start: str, source: str) -> dict[str, Any]:
    """Content of a torch file of tensors and plain values, on the CPU.

    Raises:
        ValueError: the file is another one.
    """
    data = checked_bytes(path, sha256_start, source)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that knows NumPy arrays and frozen dictionaries, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            import numpy.core.multiarray as multiarray

            return {"_reconstruct": multiarray._reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}[name]
        if name == "FrozenDict":
            return dict
        raise pickle.UnpicklingError(f"the weights file asks for {module}.{name}; only NumPy arrays are allowed in it.")


def read_arrays(data: bytes) -> Any:
    """Content of a pickle of NumPy arrays, of whom flax's checkpoints are; anything else in it is not run.

    Raises:
        pickle.UnpicklingError: there is something else in it.
    """
    return _ArraysOnly(io.BytesIO(data)).load()


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive (it has code in it) and not a state dict."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())


def enlarged(frames: Tensor, smallest: int = SMALLEST_SIDE) -> Tensor:
    """Frames whose shorter side is at least ``smallest`` and whose sides are multiples of 8 (bilinear).

    Both networks look at eighths and less of an image: at 64 pixels nothing would be left of it.

    Args:
        frames: ``[N, C, H, W]``.
        smallest: pixels.
    """
    height, width = frames.shape[2:]
    scale = max(1.0, smallest / min(height, width))
    size = [-(-round(side * scale) // 8) * 8 for side in (height, width)]
    if size == [height, width]:
        return frames
    return functional.interpolate(frames, size, mode="bilinear", align_corners=False)
