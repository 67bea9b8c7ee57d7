"""Noise levels and step noise of the samplers, at ComfyUI's scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...videolcm_core.diffusion.edm import inference_indices
from ...videolcm_core.diffusion.schedule import ddim_timesteps, lcm_timesteps
from .. import host
from ..model.edm_sampling import SVD_PRESET, AnimateLCMSVDSampling
from ..model.model_sampling import NUM_TIMESTEPS, VideoLCMModelSampling

DEFAULT_ORIGINAL_STEPS = 50
NOISE_DEVICES = ("cpu", "gpu")


def original_steps_of(sampling: Any) -> int:
    """Length of the grid a model was distilled on; 50 where it does not say."""
    return own_grid(sampling) or DEFAULT_ORIGINAL_STEPS


def own_grid(sampling: Any) -> int | None:
    """Length of the grid a model was distilled on; None where it does not say, as of a teacher."""
    if isinstance(sampling, AnimateLCMSVDSampling):
        return len(sampling.sigmas)
    if isinstance(sampling, VideoLCMModelSampling):
        return sampling.options.original_steps if sampling.options.distilled else None
    return getattr(sampling, "original_timesteps", None)  # of core's "lcm"


def lcm_sigmas(sampling: Any, steps: int, original_steps: int, strength: float) -> Tensor:
    """Noise levels of the multistep consistency sampler, then 0.

    Args:
        sampling: The model's sampling object.
        steps: Number of network calls.
        original_steps: Length of the grid to choose from.
        strength: 1 starts from noise; less keeps some of the given video.

    Raises:
        ValueError: If steps or strength are outside the grid, or the model has no such grid.
    """
    if isinstance(sampling, AnimateLCMSVDSampling):
        sigmas = _svd_sigmas(sampling, steps, original_steps, strength)
    else:
        sigmas = _sigmas(sampling, lcm_timesteps(steps, original_steps, strength, NUM_TIMESTEPS))
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def ddim_sigmas(sampling: Any, steps: int) -> Tensor:
    """Noise levels of the authors' DDIM: timesteps 981, 961, ..., 1 for 50 steps, ending at timestep 0, not at 0.

    Raises:
        ValueError: If there are not so many steps, or the model has no such timesteps.
    """
    t = ddim_timesteps(steps, NUM_TIMESTEPS)
    return _sigmas(sampling, torch.cat([t, t.new_zeros(1)]))


def _svd_sigmas(sampling: AnimateLCMSVDSampling, steps: int, original_steps: int, strength: float) -> Tensor:
    levels = sampling.sigmas.flip(0).cpu()
    if original_steps != len(levels):
        raise ValueError(
            f"original_steps is {original_steps}; allowed: {len(levels)}, AnimateLCM-SVD's noise levels, or 0 for the "
            f"model's own. Set original_steps to 0."
        )
    return levels[inference_indices(steps, len(levels), strength)]


def _sigmas(sampling: Any, t: Tensor) -> Tensor:
    if isinstance(sampling, VideoLCMModelSampling):
        return sampling.sigma_at(t).cpu()
    if not isinstance(sampling, host.ModelSamplingDiscrete):
        raise ValueError(
            f"This MODEL samples as {type(sampling).__name__}, which does not have the timesteps 0 to 999; allowed: "
            f"models with VideoLCM Model Sampling (for AnimateLCM-SVD its preset {SVD_PRESET}, with mode lcm), and "
            f"Stable Diffusion's kin. Add that node, or use KSampler."
        )
    return sampling.sigma(t).float().cpu()


def step_noise(x: Tensor, seed: int | None, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A source of noise for the steps of a sampler.

    Args:
        x: The sample, for shape, device and dtype.
        seed: Of the run; None draws from torch's own numbers, as the host does.
        device: "cpu" draws the same noise on every machine; "gpu" draws where ``x`` lives, as the host does.
    """
    if device == "gpu":
        return host.default_step_noise(x, seed)
    if seed is None:
        return lambda sigma, sigma_next: torch.randn(x.shape).to(x)
    generator = torch.Generator(device="cpu")
    # One above the seed of the start noise, as in the host, so that the two differ.
    generator.manual_seed((seed + 1) % 2**64)
    return lambda sigma, sigma_next: torch.randn(x.shape, generator=generator).to(x)


def make_sampler(device: str = "cpu", s_noise: float = 1.0, noise_clip_std: float = 0.0) -> Any:
    """The host's ``lcm`` sampler with a chosen source of step noise.

    Args:
        device: See `step_noise`.
        s_noise: Factor on the step noise.
        noise_clip_std: Clamp the noise at this many standard deviations; 0 does not.
    """

    def sample_videolcm(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **kwargs: Any) -> Tensor:
        source = step_noise(x, (extra_args or {}).get("seed"), device)

        def noise_sampler(sigma: Tensor, sigma_next: Tensor) -> Tensor:
            noise = source(sigma, sigma_next)
            if noise_clip_std > 0:
                limit = noise_clip_std * noise.std()
                noise = noise.clamp(-limit, limit)
            return noise * s_noise

        return host.core_lcm(model, x, sigmas, noise_sampler, extra_args=extra_args, **kwargs)

    return host.KSAMPLER(sample_videolcm)
