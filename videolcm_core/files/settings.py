"""What a checkpoint says about itself: one dataclass, read and written here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from ..diffusion.consistency import TIMESTEP_SCALING
from ..diffusion.schedule import BETA_END
from ..networks.autoencoder import LATENT_SCALE
from .entries import ENTRIES, FORMAT, PREFIX, check_value, read_entry, write_entry
from .errors import SettingsError, shorten

SAMPLING_ENTRIES: Final = frozenset(
    {"prediction", "beta_schedule", "beta_end", "zero_terminal_snr", "sampling", "original_steps", "timestep_scaling"}
)
"""Names of the fields that say how a network is sampled."""


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """The entries ``videolcm.*`` of a checkpoint's metadata. Defaults are the released text-to-video models.

    A field that is None is not written. Ranges are in `entries.ENTRIES`.

    Attributes:
        format: Of the metadata.
        family: "tf-t2v", "videocomposer", "modelscope", "diffusers", "videolcm-mini", or an author's own word.
        prediction: What the network predicts: "v", "eps" or "x_0".
        beta_schedule: "scaled_linear" or "linear".
        beta_end: The last beta.
        zero_terminal_snr: Whether the last timestep is pure noise.
        sampling: "lcm" for a consistency model, "teacher" for a plain diffusion model; None where neither the file nor
            its tensors tell, and the reader's purpose decides.
        original_steps: Length of the grid that a consistency model was distilled on.
        timestep_scaling: Of its boundary condition.
        w: Guidance that was distilled in; the scale is 1 + w. Of a range its middle.
        w_range: Where it was drawn from a range: from and to.
        cfg: Recommended guidance scale.
        steps: Recommended number of steps.
        sampler: Recommended, in ComfyUI's names.
        scheduler: Recommended, in ComfyUI's names.
        conditions: Names of what the network takes beside text.
        width: Of the videos it was trained on, pixels.
        height: Of the videos, pixels.
        frames: Of the videos.
        fps: Frames per second of the videos.
        group_norm: Of motion modules, statistics of each "frame" or of the whole "video".
        head_dim: Width of one head of attention.
        dropout: Of the network's training.
        latent_scale: Factor on the autoencoder's latents.
        text_config: Sizes of the text encoder in the file, in the names of a CLIP ``config.json``.
        latent_rgb_factors: ``[4][3]``, for previews of latents.
        latent_rgb_bias: ``[3]``.
        base: File that a student was distilled from.
        method: How a student was distilled, in the trainer's words: "videolcm" or "mcm".
        recipe: How it was trained, JSON text.
        extra: Unknown entries without ``videolcm.``, kept for saving.
        given: Names of the fields that the file itself said.
    """

    format: int = FORMAT
    family: str = "tf-t2v"
    prediction: str = "v"
    beta_schedule: str = "scaled_linear"
    beta_end: float = BETA_END
    zero_terminal_snr: bool = True
    sampling: str | None = None
    original_steps: int = 50
    timestep_scaling: float = TIMESTEP_SCALING
    w: float | None = None
    w_range: tuple[float, float] | None = None
    cfg: float | None = None
    steps: int | None = None
    sampler: str | None = None
    scheduler: str | None = None
    conditions: tuple[str, ...] | None = None
    width: int = 448
    height: int = 256
    frames: int = 16
    fps: float = 8
    group_norm: str | None = None
    head_dim: int = 64
    dropout: float = 0.1
    latent_scale: float = LATENT_SCALE
    text_config: Mapping[str, Any] | None = None
    latent_rgb_factors: tuple[tuple[float, ...], ...] | None = None
    latent_rgb_bias: tuple[float, ...] | None = None
    base: str | None = None
    method: str | None = None
    recipe: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    given: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        """Refuse values that no file may have.

        Raises:
            ValueError: Naming the field, the value and what is allowed.
        """
        for name in NAMES:
            if (value := getattr(self, name)) is not None:
                check_value(name, value)


NAMES: Final = tuple(f.name for f in fields(FileSettings) if f.name not in ("extra", "given"))
"""Of the fields that are entries."""
assert set(NAMES) == set(ENTRIES)

Defaults = Callable[[Mapping[str, Any]], FileSettings]
"""From what a file says, by field, to settings that also hold what it does not say."""


def read_settings(metadata: Mapping[str, Any], defaults: Defaults, file: str) -> FileSettings:
    """Settings of a checkpoint.

    Args:
        metadata: Of the file; entries without ``videolcm.`` are not ours.
        defaults: Of its family, such as `families.vgen.defaults.defaults_of`.
        file: Its name, for messages.

    Raises:
        SettingsError: If an entry cannot be read or has a value that is not allowed.
    """
    given = said_entries(metadata, file)
    own = {str(k).removeprefix(PREFIX): v for k, v in metadata.items() if str(k).startswith(PREFIX)}
    extra = {name: str(text) for name, text in own.items() if name not in ENTRIES}
    return replace(defaults(given), **given, extra=extra, given=frozenset(given))


def said_entries(metadata: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The values of the entries that a file has, by field, and no defaults.

    Args:
        metadata: Of the file.
        file: Its name, for messages.

    Raises:
        SettingsError: If an entry cannot be read or has a value that is not allowed.
    """
    own = {str(k).removeprefix(PREFIX): v for k, v in metadata.items() if str(k).startswith(PREFIX)}
    return {name: read_entry(name, text, file) for name, text in own.items() if name in ENTRIES}


def to_metadata(settings: FileSettings, names: Collection[str] = NAMES) -> dict[str, str]:
    """Entries from which `read_settings` makes equal settings again; every value a string, as safetensors demands.

    Args:
        settings: To write.
        names: Fields to write, all by default; unknown entries are always kept.
    """
    values = {name: getattr(settings, name) for name in NAMES if name in names}
    known = {PREFIX + name: write_entry(value) for name, value in values.items() if value is not None}
    return {**{PREFIX + name: text for name, text in settings.extra.items()}, **known}


def without_entries(metadata: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Metadata without some of our entries."""
    return {key: value for key, value in metadata.items() if key.removeprefix(PREFIX) not in names}


def advised(error: SettingsError, advice: str) -> SettingsError:
    """The error with one more thing that the user can do."""
    return SettingsError(error.file, error.entry, error.got, error.allowed, shorten(f"{error.next_step} {advice}", 250))
