"""One warning in the log when the settings of a sampling run do not suit the model. Nothing is blocked."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from .. import host
from .model_sampling import VideoLCMModelSampling
from .unet import BLOCK_PATCHES

log = logging.getLogger(__name__)

KEY = "videolcm_guard"
SUITABLE_SAMPLERS = ("lcm", "videolcm")


def attach_guard(patcher: Any) -> None:
    """Have every sampling run with this MODEL looked at."""
    patcher.add_wrapper_with_key(host.WrappersMP.OUTER_SAMPLE, KEY, _guard)


def _guard(executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any):
    guider = executor.class_obj
    sampling = guider.model_patcher.get_model_object("model_sampling")
    cfg = float(getattr(guider, "cfg", 1.0))
    found = hazards(sampling, noise, sampler, sigmas, cfg) + ignored_patches(guider.model_options)
    if found:
        log.warning("VideoLCM: this run may disappoint: %s.", "; ".join(found))
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


def ignored_patches(model_options: dict[str, Any]) -> list[str]:
    """Patches on the MODEL that this network has no place for."""
    options = model_options.get("transformer_options", {})
    names = {name for name, patches in options.get("patches", {}).items() if patches} - BLOCK_PATCHES
    names |= {f"{name} replacement" for name, patches in options.get("patches_replace", {}).items() if patches}
    return [f"patches without effect on this network: {', '.join(sorted(names))}"] if names else []


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
    """Whether a noise level above 0 lies between two of the model's timesteps, by more than rounding."""
    used = sigmas[sigmas > 0].cpu()
    grid = sampling.sigmas.cpu()
    if not len(used):
        return False
    return bool(((used[:, None] / grid[None, :]).log().abs().amin(dim=1) > 1e-3).any())
