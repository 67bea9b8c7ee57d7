"""Reading a network's sizes off its weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from torch import Tensor

from ...files.entries import PREFIX, read_entry
from ...files.errors import CheckpointError, name_some
from ...networks.vgen.conditions import CONDITION_CHANNELS, module_names
from ...networks.vgen.unet3d import UNetConfig
from ..foreign import foreign_family, without_prefix

_ALLOWED: Final = "a network of the VGen family (VideoLCM, TF-T2V, VideoComposer, ModelScope text-to-video)"
_NEXT: Final = "Choose a VideoLCM checkpoint, or load this file with the loader of its own family."
DEFAULT_HEAD_DIM: Final = 64
# Far beyond every published network of the family (1280 channels, 4 levels of 2 blocks): a small file of many tiny
# tensors must not ask for a network that takes minutes to build.
_MOST: Final = {"channels": 8192, "levels": 8, "residual blocks": 64, "times the channels": 32, "image tokens": 1024}
_NUMBER: Final = re.compile(r"input_blocks\.(\d{1,4})\.")


def detect_unet_config(
    state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, file: str = "this checkpoint"
) -> UNetConfig:
    """Widths, depth, heads, text width and condition encoders of a network, from its weights.

    Args:
        state_dict: Authors' keys, bare or under ``model.diffusion_model.``.
        metadata: Of the file. The width of a head cannot be seen in shapes: ``videolcm.head_dim``, else 64.
        file: Its name, for messages.

    Raises:
        CheckpointError: If it belongs to another family, lacks a weight that shows a size, or the sizes disagree.
    """
    family = foreign_family(state_dict)
    if family is not None:
        raise CheckpointError(file, family, _ALLOWED, _NEXT)
    shapes = {key: tuple(value.shape) for key, value in without_prefix(state_dict).items()}
    stem, last = _shape(shapes, "input_blocks.0.0.weight", file, 4), _shape(shapes, "out.2.weight", file, 4)
    width, out_channels = stem[0], last[0]
    _check_most(file, "channels", max(*stem[:2], *last[:2]))
    mults, num_res_blocks, scales = _levels(shapes, width, file)
    context_dim = _shape(shapes, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", file, 2)[1]
    inner = _shape(shapes, "input_blocks.0.1.proj_in.weight", file, 2)[0]
    _check_most(file, "channels", max(context_dim, inner))
    head_dim = _head_dim(metadata, inner, file)
    tokens = shapes.get("pre_image_condition.2.weight", (4 * context_dim,))[0] // context_dim
    _check_most(file, "image tokens", tokens)
    try:
        return UNetConfig(
            in_channels=out_channels,
            concat_channels=stem[1] - out_channels,
            out_channels=out_channels,
            model_channels=width,
            channel_mult=mults,
            num_res_blocks=num_res_blocks,
            attention_scales=scales,
            context_dim=context_dim,
            num_heads=inner // head_dim,
            head_dim=head_dim,
            conditions=_conditions(shapes),
            num_image_tokens=tokens,
            use_fps="fps_embedding.0.weight" in shapes,
        )
    except ValueError as error:
        raise CheckpointError(file, f"sizes that do not fit together ({error})", _ALLOWED, _NEXT) from error


def require_conditions(config: UNetConfig, names: Collection[str], file: str = "this checkpoint") -> None:
    """Refuse a network without the encoders that are about to be used.

    Raises:
        CheckpointError: Naming the conditions that it lacks.
    """
    missing = sorted(set(names) - config.conditions)
    if missing:
        have = ", ".join(sorted(config.conditions)) or "text only"
        raise CheckpointError(
            file,
            f"a network with these conditions: {have}",
            f"one that takes {', '.join(missing)}",
            "Load a compositional checkpoint (videolcm_vcomposer), or remove the condition.",
        )


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str, file: str, axes: int) -> tuple[int, ...]:
    """The shape of a weight that shows a size; convolutions of length 1 may be stored as matrices."""
    if key not in shapes:
        some = name_some(sorted(shapes), 3) or "no tensors"
        raise CheckpointError(file, f"no {key} among {some}", _ALLOWED, _NEXT)
    shape = shapes[key]
    if len(shape) < axes or 0 in shape:
        got, allowed = f"{key} of shape {list(shape)[:8]}", f"{axes} axes, none of length 0"
        raise CheckpointError(file, got, allowed, "The file may be damaged; get it again.")
    return shape


def _check_most(file: str, what: str, count: int) -> None:
    if count > _MOST[what]:
        next_step = "No network of this family is so large: choose another file."
        raise CheckpointError(file, f"a network of {count} {what}", f"at most {_MOST[what]}", next_step)


def _levels(
    shapes: Mapping[str, tuple[int, ...]], width: int, file: str
) -> tuple[tuple[int, ...], int, tuple[float, ...]]:
    """Width multipliers, residual blocks per level, and scales with attention."""
    mults: list[int] = []
    scales: list[float] = []
    level = blocks = 0
    numbers = sorted({int(match[1]) for key in shapes if (match := _NUMBER.match(key))} - {0})
    _check_most(file, "residual blocks", len(numbers))
    for number in numbers:
        prefix = f"input_blocks.{number}"
        if f"{prefix}.op.weight" in shapes:
            level += 1
            continue
        channels = _shape(shapes, f"{prefix}.0.out_layers.3.weight", file, 4)[0]
        _check_most(file, "times the channels", channels // width)
        if level == len(mults):
            mults.append(channels // width)
        if f"{prefix}.1.norm.weight" in shapes and 2.0**-level not in scales:
            scales.append(2.0**-level)
        blocks += 1
    _check_most(file, "levels", len(mults))
    if not mults or blocks % len(mults):
        got = f"{blocks} residual blocks on {len(mults)} levels"
        raise CheckpointError(file, got, "the same number on every level", "The file may be incomplete; get it again.")
    return tuple(mults), blocks // len(mults), tuple(scales)


def _head_dim(metadata: Mapping[str, str] | None, inner: int, file: str) -> int:
    head_dim = read_entry("head_dim", (metadata or {}).get(f"{PREFIX}head_dim", DEFAULT_HEAD_DIM), file)
    if inner % head_dim:
        raise CheckpointError(
            file,
            f"head_dim {head_dim} for {inner} channels of attention",
            "a divisor of the channels",
            "Write the right `videolcm.head_dim` into the file's metadata.",
        )
    return head_dim


def _conditions(shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    found = {name for name in CONDITION_CHANNELS if f"{module_names(name)[0]}.0.weight" in shapes}
    if "pre_image_condition.0.weight" in shapes:
        found.add("image")
    if "hist_context_embedding.0.weight" in shapes:
        found.add("histogram")
    return frozenset(found)
