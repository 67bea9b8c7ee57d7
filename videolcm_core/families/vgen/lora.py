"""Which weights of a VGen network a LoRA file changes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from torch import Tensor

from ...files.errors import CheckpointError
from ...files.lora import LoraFile, LoraLayer
from ...files.lora_fit import LoraFit, fit_layers, lora_names
from ...files.lora_weights import factors
from .keymaps import vgen_to_diffusers

# Order in which diffusers registers the parts of its UNet3DConditionModel, whatever the level.
_REGISTERED: Final = {
    name: index
    for index, name in enumerate(
        "conv_in time_embedding transformer_in down_blocks up_blocks mid_block conv_norm_out conv_out "
        "resnets temp_convs attentions temp_attentions downsamplers upsamplers "
        "norm1 conv1 time_emb_proj norm2 conv2 conv_shortcut conv3 conv4 "
        "proj_in transformer_blocks proj_out attn1 attn2 ff to_q to_k to_v to_out linear_1 linear_2".split()
    )
}
# diffusers before 0.15 has the feed-forward before the second attention.
_ORDERS: Final = (_REGISTERED, {**_REGISTERED, "attn2": _REGISTERED["ff"], "ff": _REGISTERED["attn2"]})
ROOT: Final = "UNet3DConditionModel"
_CLASSES: Final = (
    (re.compile(r".*\.resnets\.\d+"), ("ResnetBlock2D",)),
    (re.compile(r".*\.temp_convs\.\d+"), ("TemporalConvLayer",)),
    (re.compile(r".*\.attentions\.\d+"), ("Transformer2DModel",)),
    (re.compile(r"(.*\.temp_attentions\.\d+|transformer_in)"), ("TransformerTemporalModel",)),
    (re.compile(r".*\.attn[12]"), ("CrossAttention", "Attention")),
    (re.compile(r".*\.ff\.net\.0"), ("GEGLU",)),
)
# cloneofsimo's own choices first, then every choice that the trainer's settings offer.
_OWN: Final = (frozenset({ROOT}), frozenset({"Attention", "GEGLU"}), frozenset({"ResnetBlock2D", "Attention", "GEGLU"}))
_OFFERED: Final = tuple(classes[-1] for _, classes in _CLASSES)


def module_names(keys: Collection[str]) -> dict[str, str]:
    """Every name that a LoRA may use for a module, without prefixes -> the network's module.

    Args:
        keys: All keys of the network.
    """
    weights = [key for key in keys if key.endswith(".weight")]
    modules = {key.removesuffix(".weight"): key.removesuffix(".weight") for key in weights}
    modules |= {k.removesuffix(".weight"): v.removesuffix(".weight") for k, v in vgen_to_diffusers(weights).items()}
    return lora_names(modules)


def fit_lora(lora: LoraFile, shapes: Mapping[str, Sequence[int]]) -> LoraFit:
    """Find the weights that a file's layers belong to, and check their shapes.

    Args:
        lora: The file.
        shapes: Of the network's weights, by the authors' keys.

    Raises:
        CheckpointError: If the layers of a file without names cannot be told apart.
    """
    layers = dict(lora.layers)
    if lora.unnamed:
        layers |= _named(lora, shapes)
    return fit_layers(lora, module_names(shapes), shapes, layers)


def _named(lora: LoraFile, shapes: Mapping[str, Sequence[int]]) -> dict[str, LoraLayer]:
    """Names for the layers of a file without them: the walk through the network whose shapes fit best.

    Raises:
        CheckpointError: If no walk has as many layers, or two fit equally well.
    """
    best: dict[tuple[str, ...], int] = {}
    for walk in _walks(shapes, lora.targets):
        if len(walk) == len(lora.unnamed) and walk not in best:
            pairs = zip(walk, lora.unnamed, strict=True)
            best[walk] = sum(_fits(up, down, shapes[f"{module}.weight"]) for module, (up, down) in pairs)
    most = max(best.values(), default=0)
    chosen = [walk for walk, count in best.items() if count == most]
    if most < 0.9 * len(lora.unnamed) or len(chosen) != 1:
        shown = "; ".join(f"up {list(up.shape)}, down {list(down.shape)}" for up, down in lora.unnamed[:3])
        raise CheckpointError(
            lora.file,
            f"{len(lora.unnamed)} layers without names ({shown}) that fit {len(chosen) if most else 'no'} order of the "
            f"layers of this network",
            "cloneofsimo's list for ModelScope's UNet3DConditionModel, as Text-To-Video-Finetuning writes it",
            "Check that it was trained on this kind of model, or train with lora_version stable_lora, which has names.",
        )
    named: dict[str, LoraLayer] = {}
    for module, (up, down) in zip(chosen[0], lora.unnamed, strict=True):
        # A layer inside two of the chosen classes is written twice.
        named.setdefault(module, LoraLayer(name=module, up=up, down=down, scale=1.0, keys=(module,)))
    return named


def _fits(up: Tensor, down: Tensor, weight: Sequence[int]) -> bool:
    return factors(LoraLayer(name="", up=up, down=down, scale=1.0), weight) is not None


def _walks(shapes: Mapping[str, Sequence[int]], targets: Collection[str] | None) -> Iterator[tuple[str, ...]]:
    """Orders in which the trainer may have gone through a network's layers, as the network's own modules."""
    layers = [key for key, shape in shapes.items() if key.endswith(".weight") and len(shape) >= 2]
    modules = {
        theirs.removesuffix(".weight"): key.removesuffix(".weight") for key, theirs in vgen_to_diffusers(layers).items()
    }
    subsets = (frozenset(s) for n in range(1, len(_OFFERED) + 1) for s in itertools.combinations(_OFFERED, n))
    choices = [frozenset(targets)] if targets is not None else [*_OWN, *subsets]
    for order, choice in itertools.product(_ORDERS, choices):
        yield tuple(modules[name] for name in _walk(sorted(modules, key=lambda n: _position(n, order)), choice, order))


def _walk(names: Sequence[str], classes: Collection[str], order: Mapping[str, int]) -> Iterator[str]:
    """Layers below each module of the given classes, both in the order of the network."""
    if ROOT in classes:
        yield from names
    ancestors = {name[:end] for name in names for end in _ends(name)}
    chosen = [a for a in ancestors if any(p.fullmatch(a) and set(c) & set(classes) for p, c in _CLASSES)]
    for ancestor in sorted(chosen, key=lambda a: _position(a, order)):
        yield from (name for name in names if name.startswith(f"{ancestor}."))


def _ends(name: str) -> list[int]:
    return [index for index, letter in enumerate(name) if letter == "."]


def _position(name: str, order: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else order.get(part, 0) for part in name.split("."))
