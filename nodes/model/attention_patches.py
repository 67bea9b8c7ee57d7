"""Patches that a graph puts into the attention of a UNet, on the blocks of our spatial transformers.

Patch functions see what they see in the host's own image UNets: frames are the batch. Transformers over frames are left
alone, as no patch is written for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ...videolcm_core.networks.layers import repeat_to
from ...videolcm_core.networks.vgen.attention import BasicTransformerBlock, CrossAttention

PATCHES: Final = frozenset({"attn1_patch", "attn1_output_patch", "middle_patch", "attn2_patch", "attn2_output_patch"})
REPLACEMENTS: Final = frozenset({"attn1", "attn2"})


@dataclass(frozen=True)
class CallHooks:
    """What a graph attached to one call of the network.

    Attributes:
        options: The host's ``transformer_options``; ``block`` and ``transformer_index`` are kept up to date in it.
        control: Residuals of a ControlNet.
        latent: The network's input ``[B*F, C, h, w]``.
        timesteps: As given.
    """

    options: dict[str, Any]
    control: Any
    latent: Tensor
    timesteps: Tensor

    @property
    def patches(self) -> Mapping[str, list[Any]]:
        """Lists of functions by the name of their place."""
        return self.options.get("patches", {})

    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.patches or any(self.options.get("patches_replace", {}).values()) or self.control is not None)

    def spatial_block(
        self, block: BasicTransformerBlock, tokens: Tensor, context: Tensor, index: int, shape: tuple[int, ...]
    ) -> Tensor:
        """One block with the patches for its place; arguments as in the core's `Hooks`."""
        options = self.options
        options["activations_shape"], options["block_index"] = list(shape), index
        out = self._patched(block, tokens, context, index)
        options["transformer_index"] = options.get("transformer_index", 0) + 1
        return out

    def _patched(self, block: BasicTransformerBlock, tokens: Tensor, context: Tensor, index: int) -> Tensor:
        patches, replace = self.patches, self.options.get("patches_replace", {})
        if not (PATCHES & patches.keys() or any(replace.get(name) for name in REPLACEMENTS)):
            return block(tokens, context)
        extra = {key: value for key, value in self.options.items() if key not in ("patches", "patches_replace")}
        heads, head_dim = block.attn1.heads, block.attn1.to_q.out_features // block.attn1.heads
        extra |= {"n_heads": heads, "dim_head": head_dim, "attn_precision": torch.float32}
        n = block.norm1(tokens)
        n = _attend(block.attn1, n, None, patches.get("attn1_patch", ()), self._own(replace, "attn1", index), extra)
        tokens = _after(patches, "attn1_output_patch", n, extra) + tokens
        tokens = _after(patches, "middle_patch", tokens, extra)
        n = block.norm2(tokens)
        n = _attend(block.attn2, n, context, patches.get("attn2_patch", ()), self._own(replace, "attn2", index), extra)
        tokens = _after(patches, "attn2_output_patch", n, extra) + tokens
        return block.ff(block.norm3(tokens)) + tokens

    def _own(self, replace: Mapping[str, Mapping], name: str, index: int) -> Any:
        """The replacement for this very block of the transformer, else for all blocks at this place."""
        place, found = self.options.get("block"), replace.get(name, {})
        if place is None:
            return None
        return found.get((*place, index), found.get(tuple(place)))


def _attend(
    layer: CrossAttention, n: Tensor, context: Tensor | None, patches: Any, replacement: Any, extra: dict[str, Any]
) -> Tensor:
    """Attention of ``n`` to the context (None: to itself), with functions before it or in its place."""
    if not patches and replacement is None:
        return layer(n, context)
    context = n if context is None else repeat_to(context, len(n))
    value = context
    for patch in patches:
        n, context, value = patch(n, context, value, extra)
    q, k, v = layer.to_q(n), layer.to_k(context), layer.to_v(value)
    if replacement is not None:
        return layer.to_out(replacement(q, k, v, extra))
    # A patch may cut the queries into more, shorter rows (HyperTile): the keys are then cut in memory order.
    k, v = (rows.reshape(len(q), -1, rows.shape[-1]) for rows in (k, v))
    return layer.to_out(layer.attention(q, k, v, layer.heads))


def _after(patches: Mapping[str, list[Any]], name: str, n: Tensor, extra: dict[str, Any]) -> Tensor:
    for patch in patches.get(name, ()):
        n = patch(n, extra)
    return n
