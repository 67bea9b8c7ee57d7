"""From a file to motion modules under the host's memory management."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Final

import torch

from ...videolcm_core.families.animatediff.detection import MotionFile, read_motion
from ...videolcm_core.files.guard import reading
from ...videolcm_core.files.marker import own_metadata
from ...videolcm_core.files.reading import load_state_dict
from ...videolcm_core.networks.animatediff.motion import MotionNetwork
from .. import host
from ..loaders.loading import WEIGHT_DTYPES
from ..model.unet import attention
from .patch import Motion

log = logging.getLogger(__name__)

FOLDERS: Final = (host.MOTION_FOLDER, host.MODEL_FOLDER)


def load_motion(path: str, weight_dtype: str = "default") -> Motion:
    """Motion modules of a file, in any of the layouts of `read_motion`.

    Args:
        path: Of the file.
        weight_dtype: One of `WEIGHT_DTYPES`.

    Raises:
        CheckpointError: If the file is damaged, of another family, or incomplete.
        SettingsError: If its own entries cannot be read.
    """
    name = Path(path).name
    with reading(path):
        found = _read(path)
        patcher = _patcher(found, path, weight_dtype)
    config = found.config
    summary: dict[str, Any] = {"release": found.release, "layout": found.layout, "channels": config.channels}
    summary |= {"mid_block": config.mid_block, "positions": config.positions, "image_encoder": config.image_encoder}
    log.info("VideoLCM motion modules: %s", json.dumps({"file": name, **summary}))
    if found.ignored:
        log.info("VideoLCM: %s has %d tensors that are no motion modules.", name, len(found.ignored))
    group_norm = found.settings.group_norm or "frame"
    return Motion(file=name, patcher=patcher, settings=found.settings, group_norm=group_norm)


def _read(path: str) -> MotionFile:
    state_dict, metadata, _ = load_state_dict(path)
    name = Path(path).name
    return read_motion(state_dict, own_metadata(state_dict, metadata, name), name)


def _patcher(found: MotionFile, path: str, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    weights = found.weights
    first = next(value.dtype for value in weights.values() if value.is_floating_point())
    dtype = host.storage_dtype(WEIGHT_DTYPES[weight_dtype], host.calculate_parameters(weights), first)
    network = MotionNetwork(found.config, host.manual_cast(), attention, device=torch.device("meta"), dtype=dtype)
    # Positions stay as exact as the file has them; they are added in the precision of the frames.
    stored = {key: value if key.endswith(".pe") else value.to(dtype) for key, value in weights.items()}
    network.load_state_dict(stored, assign=True)
    patcher = host.wrap_network(network.train(False).requires_grad_(False), disable_dynamic)
    patcher.cached_patcher_init = (_load_patcher, (path, weight_dtype))
    return patcher


def _load_patcher(path: str, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    with reading(path):
        return _patcher(_read(path), path, weight_dtype, disable_dynamic)
