"""LoRA files of every trainer as one form: per layer two factors of a difference, and its scale.

Layouts, by the names of the tensors:

- kohya: ``<module>.lora_down.weight``, ``.lora_up.weight``, ``.lora_mid.weight``, ``.alpha``, ``.dora_scale``
- peft: ``base_model.model.<module>.lora_A.weight``, ``.lora_B.weight``, with or without the adapter's name, and
  ``.lora_magnitude_vector``; alpha is in ``adapter_config.json`` or in the file's metadata
- diffusers: ``unet.<module>.lora.down.weight``, ``<attention>.processor.to_q_lora.down.weight``
- stable_lora (Text-To-Video-Finetuning): ``<module>.lora_A``, ``.lora_B``; convolutions as matrices of one
  kernel dimension
- cloneofsimo (the same trainer, and its origin): tensors without names, in the order of the network's layers
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from .errors import CheckpointError
from .guard import reading
from .loading import REAL
from .lora_config import AdapterConfig, read_adapter_config
from .lora_names import without_prefixes
from .reading import UNNAMED, load_state_dict

_PART: Final = re.compile(
    r"(?P<module>.+?)(?:"
    r"\.lora_(?P<kohya>up|down|mid)\.weight"
    r"|[._]lora(?:_linear_layer)?\.(?P<diffusers>up|down)\.weight"
    r"|\.lora_(?P<peft>[AB])(?:\.(?P<adapter>[^.]+))?\.(?P<kind>weight|bias)"
    r"|\.lora_(?P<bare>[AB])"
    r"|\.lora_magnitude_vector(?:\.(?P<owner>(?!weight$)[^.]+))?(?P<magnitude>(?:\.weight)?)"
    r"|\.(?P<extra>alpha|dora_scale)"
    r")"
)
_LISTED: Final = re.compile(r"unet:(\d+):(up|down)")
_AB: Final = {"A": "down", "B": "up"}
_LAYOUTS: Final = {"kohya": "kohya", "diffusers": "diffusers", "peft": "peft", "bare": "stable_lora"}


@dataclass(frozen=True, kw_only=True)
class LoraLayer:
    """What a file says about one layer: the difference is ``scale * up @ down``.

    Attributes:
        name: Of the layer, as in the file.
        up: ``[out, rank, ...]``; of stable_lora's convolutions ``[out * k, rank * k]``.
        down: ``[rank, in, ...]``; of stable_lora's convolutions ``[rank * k, in * k]``.
        scale: Usually ``alpha / rank``.
        magnitude: Of DoRA: the length of each output's weights, or, shaped ``[1, in, ...]``, of each input's.
        bias: Difference of the bias.
        keys: Names of its tensors.
        layout: "kohya", "peft", "diffusers" or "stable_lora", by the names of the factors.
        guessed: Whether nothing says the scale, so that 1 was taken. Not where a layout has none: diffusers' processors
            and stable_lora are trained at 1.
    """

    name: str
    up: Tensor
    down: Tensor
    scale: float
    magnitude: Tensor | None = None
    bias: Tensor | None = None
    keys: tuple[str, ...] = ()
    layout: str = ""
    guessed: bool = False

    @property
    def shape(self) -> str:
        """For messages."""
        return f"up {list(self.up.shape)}, down {list(self.down.shape)}"


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA file.

    Attributes:
        file: Its name.
        layers: By their names in the file.
        unnamed: Up and down of each layer of a file without names, in the order of the network.
        targets: The classes of modules that `unnamed` went through, if the file says so.
        rest: Tensors that belong to no layer.
        metadata: Of the file.
        config: Of peft.
        missing: Target modules of the settings that the file has no layer for.
    """

    file: str
    layers: dict[str, LoraLayer]
    unnamed: tuple[tuple[Tensor, Tensor], ...] = ()
    targets: tuple[str, ...] | None = None
    rest: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    config: AdapterConfig | None = None
    missing: tuple[str, ...] = ()

    @property
    def guessed(self) -> tuple[str, ...]:
        """Layouts of the layers whose scale was guessed."""
        return tuple(dict.fromkeys(layer.layout for layer in self.layers.values() if layer.guessed))


def read_lora(path: str | Path) -> LoraFile:
    """Read a LoRA of any layout; peft's settings are looked for inside the file, then beside it.

    Raises:
        CheckpointError: If the file is unusable, or its tensors and settings do not belong together.
    """
    path = Path(path)
    with reading(path):
        return _read(path)


def _read(path: Path) -> LoraFile:
    tensors, metadata, _ = load_state_dict(path)
    if any(_LISTED.fullmatch(key) for key in tensors) or f"{UNNAMED}0" in tensors:
        return _without_names(path.name, tensors, metadata)
    parts, rest = _sort(tensors, path.name)
    peft = any(found.get("layout") == "peft" for found in parts.values())
    config = read_adapter_config(path, metadata) if peft else None
    layers = {}
    for module, found in parts.items():
        if "up" in found and "down" in found:
            layers[module] = _layer(module, found, config, path.name)
        else:  # a layer of LoHa, LoKr and their kin has an alpha too
            rest.update({key: tensors[key] for key in found["keys"]})
    missing = () if config is None else _compare(config, layers, path.name)
    return LoraFile(file=path.name, layers=layers, rest=rest, metadata=metadata, config=config, missing=missing)


