"""Latents of a corpus, encoded once: every clip and its mirror image, with the shard each one belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from videolcm_core.networks.autoencoder import TinyAutoencoder

from ..engine.caches import cached, fingerprint
from .corpus import Corpus
from .mapped import Joined

PART_BYTES: Final = 1 << 29
"""Pixels that are encoded between two saved parts: the whole corpus of 64 x 64, a minute or two of a larger one."""


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
def encode_clips(
    model: TinyAutoencoder, clips: np.ndarray | Joined, batch: int = 8, *, mirrored: bool = False
) -> Tensor:
    """Encode clips.

    Args:
        model: the autoencoder.
        clips: ``uint8 [N, F, H, W, 3]``.
        batch: clips at a time.
        mirrored: whether to encode their mirror images.

    Returns:
        float16 ``[N, 4, F, H/8, W/8]``.
    """
    out = []
    for i in tqdm(range(0, len(clips), batch), desc="encode", unit="batch", mininterval=5.0):
        pixels_of = clips[i : i + batch]
        part = torch.from_numpy(np.ascontiguousarray(pixels_of[:, :, :, ::-1]) if mirrored else np.array(pixels_of))
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

    It fits where encoder and clips are the same, whatever the decoder. A corpus of more than `PART_BYTES` is encoded in
    parts, each kept when it is done, so that an interruption costs one part.

    Args:
        corpus: the rendered clips.
        model: the autoencoder that encodes, a `TinyAutoencoder`.
        labels: numbers of the shards.
    """
    encoder = fingerprint(model.taesd_encoder)
    parts = [_cached_part(corpus, model, encoder, part) for part in _parts(corpus, labels)]
    shown = [p["labels"] for p in parts]
    halves = [p["latents"].chunk(2) for p in parts]  # clips, then their mirror images
    sides = [torch.cat([half[side] for half in halves]) for side in (0, 1)]
    told = [torch.cat([label.chunk(2)[side] for label in shown]) for side in (0, 1)]
    return LatentClips(latents=torch.cat(sides), labels=torch.cat(told))


def _parts(corpus: Corpus, labels: Sequence[int]) -> list[list[int]]:
    """The shards in groups of at most `PART_BYTES` of pixels, at least one shard each."""
    clip = corpus.frames * corpus.width * corpus.height * 3
    parts: list[list[int]] = [[]]
    size = 0
    for label in labels:
        more = clip * corpus.shards[label].clips
        if parts[-1] and size + more > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(label)
        size += more
    return parts


def _cached_part(corpus: Corpus, model: Any, encoder: str, labels: Sequence[int]) -> dict[str, Tensor]:
    def make() -> dict[str, Tensor]:
        clips, shown = corpus.mapped(labels)
        both = torch.cat([encode_clips(model, clips), encode_clips(model, clips, mirrored=True)])
        return {"latents": both, "labels": torch.tensor(shown + [corpus.mirrored(label) for label in shown])}

    inputs = {"format": 2, "encoder": encoder, "shards": corpus.digests(labels)}
    return cached(corpus.folder, "latents", inputs, make)
