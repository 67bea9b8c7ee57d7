"""What a fine-tuned network learnt, as a LoRA.

``python -m training.students.extract --base A --tuned B --rank 16 --out LORA``. The difference of each weight matrix is
cut to its largest singular values (as kohya's ``extract_lora``); biases and norms keep the base's values. ``--merged
FILE`` writes the tuned file once more with the base's weights and the LoRA: what the LoRA gives in the graph.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videolcm_core.families.foreign import UNET_PREFIX
from videolcm_core.files.reading import load_state_dict
from videolcm_core.files.settings import to_metadata
from videolcm_core.files.writing import save_safetensors

from ..engine.commands import run_command
from ..teachers import Teacher, load_teacher
from .lora_files import save_kohya

Matrices = dict[str, tuple[Tensor, Tensor, float]]


def extract(base: nn.Module, tuned: nn.Module, rank: int) -> Matrices:
    """Down and up matrix and scale 1 of each layer whose weights differ.

    Args:
        base: a network.
        tuned: one of the same layers.
        rank: of the matrices; a layer with fewer rows or columns has as many as it has.

    Raises:
        ValueError: the networks differ in layers, or in nothing.
    """
    one, other = base.state_dict(), tuned.state_dict()
    if shapes(one) != shapes(other):
        odd = sorted(set(shapes(one).items()) ^ set(shapes(other).items()))
        raise ValueError(f"the networks have other layers, such as {odd[0][0]}; allowed: two of one layout.")
    found: Matrices = {}
    for name, module in base.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        difference = other[f"{name}.weight"].float() - one[f"{name}.weight"].float()
        if not difference.any():
            continue
        u, values, v = torch.linalg.svd(difference.flatten(1), full_matrices=False)
        kept = min(rank, len(values))
        root = values[:kept].sqrt()
        down, up = root[:, None] * v[:kept], u[:, :kept] * root
        kernel = difference.ndim - 2
        found[name] = down.view(kept, *difference.shape[1:]), up.view(*up.shape, *[1] * kernel), 1.0
    if not found:
        raise ValueError("the networks are equal; allowed: a base and what was made of it. Are the two files mixed up?")
    return found


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape by name."""
    return {name: tuple(value.shape) for name, value in state.items()}


def share(base: nn.Module, tuned: nn.Module, matrices: Matrices) -> float:
    """How much of the squared difference of all weights, biases and norms too, the matrices hold, 0 to 1."""
    one, other = base.state_dict(), tuned.state_dict()
    whole = sum(float((other[n].float() - one[n].float()).square().sum()) for n in one)
    return sum(float((up.flatten(1) @ down.flatten(1)).square().sum()) for down, up, _ in matrices.values()) / whole


def write_merged(path: Path, tuned: Path, base: Teacher, matrices: Matrices) -> Path:
    """The tuned file with the base's network and the matrices added."""
    tensors, metadata, _ = load_state_dict(tuned)
    prefix = UNET_PREFIX if any(key.startswith(UNET_PREFIX) for key in tensors) else ""
    state = {name: value.float() for name, value in base.network.state_dict().items()}
    for name, (down, up, _) in matrices.items():
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = weight + (up.flatten(1) @ down.flatten(1)).view_as(weight)
    merged: dict[str, Any] = {prefix + name: value.to(tensors[prefix + name].dtype) for name, value in state.items()}
    return save_safetensors(tensors | merged, path, metadata)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", type=Path, required=True, help="the model before, any file that teachers are read from"
    )
    parser.add_argument("--tuned", type=Path, required=True, help="the model after")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True, help=".safetensors, for Load VideoLCM LoRA")
    parser.add_argument(
        "--merged", type=Path, help=".safetensors of base and LoRA, with all else that the tuned file has"
    )
    options = parser.parse_args(arguments)
    if options.rank < 1:
        raise ValueError(f"--rank is {options.rank}; allowed: 1 or more.")
    base, tuned = load_teacher(options.base), load_teacher(options.tuned)
    matrices = extract(base.network, tuned.network, options.rank)
    held = share(base.network, tuned.network, matrices)
    halves = {name: (down.half(), up.half(), scale) for name, (down, up, scale) in matrices.items()}
    print(
        save_kohya(options.out, halves, {"ss_base_model_version": base.settings.family} | to_metadata(tuned.settings))
    )
    print(f"{held:.0%} of the squared difference is in it, {options.out.stat().st_size / 1e6:.1f} MB")
    if options.merged is not None:
        kept = {name: (down.float(), up.float(), scale) for name, (down, up, scale) in halves.items()}
        print(write_merged(options.merged, options.tuned, base, kept))


if __name__ == "__main__":
    run_command(main)
