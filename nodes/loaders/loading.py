"""From a file to the host's MODEL, CLIP and VAE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ...videolcm_core.families.vgen.detection import detect_unet_config
from ...videolcm_core.files.errors import CheckpointError, name_some
from ...videolcm_core.files.guard import reading
from ...videolcm_core.files.loading import HOST_MARKERS, check_real, check_weights
from ...videolcm_core.files.marker import own_metadata
from ...videolcm_core.files.reading import load_state_dict
from ...videolcm_core.networks.autoencoder import TinyAutoencoder
from ...videolcm_core.networks.vgen.unet3d import UNet3D
from .. import host
from ..model.base_model import build_model
from ..model.preview import attach_preview
from .sd15 import SD15Settings, build_sd15, is_narrow_sd15, read_sd15_settings
from .settings import CheckpointSettings, read_settings
from .text_encoder import check_text, text_config, text_state_dict, text_target

UNET_PREFIX: Final = "model.diffusion_model."
TEXT_PREFIX: Final = "cond_stage_model."
VAE_PREFIX: Final = "first_stage_model."

# The tiny autoencoder's and Stable Diffusion's: names that each has, and how all of their names begin.
_VAE_MARKS: Final = (("taesd_encoder.", "taesd_decoder."), ("encoder.conv_in.weight", "decoder.conv_in.weight"))
_VAE_NAMES: Final = ("taesd_", "vae_s", "encoder.", "decoder.", "quant_conv.", "post_quant_conv.")

WEIGHT_DTYPES: Final = {
    "default": None,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


Settings = CheckpointSettings | SD15Settings


class Parts(NamedTuple):
    """A file, taken apart."""

    unet: dict[str, Tensor]
    text: dict[str, Tensor]
    vae: dict[str, Tensor]
    metadata: dict[str, str]


def load_model(path: str, weight_dtype: str = "default", sampling: str = "auto", disable_dynamic: bool = False) -> Any:
    """The MODEL in a file: an authors' UNet, one saved by the host, or the UNet of an all-in-one file.

    Args:
        path: Of the file.
        weight_dtype: One of `WEIGHT_DTYPES`.
        sampling: One of `settings.SAMPLING_CHOICES`.
        disable_dynamic: See `host.make_patcher`.

    Raises:
        CheckpointError: If the file is damaged, of another family, or incomplete.
        ValueError: If its settings or text encoder cannot be read.
    """
    with reading(path):
        parts = read_parts(path)
        settings = _settings(path, parts, sampling)
        patcher = _model(path, settings, parts, WEIGHT_DTYPES[weight_dtype], disable_dynamic)
        attach_preview(patcher, parts.vae)
    patcher.cached_patcher_init = (load_model, (path, weight_dtype, sampling))
    return patcher


def load_checkpoint(path: str, disable_dynamic: bool = False) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of an all-in-one file; errors as in `load_model`."""
    with reading(path):
        parts = read_parts(path)
        settings = _settings(path, parts, "auto")
        _require(path, parts)
        check_text(parts.text, TEXT_PREFIX, Path(path).name)
        _check_vae(path, parts)
        model = _model(path, settings, parts, None, disable_dynamic)
        clip = _clip(path, settings, parts.text, disable_dynamic)
        vae = _vae(path, parts)
        attach_preview(model, parts.vae)
    model.cached_patcher_init = (load_model, (path,))
    clip.patcher.cached_patcher_init = (_load_clip_patcher, (path,))
    if getattr(vae, "patcher", None) is not None:
        vae.patcher.cached_patcher_init = (_load_vae_patcher, (path,))
    return model, clip, vae


def _load_clip_patcher(path: str, disable_dynamic: bool = False) -> Any:
    with reading(path):
        parts = read_parts(path)
        check_text(parts.text, TEXT_PREFIX, Path(path).name)
        return _clip(path, _settings(path, parts, "auto"), parts.text, disable_dynamic).patcher


def _load_vae_patcher(path: str, disable_dynamic: bool = False) -> Any:
    with reading(path):
        parts = read_parts(path)
        _check_vae(path, parts)
        return _vae(path, parts).patcher


