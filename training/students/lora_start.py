"""Where a LoRA student begins: at another LoRA of the same rank and layers, in place of no effect."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from videolcm_core.families.vgen.lora import fit_lora
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.lora import read_lora

from .lora import ADAPTER, LoraStudent, lora_layers

_NEXT: Final = "Give that rank (--lora), or leave --lora-start out."


@torch.no_grad()
def start_at(student: LoraStudent, path: Path | str) -> None:
    """Fill a student's matrices from a file.

    Args:
        student: without training steps.
        path: a LoRA of its network: kohya's file, or the ``adapter_model.safetensors`` of a peft folder or the folder.

    Raises:
        ValueError: the file is no LoRA, of other layers, of another rank, or has more than matrices (DoRA, biases).
    """
    path = Path(path)
    path = path / "adapter_model.safetensors" if path.is_dir() else path
    lora, layers = read_lora(path), dict(lora_layers(student.network))
    shapes = {f"{name}.weight": tuple(layer.weight.shape) for name, layer in layers.items()}
    rank = student.options.rank
    allowed = f"a LoRA of rank {rank} on the {len(layers)} layers that train"
    fit = fit_lora(lora, shapes)
    odd = [*fit.unknown, *fit.misshapen, *fit.text, *fit.biases, *fit.values]
    odd += sorted(shapes.keys() - fit.changes.keys())
    odd += [key for key, change in fit.changes.items() if change.magnitude is not None]
    if odd:
        raise CheckpointError(
            path, f"{len(odd)} layers that are missing, others or more, such as {odd[0]}", allowed, _NEXT
        )
    for name, layer in layers.items():
        up, down, scale, _ = fit.changes[f"{name}.weight"]
        own_down, own_up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        if len(down) != len(own_down):
            raise CheckpointError(path, f"rank {len(down)} in {name}", allowed, _NEXT)
        own_down.copy_(down.reshape(own_down.shape))
        own_up.copy_((up.float() * (scale / layer.scaling[ADAPTER])).reshape(own_up.shape))
