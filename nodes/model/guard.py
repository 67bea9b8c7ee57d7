"""One warning in the log when the settings of a sampling run do not suit the model. Nothing is blocked."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from .. import host
from .attention_patches import REPLACEMENTS
from .model_sampling import VideoLCMModelSampling
from .unet import KNOWN_PATCHES

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
    found = hazards(sampling, noise, sampler, sigmas, cfg) + ignored_patches(
        guider.model_options, guider.model_patcher.model.diffusion_model.attention_places()
    )
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
    """Whether a noise level above 0 lies between two of the model's timesteps, by more than rounding."""
    used = sigmas[sigmas > 0].cpu()
    grid = sampling.sigmas.cpu()
    if not len(used):
        return False
    return bool(((used[:, None] / grid[None, :]).log().abs().amin(dim=1) > 1e-3).any())
