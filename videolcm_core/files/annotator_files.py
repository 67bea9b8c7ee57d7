"""From a file to a depth, edge or line network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..networks.annotators.midas import Midas, midas_config
from ..networks.annotators.mini_depth import MiniDepth
from ..networks.annotators.pidinet import PiDiNet, convert_differences, pidinet_config
from ..networks.annotators.sketch_simplification import SketchSimplification, sketch_channels
from ..networks.vgen.attention import Attention, default_attention
from .errors import CheckpointError, name_some, shorten
from .guard import AGAIN, cause, reading
from .loading import check_weights
from .reading import load_state_dict

Build = Callable[[Mapping[str, Tensor], Any, Attention], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """A kind of network that files can hold.

    Attributes:
        title: For messages.
        file: Name of the published file.
        size: About how large that is.
        marks: Keys that only this kind has.
        build: Makes the network without weights, in the sizes of a state dict.
        channels: Of the images that it takes.
        convert: What a file's tensors go through first.
    """

    title: str
    file: str
    size: str
    marks: tuple[str, ...]
    build: Build
    channels: int = 3
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict


def _midas(tensors: Mapping[str, Tensor], operations: Any, attention: Attention) -> nn.Module:
    return Midas(midas_config(tensors), operations, attention, device="meta")


def _mini_depth(tensors: Mapping[str, Tensor], operations: Any, attention: Attention) -> nn.Module:
    return MiniDepth(operations, device="meta")


def _pidinet(tensors: Mapping[str, Tensor], operations: Any, attention: Attention) -> nn.Module:
    return PiDiNet(pidinet_config(tensors), operations, device="meta")


def _sketch_simplification(tensors: Mapping[str, Tensor], operations: Any, attention: Attention) -> nn.Module:
    return SketchSimplification(sketch_channels(tensors), operations, device="meta")


MIDAS: Final = Annotator(
    title="MiDaS DPT-Large depth",
    file="midas_v3_dpt_large.pth",
    size="1.4 GB",
    marks=("patch_embedding.weight", "fusion1.conv_out.weight"),
    build=_midas,
)
MINI_DEPTH: Final = Annotator(
    title="this pack's small depth network",
    file="videolcm-mini-depth.safetensors",
    size="1.6 MB",
    marks=("down.0.0.weight", "up.0.0.weight", "out.weight"),
    build=_mini_depth,
)
PIDINET: Final = Annotator(
    title="PiDiNet edges",
    file="table5_pidinet.pth",
    size="3 MB",
    marks=("init_block.weight", "block1_1.conv1.weight"),
    build=_pidinet,
    convert=convert_differences,
)
SKETCH_SIMPLIFICATION: Final = Annotator(
    title="sketch simplification",
    file="sketch_simplification_gan.pth",
    size="180 MB",
    marks=("layers.0.weight", "layers.44.weight"),
    build=_sketch_simplification,
    channels=1,
)
ANNOTATORS: Final = (MIDAS, MINI_DEPTH, PIDINET, SKETCH_SIMPLIFICATION)

_TRIAL: Final = 128
"""Pixels a side of the image that is tried: a multiple of what every kind takes."""

# Other releases of the same networks, and what else is often in such folders.
_FOREIGN: Final = {
    "pretrained.model.": "MiDaS in the layout of its first release (pretrained.*, scratch.*)",
    "dpt.": "DPT in the layout of Hugging Face (dpt.*)",
    "backbone.": "a Depth Anything network",
    "model.diffusion_model.": "a diffusion checkpoint",
    "input_blocks.": "a diffusion network",
}


def load_annotator(
    path: str | Path,
    allowed: tuple[Annotator, ...],
    operations: Any = nn,
    attention: Attention = default_attention,
) -> tuple[Annotator, nn.Module]:
    """Read a network from a file, ready for inference; all sizes are read off its weights.

    Args:
        path: Of the file.
        allowed: What it may be.
        operations: Layer classes.
        attention: Attention kernel.

    Returns:
        What it is, and the network in float32.

    Raises:
        CheckpointError: If the file is unusable, holds another network, or is incomplete.
    """
    with reading(path):
        return _load(path, allowed, operations, attention)


def _load(
    path: str | Path, allowed: tuple[Annotator, ...], operations: Any, attention: Attention
) -> tuple[Annotator, nn.Module]:
    tensors, _, info = load_state_dict(path)
    kind = find_annotator(tensors)
    if kind not in allowed or kind is None:
        got = _described(tensors) if kind is None else f"{kind.title} (as in {kind.file})"
        names = " or ".join(f"{annotator.title} (as in {annotator.file})" for annotator in allowed)
        raise CheckpointError(info.file, got, names, "Choose another file, or replace this one by the published file.")
    try:
        tensors = kind.convert(tensors)
        network = kind.build(tensors, operations, attention)
    except KeyError as error:
        got = f"{kind.title} without {shorten(str(error.args[0]), 100)}"
        raise CheckpointError(info.file, got, "a complete file", AGAIN) from error
    check_weights(tensors, network.state_dict(), info.file)
    _check_runs(kind, tensors, info.file)
    network.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    return kind, network.train(False).requires_grad_(False)


def _check_runs(kind: Annotator, tensors: Mapping[str, Tensor], file: str) -> None:
    """Refuse sizes with which every weight fits its layer and the layers do not fit each other; computes nothing."""
    network = kind.build(tensors, nn, default_attention)
    try:
        made = network(torch.empty(1, kind.channels, _TRIAL, _TRIAL, device="meta"))
        shape = list((made[0] if isinstance(made, tuple) else made).shape)
        reason = f"it makes {shape}" if shape != [1, 1, _TRIAL, _TRIAL] else ""
    except (RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        reason = cause(error)
    if reason:
        got = f"{kind.title} of sizes that do not fit together ({reason})"
        raise CheckpointError(file, got, f"sizes as in {kind.file}", AGAIN)


def find_annotator(tensors: Mapping[str, Tensor]) -> Annotator | None:
    """The kind of network that these weights are of."""
    return next((kind for kind in ANNOTATORS if all(mark in tensors for mark in kind.marks)), None)


def _described(tensors: Mapping[str, Tensor]) -> str:
    """What a file holds that is no annotator."""
    for prefix, description in _FOREIGN.items():
        if any(key.startswith(prefix) for key in tensors):
            return description
    return f"a network with keys {name_some(sorted(tensors), 3)}"
