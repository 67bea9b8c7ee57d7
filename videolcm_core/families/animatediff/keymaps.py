"""Names of the same weights: motion modules of AnimateDiff's authors and of diffusers, Stable Diffusion 1.5 of both.

The maps of motion modules are those of diffusers' ``convert_animatediff_motion_module_to_diffusers.py``, the map of
Stable Diffusion follows from the structure: both number the same layers in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from torch import Tensor

from ...networks.animatediff.positions import positional_encoding
from ..vgen.keymaps import RESIDUAL, rename

MODULE: Final = re.compile(
    r"(?P<module>(?:(?:down|up)_blocks\.\d{1,4}|mid_block)\.motion_modules\.\d{1,4})\.(?P<rest>.+)"
)
"""A key of a motion module, of either layout."""
AUTHORS: Final = "temporal_transformer."
"""Every key of a module begins so in the authors' layout, and none in diffusers'."""
DIFFUSERS_POSITIONS: Final = 32
"""Length of the tables in the adapters that were published for diffusers."""

_TABLE: Final = "pos_embed.pe"
_PARTS: Final = {
    "attn1": "attention_blocks.0",
    "attn2": "attention_blocks.1",
    "norm1": "norms.0",
    "norm2": "norms.1",
    "norm3": "ff_norm",
}
_BACK: Final = {own: theirs for theirs, own in _PARTS.items()}
_TOP: Final = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_LEVELS: Final = 4
_WITH_ATTENTION: Final = 3
"""Levels, from the widest picture, that have attention."""


def motion_name(key: str) -> str:
    """The authors' name of a key of diffusers' MotionAdapter; other keys as they are.

    Tables of positions, of which diffusers has one for two attentions, have no name of their own here: see
    `motion_from_diffusers`.
    """
    match = MODULE.fullmatch(key)
    if match is None or match["rest"].startswith(AUTHORS):
        return key
    return f"{match['module']}.{AUTHORS}{_replace(match['rest'], _PARTS)}"


def diffusers_motion_name(key: str) -> str:
    """The other way round."""
    match = MODULE.fullmatch(key)
    if match is None or not match["rest"].startswith(AUTHORS):
        return key
    return f"{match['module']}.{_replace(match['rest'].removeprefix(AUTHORS), _BACK)}"


def motion_from_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename diffusers' motion modules to the authors' keys; each attention gets its table of positions."""
    renamed = {}
    for key, value in tensors.items():
        if key.endswith(_TABLE):
            block = motion_name(key).removesuffix(_TABLE)
            renamed.update({f"{block}attention_blocks.{index}.pos_encoder.pe": value for index in (0, 1)})
        else:
            renamed[motion_name(key)] = value
    return renamed


def motion_to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' motion modules to diffusers' keys, as its MotionAdapter loads them.

    Every block gets the table of positions that diffusers demands: the file's, else `DIFFUSERS_POSITIONS` computed.
    Keys that are of no motion module (AnimateLCM's image encoder) stay as they are; diffusers has no place for them.

    Raises:
        ValueError: If the two attentions of a block have different tables, which diffusers cannot hold.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        block, _, rest = key.partition("attention_blocks.")
        if rest.endswith("pos_encoder.pe"):
            name = f"{diffusers_motion_name(block)}{_TABLE}"
            if name in renamed and not renamed[name].equal(value):
                raise ValueError(f"two tables of positions in {block.rstrip('.')}; diffusers allows one.")
            renamed[name] = value
        else:
            renamed[diffusers_motion_name(key)] = value
    for key, value in weights.items():
        name = diffusers_motion_name(key)
        if name.endswith(".norm1.weight") and MODULE.fullmatch(name):
            table = f"{name.removesuffix('norm1.weight')}{_TABLE}"
            if table not in renamed:
                positions = positional_encoding(DIFFUSERS_POSITIONS, len(value), value.device)
                renamed[table] = positions.to(value.dtype)[None]
    return renamed


def sd15_to_diffusers(keys: Iterable[str]) -> dict[str, str]:
    """Map LDM's keys of Stable Diffusion 1.5's UNet, of any width, to diffusers'.

    Args:
        keys: Without ``model.diffusion_model.``; those of other networks are left out.
    """
    return rename(keys, sd15_modules())


def sd15_modules() -> dict[str, str]:
    """Modules of LDM -> of diffusers."""
    modules = dict(_TOP)
    modules.update(_residual("middle_block.0", "mid_block", 0))
    modules.update(_residual("middle_block.2", "mid_block", 1))
    for level in range(_LEVELS):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        for position in range(2):
            modules.update(_block(f"input_blocks.{3 * level + 1 + position}", down, position))
        for position in range(3):
            modules.update(_block(f"output_blocks.{3 * level + position}", up, position))
        modules[f"input_blocks.{3 * level + 3}.0.op"] = f"{down}.downsamplers.0.conv"
        # Going up the levels are in reversed order, and the lowest has no attention before its upsampler.
        last = 2 if level > _LEVELS - 1 - _WITH_ATTENTION else 1
        modules[f"output_blocks.{3 * level + 2}.{last}.conv"] = f"{up}.upsamplers.0.conv"
    return modules


def _block(own: str, theirs: str, position: int) -> dict[str, str]:
    return {**_residual(f"{own}.0", theirs, position), f"{own}.1": f"{theirs}.attentions.{position}"}


def _residual(own: str, theirs: str, position: int) -> dict[str, str]:
    return {f"{own}.{part}": f"{theirs}.resnets.{position}.{other}" for part, other in RESIDUAL.items()}


def _replace(rest: str, names: Mapping[str, str]) -> str:
    """Replace the module's name after ``transformer_blocks.N.``."""
    match = re.fullmatch(r"(transformer_blocks\.\d+\.)(.+)", rest)
    if match is None:
        return rest
    for name, other in names.items():
        if match[2].startswith(f"{name}."):
            return f"{match[1]}{other}{match[2][len(name) :]}"
    return rest