def read_parts(path: str) -> Parts:
    """Read a file and take it apart by the host's prefixes; without prefixes all of it is the UNet."""
    state_dict, metadata, _ = load_state_dict(path)
    own = own_metadata(state_dict, metadata, Path(path).name)
    if any(key.startswith(UNET_PREFIX) for key in state_dict):
        unet, text, vae = (_under(state_dict, prefix) for prefix in (UNET_PREFIX, TEXT_PREFIX, VAE_PREFIX))
        return Parts(unet, text, vae, own)
    unet = {key: value for key, value in state_dict.items() if key not in HOST_MARKERS}
    return Parts(unet, {}, {}, own)


def _under(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}


def _require(path: str, parts: Parts) -> None:
    wanted = {UNET_PREFIX: parts.unet, TEXT_PREFIX: parts.text, VAE_PREFIX: parts.vae}
    missing = [prefix for prefix, tensors in wanted.items() if not tensors]
    if missing:
        raise CheckpointError(
            Path(path).name,
            got=f"no tensors under {', '.join(missing)}",
            allowed="an all-in-one file with model.diffusion_model., cond_stage_model. and first_stage_model.",
            next_step="Load this file with Load VideoLCM Model, and text encoder and VAE with Load CLIP and Load VAE.",
        )


def _model(path: str, settings: Settings, parts: Parts, dtype: torch.dtype | None, disable_dynamic: bool) -> Any:
    if isinstance(settings, SD15Settings):
        return build_sd15(settings, parts.unet, Path(path).name, dtype, disable_dynamic)
    return build_model(settings, parts.unet, dtype, disable_dynamic)


def _settings(path: str, parts: Parts, sampling: str) -> Settings:
    name = Path(path).name
    if is_narrow_sd15(parts.unet):
        return read_sd15_settings(parts.metadata, name)
    unet = detect_unet_config(parts.unet, parts.metadata, name)
    # The host's loader only logs missing keys, and would then sample with unset memory.
    check_weights(parts.unet, UNet3D(unet, device="meta").state_dict(), name)
    return read_settings(unet, parts.metadata, name, sampling)


def _clip(path: str, settings: Settings, tensors: Mapping[str, Tensor], disable_dynamic: bool) -> Any:
    name = Path(path).name
    state_dict = text_state_dict(tensors, name)
    known = frozenset(tensors["vocabulary"].long().tolist()) if "vocabulary" in tensors else None
    target = text_target(text_config(state_dict, settings.file.text_config), known)
    clip = host.make_clip(target, state_dict, disable_dynamic)
    _check_part(name, TEXT_PREFIX, state_dict, clip.cond_stage_model.state_dict())
    return clip


def _check_vae(path: str, parts: Parts) -> None:
    """Refuse an autoencoder that is not one of two known kinds: the host builds whatever its names seem to be of."""
    name = Path(path).name
    check_real({VAE_PREFIX + key: value for key, value in parts.vae.items()}, name)
    known = [marks for marks in _VAE_MARKS if all(any(key.startswith(mark) for key in parts.vae) for mark in marks)]
    if not known or any(not key.startswith(_VAE_NAMES) for key in parts.vae):
        raise _unknown_vae(name, parts)
    if known[0] == _VAE_MARKS[0]:
        with torch.device("meta"):
            _check_part(name, VAE_PREFIX, parts.vae, TinyAutoencoder().state_dict())


def _vae(path: str, parts: Parts) -> Any:
    name = Path(path).name
    vae = host.make_vae(dict(parts.vae), parts.metadata)
    if getattr(vae, "first_stage_model", None) is None:
        raise _unknown_vae(name, parts)
    _check_part(name, VAE_PREFIX, parts.vae, vae.first_stage_model.state_dict())
    return vae


def _unknown_vae(name: str, parts: Parts) -> CheckpointError:
    return CheckpointError(
        name,
        got=f"a VAE that this ComfyUI does not know, {name_some(sorted(parts.vae), 3)}",
        allowed="taesd_encoder.* and taesd_decoder.*, or Stable Diffusion's",
        next_step="Get a complete checkpoint, or load the VAE with Load VAE.",
    )


def _check_part(name: str, prefix: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    # The host adds a scale to every CLIP; it is not used here and files need not have it.
    wanted = {prefix + key: value for key, value in expected.items() if not key.endswith("logit_scale")}
    given = {prefix + key: value for key, value in tensors.items() if not key.endswith("logit_scale")}
    check_weights(given, wanted, name)
