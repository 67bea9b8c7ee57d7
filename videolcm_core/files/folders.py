"""Folders that diffusers saved: which files hold the weights, and what the settings beside them say."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from .errors import CheckpointError, shorten
from .guard import AGAIN
from .pickle_file import FORMATS

_MOST_JSON: Final = 32 << 20
_MOST_FILES: Final = 1000
_SUFFIXES: Final = (".safetensors", ".bin")
_CHOOSE: Final = "Choose the file itself, or a folder that diffusers saved."


def diffusers_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files of a diffusers UNet folder (or of a pipeline with one in ``unet``), and its settings.

    Raises:
        CheckpointError: If there are none, or what the folder says cannot be read.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    indices = sorted(unet.glob("*.index.json"))
    if indices:
        files = [unet / name for name in _shards(indices[0])]
    else:
        stems = ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16")
        candidates = [unet / f"{stem}{suffix}" for suffix in _SUFFIXES for stem in stems]
        files = [file for file in candidates if file.exists()][:1]
    missing = [file.name for file in files if not file.exists()]
    if not files or missing:
        got = f"a folder without {missing[0]}" if missing else "a folder without diffusion_pytorch_model weights"
        raise CheckpointError(folder, got, FORMATS, _CHOOSE)
    return files, _metadata(unet)


def _shards(index: Path) -> list[str]:
    """Names of the files of an index; each has to lie beside it."""
    places = _json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(index.name, "no weight_map of file names", "an index as diffusers writes it", AGAIN)
    names = sorted(set(places.values()))
    outside = [name for name in names if not _is_plain(name)]
    if outside or len(names) > _MOST_FILES:
        got = f"a file {shorten(ascii(outside[0]), 120)}" if outside else f"{len(names)} files"
        allowed = f"at most {_MOST_FILES} names of .safetensors and .bin files in the folder of the index itself"
        raise CheckpointError(index.name, got, allowed, _CHOOSE)
    return names


def _is_plain(name: str) -> bool:
    """Whether a name means a file in the same folder, on every system."""
    plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
    return plain and "\0" not in name and name.endswith(_SUFFIXES)


def _metadata(unet: Path) -> dict[str, str]:
    metadata = {}
    config = unet / "config.json"
    if config.exists():
        head_dim = _json_object(config).get("attention_head_dim")
        if isinstance(head_dim, int):
            metadata["videolcm.head_dim"] = str(head_dim)
    scheduler = unet.parent / "scheduler" / "scheduler_config.json"
    if scheduler.exists():
        names = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0"}
        settings = _json_object(scheduler)
        prediction, schedule = str(settings.get("prediction_type")), settings.get("beta_schedule")
        if prediction in names:
            metadata["videolcm.prediction"] = names[prediction]
        if schedule in ("scaled_linear", "linear"):
            metadata["videolcm.beta_schedule"] = str(schedule)
        metadata["videolcm.zero_terminal_snr"] = str(bool(settings.get("rescale_betas_zero_snr"))).lower()
    return {**metadata, **_own_entries(unet.parent / "videolcm.json")}


def _own_entries(path: Path) -> dict[str, str]:
    """Metadata that an export of this project wrote beside a diffusers folder."""
    return {str(key): str(value) for key, value in _json_object(path).items()} if path.exists() else {}


def _json_object(path: Path) -> dict[str, Any]:
    """What a JSON file of settings holds.

    Raises:
        CheckpointError: If that is no JSON object.
    """
    content = None
    if path.stat().st_size <= _MOST_JSON:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            content = None
    if not isinstance(content, dict):
        raise CheckpointError(path, "no JSON object in it", "settings as diffusers or an export writes them", AGAIN)
    return content
