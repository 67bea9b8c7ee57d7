"""Settings that travel as a tensor, where a saver keeps no metadata.

ComfyUI's own savers drop a file's metadata, so models of this pack put their entries beside the weights as a tensor of
JSON bytes, in the manner of the host's own marker tensors ("v_pred").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from .entries import PREFIX, write_entry
from .errors import CheckpointError

MARKER_KEY: Final = "videolcm_metadata"
_MOST: Final = 20_000_000


def own_metadata(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None, file: str) -> dict[str, str]:
    """The ``videolcm.*`` entries of a file: of its metadata, else of the marker tensor.

    Args:
        tensors: Of the file.
        metadata: Of the file.
        file: Its name, for messages.

    Raises:
        CheckpointError: If there is a marker, and no JSON object in it.
    """
    found = {key: str(value) for key, value in (metadata or {}).items() if key.startswith(PREFIX)}
    marker = tensors.get(MARKER_KEY)
    return found if found or marker is None else from_marker(marker, file)


def from_marker(marker: Tensor, file: str) -> dict[str, str]:
    """Entries out of a marker tensor.

    Raises:
        CheckpointError: If there is no JSON object in it.
    """
    shown = f"a tensor {MARKER_KEY} of {str(marker.dtype).removeprefix('torch.')} {list(marker.shape)[:4]}"
    if marker.dtype == torch.uint8 and marker.ndim == 1 and len(marker) <= _MOST:
        try:
            entries = json.loads(bytes(marker.tolist()))
        except (ValueError, RecursionError):
            entries = None
        if isinstance(entries, dict):
            return {str(key): write_entry(value) for key, value in entries.items()}
        shown += " without settings in it"
    raise CheckpointError(
        file,
        shown,
        "uint8 [n], the bytes of a JSON object",
        "The file is damaged; save the model again, or get another copy.",
    )


def to_marker(entries: Mapping[str, str]) -> Tensor:
    """Entries as a tensor of JSON bytes, uint8 ``[n]``."""
    return torch.tensor(list(json.dumps(dict(entries)).encode()), dtype=torch.uint8)
