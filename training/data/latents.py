"""Latents of the corpus, encoded once: every clip and its mirror image, with the combination each one shows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from videolcm_core.networks.autoencoder import TinyAutoencoder

from ..engine.loop import save_atomically
from ..engine.processes import by_one_process
from ..mini import corpus, world

_MIRRORED = {"left": "right", "right": "left"}


@dataclass(frozen=True, kw_only=True)
class LatentClips:
    """Encoded clips.

    Attributes:
        latents: float16 ``[N, 4, F, h, w]``, about unit variance.
        labels: long ``[N]``, index into `world.combinations`.
    """

    latents: Tensor
    labels: Tensor


def mirrored(combination: world.Combination) -> world.Combination:
    """The combination that a horizontally flipped clip shows."""
    return replace(combination, motion=_MIRRORED.get(combination.motion, combination.motion))


def fingerprint(model: torch.nn.Module) -> str:
    """Hash of a model's weights: a cache made with other weights is not used."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def encode_clips(model: TinyAutoencoder, clips: np.ndarray, batch: int = 8) -> Tensor:
    """Encode clips.

    Args:
        model: the autoencoder.
        clips: ``uint8 [N, F, H, W, 3]``.
        batch: clips at a time.

    Returns:
        float16 ``[N, 4, F, H/8, W/8]``.
    """
    out = []
    for i in tqdm(range(0, len(clips), batch), desc="encode", unit="batch", mininterval=5.0):
        part = torch.from_numpy(clips[i : i + batch])
        pixels = part.flatten(0, 1).permute(0, 3, 1, 2).float().div(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(pixels).float()
        out.append(latents.unflatten(0, part.shape[:2]).transpose(1, 2).half())
    return torch.cat(out)


@torch.no_grad()
def decode_clips(model: TinyAutoencoder, latents: Tensor, batch: int = 8) -> Tensor:
    """Decode clips.

    Args:
        model: the autoencoder.
        latents: ``[N, 4, F, h, w]``.
        batch: clips at a time.

    Returns:
        uint8 ``[N, F, 8h, 8w, 3]``.
    """
    out = []
    for part in latents.split(batch):
        frames = part.transpose(1, 2).flatten(0, 1).float().contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            pixels = model.decode(frames).float()
        pixels = pixels.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        out.append(pixels.unflatten(0, (len(part), latents.shape[2])))
    return torch.cat(out)


def cached_latents(folder: Path, model: TinyAutoencoder, combinations: list[world.Combination]) -> LatentClips:
    """Latents of all clips of the combinations and of their mirror images, from a cache beside the corpus if it fits.

    It fits where the encoder is the same, whatever the decoder.

    Args:
        folder: the rendered corpus.
        model: the autoencoder that encodes.
        combinations: which clips.
    """
    names = ",".join(c.caption for c in combinations)
    key = hashlib.sha256(f"{fingerprint(model.taesd_encoder)}:{names}".encode()).hexdigest()[:16]
    path = folder / f"latents_{key}.pt"

    def make() -> None:
        if path.exists():
            return
        index = {c: i for i, c in enumerate(world.combinations())}
        clips, shown = corpus.load_corpus(folder, combinations)
        latents = torch.cat(
            [encode_clips(model, clips), encode_clips(model, np.ascontiguousarray(clips[:, :, :, ::-1]))]
        )
        labels = torch.tensor([index[c] for c in shown] + [index[mirrored(c)] for c in shown])
        save_atomically({"latents": latents, "labels": labels}, path)

    by_one_process(make)
    return LatentClips(**torch.load(path, weights_only=True))
