"""What a checkpoint says about itself, from its metadata, else from stated defaults."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from ...videolcm_core.networks.vgen.unet3d import UNetConfig
from ..model.model_sampling import SamplingOptions

log = logging.getLogger(__name__)

# ComfyUI's own savers drop a file's metadata, so the settings travel in saved files as a tensor of JSON bytes,
# in the manner of the host's own marker tensors ("v_pred").
MARKER_KEY: Final = "videolcm_metadata"
PREFIX: Final = "videolcm."

SAMPLING_PRESETS: Final = {
    "videolcm": SamplingOptions(),
    "teacher": SamplingOptions(distilled=False),
    "eps": SamplingOptions(prediction="eps", zero_terminal_snr=False, distilled=False),
}
SAMPLING_CHOICES: Final = ("auto", *SAMPLING_PRESETS)


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """A checkpoint's network and how to sample it.

    Attributes:
        unet: Sizes and conditions of the network.
        sampling: Prediction type, schedule and grid.
        metadata: The file's ``videolcm.*`` entries, kept for saving.
        text_config: Of the text encoder in an all-in-one file, in the names of a CLIP ``config.json``.
        latent_rgb_factors: ``[4][3]``, for previews; None for Stable Diffusion's.
        latent_rgb_bias: ``[3]``.
    """

    unet: UNetConfig
    sampling: SamplingOptions
    metadata: Mapping[str, str]
    text_config: Mapping[str, Any] | None = None
    latent_rgb_factors: tuple[tuple[float, ...], ...] | None = None
    latent_rgb_bias: tuple[float, ...] | None = None

    def summary(self) -> dict[str, Any]:
        """The lines of a log entry."""
        options = self.sampling
        return {
            "channels": self.unet.model_channels,
            "context": self.unet.context_dim,
            "conditions": sorted(self.unet.conditions),
            "prediction": options.prediction,
            "zero_terminal_snr": options.zero_terminal_snr,
            "grid": options.original_steps if options.distilled else "teacher, all timesteps",
        }


def own_metadata(state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """The ``videolcm.*`` entries of a file: its metadata, else the marker that our models leave in saved files."""
    found = {key: str(value) for key, value in (metadata or {}).items() if key.startswith(PREFIX)}
    marker = state_dict.get(MARKER_KEY)
    if found or marker is None:
        return found
    try:
        return {str(k): str(v) for k, v in json.loads(bytes(marker.to(torch.uint8).tolist())).items()}
    except (ValueError, AttributeError):
        log.warning("VideoLCM: the tensor %s does not hold settings; using defaults.", MARKER_KEY)
        return {}


def settings_to_marker(settings: CheckpointSettings) -> Tensor:
    """The settings as a tensor of JSON bytes, uint8 ``[n]``."""
    text = json.dumps(settings_to_metadata(settings))
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def settings_to_metadata(settings: CheckpointSettings) -> dict[str, str]:
    """Metadata from which `read_settings` makes equal settings again."""
    options = settings.sampling
    return {
        **settings.metadata,
        f"{PREFIX}prediction": options.prediction,
        f"{PREFIX}beta_schedule": options.beta_schedule,
        f"{PREFIX}zero_terminal_snr": str(options.zero_terminal_snr).lower(),
        f"{PREFIX}sampling": "lcm" if options.distilled else "teacher",
        f"{PREFIX}original_steps": str(options.original_steps),
        f"{PREFIX}timestep_scaling": str(options.timestep_scaling),
        f"{PREFIX}head_dim": str(settings.unet.head_dim),
    }


def read_settings(
    unet: UNetConfig, metadata: Mapping[str, str], name: str, sampling: str = "auto"
) -> CheckpointSettings:
    """Settings of a checkpoint.

    Args:
        unet: The network, as detected.
        metadata: The file's ``videolcm.*`` entries.
        name: File name, for messages.
        sampling: One of `SAMPLING_CHOICES`; other than "auto" overrides the file.

    Raises:
        ValueError: If a value cannot be read; names the file, the entry and the value.
    """
    return CheckpointSettings(
        unet=unet,
        sampling=_sampling(unet, metadata, name, sampling),
        metadata=dict(metadata),
        text_config=_json(metadata, "text_config", name, dict),
        latent_rgb_factors=_rows(_json(metadata, "latent_rgb_factors", name, list)),
        latent_rgb_bias=_row(_json(metadata, "latent_rgb_bias", name, list)),
    )


def _sampling(unet: UNetConfig, metadata: Mapping[str, str], name: str, choice: str) -> SamplingOptions:
    if choice != "auto":
        return SAMPLING_PRESETS[choice]
    if f"{PREFIX}prediction" not in metadata and f"{PREFIX}sampling" not in metadata:
        return _default_sampling(unet, name)
    options = SamplingOptions()
    try:
        return replace(
            options,
            prediction=metadata.get(f"{PREFIX}prediction", options.prediction),
            beta_schedule=metadata.get(f"{PREFIX}beta_schedule", options.beta_schedule),
            zero_terminal_snr=metadata.get(f"{PREFIX}zero_terminal_snr", "true").lower() == "true",
            distilled=metadata.get(f"{PREFIX}sampling", "lcm") == "lcm",
            original_steps=int(metadata.get(f"{PREFIX}original_steps", options.original_steps)),
            timestep_scaling=float(metadata.get(f"{PREFIX}timestep_scaling", options.timestep_scaling)),
        )
    except ValueError as error:
        raise ValueError(f"{name}: its metadata cannot be read. {error} Or choose `sampling` by hand.") from error


def _default_sampling(unet: UNetConfig, name: str) -> SamplingOptions:
    # ModelScope's network has the same tensors but for the first convolution, and predicts noise.
    choice = "eps" if unet.concat_channels == 0 else "videolcm"
    log.warning(
        "VideoLCM: %s says nothing about its prediction type; taking '%s' (%s). If the video is noise, choose "
        "`sampling` in Load VideoLCM Model: 'teacher' for TF-T2V files, 'eps' for ModelScope files.",
        name,
        choice,
        "noise prediction, 1000 timesteps" if choice == "eps" else "v prediction, zero terminal SNR, 50-step grid",
    )
    return SAMPLING_PRESETS[choice]


def _json(metadata: Mapping[str, str], key: str, name: str, kind: type) -> Any:
    text = metadata.get(f"{PREFIX}{key}")
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{name}: metadata {PREFIX}{key} is {text[:60]!r}; allowed: JSON. Save the file again."
        ) from error
    if not isinstance(value, kind):
        raise ValueError(f"{name}: metadata {PREFIX}{key} is {text[:60]!r}; allowed: a JSON {kind.__name__}.")
    return value


def _row(values: list[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)


def _rows(values: list[list[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if values is None else tuple(tuple(float(v) for v in row) for row in values)
