"""Averaged weights out of the running checkpoints that this package's own commands keep."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from videolcm_core.families.foreign import UNET_PREFIX
from videolcm_core.families.vgen.defaults import MINI_FAMILY
from videolcm_core.files.entries import PREFIX

from ..engine.files import load_checkpoint, released_weights

RECIPE_ENTRIES: Final = ("original_steps", "timestep_scaling")
"""Metadata entries that a run's recipe decides."""


def is_running_checkpoint(path: Path) -> bool:
    """Whether a file is ``{"step": ..., "task": ...}``, as the loop saves it."""
    if not path.is_file() or path.suffix not in (".pt", ".pth", ".ckpt"):
        return False
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        return False
    return isinstance(content, Mapping) and isinstance(content.get("task"), Mapping)


def running_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights that a run releases, as its recipe says.

    Returns:
        weights under the prefixes of an all-in-one file (a bare network's without), and the metadata entries that the
        run knows: whether it is a student, and the grid and scaling of its recipe.

    Raises:
        ValueError: the checkpoint is damaged, keeps no such weights, or those of a LoRA.
    """
    saved = load_checkpoint(path)
    entries = {"family": MINI_FAMILY, "sampling": "lcm" if "student" in saved["task"] else "teacher"}
    recipe = saved.get("description", {})
    entries |= {name: str(recipe[name]) for name in RECIPE_ENTRIES if name in recipe}
    metadata = {PREFIX + name: text for name, text in entries.items()}
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
        return dict(found), metadata
    prefixes = {"unet.": UNET_PREFIX, "text.": "cond_stage_model."}
    state = {
        prefix + key.removeprefix(own): value
        for own, prefix in prefixes.items()
        for key, value in found.items()
        if key.startswith(own)
    }
    return state, metadata
