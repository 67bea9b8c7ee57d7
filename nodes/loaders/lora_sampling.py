"""How a MODEL is sampled with a LoRA on it: as the file's metadata says, or as MCM, known by the layers it adapts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ...videolcm_core.families.animatediff.lora import trained_group_norm
from ...videolcm_core.families.mcm import is_mcm
from ...videolcm_core.files.errors import shorten
from ...videolcm_core.files.lora import LoraFile
from ...videolcm_core.files.lora_fit import LoraFit
from ...videolcm_core.files.settings import SAMPLING_ENTRIES, FileSettings, said_entries
from .. import host
from ..model.model_sampling import SamplingOptions, VideoLCMModelSampling, options_of
from ..model.presets import PRESETS
from ..motion.patch import motion_of
from .lora_target import LoraTarget

_NODE: Final = "VideoLCM Model Sampling"
_MCM: Final = {"method": "mcm", "cfg": 1.0, "steps": 4, "sampler": "lcm", "scheduler": "simple"}
"""What the authors' demonstration uses; they evaluate 1, 2, 4 and 8 steps."""


@dataclass(frozen=True, kw_only=True)
class LoraSampling:
    """What a LoRA's file tells about sampling.

    Attributes:
        options: How the MODEL is to be sampled; None where nothing tells.
        said: Entries of its metadata that a user may need, by field of `FileSettings`.
        group_norm: The convention its motion layers were trained with, see `trained_group_norm`; None if unknown.
    """

    options: SamplingOptions | None
    said: dict[str, Any]
    group_norm: str | None = None


def read_sampling(lora: LoraFile, fit: LoraFit, target: LoraTarget) -> LoraSampling:
    """What a file tells; entries that it lacks are the MODEL's.

    Raises:
        SettingsError: If an entry of its metadata has no allowed value.
    """
    said, group_norm = said_entries(lora.metadata, lora.file), trained_group_norm(lora)
    if is_mcm(lora, fit, target.unet, target.modules if target.is_sd15 else None):
        base = "AnimateDiff v2 on Stable Diffusion 1.5" if target.is_sd15 else "ModelScope text-to-video"
        known = PRESETS["mcm-animatediff" if target.is_sd15 else "mcm"]
        # Also in kohya's names or diffusers' old ones, which do not tell that the layers were trained in diffusers.
        group_norm = group_norm or ("video" if target.is_sd15 else None)
        said = {**_MCM, "base": base} | said
    else:
        known = None
    sampling = {name: value for name, value in said.items() if name in SAMPLING_ENTRIES}
    if sampling:
        entries = (known or _options_on(target.model)).entries() | sampling
        known = SamplingOptions.of(FileSettings(**entries))
    return LoraSampling(options=known, said=said, group_norm=group_norm)


def set_sampling(patched: Any, lora: LoraFile, wanted: LoraSampling) -> None:
    """Sample a MODEL, which the caller has cloned, as a LoRA on it needs, and say so.

    What the user chose by hand stays, and the node says what to set.

    Args:
        patched: The clone with the LoRA on it.
        lora: The file.
        wanted: Of `read_sampling`.
    """
    if advice := _advice(wanted.said):
        host.inform(f"{lora.file}: {advice}.")
    if wanted.options is None or (_is_ours(patched) and _options_on(patched) == wanted.options):
        return
    if is_chosen(patched):
        host.tell(
            f"{lora.file} is made for {in_words(wanted.options)}, and how this MODEL is sampled was chosen by hand, so "
            f"it stays. Set that in {_NODE} (or in Apply Motion Module), or take the node off."
        )
        return
    before = _options_on(patched)
    patched.add_object_patch("model_sampling", VideoLCMModelSampling(wanted.options))
    host.inform(
        f"{lora.file}: the MODEL is sampled with {in_words(wanted.options)} from here on. For another way put {_NODE} "
        f"after this node."
    )
    if before.prediction != wanted.options.prediction:
        host.tell(
            f"{lora.file} is for a network that predicts {wanted.options.prediction}, and this MODEL was loaded as one "
            f"that predicts {before.prediction}. If the video is noise, the LoRA is of another base model."
        )


def is_chosen(model: Any) -> bool:
    """Whether the user said by a node how a MODEL is sampled, ours or core's."""
    motion = motion_of(model)
    sampling = model.object_patches.get("model_sampling")
    return bool(motion and motion.sampling_chosen) or (sampling is not None and getattr(sampling, "chosen", True))


def in_words(options: SamplingOptions) -> str:
    """What to set in VideoLCM Model Sampling."""
    if same := next((name for name, preset in PRESETS.items() if preset == options), None):
        return f"preset {same}"
    if not options.distilled:
        return f"{options.prediction} prediction on all timesteps"
    zsnr = "on" if options.zero_terminal_snr else "off"
    return (
        f"preset custom, prediction {options.prediction}, zsnr {zsnr}, original_steps {options.original_steps}, "
        f"beta_schedule {options.beta_schedule}, beta_end {options.beta_end:g}, timestep_scaling "
        f"{options.timestep_scaling:g}"
    )


def _is_ours(model: Any) -> bool:
    return isinstance(model.get_model_object("model_sampling"), VideoLCMModelSampling)


def _options_on(model: Any) -> SamplingOptions:
    return options_of(model.get_model_object("model_sampling"), PRESETS["eps"])


def _advice(said: dict[str, Any]) -> str:
    """What a user must know, from the entries of a file."""
    parts = []
    if method := said.get("method"):
        parts.append(f"distilled with {shorten(method, 60)}")
    if base := said.get("base"):
        parts.append(f"made for {shorten(base, 120)}")
    if sampler := said.get("sampler"):
        scheduler = said.get("scheduler")
        parts.append(f"sampler {shorten(sampler, 40)}{f' with {shorten(scheduler, 40)}' if scheduler else ''}")
    if steps := said.get("steps"):
        parts.append(f"{steps} steps")
    if (cfg := said.get("cfg")) is not None:
        parts.append(f"cfg {cfg:g}")
    if {"width", "height", "frames"} <= set(said):
        parts.append(f"{said['frames']} frames of {said['width']} x {said['height']}")
    return ", ".join(parts)
