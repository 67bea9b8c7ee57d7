"""How a checkpoint is sampled: what its file says, what is known of its shape, or what the user chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ...videolcm_core.families.vgen.defaults import defaults_of
from ...videolcm_core.files.errors import SettingsError
from ...videolcm_core.files.settings import (
    SAMPLING_ENTRIES,
    FileSettings,
    advised,
    to_metadata,
    without_entries,
)
from ...videolcm_core.files.settings import read_settings as read_file_settings
from ...videolcm_core.networks.vgen.unet3d import UNetConfig
from .. import host
from ..model.model_sampling import SamplingOptions
from ..model.presets import PRESETS

SAMPLING_PRESETS: Final = {name: PRESETS[name] for name in ("videolcm", "teacher", "eps")}
SAMPLING_CHOICES: Final = ("auto", *SAMPLING_PRESETS)
_ADVICE: Final = "Or choose `sampling` in Load VideoLCM Model by hand."


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """A checkpoint's network and how to sample it.

    Attributes:
        unet: Sizes and conditions of the network.
        sampling: Prediction type, schedule and grid.
        file: What the file says and is known to be.
    """

    unet: UNetConfig
    sampling: SamplingOptions
    file: FileSettings

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

    def metadata(self, sampling: SamplingOptions) -> dict[str, str]:
        """Entries from which `read_settings` makes these settings again, with other sampling.

        What the file did not say, and sampling does not need, stays unsaid.
        """
        entries = replace(self.file, **sampling.entries(), head_dim=self.unet.head_dim)
        return to_metadata(entries, self.file.given | SAMPLING_ENTRIES | {"head_dim"})


def read_settings(
    unet: UNetConfig, metadata: Mapping[str, str], name: str, sampling: str = "auto"
) -> CheckpointSettings:
    """Settings of a checkpoint.

    A file of which neither entries nor shape tell whether it is a student or a teacher is taken for a student: who
    loads a model here means to sample it in a few steps. The trainer takes the same file for a teacher.

    Args:
        unet: The network, as detected.
        metadata: The file's ``videolcm.*`` entries.
        name: File name, for messages.
        sampling: One of `SAMPLING_CHOICES`; other than "auto" overrides the file, whose own entries are then not read.

    Raises:
        SettingsError: If a value cannot be read or is not allowed; names the file, the entry and the value.
    """
    if sampling != "auto":
        metadata = without_entries(metadata, SAMPLING_ENTRIES)
    try:
        file = read_file_settings(metadata, defaults_of(unet), name)
    except SettingsError as error:
        if error.entry not in SAMPLING_ENTRIES:
            raise
        raise advised(error, _ADVICE) from error
    if sampling != "auto":
        return CheckpointSettings(unet=unet, sampling=SAMPLING_PRESETS[sampling], file=file)
    options = SamplingOptions.of(replace(file, sampling=file.sampling or "lcm"))
    _warn_of_guesses(file, options, name)
    return CheckpointSettings(unet=unet, sampling=options, file=file)


def _warn_of_guesses(file: FileSettings, options: SamplingOptions, name: str) -> None:
    """Say on the node what the file did not."""
    if "sampling" in file.given or ("prediction" in file.given and file.sampling is not None):
        return
    unsaid = "whether it is a student or a teacher" if "prediction" in file.given else "its prediction type"
    same = [choice for choice, preset in SAMPLING_PRESETS.items() if preset == options]
    schedule = "zero terminal SNR" if options.zero_terminal_snr else "Stable Diffusion's schedule"
    grid = f"{options.original_steps}-step grid" if options.distilled else "1000 timesteps"
    choice = same[0] if same else "lcm" if options.distilled else "teacher"
    predicts = "noise" if options.prediction == "eps" else options.prediction
    host.tell(
        f"{name} says nothing about {unsaid}; taking '{choice}' ({predicts} prediction, {schedule}, {grid}). If the "
        "video is noise, choose `sampling` in Load VideoLCM Model: 'teacher' for TF-T2V files, 'eps' for ModelScope "
        "files."
    )
