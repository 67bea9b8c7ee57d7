"""Networks by file: what a cell samples with, whichever command of this package wrote it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open

from videolcm_core.checkpoints.detection import detect_unet_config
from videolcm_core.models.unet3d import UNet3D

from .. import mini


def file_hash(path: Path) -> str:
    """First digits of the SHA-256 of a file's content: its identity in caches and tables."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]


def load_model(path: Path, parts: Path | None, device: torch.device | str = "cpu") -> mini.AllInOne:
    """A network with text encoder and autoencoder, ready for sampling.

    Args:
        path: an all-in-one ``.safetensors`` file, or the running checkpoint (``.pt``) of a training command.
        parts: all-in-one file that gives what a checkpoint has not: text encoder and autoencoder.
        device: where to put it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, or lacks parts and ``parts`` is None.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give an all-in-one .safetensors file or a checkpoint (.pt).")
    loaded = _all_in_one(path) if path.suffix == ".safetensors" else _checkpoint(path, parts)
    for module in (loaded.unet, loaded.text, loaded.autoencoder):
        module.train(False).requires_grad_(False).to(device)
    return loaded


def _all_in_one(path: Path) -> mini.AllInOne:
    with safe_open(path, "pt") as file:
        prefixes = {key.split(".")[0] for key in file.keys()}
    if missing := {"model", "first_stage_model", "cond_stage_model"} - prefixes:
        raise ValueError(
            f"{path} has no {', '.join(sorted(missing))}; needed: a file of the videolcm-mini family with network, "
            "text encoder and autoencoder. Export it with its teacher's parts."
        )
    return mini.load_all_in_one(path)


def _checkpoint(path: Path, parts: Path | None) -> mini.AllInOne:
    """The averaged network of a running checkpoint of ``pretrain``, ``distill`` or ``compositional``."""
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = stored.get("task", stored).get("average")
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no checkpoint of a training command here: it has no averaged network.")
    if parts is None:
        raise ValueError(f"{path} has no autoencoder; give an all-in-one file with --parts.")
    whole = mini.load_all_in_one(parts)
    text = {k.removeprefix("text."): v for k, v in state.items() if k.startswith("text.")}
    unet = {k.removeprefix("unet."): v.float() for k, v in state.items() if not k.startswith("text.")}
    network = UNet3D(detect_unet_config(unet, {"videolcm.head_dim": str(mini.UNET.head_dim)}, path.name))
    network.load_state_dict(unet)
    encoder = whole.text
    if text:
        encoder = type(whole.text)(text["vocabulary"], mini.TEXT)
        encoder.load_state_dict(text)
    return mini.AllInOne(unet=network, text=encoder, autoencoder=whole.autoencoder)
