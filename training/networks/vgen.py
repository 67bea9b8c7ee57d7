"""The UNet of VGen's family as methods call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from videolcm_core.networks.vgen.attention import TemporalTransformer
from videolcm_core.networks.vgen.conditions import CONDITION_CHANNELS, module_names
from videolcm_core.networks.vgen.unet3d import TemporalConvBlock, UNet3D

from .network import ADAPTER, CONDITION, EMBEDDING, SPATIAL, TEMPORAL, Cond, Network

Conditions = Mapping[str, tuple[Tensor, Tensor]]
"""Of each condition the samples that have it, long ``[b]``, and its pixels ``[b, c, F, H, W]``."""

KNOWN: Final = frozenset({"text", "control", "temporal"})
CPU_POSITIONS: Final = 8192
"""Latent positions (samples x frames x height x width) that a processor computes at a time without gradient.

Eight clips of the embedded family. 16 at once, a batch with and without prompt, took 6 to 15 % longer; 4 at once, 6 to
10 %.
"""
# Modules outside the blocks, by the condition they encode. `fps` is never fed: the authors' code ignores it.
_TOKENS: Final = {
    "pre_image_condition.": "image",
    "hist_context_embedding.": "histogram",
    "fps_embedding.": "fps",
}
_BLOCKS: Final = ("input_blocks.", "middle_block.", "output_blocks.", "out.")


@dataclass(frozen=True, kw_only=True)
class Control:
    """Pixel conditions of a batch.

    Attributes:
        pixels: of each condition.
        count: samples of the batch; each further ``count`` (prompt and negative prompt in one call) have the same.
    """

    pixels: Conditions
    count: int


def encode_conditions(unet: nn.Module, drawn: Conditions, x: Tensor) -> Tensor:
    """Sum of the encoded conditions; a sample without a condition gets zeros, as the authors' dropout gives.

    Args:
        unet: with the encoders.
        drawn: the conditions of a batch.
        x: latents ``[B, C, F, h, w]``, for the shape.

    Returns:
        ``[B, 8, F, h, w]``.
    """
    batch, _, frames, *size = x.shape
    total = torch.zeros(batch, unet.config.concat_channels, frames, *size, device=x.device)  # type: ignore[union-attr, arg-type]
    for name, (samples, pixels) in drawn.items():
        encoded = unet.encode_conditions(tuple(size), frames, **{name: pixels})
        total = total.index_add(0, samples, encoded.to(total.dtype))
    return total


class VgenNetwork(Network):
    """A `UNet3D` below the line ``predict(x, t, cond)``.

    The answer is float32, so that the solver's arithmetic is exact whatever the network computes in. A processor, whose
    cache a large batch leaves, computes it in parts where no gradient is needed; with dropout it does not, so that the
    draws are those of one batch.

    Args:
        network: holds the weights.
        recompute: keep little for the backward pass and compute the rest again (activation checkpointing).
    """

    def __init__(self, network: nn.Module, *, recompute: bool = False) -> None:
        super().__init__()
        self.network, self.recompute = network, recompute

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Predict; see `Network`.

        Args:
            x: ``[B, C, F, h, w]``.
            t: long ``[B]``.
            cond: ``text`` ``[B, L, D]``, ``control`` (`Control`), ``temporal``.

        Raises:
            ValueError: an entry that this network does not know.
        """
        if unknown := set(cond) - KNOWN:
            raise ValueError(f"got {', '.join(sorted(unknown))}; a VGen network takes {', '.join(sorted(KNOWN))}.")
        weights = next(self.network.parameters()).dtype
        # Under autocast the weights are float32 and the input stays so; frozen weights in low precision decide alone.
        x, text = x.to(weights), cond["text"].to(weights)
        concat = self._concat(cond.get("control"), x, weights)
        modes: dict[str, Any] = {"temporal": cond.get("temporal", True)}
        if torch.is_grad_enabled() and self.recompute:
            modes["recompute"] = True
        if x.device.type != "cpu" or torch.is_grad_enabled() or self.network.training:
            return self.network(x, t, text, concat=concat, **modes).float()
        each = max(1, CPU_POSITIONS // x[0, 0].numel())
        concats = [None] * len(x) if concat is None else concat.split(each)
        inputs = zip(x.split(each), t.split(each), text.split(each), concats, strict=False)
        return torch.cat([self.network(a, b, c, concat=d, **modes).float() for a, b, c, d in inputs])

    def _concat(self, control: Control | None, x: Tensor, weights: torch.dtype) -> Tensor | None:
        if control is None or not control.pixels:
            return None
        given = {k: (s, p.to(weights)) for k, (s, p) in control.pixels.items()}
        encoded = encode_conditions(self.network, given, x[: control.count])
        return encoded.repeat(len(x) // control.count, 1, 1, 1, 1).to(weights)

    def groups(self) -> dict[str, list[str]]:
        """Spatial layers (the authors' "SD image keys", 682 of the large network), temporal ones, encoders, others."""
        temporal = {
            id(parameter)
            for module in self.network.modules()
            if isinstance(module, TemporalConvBlock | TemporalTransformer)
            for parameter in module.parameters()
        }
        encoders = {f"{part}.": name for name in CONDITION_CHANNELS for part in module_names(name)} | _TOKENS
        found: dict[str, list[str]] = {}
        for name, parameter in self.network.named_parameters():
            condition = next((c for prefix, c in encoders.items() if name.startswith(prefix)), None)
            if ".lora_" in name:
                group = ADAPTER
            elif condition is not None:
                group = CONDITION + condition
            elif id(parameter) in temporal:
                group = TEMPORAL
            else:
                group = SPATIAL if name.startswith(_BLOCKS) else EMBEDDING
            found.setdefault(group, []).append(name)
        return found


def unet_of(network: nn.Module) -> UNet3D:
    """The UNet inside a network that methods call, for whoever needs its shape."""
    inner = getattr(network, "network", network)
    assert isinstance(inner, UNet3D)
    return inner
