"""Reading checkpoint files without running anything that is inside them."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..families.vgen.keymaps import diffusers_to_vgen, is_diffusers
from .errors import CheckpointError

__all__ = ["CheckpointError", "FileInfo", "load_state_dict"]

UNNAMED: Final = "unnamed."
"""Before the numbers that tensors of a plain list get for names."""
SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_FORMATS = "a safetensors file, a PyTorch file of tensors (.pth, .pt, .bin, .ckpt) or a diffusers folder"
_AGAIN = "Download or copy the file again and compare its size with the source."


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
    renames diffusers' UNet3DConditionModel to the authors' names. Pickles are read with ``weights_only``; large
    files stay on disk (mmap) until used.

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
    if not path.exists():
        raise CheckpointError(path, "no such file", _FORMATS, "Check the path, or put the file there.")
    metadata: dict[str, str] = {}
    if path.is_dir():
        files, metadata = _diffusers_files(path)
    else:
        files = [path]
    tensors: dict[str, Tensor] = {}
    step: int | None = None
    for file in files:
        part, found, part_step = _read_file(file)
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


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str], int | None]:
    if path.stat().st_size == 0:
        raise CheckpointError(path.name, "an empty file (0 bytes)", _FORMATS, _AGAIN)
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith(b"version https://git-lfs"):
        got = "a Git LFS pointer, not the file itself"
        raise CheckpointError(path.name, got, _FORMATS, "Run `git lfs pull` where it came from, or download the file.")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(path.name, "a web page saved under this name", _FORMATS, _AGAIN)
    if path.suffix == ".safetensors" or _looks_like_safetensors(head):
        return (*_read_safetensors(path, head), None)
    tensors, step = _read_pickle(path, head)
    return tensors, {}, step


def _looks_like_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**32


def _read_safetensors(path: Path, head: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        damaged = _looks_like_safetensors(head) or len(head) < 9
        got = (
            f"a truncated or damaged safetensors file ({error})" if damaged else "a file that is not safetensors inside"
        )
        raise CheckpointError(path.name, got, _FORMATS, _AGAIN) from error


def _read_pickle(path: Path, head: bytes) -> tuple[dict[str, Tensor], int | None]:
    is_zip = zipfile.is_zipfile(path)
    if head[:2] == b"PK" and not is_zip:
        raise CheckpointError(path.name, "a truncated PyTorch file", _FORMATS, _AGAIN)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        # torch's messages name the first global that it refused to import.
        if "global" in str(error).lower():
            raise CheckpointError(
                path.name,
                "a pickle with code or Python objects inside, which was not run",
                "files that hold tensors only",
                "Get a safetensors copy, or convert the file where you trust it.",
            ) from error
        raise CheckpointError(path.name, "a damaged or foreign pickle", _FORMATS, _AGAIN) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(path.name, f"an unreadable or truncated file ({error})", _FORMATS, _AGAIN) from error
    return _unwrap(path.name, content)


def _unwrap(name: str, content: Any) -> tuple[dict[str, Tensor], int | None]:
    step = None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        step = content.get("step")
        content = content["state_dict"]
    if isinstance(content, list) and content and all(isinstance(value, torch.Tensor) for value in content):
        content = {f"{UNNAMED}{number}": value for number, value in enumerate(content)}
    if not isinstance(content, Mapping):
        raise CheckpointError(name, f"a {type(content).__name__}", "a dictionary of tensors", _AGAIN)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(name, "a dictionary without tensors", "a dictionary of tensors", _AGAIN)
    return tensors, int(step) if isinstance(step, int | float) else None


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


def _diffusers_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files of a diffusers UNet folder (or of a pipeline with one in ``unet``), and its settings."""
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    indices = sorted(unet.glob("*.index.json"))
    if indices:
        names = set(json.loads(indices[0].read_text(encoding="utf-8"))["weight_map"].values())
        files = [unet / name for name in sorted(names)]
    else:
        stems = ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16")
        candidates = [unet / f"{stem}{suffix}" for suffix in (".safetensors", ".bin") for stem in stems]
        files = [file for file in candidates if file.exists()][:1]
    missing = [file.name for file in files if not file.exists()]
    if not files or missing:
        got = f"a folder without {missing[0]}" if missing else "a folder without diffusion_pytorch_model weights"
        raise CheckpointError(folder, got, _FORMATS, "Choose the file itself, or a folder that diffusers saved.")
    return files, _diffusers_metadata(unet)


def _diffusers_metadata(unet: Path) -> dict[str, str]:
    metadata = {}
    config = unet / "config.json"
    if config.exists():
        head_dim = json.loads(config.read_text(encoding="utf-8")).get("attention_head_dim")
        if isinstance(head_dim, int):
            metadata["videolcm.head_dim"] = str(head_dim)
    scheduler = unet.parent / "scheduler" / "scheduler_config.json"
    if scheduler.exists():
        names = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0"}
        settings = json.loads(scheduler.read_text(encoding="utf-8"))
        if settings.get("prediction_type") in names:
            metadata["videolcm.prediction"] = names[settings["prediction_type"]]
        if settings.get("beta_schedule") in ("scaled_linear", "linear"):
            metadata["videolcm.beta_schedule"] = settings["beta_schedule"]
        metadata["videolcm.zero_terminal_snr"] = str(bool(settings.get("rescale_betas_zero_snr"))).lower()
    return {**metadata, **_own_entries(unet.parent / "videolcm.json")}


def _own_entries(path: Path) -> dict[str, str]:
    """Metadata that an export of this project wrote beside a diffusers folder."""
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise CheckpointError(path, "no JSON object in it", "metadata as an export writes it", _AGAIN)
    return {str(key): str(value) for key, value in entries.items()}
