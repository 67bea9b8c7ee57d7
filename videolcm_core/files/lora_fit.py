"""A LoRA held against a network: which of its weights the file changes, whatever the network's family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from torch import Tensor

from .lora import LoraFile, LoraLayer
from .lora_names import without_prefixes
from .lora_weights import factors, magnitude_for, merge

_TEXT: Final = re.compile(
    r"(?:lora_)?te\d?[_.:].*|.*(?:text_encoder|text_model|cond_stage_model|self_attn|resblocks).*"
)
# Layers that read the text. Where attention along time has such names too, its width is the network's own.
_READS_TEXT: Final = re.compile(r".*\.attn2\.to_[kv]\.weight")

Shapes = Mapping[str, Sequence[int]]


class Change(NamedTuple):
    """What a LoRA does to one weight; arguments of `lora_weights.merge`.

    Attributes:
        up: ``[out, r]``.
        down: ``[r, in * kernel]``.
        scale: Factor on their product.
        magnitude: Of DoRA, broadcastable to the weight.
    """

    up: Tensor
    down: Tensor
    scale: float
    magnitude: Tensor | None = None


@dataclass(kw_only=True)
class LoraFit:
    """A LoRA held against a network.

    Attributes:
        changes: The network's key -> what is done to it.
        biases: The network's key -> difference.
        values: The network's key -> the whole value that takes its place.
        names: The network's module -> the name that the file uses for it in `LoraFile.rest`.
        misshapen: Layers whose name is known and whose shape is another, in words.
        unknown: Names of layers and tensors that this network does not have.
        text: Names of those of a text encoder.
        unfit: The network's key -> what the file has for it, in words, where that is of another shape.
        assumed: Factor on every layer that was taken because of the file's layout, as the file says none.
    """

    changes: dict[str, Change] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    misshapen: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    assumed: float | None = None

    def add_misshapen(self, key: str, words: str) -> None:
        """Note a layer of another shape than the network's weight."""
        self.misshapen.append(words)
        self.unfit[key] = words

    def reads_other_text(self, changed: Iterable[str]) -> str | None:
        """A layer that reads the text, in words, where not one of those in the file fits.

        The file is of another base then, and what fits of it does so by chance: half of a LoRA for SDXL has the shapes
        of Stable Diffusion 1.5.

        Args:
            changed: The network's keys that the file changes.
        """
        if any(_READS_TEXT.fullmatch(key) for key in changed):
            return None
        return next((words for key, words in self.unfit.items() if _READS_TEXT.fullmatch(key)), None)


def lora_names(modules: Mapping[str, str]) -> dict[str, str]:
    """Every name that a LoRA may use for a module, without prefixes -> the network's module.

    Args:
        modules: The network's module -> diffusers' name for it, or once more its own.
    """
    names = {}
    for own, theirs in modules.items():
        for name in (*_spellings(own), *_spellings(theirs)):
            names[name] = names[name.replace(".", "_")] = own
    return names


def _spellings(name: str) -> Iterator[str]:
    """A module's name, and what trainers that put layers into attention processors make of it.

    ``attn1.to_out.0`` is ``attn1.to_out``, ``attn1.processor.to_out`` or, of trainers that treat every layer so,
    ``attn1.to_out.processor.0``.
    """
    short = name.removesuffix(".0") if name.endswith(".to_out.0") else name
    parent, dot, leaf = name.rpartition(".")
    yield from (name, short, short.replace(".to_", ".processor.to_"), f"{parent}{dot}processor.{leaf}")


def fit_layers(
    lora: LoraFile, names: Mapping[str, str], shapes: Shapes, layers: Mapping[str, LoraLayer] | None = None
) -> LoraFit:
    """Find the weights that a file's layers belong to, and check their shapes.

    Args:
        lora: The file.
        names: Of `lora_names`.
        shapes: Of the network's weights, by its keys.
        layers: In place of the file's.
    """
    fit = LoraFit()
    layers = lora.layers if layers is None else layers
    for layer in layers.values():
        _place(layer, names, shapes, fit)
    for key, value in lora.rest.items():
        _place_rest(key, value, names, shapes, fit)
    return fit


def _place(layer: LoraLayer, names: Mapping[str, str], shapes: Shapes, fit: LoraFit) -> None:
    own = names.get(without_prefixes(layer.name))
    key = f"{own}.weight"
    if own is None or key in fit.changes:
        (fit.text if _TEXT.fullmatch(layer.name) else fit.unknown).append(layer.name)
        return
    found = factors(layer, shapes[key])
    magnitude = magnitude_for(layer, shapes[key])
    if found is None or (layer.magnitude is not None and magnitude is None):
        fit.add_misshapen(key, f"{layer.name} ({layer.shape}) for {list(shapes[key])}")
        return
    fit.changes[key] = Change(*found, layer.scale, magnitude)
    if layer.bias is not None:
        bias = f"{own}.bias"
        if bias in shapes and tuple(layer.bias.shape) == tuple(shapes[bias]):
            fit.biases[bias] = layer.bias
        else:
            fit.misshapen.append(f"{layer.name}'s bias {list(layer.bias.shape)}")


def _place_rest(key: str, value: Tensor, names: Mapping[str, str], shapes: Shapes, fit: LoraFit) -> None:
    """A tensor that belongs to no layer: a weight that was trained whole, a layer of another kind, or nothing."""
    module, _, part = key.rpartition(".")
    module = module.removesuffix(".base_layer").removesuffix(".modules_to_save")
    own = names.get(without_prefixes(module))
    target = f"{own}.{part}"
    if own is not None and part in ("weight", "bias") and target in shapes:
        if tuple(value.shape) == tuple(shapes[target]) and value.is_floating_point():
            fit.values[target] = value
        else:
            fit.misshapen.append(f"{key} {list(value.shape)} for {list(shapes[target])}")
    elif own is not None and part:
        fit.names[own] = module
    else:
        (fit.text if _TEXT.fullmatch(key) else fit.unknown).append(key)


def merged_state(state: Mapping[str, Tensor], fit: LoraFit, strength: float = 1.0) -> dict[str, Tensor]:
    """Weights with a LoRA on them, each in its own dtype.

    Args:
        state: Of the network, by its keys.
        fit: Of the file against the same network.
        strength: 1 as trained.
    """
    merged = dict(state)
    for key, change in fit.changes.items():
        merged[key] = merge(state[key], *change, strength).to(state[key].dtype)
    for key, bias in fit.biases.items():
        merged[key] = (state[key].float() + strength * bias.float()).to(state[key].dtype)
    for key, value in fit.values.items():
        base = state[key].float()
        merged[key] = (base + strength * (value.float() - base)).to(state[key].dtype)
    return merged
