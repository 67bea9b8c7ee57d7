"""Stable Diffusion 1.5's UNet at any width, from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from ...files.errors import CheckpointError, name_some
from ...files.loading import check_weights
from ...networks.animatediff.unet import SD15Config, SD15UNet
from ..foreign import OWN_MARKER

_ALLOWED: Final = "Stable Diffusion 1.5's UNet, of any width"
_NEXT: Final = "Get the file again, or load it with the loader of its own family."
_STEM: Final = "input_blocks.0.0.weight"
_TEXT: Final = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
_OUT: Final = "out.2.weight"
_LEVELS: Final = tuple(f"input_blocks.{3 * level + 1}.0.out_layers.3.weight" for level in range(4))
_MOST: Final = 4096  # channels; a small file of many tiny tensors must not ask for a huge network


def is_sd15(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a UNet has the blocks of Stable Diffusion 1.5, of whatever width; keys as the host has them."""
    marks = (_STEM, _TEXT, _OUT, *_LEVELS, "input_blocks.8.1.proj_in.weight")
    other = ("label_emb.0.0.weight", "input_blocks.12.0.op.weight", "input_blocks.1.0.time_stack.in_layers.0.weight")
    return OWN_MARKER not in tensors and all(mark in tensors for mark in marks) and not any(m in tensors for m in other)


def text_width(tensors: Mapping[str, Tensor]) -> int:
    """Width of the text that a UNet takes."""
    return tensors[_TEXT].shape[-1]


def detect_sd15(tensors: Mapping[str, Tensor], file: str) -> SD15Config:
    """Widths of a UNet that `is_sd15`.

    Args:
        tensors: Of the UNet, without prefix.
        file: Its name, for messages.

    Raises:
        CheckpointError: If a weight is missing, of another shape or not finite.
    """
    for key in (_STEM, _TEXT, _OUT, *_LEVELS):
        shape = list(tensors[key].shape)
        if len(shape) != (2 if key == _TEXT else 4) or 0 in shape or max(shape) > _MOST:
            raise CheckpointError(file, f"{key} of shape {shape[:8]}", _ALLOWED, _NEXT)
    width = tensors[_STEM].shape[0]
    levels = [tensors[key].shape[0] for key in _LEVELS]
    if width % 32 or any(channels % width for channels in levels):
        got = f"levels of {name_some([str(channels) for channels in levels], 4)} channels"
        raise CheckpointError(file, got, "multiples of the first, which is a multiple of 32", _NEXT)
    config = SD15Config.from_weights(tensors)
    check_weights(tensors, SD15UNet(config, device=torch.device("meta")).state_dict(), file)
    return config
