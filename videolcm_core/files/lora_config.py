"""What peft writes about a LoRA beside its tensors: rank, alpha and what was done to the layers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .errors import CheckpointError
from .lora_names import without_prefixes

CONFIG_NAME: Final = "adapter_config.json"
UNET_FOLDER: Final = "unet_lora"
"""Of MCM's checkpoints: the LoRA once more, for diffusers, in a folder below the one that has the settings."""
METADATA_KEY: Final = "lora_adapter_metadata"
"""Where diffusers keeps the same settings inside a safetensors file."""

# Options that make the tensors mean something else than two factors of a difference.
_OTHER_LAYOUTS: Final = (
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "target_parameters",
    "monteclora_config",
    "velora_config",
    "kasa_config",
    "arrow_config",
)
# These beginnings change the base's weights too, so the factors belong to a base that is in no other file.
_CHANGED_BASE: Final = ("pissa", "olora", "corda", "lora_ga", "loftq")
# A quantifier on a quantified group can take for ever on a long name.
_ENDLESS: Final = re.compile(r"[+*}]\)?[+*{]|\)[+*{]")
_LONGEST_PATTERN: Final = 300


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Settings of a peft LoRA.

    Attributes:
        source: Where they were read, for messages.
        rank: Of layers without a pattern.
        alpha: Of layers without a pattern.
        rank_pattern: End of a module's name (a regular expression, as in peft) -> rank.
        alpha_pattern: The same -> alpha.
        rslora: The scale is ``alpha / sqrt(rank)`` instead of ``alpha / rank``.
        dora: Each layer has a magnitude too.
        base: Name of the model it was trained on, empty if unknown.
        targets: Ends of the names of the modules that have an adapter, without prefixes; empty where the settings give
            them otherwise (a regular expression, "all-linear") or not at all.
    """

    source: str
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    base: str = ""
    targets: frozenset[str] = frozenset()

    def compare(self, modules: Iterable[str], file: str) -> list[str]:
        """Hold the names of a file's layers against the settings.

        Args:
            modules: Names of the layers as they were trained, without prefixes of peft.
            file: For messages.

        Returns:
            Modules that the settings name and the file has no layer for.

        Raises:
            CheckpointError: If the file has a layer that the settings do not name: they are another LoRA's.
        """
        missing = set(self.targets)
        for module in modules if self.targets else ():
            named = self.targets.intersection(_ends(module))
            if not named:
                raise CheckpointError(
                    file,
                    f"a layer {module[:150]} that is none of the {len(self.targets)} target_modules in its "
                    f"{self.source} (such as {min(self.targets)[:100]})",
                    "settings and tensors of one training run",
                    f"Put the file back into its own folder, or remove the {CONFIG_NAME} that is not its own.",
                )
            missing -= named
        return sorted(missing)

    def check_magnitude(self, module: str, has_magnitude: bool, file: str) -> None:
        """Refuse a layer without the magnitude that DoRA needs: its factors alone are another change.

        Raises:
            CheckpointError: Naming the layer.
        """
        if self.dora and not has_magnitude:
            raise CheckpointError(
                file,
                f"use_dora in its {self.source}, but no lora_magnitude_vector for {module[:150]}",
                "settings and tensors of one training run",
                f"Put the file back into its own folder, or remove the {CONFIG_NAME} that is not its own.",
            )

    def scale(self, module: str, rank: int, file: str) -> float:
        """Factor on a layer's difference.

        Args:
            module: Name of the layer as it was trained, without prefixes of peft.
            rank: Of the tensors.
            file: For messages.

        Raises:
            CheckpointError: If the tensors have another rank than these settings say.
        """
        wanted = self.rank_pattern.get(_pattern_of(module, self.rank_pattern), self.rank)
        if wanted != rank:
            raise CheckpointError(
                file,
                f"rank {rank} for {module}, but rank {wanted} in its {self.source}",
                "settings and tensors of one training run",
                f"Put the file back into its own folder, or remove the {CONFIG_NAME} that is not its own.",
            )
        alpha = self.alpha_pattern.get(_pattern_of(module, self.alpha_pattern), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def _ends(module: str) -> Iterator[str]:
    """A module's name, and what is left of it after each dot: what peft compares with its targets."""
    yield module
    while "." in module:
        module = module.partition(".")[2]
        yield module


def config_places(path: Path) -> tuple[Path, ...]:
    """Where the settings of a LoRA's file may be, in the order in which they are looked for.

    Args:
        path: Of the file; relative, if it is so within a folder of models.
    """
    above = (path.parent.parent,) if path.parent.name == UNET_FOLDER else ()
    return tuple(folder / CONFIG_NAME for folder in (path.parent, *above))


