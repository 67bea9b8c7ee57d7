"""Recognising files of other model families by their keys, to say what was loaded by mistake."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from torch import Tensor

if TYPE_CHECKING:
    from ..files.lora import LoraFile

UNET_PREFIX: Final = "model.diffusion_model."
OWN_MARKER: Final = "input_blocks.0.1.transformer_blocks.0.attn1.to_q.weight"
"""The first temporal transformer: no image model has one there."""

Tensors = Mapping[str, Tensor]
_CROSS = (
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
)


def _has(*parts: str) -> Callable[[Tensors], bool]:
    """Whether for every part there is a key that contains it."""
    return lambda tensors: all(any(part in key for key in tensors) for part in parts)


def _cross_width(width: int) -> Callable[[Tensors], bool]:
    """Whether the first cross-attention takes text of this width."""
    return lambda tensors: any(key in tensors and tensors[key].shape[-1:] == (width,) for key in _CROSS)


_FAMILIES: Final[tuple[tuple[str, Callable[[Tensors], bool]], ...]] = (
    ("a LoRA, not a whole model", _has(".lora_A.")),
    ("a LoRA, not a whole model", _has("lora_up.weight")),
    ("a LoRA, not a whole model", _has("lora.down.weight")),
    ("a list of tensors without names, such as a LoRA, not a whole model", _has("unnamed.0")),
    ("a ControlNet", _has("controlnet_cond_embedding.")),
    ("a ControlNet", _has("controlnet_down_blocks.")),
    ("a ControlNet", _has("input_hint_block.")),
    ("an AnimateDiff or AnimateLCM motion module", _has("motion_modules.")),
    ("Stable Video Diffusion", _has("time_stack.")),
    ("Wan", _has("blocks.0.cross_attn.", "head.modulation")),
    ("Wan (diffusers)", _has("blocks.0.attn2.", "condition_embedder.time_proj")),
    ("HunyuanVideo", _has("double_blocks.0.", "txt_in.individual_token_refiner")),
    ("Flux", _has("double_blocks.0.", "single_blocks.0.")),
    ("Stable Diffusion 3", _has("joint_blocks.0.")),
    ("LTX-Video", _has("transformer_blocks.0.scale_shift_table", "patchify_proj")),
    ("CogVideoX", _has("transformer_blocks.0.norm1.linear", "patch_embed.text_proj")),
    ("Stable Diffusion XL", _has("label_emb.0.0.weight")),
    ("Stable Diffusion XL", _has("conditioner.embedders.1.")),
    ("Stable Diffusion XL (diffusers)", _has("add_embedding.linear_1.weight")),
    ("Stable Diffusion 1.x", _cross_width(768)),
    ("Stable Diffusion 2.x", _cross_width(1024)),
    ("a UNet of images", _has("input_blocks.1.0.in_layers.0.weight")),
    ("a UNet of images (diffusers)", _has("down_blocks.0.resnets.0.conv1.weight")),
    ("a text encoder", _has("text_model.encoder.layers.0.")),
    ("a text encoder", _has("transformer.resblocks.0.")),
    ("an autoencoder", _has("decoder.conv_in.weight", "encoder.conv_in.weight")),
    ("an autoencoder", _has("taesd_decoder.")),
)


def without_prefix(tensors: Tensors) -> Tensors:
    """The UNet of an all-in-one file, else everything."""
    inside = {key[len(UNET_PREFIX) :]: value for key, value in tensors.items() if key.startswith(UNET_PREFIX)}
    return inside or tensors


def foreign_family(tensors: Tensors) -> str | None:
    """Name of the other family that a state dict belongs to.

    Args:
        tensors: All tensors of a file, with or without the prefixes of all-in-one files.

    Returns:
        Its name; None for the VGen family and for what is not recognised.
    """
    unet = without_prefix(tensors)
    if OWN_MARKER in unet:
        return None
    both = {**tensors, **unet}
    return next((name for name, matches in _FAMILIES if matches(both)), None)


_LORA_BASES: Final = (
    ("AnimateDiff", "motion_modules"),
    ("Flux", "single_transformer_blocks"),
    ("Flux", "double_blocks"),
    ("Stable Diffusion 3", "joint_blocks"),
    ("Wan", "cross_attn"),
    ("ModelScope", "temp_attentions"),
    ("ModelScope", "temopral_conv"),
    ("ModelScope", "transformer_in"),
)
_OF_MCM: Final = (("discriminator", ".cmapper."), ("motion head", "layers.0.0.weight"))
"""What lies beside a LoRA in a checkpoint of MCM's trainer."""
_TEXT_WIDTHS: Final = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


def lora_base(lora: LoraFile) -> str:
    """A sentence about what a LoRA was trained for, as far as its settings, names and shapes tell."""
    said = lora.config.base if lora.config else ""
    for key in ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name", "videolcm.base"):
        said = said or lora.metadata.get(key, "")[:100]
    if said:
        return f"It says that it was trained for {said}"
    for name, part in _OF_MCM if not lora.layers else ():
        if any(part in key for key in lora.rest):
            return f"It is MCM's {name}, which only its training uses; the LoRA beside it is adapter_model.safetensors"
    for name, part in _LORA_BASES:
        if any(part in key for key in lora.layers):
            return f"By its names it was trained for {name}"
    for key, layer in lora.layers.items():
        width = layer.down.flatten(1).shape[1]
        if re.search(r"attn2[._](?:processor[._])?to_k$", key) and width in _TEXT_WIDTHS:
            return f"By the width of its text it was trained for {_TEXT_WIDTHS[width]}"
    return "Nothing in it tells what it was trained for"
