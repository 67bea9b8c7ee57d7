"""A LoRA that was held against a MODEL, as patches of the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...videolcm_core.files.lora import LoraFile
from ...videolcm_core.files.lora_fit import Change, LoraFit
from ...videolcm_core.files.lora_weights import merge
from .. import host


class DecomposedLora(host.LoRAAdapter):
    """DoRA as its trainers compute it: lengths are taken after the difference was added.

    The host takes them before it where the magnitude is one of outputs. ``weights`` is the host's tuple (up, down,
    alpha, mid, magnitude, reshape), which the host moves to the device and builds the object from again.
    """

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """Add the change to ``weight`` in place and return it; arguments are the host's."""
        up, down, alpha, _, magnitude, _ = self.weights
        up, down, magnitude = (value.to(weight.device) for value in (up, down, magnitude))
        merged = merge(weight, up, down, alpha / down.shape[0], magnitude, strength)
        return weight.add_(function((merged - weight.float()).to(weight.dtype)))


class ReplacedWeight(host.WeightAdapterBase):
    """A weight or bias that was trained whole: at strength 1 it takes the place of the model's."""

    name = "replaced"

    def __init__(self, loaded_keys: set[str], weights: tuple[Tensor]) -> None:
        """Keep what the host builds the object from again."""
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_weight(
        self, weight: Tensor, key: str, strength: float, strength_model: float, offset: Any, function: Any, *_: Any
    ) -> Tensor:
        """Move ``weight`` towards the value in place and return it; arguments are the host's."""
        change = strength * (self.weights[0].to(weight.device, torch.float32) - weight.float())
        return weight.add_(function(change.to(weight.dtype)))


def make_patches(lora: LoraFile, fit: LoraFit, shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    """Patches by the keys of the network; what is found not to fit is noted in ``fit``.

    Args:
        lora: The file.
        fit: Of the file against this network.
        shapes: Of the network's weights.
    """
    patches = {key: _adapter(change) for key, change in fit.changes.items()}
    patches |= {key: ("diff", (bias,)) for key, bias in fit.biases.items()}
    patches |= {key: ReplacedWeight({key}, (value,)) for key, value in fit.values.items()}
    return patches | _other_kinds(lora, fit, shapes)


def _adapter(change: Change) -> Any:
    alpha = change.scale * change.down.shape[0]
    kind = host.LoRAAdapter if change.magnitude is None else DecomposedLora
    return kind(set(), (change.up, change.down, alpha, None, change.magnitude, None))


def _other_kinds(lora: LoraFile, fit: LoraFit, shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    """LoHa, LoKr and the host's other kinds, of which the host alone knows the names and the arithmetic."""
    found = host.lora_patches(lora.rest, {name: f"{own}.weight" for own, name in fit.names.items()})
    patches = {}
    for key, patch in found.items():
        if (
            key in shapes
            and key not in fit.changes
            and _is_of_size(patch, shapes[key])
            and host.patch_fits(patch, shapes[key], key)
        ):
            patches[key] = patch
        else:
            fit.add_misshapen(key, f"{key} {list(shapes[key])}" if key in shapes else key)
    for own, name in fit.names.items():
        if not {f"{own}.weight", f"{own}.bias"} & set(found):
            fit.unknown.append(f"{name} in a layout that is not known")
    return patches


def _is_of_size(patch: Any, shape: torch.Size) -> bool:
    """Whether the factors of a patch make about as many values as the weight has, before any are multiplied.

    Two vectors of a million values make a matrix of a trillion.
    """
    factors = [value for value in getattr(patch, "weights", None) or () if isinstance(value, Tensor) and value.ndim]
    longest = 2 * max(shape[0], shape.numel() // max(1, shape[0]))
    if any(max(value.shape) > longest for value in factors):
        return False
    if getattr(patch, "name", "") != "lokr":
        return True
    w1, w2, _, w1_a, w1_b, w2_a, w2_b, *_ = patch.weights
    counts = [_count(w1, w1_a, w1_b), _count(w2, w2_a, w2_b)]
    return counts[0] * counts[1] <= 4 * shape.numel()


def _count(whole: Tensor | None, a: Tensor | None, b: Tensor | None) -> int:
    """Values of a factor that is given whole, or as two of its own."""
    if whole is not None:
        return whole.numel()
    return 0 if a is None or b is None else a.numel() // max(1, a.shape[-1]) * (b.numel() // max(1, b.shape[0]))
