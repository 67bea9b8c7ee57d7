"""Averaged weights out of the running checkpoints that this package's own commands keep."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from videolcm_core.families.foreign import UNET_PREFIX

from ..engine.files import load_checkpoint, released_weights


def is_running_checkpoint(path: Path) -> bool:
    """Whether a file is ``{"step": ..., "task": ...}``, as the loop saves it."""
    if not path.is_file() or path.suffix not in (".pt", ".pth", ".ckpt"):
        return False
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        return False
    return isinstance(content, Mapping) and isinstance(content.get("task"), Mapping)


def running_state(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The weights that a run releases, as its recipe says.

    Returns:
        weights under the prefixes of an all-in-one file (a bare network's without), and whether it is a student.

    Raises:
        ValueError: the checkpoint is damaged, keeps no such weights, or those of a LoRA.
    """
    saved = load_checkpoint(path)
    student = "student" in saved["task"]
    try:
        found = released_weights(saved, path)
    except ValueError as error:
        raise ValueError(f"wrong teacher {path.name}: {error}") from error
    if any(".lora_" in key for key in found):
        raise ValueError(
            f"wrong teacher {path.name}: got a running checkpoint with the adapters of a LoRA; allowed: one with whole "
            "weights. Export the run and give the exported file."
        )
    if not any(key.startswith("unet.") for key in found):
        return dict(found), student
    prefixes = {"unet.": UNET_PREFIX, "text.": "cond_stage_model."}
    state = {
        prefix + key.removeprefix(own): value
        for own, prefix in prefixes.items()
        for key, value in found.items()
        if key.startswith(own)
    }
    return state, student
