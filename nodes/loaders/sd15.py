"""Narrow networks of Stable Diffusion 1.5's layout, as core's own MODEL.

Core's loaders know the published width only. The UNet, LoRA names, samplers and savers are core's for every width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...videolcm_core.families.animatediff.defaults import STABLE_DIFFUSION
from ...videolcm_core.families.animatediff.sd15 import detect_sd15, is_sd15, text_width
from ...videolcm_core.files.settings import FileSettings, read_settings
from .. import host
from ..model.model_sampling import SamplingOptions, VideoLCMModelSampling

_KNOWN_TEXT = (768, 1024)  # of Stable Diffusion 1.5 and 2, which core loads


@dataclass(frozen=True, kw_only=True)
class SD15Settings:
    """How such a checkpoint is sampled, and what its file says."""

    file: FileSettings
    sampling: SamplingOptions


class NarrowSD15(host.SD15Config):
    """The host's description of Stable Diffusion 1.5 at another width."""

    unet_config: dict[str, Any] = {}


def is_narrow_sd15(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a UNet without prefix has Stable Diffusion 1.5's layout at a width that core does not load."""
    return is_sd15(tensors) and text_width(tensors) not in _KNOWN_TEXT


def read_sd15_settings(metadata: Mapping[str, str], name: str) -> SD15Settings:
    """Settings of a checkpoint of this layout.

    Raises:
        SettingsError: If an entry cannot be read or is not allowed.
    """
    file = read_settings(metadata, lambda given: STABLE_DIFFUSION, name)
    return SD15Settings(file=file, sampling=SamplingOptions.of(file))


def _empty_model(config: NarrowSD15, tensors: Mapping[str, Tensor]) -> Any:
    return config.get_model(dict(tensors))


def build_sd15(
    settings: SD15Settings,
    tensors: Mapping[str, Tensor],
    name: str,
    dtype: torch.dtype | None = None,
    disable_dynamic: bool = False,
) -> Any:
    """A MODEL of core's classes with its weights.

    Args:
        settings: Of the checkpoint.
        tensors: Of the UNet, without prefix.
        name: File name, for messages.
        dtype: Storage precision, None for the host's choice.
        disable_dynamic: See `host.make_patcher`.

    Raises:
        CheckpointError: If the weights are not those of this layout.
    """
    detect_sd15(tensors, name)
    config = NarrowSD15(host.detect_unet_config(dict(tensors)))
    config.settings = settings
    weights = next(t.dtype for t in tensors.values() if t.is_floating_point())
    host.set_inference_dtypes(config, dtype, host.calculate_parameters(dict(tensors)), weights)
    patcher = host.make_patcher(_empty_model(config, tensors), dict(tensors), disable_dynamic)
    patcher.add_object_patch("model_sampling", VideoLCMModelSampling(settings.sampling))
    return patcher