def _compare(config: AdapterConfig, layers: Mapping[str, LoraLayer], file: str) -> tuple[str, ...]:
    """Modules that the settings name and the file does not have; see `AdapterConfig.compare`."""
    trained = [layer for layer in layers.values() if layer.layout == "peft"]
    for layer in trained:
        config.check_magnitude(layer.name, layer.magnitude is not None, file)
    return tuple(config.compare((without_prefixes(layer.name) for layer in trained), file))


def _sort(tensors: Mapping[str, Tensor], file: str) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    parts: dict[str, dict[str, Any]] = {}
    rest: dict[str, Tensor] = {}
    adapters: set[str] = set()
    for key, value in tensors.items():
        match = _PART.fullmatch(key)
        if match is None:
            rest[key] = value
            continue
        found = match.groupdict()
        part = found["kohya"] or found["diffusers"] or found["extra"] or _AB.get(found["peft"] or found["bare"] or "")
        part = "bias" if found["kind"] == "bias" else part or "magnitude"
        entry = parts.setdefault(match["module"], {"keys": []})
        entry[part] = value
        entry["keys"].append(key)
        if layout := next((layout for group, layout in _LAYOUTS.items() if found[group]), None):
            entry["layout"] = layout
        if found["peft"] or part == "magnitude":
            entry["layout"] = "peft"
            adapters |= {name for name in (found["adapter"], found["owner"]) if name}
    if len(adapters) > 1:
        names = ", ".join(sorted(adapters)[:4])
        raise CheckpointError(
            file, f"{len(adapters)} adapters in one file ({names})", "one adapter", "Save each into its own file."
        )
    return parts, rest


def _layer(module: str, found: Mapping[str, Any], config: AdapterConfig | None, file: str) -> LoraLayer:
    up, down, alpha, layout = found["up"], found["down"], found.get("alpha"), found.get("layout", "")
    for key, value in (("up", up), ("down", down)):
        if value.ndim < 2 or 0 in value.shape or value.dtype not in REAL:
            got = f"a factor ({key}) of {module} of shape {list(value.shape)} and type {value.dtype}"
            raise CheckpointError(file, got, "matrices and kernels of floating point", "Get the LoRA again.")
    rank = down.shape[0]
    if alpha is not None:
        if alpha.numel() != 1:
            got = f"{module}.alpha of shape {list(alpha.shape)}"
            raise CheckpointError(file, got, "one number", "Get the LoRA again.")
        scale = float(alpha) / rank
    elif layout == "peft" and config is not None:
        scale = config.scale(without_prefixes(module), rank, file)
    else:
        scale = 1.0
    if "mid" in found:
        down = _fold(found["mid"], down, module, file)
    magnitude = found.get("dora_scale")
    if "magnitude" in found:
        magnitude = found["magnitude"].flatten()  # of convolutions [1, out, 1, 1]: always one for each output
    bias = None if "bias" not in found else found["bias"] * scale
    return LoraLayer(
        name=module,
        up=up,
        down=down,
        scale=scale,
        magnitude=magnitude,
        bias=bias,
        keys=tuple(found["keys"]),
        layout=layout,
        guessed=alpha is None and (layout == "kohya" or (layout == "peft" and config is None)),
    )


def _fold(mid: Tensor, down: Tensor, module: str, file: str) -> Tensor:
    """The kernel between two factors put into the lower one: ``[rank, rank, *k]``, ``[rank, in]`` -> with kernel."""
    flat = down.flatten(1)
    if mid.ndim < 3 or mid.shape[:2] != (len(flat), len(flat)):
        got = f"{module}.lora_mid of shape {list(mid.shape)} for {len(flat)} channels"
        raise CheckpointError(file, got, "[rank, rank, kernel]", "Get the LoRA again.")
    return torch.einsum("ab...,bi->ai...", mid.float(), flat.float())


def _without_names(file: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> LoraFile:
    """Cloneofsimo's list (up, down, up, down, ...), or its safetensors form ``unet:0:up``."""
    values: dict[tuple[int, str], Tensor] = {}
    rest = {}
    for key, value in tensors.items():
        if key.startswith(UNNAMED):
            number = int(key.removeprefix(UNNAMED))
            values[number // 2, ("up", "down")[number % 2]] = value
        elif match := _LISTED.fullmatch(key):
            values[int(match[1]), match[2]] = value
        else:
            rest[key] = value
    count = len(values) // 2
    wanted = {(number, part) for number in range(count) for part in ("up", "down")}
    usable = all(value.ndim >= 2 and 0 not in value.shape and value.dtype in REAL for value in values.values())
    if set(values) != wanted or not usable:
        got = f"{len(values)} tensors without names that are no pairs of factors"
        raise CheckpointError(file, got, "up and down of each layer in turn", "Get the LoRA again.")
    pairs = tuple((values[number, "up"], values[number, "down"]) for number in range(count))
    targets = None
    if "unet" in metadata:
        try:
            targets = tuple(str(name) for name in json.loads(metadata["unet"]))
        except (ValueError, TypeError, RecursionError):
            targets = None
    return LoraFile(file=file, layers={}, unnamed=pairs, targets=targets, rest=rest, metadata=dict(metadata))
