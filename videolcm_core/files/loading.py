"""From a file to a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..families.foreign import without_prefix
from ..families.vgen.detection import detect_unet_config
from ..networks.vgen.attention import Attention, default_attention
from ..networks.vgen.unet3d import UNet3D, UNetConfig
from .errors import CheckpointError, name_some, shorten
from .guard import reading
from .marker import MARKER_KEY, own_metadata
from .reading import load_state_dict

# Tensors that hosts add to saved files to mark the kind of model.
HOST_MARKERS: Final = frozenset({"v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", MARKER_KEY})
REAL: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
"""Types that weights may have."""


def load_unet(
    path: str | Path,
    config: UNetConfig | None = None,
    operations: Any = nn,
    attention: Attention = default_attention,
    dtype: torch.dtype | None = None,
) -> UNet3D:
    """Read a network from a file or a diffusers folder, ready for inference.

    Args:
        path: Of a UNet or an all-in-one file.
        config: Its shape; None detects it.
        operations: Layer classes.
        attention: Attention kernel.
        dtype: To convert the weights to; None keeps them.

    Raises:
        CheckpointError: If the file is unusable, of another family, incomplete, or of another shape.
    """
    with reading(path):
        return _load_unet(path, config, operations, attention, dtype)


def _load_unet(
    path: str | Path, config: UNetConfig | None, operations: Any, attention: Attention, dtype: torch.dtype | None
) -> UNet3D:
    tensors, metadata, info = load_state_dict(path)
    config = config or detect_unet_config(tensors, own_metadata(tensors, metadata, info.file), info.file)
    weights = {key: value for key, value in without_prefix(tensors).items() if key not in HOST_MARKERS}
    network = UNet3D(config, operations, attention, device="meta")
    check_weights(weights, network.state_dict(), info.file)
    if dtype is not None:
        weights = {key: value.to(dtype) for key, value in weights.items()}
    network.load_state_dict(weights, assign=True)
    return network.train(False)


def check_weights(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], file: str) -> None:
    """Compare a file's tensors with a network's, by name, shape and kind of number.

    Args:
        tensors: Of the file.
        expected: Of the network; may be on the meta device.
        file: Its name, for messages.

    Raises:
        CheckpointError: Naming the first missing, unexpected or misshapen weights, or those that are no real numbers.
    """
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    if missing or unexpected:
        parts = [
            f"{kind} keys {name_some(keys)}"
            for kind, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise CheckpointError(
            file, " and ".join(parts), f"exactly the {len(expected)} keys of this network", "Get a complete checkpoint."
        )
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            raise CheckpointError(
                file,
                f"{key} of shape {list(value.shape)}",
                f"{list(expected[key].shape)}",
                "The file does not fit this network; let its sizes be detected, or get another file.",
            )
    check_real({key: value for key, value in tensors.items() if expected[key].is_floating_point()}, file)


def check_real(tensors: Mapping[str, Tensor], file: str) -> None:
    """Refuse weights that are whole or complex numbers: the host would cast them without a word.

    Raises:
        CheckpointError: Naming the first.
    """
    for key, value in tensors.items():
        if value.dtype not in REAL:
            got = f"{shorten(key, 200)} of type {str(value.dtype).removeprefix('torch.')}"
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in REAL)
            raise CheckpointError(
                file, got, allowed, "Get the weights in one of these types; quantised ones are not read."
            )
