"""Latents of a corpus, encoded once: every clip and its mirror image, with the shard each one belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from videolcm_core.networks.autoencoder import TinyAutoencoder

from ..engine.caches import cached, fingerprint
from .corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class LatentClips:
    """Encoded clips.

    Attributes:
        latents: float16 ``[N, 4, F, h, w]``, about unit variance.
        labels: long ``[N]``, the shard of the corpus that each belongs to.
    """

    latents: Tensor
    labels: Tensor


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


def cached_latents(corpus: Corpus, model: Any, labels: Sequence[int]) -> LatentClips:
    """Latents of all clips of some shards and of their mirror images, from a cache beside the corpus if it fits.

    It fits where encoder and clips are the same, whatever the decoder.

    Args:
        corpus: the rendered clips.
        model: the autoencoder that encodes, a `TinyAutoencoder`.
        labels: numbers of the shards.
    """

    def make() -> dict[str, Tensor]:
        clips, shown = corpus.clips(labels)
        flipped = np.ascontiguousarray(clips[:, :, :, ::-1])
        both = torch.cat([encode_clips(model, clips), encode_clips(model, flipped)])
        return {"latents": both, "labels": torch.tensor(shown + [corpus.mirrored(label) for label in shown])}

    inputs = {"format": 2, "encoder": fingerprint(model.taesd_encoder), "shards": corpus.digests(labels)}
    return LatentClips(**cached(corpus.folder, "latents", inputs, make))
