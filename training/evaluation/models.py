"""Networks by file: what a cell samples with, whichever command of this package wrote it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from videolcm_core.families.vgen.detection import detect_unet_config
from videolcm_core.networks.text_encoder import TextEncoder
from videolcm_core.networks.vgen.unet3d import UNet3D

from ..mini import family as mini


def file_hash(path: Path) -> str:
    """First digits of the SHA-256 of a file's content: its identity in caches and tables."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]


def load_model(path: Path, parts: Sequence[Path] = (), device: torch.device | str = "cpu") -> mini.AllInOne:
    """A network with text encoder and autoencoder, ready for sampling.

    Args:
        path: an all-in-one ``.safetensors`` file, or the running checkpoint (``.pt``) of a training command.
        parts: files of either kind that give what a checkpoint has not; text encoder and autoencoder come from the
            first that has one. A student's text encoder is its teacher's.
        device: where to put it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, or a part is nowhere.
    """
    found: dict[str, nn.Module] = {}
    for file in (path, *parts):
        if set(found) >= {"unet", "text", "autoencoder"}:
            break
        if not file.exists():
            raise FileNotFoundError(
                f"{file} does not exist; give an all-in-one .safetensors file or a checkpoint (.pt)."
            )
        read = _all_in_one(file) if file.suffix == ".safetensors" else _checkpoint(file, found.get("text") is None)
        found = read | found
    if missing := {"text", "autoencoder"} - set(found):
        raise ValueError(
            f"{path} has no {' and no '.join(sorted(missing))}; name files that have with --parts: a student's teacher "
            "(its text encoder), an all-in-one file (its autoencoder)."
        )
    for module in found.values():
        module.train(False).requires_grad_(False).to(device)
    return mini.AllInOne(**found)  # type: ignore[arg-type]


def _all_in_one(path: Path) -> dict[str, nn.Module]:
    with safe_open(path, "pt") as file:
        prefixes = {key.split(".")[0] for key in file.keys()}
    if missing := {"model", "first_stage_model", "cond_stage_model"} - prefixes:
        raise ValueError(
            f"{path} has no {', '.join(sorted(missing))}; needed: a file of the videolcm-mini family with network, "
            "text encoder and autoencoder. Export it with its teacher's parts."
        )
    return dict(vars(mini.load_all_in_one(path)))


def _checkpoint(path: Path, with_text: bool) -> dict[str, nn.Module]:
    """What a running checkpoint has: the averaged network (the student's own where no average is kept), maybe text."""
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    task = stored.get("task", stored)
    state = task.get("average", task.get("student"))
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no checkpoint of a training command here: it has no averaged network.")
    unet = {k.removeprefix("unet."): v.float() for k, v in state.items() if not k.startswith("text.")}
    network = UNet3D(detect_unet_config(unet, {"videolcm.head_dim": str(mini.UNET.head_dim)}, path.name))
    network.load_state_dict(unet)
    text = {k.removeprefix("text."): v for k, v in state.items() if k.startswith("text.")}
    if not text or not with_text:
        return {"unet": network}
    encoder = TextEncoder(text["vocabulary"], mini.TEXT)
    encoder.load_state_dict(text)
    return {"unet": network, "text": encoder}
