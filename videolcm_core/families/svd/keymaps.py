"""Names of the same weights in diffusers' UNetSpatioTemporalConditionModel and in Stability's checkpoints.

The spatial layers are Stable Diffusion 1.5's; each has layers along time beside it, which one calls ``time_stack``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..animatediff.keymaps import sd15_modules
from ..vgen.keymaps import rename

MARKER: Final = "add_embedding.linear_1.weight"
_SPATIAL, _TEMPORAL = "spatial_res_block.", "temporal_res_block."
_RESIDUAL: Final = re.compile(r"(?P<block>(?:(?:down|up)_blocks\.\d+|mid_block)\.resnets\.\d+)\.(?P<rest>.+)")
_FIRST: Final = (".in_layers.0", ".norm1")
_TOP: Final = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
_ATTENTION: Final = (
    (".temporal_transformer_blocks.", ".time_stack."),
    (".time_pos_embed.linear_1.", ".time_pos_embed.0."),
    (".time_pos_embed.linear_2.", ".time_pos_embed.2."),
)


def diffusers_to_svd(keys: Iterable[str]) -> dict[str, str]:
    """Map diffusers' keys of a Stable Video Diffusion UNet to Stability's, without ``model.diffusion_model.``.

    Keys of other networks are left out.
    """
    modules = {theirs: own for own, theirs in sd15_modules().items()} | _TOP
    blocks = {
        theirs.removesuffix(_FIRST[1]): own.removesuffix(_FIRST[0])
        for theirs, own in modules.items()
        if theirs.endswith(_FIRST[1]) and own.endswith(_FIRST[0])
    }
    renamed = {}
    for key in keys:
        found = _residual(key, modules, blocks) or rename([key], modules).get(key)
        if found is not None:
            for theirs, own in _ATTENTION:
                found = found.replace(theirs, own)
            renamed[key] = found
    return renamed


def _residual(key: str, modules: dict[str, str], blocks: dict[str, str]) -> str | None:
    """Name of a weight of a residual block: its spatial part, its part along time, or what mixes the two."""
    match = _RESIDUAL.fullmatch(key)
    if match is None or match["block"] not in blocks:
        return None
    own, rest = blocks[match["block"]], match["rest"]
    for part, inside in ((_SPATIAL, ""), (_TEMPORAL, "time_stack.")):
        if rest.startswith(part):
            plain = f"{match['block']}.{rest.removeprefix(part)}"
            name = rename([plain], modules).get(plain)
            return None if name is None else f"{own}.{inside}{name.removeprefix(f'{own}.')}"
    return f"{own}.{rest}"
