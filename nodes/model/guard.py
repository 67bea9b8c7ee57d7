"""One warning when the settings of a sampling run do not suit the model; only what cannot give a video is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import host
from .attention_patches import REPLACEMENTS
from .finite import attach_finite_check
from .model_sampling import VideoLCMModelSampling
from .unet import KNOWN_PATCHES

KEY = "videolcm_guard"
SUITABLE_SAMPLERS = ("lcm", "videolcm")
NEAR = 0.05
"""How far noise levels may be from the scheduler's own without a note, as a part of them."""


def attach_guard(patcher: Any) -> None:
    """Have every sampling run with this MODEL looked at."""
    patcher.add_wrapper_with_key(host.WrappersMP.OUTER_SAMPLE, KEY, _guard)
    attach_finite_check(patcher)


def _guard(executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any):
    guider = executor.class_obj
    check_shape(noise)
    check_windows(guider.model_options.get("context_handler"), noise)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    cfg = float(getattr(guider, "cfg", 1.0))
    places = guider.model_patcher.model.diffusion_model.attention_places()
    found = hazards(sampling, noise, sampler, sigmas, cfg) + ignored_patches(guider.model_options, places)
    found += cached_steps(sampling, guider.model_options)
    windows = guider.model_options.get("context_handler") is not None
    found += other_sizes(guider.model_patcher.model.model_config.settings.file, noise, windows)
    host.forget_old_notes()
    if found:
        host.tell(f"this run may disappoint: {'; '.join(found)}.")
    return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


def hazards(sampling: Any, noise: Tensor, sampler: Any, sigmas: Tensor, cfg: float) -> list[str]:
    """What is unusual about a run.

    Args:
        sampling: The model's sampling object.
        noise: Start noise, ``[F, 4, h, w]`` or ``[B, 4, F, h, w]``.
        sampler: The host's sampler object.
        sigmas: Noise levels of the run, largest first.
        cfg: Guidance scale.
    """
    found = []
    frames = noise.shape[2] if noise.ndim == 5 else noise.shape[0]
    if frames == 1:
        found.append("the latent has one frame (Empty VideoLCM Latent makes 16)")
    if noise.ndim == 5:
        found.append("the latent is [batch, channels, frames, h, w] and VAE Decode will show one frame of it")
    if isinstance(sampling, VideoLCMModelSampling) and sampling.options.distilled:
        found += _distilled_hazards(sampling, sampler, sigmas, cfg)
    return found


def is_distilled(sampling: Any) -> bool:
    """Whether a MODEL is sampled as a consistency model, by ours or by core's Model Sampling "lcm"."""
    if isinstance(sampling, VideoLCMModelSampling):
        return sampling.options.distilled
    return hasattr(sampling, "original_timesteps")


def cached_steps(sampling: Any, model_options: dict[str, Any]) -> list[str]:
    """Nodes of the host that leave steps out where two look alike: a few-step model has none to spare.

    Args:
        sampling: The model's sampling object.
        model_options: Of the run.
    """
    if not is_distilled(sampling) or "easycache" not in model_options.get("transformer_options", {}):
        return []
    return ["EasyCache or LazyCache leaves out steps, and a model of few steps has none to spare (take it off)"]


def other_sizes(file: Any, noise: Tensor, windows: bool) -> list[str]:
    """How the latent differs from the videos that the model was trained on, where it matters.

    Args:
        file: What the checkpoint says, with ``width``, ``height`` (pixels) and ``frames``.
        noise: Start noise, ``[F, 4, h, w]`` or ``[B, 4, F, h, w]``.
        windows: Whether context windows cut a long video into pieces.
    """
    found: list[str] = []
    if not {"width", "height", "frames"} <= file.given:  # the file does not say
        return found
    frames = noise.shape[2] if noise.ndim == 5 else noise.shape[0]
    width, height = 8 * noise.shape[-1], 8 * noise.shape[-2]
    if not 0.5 <= width * height / (file.width * file.height) <= 2.0:
        found.append(
            f"the latent is {width} x {height} pixels and the model was trained at {file.width} x {file.height} "
            "(connect the model to Empty VideoLCM Latent for its own size)"
        )
    if frames > 1 and not windows and not 0.5 <= frames / file.frames <= 1.5:
        longer = "; for more frames use Context Windows (Manual) with dim 0" if frames > file.frames else ""
        found.append(f"the latent has {frames} frames and the model was trained on {file.frames}{longer}")
    return found


