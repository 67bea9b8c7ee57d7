"""Names of the same weights in the authors' (VGen) networks and in diffusers' UNet3DConditionModel.

The map follows from the structure alone: both number the same layers in the same order. It was checked against
diffusers' own conversion script (``convert_ms_text_to_video_to_diffusers.py``), key by key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from torch import Tensor

MARKER: Final = "transformer_in.proj_in.weight"
"""A key that only diffusers' video UNet has."""

_TOP: Final = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "input_blocks.0.1": "transformer_in",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.temp_attentions.0",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESIDUAL: Final = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def is_diffusers(keys: Collection[str]) -> bool:
    """Whether keys are those of diffusers' UNet3DConditionModel."""
    return MARKER in keys


def vgen_to_diffusers(keys: Iterable[str]) -> dict[str, str]:
    """Map the authors' keys to diffusers'; keys without a counterpart (condition encoders) are left out.

    Args:
        keys: All keys of one network, or all that end in ".weight".
    """
    keys = list(keys)
    downs = [int(key.split(".")[1]) for key in keys if re.fullmatch(r"input_blocks\.\d+\.op\.weight", key)]
    blocks = 1 + max((int(key.split(".")[1]) for key in keys if key.startswith("input_blocks.")), default=0)
    per_level = min(downs, default=blocks)
    modules = _modules(len(downs) + 1, per_level, attention_levels=range(len(downs) + 1))
    # Without attention the upsampler is the second layer of its block, so both places are known.
    modules.update(_modules(len(downs) + 1, per_level, attention_levels=()))
    return rename(keys, modules)


def diffusers_to_vgen(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename diffusers' tensors to the authors' keys, and give kernel-1 convolutions their third dimension back.

    Unknown keys are kept as they are, so that a key check can name them.
    """
    levels = len({key.split(".")[1] for key in tensors if key.startswith("down_blocks.")})
    per_level = 1 + len({key.split(".")[3] for key in tensors if key.startswith("down_blocks.0.resnets.")})
    with_attention = [level for level in range(levels) if f"up_blocks.{level}.attentions.0.norm.weight" in tensors]
    modules = {theirs: own for own, theirs in _modules(levels, per_level, with_attention).items()}
    names = rename(tensors, modules)
    token_conv = re.compile(r"(transformer_in|temp_attentions\.\d+)\.proj_(in|out)\.weight$")
    return {
        names.get(key, key): value.unsqueeze(-1) if value.ndim == 2 and token_conv.search(key) else value
        for key, value in tensors.items()
    }


def _modules(levels: int, per_level: int, attention_levels: Iterable[int]) -> dict[str, str]:
    """Modules of the authors -> of diffusers.

    Args:
        levels: Number of resolutions.
        per_level: Numbered blocks of one: residual blocks and the downsampler.
        attention_levels: Levels going up that have attention.
    """
    modules = dict(_TOP)
    modules.update(_residual("middle_block.0", "mid_block", 0))
    modules.update(_residual("middle_block.3", "mid_block", 1))
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        for position in range(per_level - 1):
            modules.update(_block(f"input_blocks.{1 + level * per_level + position}", down, position))
        modules[f"input_blocks.{(level + 1) * per_level}.op"] = f"{down}.downsamplers.0.conv"
        for position in range(per_level):
            modules.update(_block(f"output_blocks.{level * per_level + position}", up, position))
        last = 3 if level in attention_levels else 1
        modules[f"output_blocks.{(level + 1) * per_level - 1}.{last}.conv"] = f"{up}.upsamplers.0.conv"
    return modules


def _block(own: str, theirs: str, position: int) -> dict[str, str]:
    return {
        **_residual(f"{own}.0", theirs, position),
        f"{own}.1": f"{theirs}.attentions.{position}",
        f"{own}.2": f"{theirs}.temp_attentions.{position}",
    }


def _residual(own: str, theirs: str, position: int) -> dict[str, str]:
    parts = {f"{own}.{part}": f"{theirs}.resnets.{position}.{other}" for part, other in RESIDUAL.items()}
    # The convolutions along time are a module of their own in diffusers.
    return {**parts, f"{own}.temopral_conv": f"{theirs}.temp_convs.{position}"}


def rename(keys: Iterable[str], modules: Mapping[str, str]) -> dict[str, str]:
    """Replace the longest known module name at the start of each key."""
    renamed = {}
    for key in keys:
        parts = key.split(".")
        for length in range(len(parts) - 1, 0, -1):
            other = modules.get(".".join(parts[:length]))
            if other is not None:
                renamed[key] = ".".join([other, *parts[length:]])
                break
    return renamed
