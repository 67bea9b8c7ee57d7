"""LoRA files: a folder that ``peft`` reloads, and one file in kohya's names that the host's own Load LoRA reads."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from videolcm_core.files.writing import save_safetensors

from ..teachers import Teacher
from .lora import ADAPTER, LoraStudent, lora_layers

KOHYA_PREFIX: Final = "lora_unet_"
PEFT_PREFIX: Final = "base_model.model."


def lora_tensors(network: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Down and up matrix and scale of each adapted module, by the teacher's module name.

    Args:
        network: with adapters, such as the student's or its moving average.
        dtype: of the tensors.
    """
    return {
        name: (
            layer.lora_A[ADAPTER].weight.detach().to("cpu", dtype),
            layer.lora_B[ADAPTER].weight.detach().to("cpu", dtype),
            float(layer.scaling[ADAPTER]),
        )
        for name, layer in lora_layers(network)
    }


def export_lora_peft(
    folder: Path,
    student: LoraStudent,
    network: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
    teacher: Teacher | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``; ``PeftModel.from_pretrained`` reads them.

    Args:
        folder: made if it is missing.
        student: its options are written.
        network: a copy of its network, such as the moving average; None takes its own.
        dtype: of the tensors.
        teacher: whose name is written into the settings.
        metadata: of the tensors' file, such as `export.student_metadata`.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, (down, up, _) in lora_tensors(network or student.network, dtype).items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = down
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = up
    save_safetensors(tensors, folder / "adapter_model.safetensors", {"format": "pt", **(metadata or {})})
    config = copy.copy(student.config)
    config.base_model_name_or_path = None if teacher is None else teacher.file
    config.inference_mode = True
    config.save_pretrained(str(folder))
    return folder


def export_lora_kohya(
    path: Path,
    student: LoraStudent,
    network: nn.Module | None = None,
    dtype: torch.dtype = torch.float16,
    teacher: Teacher | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write one file in kohya's names: ``lora_unet_<module>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``.

    Args:
        path: ends in ".safetensors".
        student: its options are written.
        network: a copy of its network, such as the moving average; None takes its own.
        dtype: of the tensors; alpha is float32.
        teacher: whose name is written.
        metadata: further entries, such as `export.student_metadata`; without them the graph does not know how to
            sample what it loads.

    Returns:
        The path.
    """
    entries = {
        "ss_network_alpha": str(student.options.rank if student.options.alpha is None else student.options.alpha),
        **({} if teacher is None else {"ss_base_model_version": teacher.settings.family}),
        **(metadata or {}),
    }
    return save_kohya(path, lora_tensors(network or student.network, dtype), entries)


def save_kohya(
    path: Path, matrices: Mapping[str, tuple[Tensor, Tensor, float]], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write matrices in kohya's names, whole or not at all.

    Args:
        path: ends in ".safetensors".
        matrices: down, up and scale of each module, by its name.
        metadata: entries.

    Returns:
        The path.
    """
    tensors = {}
    for name, (down, up, scale) in matrices.items():
        module = KOHYA_PREFIX + name.replace(".", "_")
        tensors[f"{module}.lora_down.weight"], tensors[f"{module}.lora_up.weight"] = down, up
        tensors[f"{module}.alpha"] = torch.tensor(scale * len(down))
    rank = max(len(down) for down, _, _ in matrices.values())
    entries = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), **(metadata or {})}
    return save_safetensors(tensors, path, entries)