def check_shape(latent: Tensor) -> None:
    """Refuse latents that are no video at all; the network refuses those of another model.

    Raises:
        ValueError: If it is not ``[F, C, h, w]`` or ``[B, C, F, h, w]``, or has nothing in it.
    """
    if latent.ndim not in (4, 5) or 0 in latent.shape:
        raise ValueError(
            f"The latent has shape {list(latent.shape)}; allowed: [frames, channels, height / 8, width / 8], each at "
            f"least 1. Use Empty VideoLCM Latent, or VAE Encode with the VAE of this model."
        )


def check_windows(handler: Any, noise: Tensor) -> None:
    """Refuse context windows that cannot give a video: the host ends in NaN or in an index.

    Args:
        handler: The host's, None without windows.
        noise: Start noise of the run.

    Raises:
        ValueError: If windows do not move on, or do not run over the frames.
    """
    length, overlap, dim = (getattr(handler, name, None) for name in ("context_length", "context_overlap", "dim"))
    if not (isinstance(length, int) and isinstance(overlap, int) and isinstance(dim, int)):
        return
    axis = _frame_axis(noise)
    if dim >= noise.ndim or (dim != axis and noise.shape[dim] > length):
        raise ValueError(
            f"Context Windows: dim is {dim} for a latent of shape {list(noise.shape)}; allowed: {axis}, the frames. "
            f"Set dim to {axis}."
        )
    if noise.shape[dim] <= length:
        return
    if overlap >= length:
        raise ValueError(
            f"Context Windows: context_overlap is {overlap} and context_length {length}; allowed: an overlap from 0 to "
            f"{length - 1}, so that each window moves on. Set context_overlap to {length // 4}, or use longer windows."
        )
    fuse, schedule = (getattr(getattr(handler, n, None), "name", "") for n in ("fuse_method", "context_schedule"))
    # Its fade must fit into every window; the schedule batched leaves a shorter one at the end.
    shortest = noise.shape[dim] % length or length if schedule == "batched" else length
    if fuse == "overlap-linear" and not 0 < overlap <= shortest:
        most = min(shortest, length - 1)
        raise ValueError(
            f"Context Windows: context_overlap is {overlap} with fuse_method {fuse} and windows of {shortest} to "
            f"{length} frames; allowed: 1 to {most}. Choose the fuse_method pyramid, or another overlap."
        )


def _frame_axis(noise: Tensor) -> int:
    return 2 if noise.ndim == 5 else 0


def ignored_patches(model_options: dict[str, Any], places: set[tuple[str, int]]) -> list[str]:
    """Patches on the MODEL that this network has no place for.

    Args:
        model_options: Of the run.
        places: See `HostUNet.attention_places`.
    """
    options = model_options.get("transformer_options", {})
    names = {name for name, patches in options.get("patches", {}).items() if patches} - KNOWN_PATCHES
    for name, patches in options.get("patches_replace", {}).items():
        if name not in REPLACEMENTS:
            names |= {f"{name} replacement"} if patches else set()
            continue
        names |= {f"{name} replacement at {place}" for place in patches if not _is_place(place, places)}
    return [f"patches without effect on this network: {', '.join(sorted(names))}"] if names else []


def _is_place(place: Any, places: set[tuple[str, int]]) -> bool:
    """Whether a patch's key names spatial attention of this network; its transformers have one block each."""
    return tuple(place[:2]) in places and tuple(place[2:]) in ((), (0,))


def _distilled_hazards(sampling: VideoLCMModelSampling, sampler: Any, sigmas: Tensor, cfg: float) -> list[str]:
    found = []
    if cfg > 2:
        found.append(f"cfg is {cfg:g}, but guidance was distilled into the model (use 1)")
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "").removeprefix("sample_")
    if name and name not in SUITABLE_SAMPLERS:
        found.append(f"the sampler is {name}, but a consistency model needs lcm")
    if off_grid(sampling, sigmas):
        found.append("the scheduler leaves the grid the model was distilled on (use simple, or VideoLCM Scheduler)")
    return found


def off_grid(sampling: VideoLCMModelSampling, sigmas: Tensor) -> bool:
    """Whether a noise level above 0 lies between two of the model's timesteps, by more than rounding.

    Levels beside those that the scheduler ``simple`` takes for as many steps do no harm: ``sgm_uniform``, which people
    use with AnimateDiff-Evolved, means the same timesteps and is up to 4 % off.
    """
    used = sigmas[sigmas > 0].cpu()
    grid = sampling.sigmas.cpu()
    if not len(used):
        return False
    if not bool(((used[:, None] / grid[None, :]).log().abs().amin(dim=1) > 1e-3).any()):
        return False
    stride = len(grid) / len(used)
    simple = torch.stack([grid[-(1 + int(step * stride))] for step in range(len(used))])
    return bool(((used / simple).log().abs() > NEAR).any())
