"""A teacher with a LoRA on it: what was learnt on top of a base is distilled as one network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from videolcm_core.families.vgen.lora import fit_lora
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.lora import read_lora
from videolcm_core.files.lora_weights import merge

from .teacher import Teacher

_ALLOWED: Final = "a LoRA of this teacher's network, in any layout that Load VideoLCM LoRA reads"


@torch.no_grad()
def with_lora(teacher: Teacher, path: Path | str) -> Teacher:
    """The teacher with a LoRA in its weights, at full strength.

    Args:
        teacher: whose network is changed.
        path: the LoRA's file.

    Returns:
        The teacher; its name says both files.

    Raises:
        ValueError: the file is no LoRA, or has layers that this network lacks or that are of another shape.
    """
    path = Path(path)
    lora, state = read_lora(path), teacher.network.state_dict()
    fit = fit_lora(lora, {key: value.shape for key, value in state.items()})
    if odd := [*fit.unknown, *fit.misshapen, *fit.text]:
        got = f"{len(odd)} layers that do not fit {teacher.file}, such as {odd[0]}"
        raise CheckpointError(path, got, _ALLOWED, "Give the LoRA that was made for this teacher.")
    if not fit.changes:
        raise CheckpointError(path, "no layer of a LoRA", _ALLOWED, "Give the LoRA that was made for this teacher.")
    for key, change in fit.changes.items():
        state[key].copy_(merge(state[key].float(), *change))
    for key, difference in fit.biases.items():
        state[key].add_(difference.to(state[key]))
    for key, value in fit.values.items():
        state[key].copy_(value)
    return replace(teacher, file=f"{teacher.file} + {path.name}")
