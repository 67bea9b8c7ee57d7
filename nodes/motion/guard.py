"""What is looked at before a run with motion modules: refusals that a user can act on, and one note of doubts."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor

from .. import host
from ..model.control_windows import KEY as CONTROL_KEY
from ..model.control_windows import attach_control_windows
from ..model.finite import KEY as FINITE_KEY
from ..model.finite import attach_finite_check
from ..model.guard import cached_steps, check_shape, check_windows, hazards, is_distilled
from .first_frame import SIGMAS, FirstFrame
from .patch import RAN, Motion, Ran, motion_of, motion_of_options
from .slots import ensure_slots, text_width

KEY: Final = "videolcm_motion"
FEWEST_FRAMES: Final = 8
"""Of a video; motion modules were trained on 16 and give noise on a few."""
FEW_STEPS: Final = 8
LATENT_CHANNELS: Final = 4
_WRAPPED: Final = (
    host.WrappersMP.OUTER_SAMPLE,
    host.WrappersMP.SAMPLER_SAMPLE,
    host.WrappersMP.PREDICT_NOISE,
    host.WrappersMP.CALC_COND_BATCH,
)


def attach_motion_guard(patcher: Any) -> None:
    """Have every sampling run with this MODEL looked at; what an earlier node attached stays once."""
    for key in (KEY, FINITE_KEY, CONTROL_KEY):
        for kind in _WRAPPED:
            patcher.remove_wrappers_with_key(kind, key)
    patcher.add_wrapper_with_key(host.WrappersMP.OUTER_SAMPLE, KEY, _guard)
    patcher.add_wrapper_with_key(host.WrappersMP.SAMPLER_SAMPLE, KEY, _check_modules_run)
    attach_finite_check(patcher)
    attach_control_windows(patcher)


def _guard(executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any):
    guider = executor.class_obj
    patcher, options = guider.model_patcher, guider.model_options
    motion = motion_of(patcher)
    if motion is None:  # another node took it off
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    handler = options.get("context_handler")
    check_latent(noise)
    check_windows(handler, noise)
    check_length(motion, _window(handler, noise))
    check_text(patcher, guider.conds)
    sampling = patcher.get_model_object("model_sampling")
    host.forget_old_notes()
    found = hazards(sampling, noise, sampler, sigmas, float(getattr(guider, "cfg", 1.0)))
    found += cached_steps(sampling, options) + doubts(motion, patcher, sampling, sigmas, len(noise))
    if found:
        host.tell(f"this run may disappoint: {'; '.join(found)}.")
    image = motion.first_frame
    if image is None:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    check_image(image, noise)
    if (image.start, image.end) != (0.0, 1.0):
        bounds = (float(sampling.percent_to_sigma(image.start)), float(sampling.percent_to_sigma(image.end)))
        options.setdefault("transformer_options", {})[SIGMAS] = bounds
    try:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        image.computed.clear()


def _check_modules_run(executor: Any, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], *args: Any) -> Any:
    """The MODEL is loaded now: see that the slots are there, and afterwards that the modules ran.

    Raises:
        RuntimeError: If no motion module ran, rather than giving frames that know nothing of one another.
    """
    options = extra_args.get("model_options", {})
    motion = motion_of_options(options)
    patcher = model_wrap.model_patcher
    if motion is None or motion_of(patcher) is None:
        return executor(model_wrap, sigmas, extra_args, *args)
    ensure_slots(patcher)
    ran = options.setdefault("transformer_options", {})[RAN] = Ran()
    result = executor(model_wrap, sigmas, extra_args, *args)
    missing = ran.missing(motion.network.names())
    if missing and motion.scale > 0 and len(sigmas) > 1:
        raise RuntimeError(
            f"{len(missing)} of {len(motion.network.names())} motion modules of {motion.file} did not run, the first "
            f"{missing[0]}; allowed: all. Another node or pack changed the UNet of this MODEL: take it off, or tell us "
            f"which one it is."
        )
    return result


def check_latent(noise: Tensor) -> None:
    """Refuse latents that are not frames of Stable Diffusion 1.5.

    Raises:
        ValueError: Naming the shape and the node that makes the right one.
    """
    check_shape(noise)
    if noise.ndim != 4 or noise.shape[1] != LATENT_CHANNELS:
        raise ValueError(
            f"The latent has shape {list(noise.shape)}; allowed with motion modules: [frames, 4, height / 8, width / "
            f"8], the frames as the batch. Use Empty VideoLCM Latent, Empty Latent Image with batch_size 16, or VAE "
            f"Encode with an SD1.5 VAE."
        )


def _window(handler: Any, noise: Tensor) -> int:
    """Frames that a motion module sees at once; the host may put one before a window."""
    length = getattr(handler, "context_length", None)
    if not isinstance(length, int) or len(noise) <= length:
        return len(noise)
    return length + bool(getattr(handler, "causal_window_fix", False))


def check_length(motion: Motion, frames: int) -> None:
    """Refuse more frames than the file has positions for.

    Raises:
        ValueError: Naming both and what to do.
    """
    positions = motion.network.config.positions
    if positions and frames > positions:
        raise ValueError(
            f"{frames} frames at once, but {motion.file} has positions for {positions}; allowed: 1 to {positions}. Use "
            f"fewer frames, or Context Windows (Manual) with dim 0 and context_length 16 (and causal_window_fix off)."
        )


def check_text(model: Any, conds: dict[str, Any] | None) -> None:
    """Refuse text of another model's encoder, which the host ends in a matrix of the wrong shape.

    Raises:
        ValueError: Naming both widths.
    """
    wanted = text_width(model)
    for name, entries in (conds or {}).items():
        for entry in entries or ():
            text = entry.get("cross_attn")
            if isinstance(text, Tensor) and text.shape[-1] != wanted:
                raise ValueError(
                    f"The {name} prompt is {text.shape[-1]} wide; allowed: {wanted}, the text of this MODEL. It comes "
                    f"from another model's CLIP (SDXL 2048, SD2 1024, SD1.5 768): use the CLIP of this checkpoint."
                )


def check_image(image: FirstFrame, noise: Tensor) -> None:
    """Refuse a first frame of another size than the video.

    Raises:
        ValueError: Naming both and what to do.
    """
    height, width = image.latents.shape[2:]
    if (height, width) != tuple(noise.shape[2:]):
        raise ValueError(
            f"The first frame was encoded for {8 * width} x {8 * height} pixels and the video has {8 * noise.shape[3]} "
            f"x {8 * noise.shape[2]}; allowed: the same size. Connect the latent of the sampler to Apply AnimateLCM "
            f"First Frame too."
        )
    if len(image.latents) not in (1, len(noise)):
        raise ValueError(
            f"There are {len(image.latents)} images for {len(noise)} frames; allowed: 1, or one for each frame."
        )


def doubts(motion: Motion, patcher: Any, sampling: Any, sigmas: Tensor, frames: int) -> list[str]:
    """What is unusual about a run with motion modules.

    Args:
        motion: On the MODEL.
        patcher: The MODEL.
        sampling: Its sampling object.
        sigmas: Noise levels of the run, largest first.
        frames: Of the video.
    """
    found = []
    if 1 < frames < FEWEST_FRAMES:
        found.append(f"the latent has {frames} frames; motion modules need about 16")
    distilled = is_distilled(sampling)
    few = len(sigmas) - 1 <= FEW_STEPS
    if distilled and few and not patcher.patches and not motion.patcher.patches:
        found.append(
            f"{len(sigmas) - 1} steps without a LoRA on the MODEL (AnimateLCM needs AnimateLCM_sd15_t2v_lora at 0.8 to "
            "1, unless an LCM LoRA is merged into the checkpoint)"
        )
    if not distilled and few:
        found.append(
            f"{len(sigmas) - 1} steps with motion modules that were not distilled (use 20 or more, or AnimateLCM's)"
        )
    return found
