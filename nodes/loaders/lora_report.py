"""What the LoRA node tells: what fitted, what was left out and why, and what was assumed about a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ...videolcm_core.families.animatediff.lora import ANIMATELCM_RANK, MOTION
from ...videolcm_core.families.foreign import lora_base
from ...videolcm_core.files.errors import CheckpointError
from ...videolcm_core.files.lora import LoraFile
from ...videolcm_core.files.lora_config import CONFIG_NAME
from ...videolcm_core.files.lora_fit import LoraFit
from .. import host
from ..motion.patch import Motion
from .lora_target import LoraTarget

log = logging.getLogger(__name__)

_LONGEST = 160  # characters of a name in a message
_ALONG_TIME = ("temp_attentions", "temp_convs", "transformer_in", "temopral_conv")  # the authors' spelling
_AFTER = "put Load VideoLCM LoRA after Apply Motion Module"


def report(lora: LoraFile, fit: LoraFit, target: LoraTarget, of_unet: Sequence[str], of_motion: Sequence[str]) -> None:
    """Say what was changed.

    Args:
        lora: The file.
        fit: Of the file against the MODEL.
        target: The MODEL.
        of_unet: Changed weights of the UNet.
        of_motion: Of the motion modules.

    Raises:
        CheckpointError: If there are none, or those that there are fit by chance.
    """
    left_out = " and ".join(named := _left_out(lora, fit, target))
    if not of_unet and not of_motion:
        raise CheckpointError(
            lora.file,
            f"{left_out or 'no LoRA tensors'}; none fits this model. {lora_base(lora)}",
            _allowed(target),
            _check(lora, target) if not _for_motion(fit, target) else f"For a LoRA of motion modules {_AFTER}.",
        )
    if (reader := fit.reads_other_text(of_unet)) is not None:
        raise CheckpointError(
            lora.file,
            f"{_cut(reader)}: none of its layers that read the text fits, so it is of another base model, though "
            f"{len(of_unet)} of its layers have the right shape. {lora_base(lora)}",
            _allowed(target),
            _check(lora, target),
        )
    if foreign := _of_other_network(lora, target):
        raise CheckpointError(
            lora.file,
            f"{len(foreign)} of {len(lora.layers)} layers of another network (first {_cut(foreign[0])}), though "
            f"{len(of_unet)} have the right names and shapes by chance. {lora_base(lora)}",
            _allowed(target),
            _check(lora, target),
        )
    count = _count(target, of_unet, of_motion)
    log.info("VideoLCM: %s changes %s, scale from %s.", lora.file, count, _scale_of(lora, fit))
    if named:
        host.tell(f"{lora.file}: {count} changed, left out: {', '.join(named)}.")
    _tell_scale(lora, fit)


def convention(file: str, trained: str | None, motion: Motion | None) -> tuple[str | None, str]:
    """The group norm that motion modules get with a LoRA, None for the one they have, and what to say about it.

    Args:
        file: Name of the LoRA.
        trained: The convention it was trained with, None if unknown.
        motion: The motion modules, None where there are none.
    """
    if trained is None or motion is None or motion.group_norm == trained:
        return None, ""
    said = f"{file} was trained with group norms over {_over(trained)}"
    if motion.group_norm_chosen:
        return (
            None,
            f"{said}, and group_norm of Apply Motion Module is {motion.group_norm}: set it to {trained} or auto.",
        )
    return trained, f"{said}, so group_norm is {trained} from here on. To keep another, set it in Apply Motion Module."


def _over(group_norm: str) -> str:
    return "all frames of a video (diffusers)" if group_norm == "video" else "each frame alone"


def _left_out(lora: LoraFile, fit: LoraFit, target: LoraTarget) -> list[str]:
    """Causes, each with its count and first name."""
    motion = _for_motion(fit, target)
    causes = {
        "of another shape": fit.misshapen,
        "not in this model": [name for name in fit.unknown if name not in set(motion)],
    }
    named = [f"{len(names)} {cause} (first {_cut(names[0])})" for cause, names in causes.items() if names]
    if motion:
        named.append(f"{len(motion)} for motion modules, which this MODEL does not have ({_AFTER})")
    if lora.missing and lora.config is not None:
        said = f"that {lora.config.source} names and the file does not have"
        named.append(f"{len(lora.missing)} {said} (first {_cut(lora.missing[0])})")
    if fit.text:
        named.append(f"{len(fit.text)} for a text encoder (first {_cut(fit.text[0])}; Load LoRA takes those)")
    return named


def _for_motion(fit: LoraFit, target: LoraTarget) -> list[str]:
    """Layers of motion modules that wait for some."""
    if not target.is_sd15 or target.motion is not None:
        return []
    return [name for name in fit.unknown if MOTION in name]


def _count(target: LoraTarget, of_unet: Sequence[str], of_motion: Sequence[str]) -> str:
    if target.motion is None:
        return f"{len(of_unet)} weights"
    return f"{len(of_unet)} weights of the UNet and {len(of_motion)} of the motion modules"


def _scale_of(lora: LoraFile, fit: LoraFit) -> str:
    if fit.assumed is not None:
        return f"AnimateLCM's layout ({fit.assumed:g})"
    return lora.config.source if lora.config else "the file" if not lora.guessed else "its rank"


def _tell_scale(lora: LoraFile, fit: LoraFit) -> None:
    """Say where the scale was not in the file."""
    if fit.assumed is not None:
        host.tell(
            f"{lora.file} carries no alpha. Rank {ANIMATELCM_RANK} on all {len(fit.changes)} layers that LCM-LoRA "
            f"adapts is AnimateLCM's LoRA, whose authors multiply it by 1/8, so {fit.assumed:g} was taken. If it is "
            f"another, strength_model {1 / fit.assumed:g} undoes that."
        )
    elif "peft" in lora.guessed:
        host.tell(
            f"{lora.file} does not say its alpha, so alpha was taken to be the rank. Put the {CONFIG_NAME} of its "
            f"training beside it, or set strength_model to alpha / rank."
        )
    elif lora.guessed:
        host.tell(
            f"{lora.file} does not say its alpha, so alpha was taken to be the rank. If it was trained with another, "
            f"set strength_model to alpha / rank."
        )


def _allowed(target: LoraTarget) -> str:
    if target.is_sd15:
        return "a LoRA for Stable Diffusion 1.5 or its motion modules in kohya, peft or diffusers layout"
    return "a LoRA for this network in kohya, peft, diffusers, stable_lora or cloneofsimo layout"


def _of_other_network(lora: LoraFile, target: LoraTarget) -> list[str]:
    """Layers along time of the other family: ModelScope's on Stable Diffusion 1.5, motion modules' on VGen's."""
    parts = _ALONG_TIME if target.is_sd15 else (MOTION,)
    return [name for name in lora.layers if any(part in name for part in parts)]


def _check(lora: LoraFile, target: LoraTarget) -> str:
    if _of_other_network(lora, target):
        if target.is_sd15:
            return "It is for ModelScope's network: connect a ModelScope MODEL (Load VideoLCM Model)."
        return "It is for Stable Diffusion 1.5 with motion modules: load such a checkpoint, add Apply Motion Module."
    kind = "ModelScope or VideoLCM text-to-video, of this size"
    if target.is_sd15:
        kind = "Stable Diffusion 1.5, AnimateDiff or AnimateLCM, of this size"
    return f"Check that it was trained on this kind of model ({kind})."


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