def _pattern_of(module: str, patterns: Mapping[str, Any]) -> str:
    """The first pattern that the end of a name fits, as in peft; the name itself if there is none."""
    return next((p for p in patterns if re.fullmatch(rf"(?:.*\.)?(?:{p})", module)), module)


def read_adapter_config(path: Path, metadata: Mapping[str, str]) -> AdapterConfig | None:
    """The settings inside a file, else those beside it, else None.

    Args:
        path: Of the LoRA's tensors.
        metadata: Of that file.

    Raises:
        CheckpointError: If they cannot be read, or describe something that is no plain LoRA.
    """
    beside = next((place for place in config_places(path) if place.is_file()), None)
    if METADATA_KEY in metadata:
        source, text = f"metadata ({METADATA_KEY})", metadata[METADATA_KEY]
    elif beside is not None:
        source = CONFIG_NAME
        try:
            text = beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(path.name, source, str(error)) from error
    else:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path.name, source, str(error)) from error
    if not isinstance(content, dict):
        raise _unreadable(path.name, source, f"a {type(content).__name__} instead of settings")
    return _parse(_of_the_network(content), source, path.name)


def _of_the_network(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The UNet's part: a pipeline of diffusers puts the part's name before each entry."""
    inside = {key.removeprefix("unet."): value for key, value in content.items() if key.startswith("unet.")}
    return inside or content


def _parse(content: Mapping[str, Any], source: str, file: str) -> AdapterConfig:
    kind = str(content.get("peft_type") or "LORA").rpartition(".")[2].upper()
    begin = str(content.get("init_lora_weights"))
    foreign = [name for name in _OTHER_LAYOUTS if content.get(name)]
    if kind != "LORA" or foreign or begin.startswith(_CHANGED_BASE):
        reason = f"peft_type {kind}" if kind != "LORA" else ", ".join(foreign) or f"init_lora_weights {begin!r}"
        raise CheckpointError(
            file,
            f"{reason[:100]} in its {source}",
            "LoRA, with or without rslora and dora, trained on unchanged weights",
            "Merge it into its model with peft (merge_and_unload) and load the merged model.",
        )
    rank = _number(content.get("r", 8), "r", source, file)
    if rank < 1 or rank != int(rank):
        raise _unreadable(file, source, f"r is {rank:g}; allowed: 1 and more")
    ranks = _numbers(content.get("rank_pattern"), "rank_pattern", source, file)
    return AdapterConfig(
        source=source,
        rank=int(rank),
        alpha=_number(content.get("lora_alpha", 8), "lora_alpha", source, file),
        rank_pattern={key: int(value) for key, value in ranks.items()},
        alpha_pattern=_numbers(content.get("alpha_pattern"), "alpha_pattern", source, file),
        rslora=_flag(content, "use_rslora", source, file),
        dora=_flag(content, "use_dora", source, file),
        targets=_targets(content.get("target_modules"), source, file),
        base=re.split(r"[/\\]", str(content.get("base_model_name_or_path") or ""))[-1][:100],
    )


def _flag(content: Mapping[str, Any], name: str, source: str, file: str) -> bool:
    value = content.get(name) or False
    if not isinstance(value, bool):
        raise _unreadable(file, source, f"{name} is {str(value)[:50]!r}; allowed: true, false")
    return value


def _targets(value: Any, source: str, file: str) -> frozenset[str]:
    if value is None or isinstance(value, str):
        return frozenset()
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise _unreadable(file, source, f"target_modules is {str(value)[:50]}; allowed: a list of names, or one text")
    return frozenset(without_prefixes(name) for name in value)


def _number(value: Any, name: str, source: str, file: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _unreadable(file, source, f"{name} is {str(value)[:50]!r}; allowed: a number")
    return float(value)


def _numbers(content: Any, name: str, source: str, file: str) -> dict[str, float]:
    if not isinstance(content or {}, dict):
        raise _unreadable(file, source, f"{name} is a {type(content).__name__}; allowed: names and numbers")
    found = {}
    for pattern, value in (content or {}).items():
        try:
            usable = len(pattern) <= _LONGEST_PATTERN and not _ENDLESS.search(pattern) and bool(re.compile(pattern))
        except (re.error, RecursionError, OverflowError):
            usable = False
        if not usable:
            raise _unreadable(file, source, f"{name} has {pattern[:50]!r}; allowed: ends of module names")
        found[pattern] = _number(value, f"{name} of {pattern[:50]}", source, file)
    return found


def _unreadable(file: str, source: str, reason: str) -> CheckpointError:
    return CheckpointError(
        file, f"a {source} that cannot be used ({reason[:200]})", "peft's LoraConfig", "Get the LoRA's files again."
    )
