"""CLIPSIM: 100 times the cosine between a CLIP's image and text embeddings, the mean over a clip's frames.

The CLIP is the user's: a folder as ``openai/clip-vit-base-patch16`` has it (MCM's choice), or an ``open_clip`` file of
ViT-H-14 (AnimateLCM's). Values of the two cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..data.tokens import tokenize

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SIDE = 224


@dataclass(frozen=True, kw_only=True)
class ClipModel:
    """The two halves of a CLIP.

    Attributes:
        images: ``[N, 3, 224, 224]``, normalised, to ``[N, D]``.
        texts: ids ``[N, 77]`` to ``[N, D]``.
        pad_zero: whether ids after the end are 0 (open_clip) or the end again (OpenAI).
    """

    images: Callable[[Tensor], Tensor]
    texts: Callable[[Tensor], Tensor]
    pad_zero: bool


def load_clip(path: Path) -> ClipModel:
    """Read a CLIP.

    Raises:
        ValueError: no such CLIP is there, or the package that reads it is missing.
    """
    if (path / "config.json").is_file():
        from transformers import CLIPModel

        model = CLIPModel.from_pretrained(path, local_files_only=True).train(False).requires_grad_(False)
        return ClipModel(
            images=lambda x: model.visual_projection(model.vision_model(pixel_values=x).pooler_output),
            texts=lambda x: model.text_projection(model.text_model(input_ids=x).pooler_output),
            pad_zero=False,
        )
    if not path.is_file():
        raise ValueError(
            f"{path} is no CLIP: needed a folder with config.json and weights, as openai/clip-vit-base-patch16 has "
            "them, or open_clip's file of ViT-H-14. Fetch one yourself, or leave clipsim out and use retrieval."
        )
    try:
        import open_clip
    except ImportError as error:
        raise ValueError(
            f"{path} is a file, which the package open-clip-torch reads; it is not installed. "
            "Install it, or give the folder of a CLIP in transformers' format."
        ) from error
    network = open_clip.create_model("ViT-H-14", pretrained=str(path)).train(False).requires_grad_(False)
    return ClipModel(images=network.encode_image, texts=network.encode_text, pad_zero=True)


def clip_images(frames: Tensor) -> Tensor:
    """Frames as CLIP takes them: shorter side to 224 (bicubic), the middle, its mean and spread.

    Args:
        frames: uint8 ``[N, H, W, 3]``.
    """
    x = frames.permute(0, 3, 1, 2).float() / 255
    scale = _SIDE / min(x.shape[2:])
    size = [max(_SIDE, round(side * scale)) for side in x.shape[2:]]
    x = functional.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = ((side - _SIDE) // 2 for side in size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
    return (x[:, :, top : top + _SIDE, left : left + _SIDE] - mean) / std


@torch.no_grad()
def similarity(model: ClipModel, clips: Tensor, captions: list[str]) -> Tensor:
    """CLIPSIM of clips.

    Args:
        model: from `load_clip`.
        clips: uint8 ``[N, F, H, W, 3]``.
        captions: one for each.

    Returns:
        ``[N]``, at most 100.
    """
    ids = tokenize(captions)
    if model.pad_zero:
        end = ids.argmax(1, keepdim=True)
        ids = ids.masked_fill(torch.arange(ids.shape[1]) > end, 0)
    texts = functional.normalize(model.texts(ids), dim=-1)
    frames = torch.cat([model.images(clip_images(clip)) for clip in clips])
    frames = functional.normalize(frames, dim=-1).unflatten(0, clips.shape[:2])
    return 100 * torch.einsum("nfd,nd->nf", frames, texts).mean(1)
