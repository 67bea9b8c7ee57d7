"""Averaged weights out of the running checkpoints that this package's own commands keep."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videolcm_core.families.foreign import UNET_PREFIX

_RELEASED = ("average", "student")


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
    """The weights that a run releases: its average, or a student's own where its recipe keeps none.

    Returns:
        weights under the prefixes of an all-in-one file (a bare network's without), and whether it is a student.

    Raises:
        ValueError: the checkpoint keeps no such weights, or those of a LoRA.
    """
    task: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["task"]
    student = "student" in task
    found = next((task[name] for name in _RELEASED if isinstance(task.get(name), Mapping)), None)
    if found is None or any(".lora_" in key for key in found):
        got = ", ".join(sorted(map(str, task))) if found is None else "the adapters of a LoRA"
        raise ValueError(
            f"wrong teacher {path.name}: got a running checkpoint with {got}; allowed: one with "
            f"{' or '.join(_RELEASED)} whole. Export the run and give the exported file."
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
