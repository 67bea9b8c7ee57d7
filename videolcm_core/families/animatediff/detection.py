"""Reading a file of motion modules: which release it is, its sizes, and its weights under the authors' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from ...files.errors import CheckpointError, name_some
from ...files.loading import check_weights
from ...files.settings import FileSettings, read_settings
from ...networks.animatediff.motion import MID, NUM_HEADS, MotionConfig, MotionNetwork
from ..foreign import foreign_family
from .defaults import UNKNOWN, defaults_of
from .keymaps import AUTHORS, MODULE, motion_from_diffusers

LEVELS: Final = 4
_ALLOWED: Final = "motion modules for Stable Diffusion 1.5 (AnimateLCM, AnimateDiff v1 to v3, diffusers' MotionAdapter)"
_CHOOSE: Final = "Choose a file of motion modules in Load Motion Module."
_AGAIN: Final = "The file may be incomplete; get it again."
_GROUPS: Final = 32
# Far beyond the published modules (1280 channels): a small file must not ask for a network that cannot be built.
_MOST_CHANNELS: Final = 8192
_V1_POSITIONS: Final = 24
_PREFIXES: Final = re.compile(r"(?:module\.|unet\.)+")
_ENCODER: Final = "img_encoder."
_LEVEL: Final = re.compile(r"down_blocks\.(\d{1,4})\.motion_modules\.")
_HOTSHOT: Final = (".temporal_attentions.", "pos_encoder.positional_encoding")
# Which loader takes what the other families' files hold.
_LOADERS: Final = {
    "a LoRA, not a whole model": "Load it with Load VideoLCM LoRA or a LoRA loader, after the motion module.",
    "Stable Diffusion 1.x": "Load it with Load Checkpoint, and choose a motion module here.",
    "a text encoder": "Load it with Load CLIP, and choose a motion module here.",
    "an autoencoder": "Load it with Load VAE, and choose a motion module here.",
    "a ControlNet": "Load it with Load ControlNet Model, and choose a motion module here.",
}


@dataclass(frozen=True)
class MotionFile:
    """A file of motion modules.

    Attributes:
        config: Sizes.
        weights: By the keys of `MotionNetwork`, which are those that the authors published.
        release: "animatelcm", "animatelcm-i2v", "animatediff-v1", "-v2", "-v3", or `defaults.UNKNOWN` where the
            tensors cannot tell the first from the fourth.
        layout: "authors" or "diffusers", of the file.
        settings: How it samples, and over what its group norm takes statistics.
        ignored: Keys of the file that are of no motion module.
    """

    config: MotionConfig
    weights: dict[str, Tensor]
    release: str
    layout: str
    settings: FileSettings
    ignored: tuple[str, ...] = ()


def read_motion(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: str) -> MotionFile:
    """Read the tensors of a file.

    Takes the authors' layout and diffusers', of any width, with other networks' weights beside it.

    Args:
        tensors: Of the file, as `files.reading.load_state_dict` returns them (which refuses NaN and Inf).
        metadata: Of the file; entries ``videolcm.*`` win over what is known of the release.
        file: Its name, for messages; where two releases have the same tensors, "lcm" in it tells.

    Raises:
        CheckpointError: If it holds something else, modules of another network, or not all of them.
    """
    named = {_PREFIXES.sub("", key, count=1) if _PREFIXES.match(key) else key: key for key in tensors}
    found = {name: tensors[key] for name, key in named.items() if MODULE.fullmatch(name) or name.startswith(_ENCODER)}
    _check_family(tensors, found, file)
    layout = "authors" if any(f".{AUTHORS}" in name for name in found) else "diffusers"
    weights = found if layout == "authors" else motion_from_diffusers(found)
    weights = {name: _as_matrix(name, value) for name, value in weights.items()}
    config = _config(weights, file)
    check_weights(weights, MotionNetwork(config, device="meta").state_dict(), file)
    release = _release(config, layout, file)
    settings = read_settings(metadata, defaults_of(release, layout), file)
    ignored = tuple(key for name, key in named.items() if name not in found)
    return MotionFile(config, weights, release, layout, settings, ignored)


def _check_family(tensors: Mapping[str, Tensor], found: Mapping[str, Tensor], file: str) -> None:
    """Refuse, by name, what is no motion module."""
    family = foreign_family(tensors)
    if any(mark in key for key in tensors for mark in _HOTSHOT):
        raise CheckpointError(file, "HotshotXL, motion modules for Stable Diffusion XL", _ALLOWED, _CHOOSE)
    if any(MODULE.fullmatch(name) for name in found):
        if family in _LOADERS:  # motion LoRAs and SparseCtrl, whose layers have these names too
            raise CheckpointError(file, family, _ALLOWED, _LOADERS[family])
        return
    if found:
        got = "AnimateLCM's image encoder without motion modules"
        raise CheckpointError(file, got, _ALLOWED, "Choose AnimateLCM_sd15_i2v.ckpt, which holds both.")
    if family is not None:
        raise CheckpointError(file, family, _ALLOWED, _LOADERS.get(family, _CHOOSE))
    if any(key.endswith("input_blocks.0.1.transformer_blocks.0.attn1.to_q.weight") for key in tensors):
        got = "a network of the VGen family (VideoLCM, TF-T2V, VideoComposer, ModelScope)"
        raise CheckpointError(file, got, _ALLOWED, "Load it with Load VideoLCM Checkpoint.")
    raise CheckpointError(
        file, f"no motion modules among {name_some(sorted(tensors), 3) or '0 keys'}", _ALLOWED, _CHOOSE
    )


def _as_matrix(name: str, value: Tensor) -> Tensor:
    """A projection of kernel 1 as the matrix that it is."""
    is_projection = name.endswith(("proj_in.weight", "proj_out.weight")) and name.startswith(("down", "up", "mid"))
    return value.flatten(1) if is_projection and value.ndim > 2 and value.shape[2:].numel() == 1 else value


def _config(weights: Mapping[str, Tensor], file: str) -> MotionConfig:
    """Sizes, from the first module of each level."""
    levels = {int(match[1]) for name in weights if (match := _LEVEL.match(name))}
    if levels == {0, 1, 2} and not any(name.startswith(("mid_block.", "up_blocks.3.")) for name in weights):
        got = "motion modules of three levels, for Stable Diffusion XL"
        raise CheckpointError(file, got, _ALLOWED, _CHOOSE)
    if levels != set(range(LEVELS)):
        got = f"motion modules on the levels {sorted(levels)[:8]} going down"
        raise CheckpointError(file, got, f"{_ALLOWED}: levels 0 to {LEVELS - 1}", _AGAIN)
    channels = tuple(_channels(weights, level, file) for level in range(LEVELS))
    tables = {name: value for name, value in weights.items() if name.endswith(".pos_encoder.pe")}
    return MotionConfig(
        channels=channels,  # type: ignore[arg-type]
        mid_block=any(name.startswith(MID) for name in weights),
        positions=max((_positions(name, value, file) for name, value in tables.items()), default=0),
        image_encoder=any(name.startswith(_ENCODER) for name in weights),
    )


def _channels(weights: Mapping[str, Tensor], level: int, file: str) -> int:
    """Width of one level."""
    name = f"down_blocks.{level}.motion_modules.0.{AUTHORS}norm.weight"
    if name not in weights:
        raise CheckpointError(file, f"no {name}", _ALLOWED, _AGAIN)
    shape = list(weights[name].shape)
    if len(shape) != 1 or shape[0] % _GROUPS or not 0 < shape[0] <= _MOST_CHANNELS:
        allowed = f"one axis, a multiple of {_GROUPS} up to {_MOST_CHANNELS} channels ({NUM_HEADS} heads)"
        raise CheckpointError(file, f"{name} of shape {shape[:8]}", allowed, _AGAIN)
    return shape[0]


def _positions(name: str, table: Tensor, file: str) -> int:
    """Number of frames that a table of positions is for."""
    if table.ndim != 3 or 0 in table.shape:
        allowed = "[1, frames, channels], none of them 0"
        raise CheckpointError(file, f"{name} of shape {list(table.shape)[:8]}", allowed, _AGAIN)
    return table.shape[1]


def _release(config: MotionConfig, layout: str, file: str) -> str:
    """Which published modules these have the tensors of."""
    if config.image_encoder:
        return "animatelcm-i2v"
    if config.positions == 0:
        return "animatelcm"
    if not config.mid_block:
        return "animatediff-v1" if config.positions <= _V1_POSITIONS else "animatediff-v3"
    if layout == "authors":
        return "animatediff-v2"
    return "animatelcm" if "lcm" in file.lower() else UNKNOWN
