"""Noise schedules: betas, ``alpha_t`` and ``sigma_t``, and the timestep grids of the samplers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

BETA_SCHEDULES: Final = ("scaled_linear", "linear")
BETA_START: Final = 0.00085
BETA_END: Final = 0.012
NUM_TIMESTEPS: Final = 1000


def make_betas(
    beta_schedule: str = "scaled_linear",
    num_timesteps: int = NUM_TIMESTEPS,
    beta_start: float = BETA_START,
    beta_end: float = BETA_END,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Variances added at each timestep.

    Args:
        beta_schedule: "scaled_linear" (linear in the square root, Stable Diffusion's) or "linear".
        num_timesteps: Length of the schedule, at least 2.
        beta_start: First beta, in (0, 1).
        beta_end: Last beta, in (0, 1).
        dtype: To compute in.

    Returns:
        ``[num_timesteps]``.

    Raises:
        ValueError: If the schedule's name is unknown.
    """
    if beta_schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=dtype) ** 2
    if beta_schedule == "linear":
        return torch.linspace(beta_start, beta_end, num_timesteps, dtype=dtype)
    raise ValueError(f"beta_schedule is {beta_schedule!r}; allowed: {', '.join(BETA_SCHEDULES)}. Choose one of these.")


def rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Shift and scale a schedule so that its last timestep is pure noise (alpha exactly 0).

    Algorithm 1 of "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv 2305.08891).

    Args:
        betas: ``[T]``, each in (0, 1).

    Returns:
        Betas ``[T]`` whose last value is 1.
    """
    root = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    alphas_cumprod = root**2
    alphas = torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return 1.0 - alphas


def expand_to(values: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of length 1 so that per-sample ``values`` broadcast over ``like``."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim)) if values.ndim else values


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule: ``x_t = alpha_t x_0 + sigma_t eps``.

    Attributes:
        alphas_cumprod: ``[T]`` in [0, 1], decreasing; ``alpha_t`` squared.
    """

    alphas_cumprod: Tensor

    @classmethod
    def create(
        cls,
        beta_schedule: str = "scaled_linear",
        zero_terminal_snr: bool = True,
        dtype: torch.dtype = torch.float32,
        num_timesteps: int = NUM_TIMESTEPS,
        beta_start: float = BETA_START,
        beta_end: float = BETA_END,
    ) -> Schedule:
        """Build a schedule.

        Args:
            beta_schedule: See `make_betas`.
            zero_terminal_snr: Rescale so that the last timestep is pure noise (VideoLCM, TF-T2V).
            dtype: To compute in: float64 as the authors' training and DDIM, float32 as diffusers' LCMScheduler.
                They differ by up to 5e-7, which eps networks magnify at high noise.
            num_timesteps: Length of the schedule.
            beta_start: First beta.
            beta_end: Last beta.
        """
        betas = make_betas(beta_schedule, num_timesteps, beta_start, beta_end, dtype)
        if zero_terminal_snr:
            betas = rescale_zero_terminal_snr(betas)
        return cls(torch.cumprod(1.0 - betas, dim=0))

    @property
    def num_timesteps(self) -> int:
        """Length of the schedule."""
        return len(self.alphas_cumprod)

    def alpha_t(self, t: Tensor) -> Tensor:
        """Signal coefficient at long timesteps ``t`` of any shape, in [0, 1]."""
        return self._gather(t).sqrt()

    def sigma_t(self, t: Tensor) -> Tensor:
        """Noise coefficient at long timesteps ``t`` of any shape, in [0, 1]."""
        return (1.0 - self._gather(t)).sqrt()

    def _gather(self, t: Tensor) -> Tensor:
        table = self.alphas_cumprod
        return table.to(t.device)[t.long()]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Schedule:
        """A copy on another device or in another dtype, which is taken on first: not every device has float64."""
        return Schedule(self.alphas_cumprod.to(dtype=dtype).to(device=device))

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Noise clean latents: ``alpha_t x_0 + sigma_t eps``, in the dtype of ``x_0``.

        Args:
            x_0: Clean latents ``[B, ...]``.
            eps: Gaussian noise of the same shape.
            t: Long ``[B]`` (or a scalar tensor).
        """
        alpha, sigma = expand_to(self.alpha_t(t), x_0), expand_to(self.sigma_t(t), x_0)
        return (alpha * x_0 + sigma * eps).to(x_0.dtype)


def lcm_timesteps(
    num_steps: int, original_steps: int = 50, strength: float = 1.0, num_timesteps: int = NUM_TIMESTEPS
) -> Tensor:
    """Timesteps of the multistep consistency sampler, largest first.

    The distillation grid (19, 39, ..., 999 for 50 steps) is cut to its lower ``strength`` part and
    entries ``floor(linspace(0, len, n, endpoint=False))`` are taken from the top: the rule of diffusers'
    LCMScheduler since 0.24 (4 steps: 999, 759, 499, 259).

    Args:
        num_steps: How many timesteps, at least 1 and at most the length of the cut grid.
        original_steps: Length of the grid the model was distilled on, 1 to ``num_timesteps``.
        strength: Part of the trajectory to run, in (0, 1]; below 1 starts from a noised video.
        num_timesteps: Length of the training schedule.

    Returns:
        Long ``[num_steps]``.

    Raises:
        ValueError: If an argument is outside its range.
    """
    if not 1 <= original_steps <= num_timesteps:
        raise ValueError(f"original_steps is {original_steps}; allowed: 1 to {num_timesteps}. VideoLCM uses 50.")
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"strength is {strength}; allowed: above 0, up to 1. Use 1 to start from pure noise.")
    # Rounded first: 50 * 0.58 is 28.999..., and 29 steps are meant (diffusers takes 28).
    length = int(round(original_steps * strength, 6))
    if length < 1:
        raise ValueError(
            f"strength is {strength}, which leaves none of {original_steps} original steps; allowed: "
            f"{math.ceil(1e4 / original_steps) / 1e4:g} to 1. Choose a higher strength."
        )
    _check_steps(num_steps, length, f"the grid of {original_steps} original steps at strength {strength}")
    stride = num_timesteps // original_steps
    grid = torch.arange(length, 0, -1) * stride - 1
    index = torch.arange(num_steps, dtype=torch.float64) * (length / num_steps)
    return grid[index.floor().long()]


def ddim_timesteps(num_steps: int = 50, num_timesteps: int = NUM_TIMESTEPS) -> Tensor:
    """Timesteps of the authors' DDIM sampler, largest first: 981, 961, ..., 1 for 50 steps.

    It stays below the last timestep on purpose: there alpha is 0 and noise cannot be recovered.

    Args:
        num_steps: At least 1, at most ``num_timesteps`` - 1.
        num_timesteps: Length of the training schedule.

    Returns:
        Long ``[num_steps]``.

    Raises:
        ValueError: If ``num_steps`` is outside its range.
    """
    _check_steps(num_steps, num_timesteps - 1, f"a schedule of {num_timesteps} timesteps")
    return torch.arange(num_steps - 1, -1, -1) * (num_timesteps // num_steps) + 1


def distillation_grid(num: int = 50, num_timesteps: int = NUM_TIMESTEPS) -> tuple[Tensor, Tensor]:
    """The pairs of timesteps between which the teacher steps during distillation.

    Args:
        num: Number of intervals, 1 to ``num_timesteps``.
        num_timesteps: Length of the training schedule.

    Returns:
        ``t`` = [19, 39, ..., 999] and ``t_prev`` = [0, 19, ..., 979] for 50, both long ``[num]``.

    Raises:
        ValueError: If ``num`` is outside its range.
    """
    _check_steps(num, num_timesteps, f"a schedule of {num_timesteps} timesteps")
    t = torch.arange(1, num + 1) * (num_timesteps // num) - 1
    return t, torch.cat([t.new_zeros(1), t[:-1]])


def _check_steps(steps: int, most: int, where: str) -> None:
    if steps < 1 or steps > most:
        raise ValueError(f"steps is {steps}; allowed: 1 to {most} on {where}. Choose a number in this range.")
