"""Reading files of reference values, and the networks that they were recorded with."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import recipe
import torch
from precision import UNIT, Exact, distance, named, without_rounding
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from videolcm_core.networks.vgen.unet3d import CONDITIONS, UNet3D, UNetConfig

# Names of condition sets in the authors' configurations -> our condition names.
_COMPOSITIONS = {"depthmap": "depth", "mask": "masked"}


@dataclass(frozen=True)
class Result:
    """One comparison.

    Attributes:
        case: What was compared.
        error: Maximum absolute difference; NaN counts as failed.
        tolerance: What is allowed.
        note: What was left out, or is wrong.
    """

    case: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (and not NaN)."""
        return self.error <= self.tolerance


@dataclass
class Reference:
    """One file of reference values.

    Attributes:
        path: The file.
        metadata: Its strings, decoded from JSON where they are JSON.
        tensors: Its tensors, read when asked for.
        compared: Names of tensors that took part.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    compared: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, path: Path) -> Reference:
        """Read a safetensors file."""
        with safe_open(path, framework="pt") as file:
            metadata = {key: _decode(value) for key, value in (file.metadata() or {}).items()}
            return cls(path, metadata, {key: file.get_tensor(key) for key in file.keys()})

    def get(self, name: str) -> Tensor:
        """A tensor, in float32 where pixels were stored as float16 to save space."""
        self.compared.add(name)
        value = self.tensors[name]
        return value.float() if value.dtype == torch.float16 else value

    def same(self, case: str, name: str, got: Tensor) -> Result:
        """Whole numbers, which are equal or not."""
        return Result(case, self._distance(name, got), 0.0)

    def judge(
        self,
        compute: Callable[[], dict[str, Tensor]],
        prefix: str = "",
        copies: int | None = None,
        tables: bool = False,
        unit: float = UNIT,
    ) -> Iterator[Result]:
        """Hold the exact results of a computation to the recorded values, and ours in float32 to the exact ones.

        The recorded values are float32 results of the same mathematics, so both bounds are what float32 rounding makes
        of this computation; see `precision`.

        Args:
            compute: Returns tensors by the names of the stored ones; others are left out.
            prefix: Of the cases, for the report.
            copies: See `precision.without_rounding`.
            tables: See `precision.wide`.
            unit: Largest error of one rounding of both sides, where it is not float32's.
        """
        ours, exact = named(compute()), without_rounding(compute, copies, tables)
        for name, value in ours.items():
            if name in self.tensors:
                yield from self.judge_one(prefix + name, name, value, exact, unit)

    def judge_one(self, case: str, name: str, ours: Tensor, exact: Exact, unit: float = UNIT) -> Iterator[Result]:
        """Two results: the recorded value against the exact one, and ours against it."""
        bound, value = exact.bound(name) * unit / UNIT, exact.values[name]
        yield Result(f"{case}, recorded", self._distance(name, value), bound)
        yield Result(case, distance(ours, value), bound)

    def _distance(self, name: str, got: Tensor) -> float:
        want = self.get(name)
        return distance(got.reshape(want.shape) if got.numel() == want.numel() else got, want)

    def unused(self) -> list[str]:
        """Stored tensors that no comparison touched."""
        return sorted(set(self.tensors) - self.compared)


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def load_recipe(folder: Path) -> Callable[..., Any]:
    """The folder's own ``recipe_array``, else ours."""
    path = folder / "recipe.py"
    if not path.exists():
        return recipe.recipe_array
    spec = importlib.util.spec_from_file_location("golden_folder_recipe", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.recipe_array


def config_of(metadata: dict[str, Any]) -> UNetConfig:
    """Our configuration for the authors' one."""
    config = metadata["config"]
    compositions = metadata.get("video_compositions") or []
    names = {_COMPOSITIONS.get(name, name) for name in compositions}
    first_conv_takes_conditions = "T2VBase" not in str(metadata.get("cls", ""))
    concat = config.get("concat_dim", 8) if first_conv_takes_conditions else 0
    defaults = UNetConfig()
    return UNetConfig(
        in_channels=config.get("in_dim", 4),
        concat_channels=concat,
        out_channels=config.get("out_dim", 4),
        model_channels=config["dim"],
        channel_mult=tuple(config["dim_mult"]),
        num_res_blocks=config["num_res_blocks"],
        attention_scales=tuple(config["attn_scales"]),
        context_dim=config.get("context_dim", defaults.context_dim),
        num_heads=config["num_heads"],
        head_dim=config["head_dim"],
        conditions=frozenset(names & CONDITIONS),
        num_image_tokens=config.get("num_tokens", defaults.num_image_tokens),
        use_fps=bool(config.get("use_fps_condition", False)),
        dropout=config.get("dropout", defaults.dropout),
    )


def build_network(metadata: dict[str, Any], seed: int, folder: Path, gain: float = 1.0) -> UNet3D:
    """A network with recipe weights, in inference mode.

    It is built without memory and filled tensor by tensor, so that the largest fits where its weights do.
    """
    network = UNet3D(config_of(metadata), device="meta")
    array = load_recipe(folder)
    weights = {key: torch.from_numpy(array(key, tuple(v.shape), seed, gain)) for key, v in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    return network.train(False)


def network_of(reference: Reference) -> UNet3D:
    """The network that a file was recorded with: its own recipe seed, else that of the file it names."""
    folder, metadata = reference.path.parent, reference.metadata
    if "recipe_seed" in metadata:
        return build_network(metadata, int(metadata["recipe_seed"]), folder, float(metadata.get("recipe_gain", 1.0)))
    weights = folder / str(metadata["weights"])
    described = folder / weights.name.replace(".weights.", ".io.")
    other = Reference.open(described).metadata if described.exists() else {}
    if "recipe_seed" in other:
        settings = {**other, **{key: metadata[key] for key in ("config", "video_compositions") if key in metadata}}
        return build_network(settings, int(other["recipe_seed"]), folder, float(other.get("recipe_gain", 1.0)))
    if not weights.exists():
        raise FileNotFoundError(f"{reference.path.name} needs {weights.name} or {described.name} beside it")
    network = UNet3D(config_of({**other, **metadata}))
    network.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    return network.train(False)


def cases_of(reference: Reference) -> Iterator[tuple[str, dict[str, str]]]:
    """Recorded calls: name, and argument -> input tensor."""
    inputs = reference.metadata.get("case_inputs")
    arguments = reference.metadata.get("cases") or {}
    stored = {name[3:] for name in reference.tensors if name.startswith("in.")} - {"x", "t"}
    for case in sorted(name[4:] for name in reference.tensors if name.startswith("out.")):
        if inputs and case in inputs:
            names = inputs[case]
        else:
            # Alternatives of an input, such as "depth_alt", belong to cases of their own.
            every = sorted(name for name in stored if argument_of(name) == name)
            names = every if case == "all" else _names_in(case, stored)
        keywords = arguments.get(case) or [argument_of(name) for name in names]
        yield case, dict(zip(keywords, names, strict=True))


def _names_in(case: str, stored: set[str]) -> list[str]:
    """Inputs out of which a case's name is put together: "y_image_depth" -> y, image, depth."""
    pattern = "|".join(sorted((re.escape(name) for name in stored), key=len, reverse=True))
    return re.findall(rf"(?:{pattern})(?=_|$)", case)


def argument_of(name: str) -> str:
    """The argument that a stored input is for: "depth_alt" is another depth."""
    return name if name == "y" or name in CONDITIONS else re.sub(r"_[a-z0-9]+$", "", name)
