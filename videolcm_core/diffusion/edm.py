"""AnimateLCM-SVD's consistency model: 40 noise levels of EDM, preconditioning, Euler steps.

EDM is "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364); the numbers are those of
AnimateLCM (arXiv 2402.00769), animatelcm_svd/animate_lcm_utils.py and animatelcm_scheduler.py. A sample is
``x_0 + sigma eps``; a consistency model needs no scaling of its own here, because ``c_skip(0) = 1`` and
``c_out(0) = 0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .schedule import expand_to

NUM_LEVELS: Final = 40
SIGMA_MIN: Final = 0.002
SIGMA_MAX: Final = 700.0
RHO: Final = 7.0
WEIGHT_POWER: Final = 0.1
_TINY: Final = 7 * 2.0**-149
"""The authors' 1e-44, as float32 holds it: keeps the logarithm of sigma 0 finite."""


@dataclass(frozen=True)
class EDMGrid:
    """Noise levels between which the teacher steps, and what belongs to each of them.

    An index 0 is the largest level, ``N`` is no noise at all. Tables are on the CPU; results of the methods have the
    dtype and device of the sample.

    Attributes:
        sigmas: ``[N + 1]``, decreasing, the last one 0.
    """

    sigmas: Tensor

    @classmethod
    def create(
        cls,
        num: int = NUM_LEVELS,
        sigma_min: float = SIGMA_MIN,
        sigma_max: float = SIGMA_MAX,
        rho: float = RHO,
        dtype: torch.dtype = torch.float64,
    ) -> EDMGrid:
        """Karras et al.'s levels (eq. 5 of arXiv 2206.00364), evenly spaced in ``sigma^(1 / rho)``.

        Args:
            num: Number of levels above 0, at least 2.
            sigma_min: Lowest of them.
            sigma_max: Highest.
            rho: The higher, the denser at low noise.
            dtype: To compute in; the authors take float32.
        """
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        ramp = torch.arange(num, dtype=dtype) / (num - 1)
        sigmas = (high + ramp * (low - high)) ** rho
        return cls(torch.cat([sigmas, sigmas.new_zeros(1)]))

    @property
    def num(self) -> int:
        """``N``, the number of levels above 0."""
        return len(self.sigmas) - 1

    @property
    def timesteps(self) -> Tensor:
        """What the network is told, ``ln(sigma) / 4``: ``[N + 1]``."""
        return 0.25 * (self.sigmas + _TINY).log()

    @property
    def c_skip(self) -> Tensor:
        """Factor on the sample, ``1 / (sigma^2 + 1)``: ``[N + 1]``."""
        return 1.0 / (self.sigmas**2 + 1.0)

    @property
    def c_out(self) -> Tensor:
        """Factor on the network's output, ``-sigma / sqrt(sigma^2 + 1)``: ``[N + 1]``."""
        return -self.sigmas / (self.sigmas**2 + 1.0).sqrt()

    @property
    def c_in(self) -> Tensor:
        """Factor on the network's input, ``1 / sqrt(sigma^2 + 1)``: ``[N + 1]``."""
        return 1.0 / (self.sigmas**2 + 1.0).sqrt()

    @property
    def weights(self) -> Tensor:
        """Of the loss at a level, ``(1 / (sigma_n - sigma_{n + 1}))^0.1``: ``[N]``, heuristic as its authors say."""
        return (self.sigmas[:-1] - self.sigmas[1:]) ** -WEIGHT_POWER

    def denoised(self, output: Tensor, sample: Tensor, index: Tensor) -> Tensor:
        """The consistency function ``c_skip sample + c_out output``; the sample itself at index ``N``.

        Args:
            output: Of the network, ``[B, ...]``.
            sample: ``x_0 + sigma eps``, same shape.
            index: Long ``[B]``, 0 to N.
        """
        c_skip, c_out = (_at(table, index, sample) for table in (self.c_skip, self.c_out))
        return output * c_out + sample * c_skip

    def euler_step(self, denoised: Tensor, sample: Tensor, index: Tensor, index_next: Tensor) -> Tensor:
        """One step of the teacher's ODE from a level to another (algorithm 1 of arXiv 2206.00364, without churn).

        Args:
            denoised: What the teacher makes of ``sample``, guidance included, ``[B, ...]``.
            sample: At level ``index``, same shape.
            index: Long ``[B]``, 0 to N - 1.
            index_next: Long ``[B]``, 0 to N; N gives ``denoised``.
        """
        sigma, sigma_next = (_at(self.sigmas, i, sample) for i in (index, index_next))
        return sample + (sample - denoised) / sigma * (sigma_next - sigma)


def _at(table: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Entries of a table for a batch, to be multiplied with ``like``; the dtype is taken on before the device."""
    return expand_to(table.to(dtype=like.dtype).to(device=like.device)[index.to(like.device)], like)


def inference_indices(steps: int, num: int = NUM_LEVELS, strength: float = 1.0) -> Tensor:
    """Levels at which the authors' sampler calls the network, largest noise first.

    Every ``floor(num / steps)``-th from the top: 0, 10, 20, 30 for 4 steps of 40, 0, 6, ..., 30 for 6
    (animatelcm_svd/animatelcm_scheduler.py, `set_timesteps`). It starts from noise of standard deviation
    ``sqrt(sigma_max^2 + 1)`` and after each call adds new noise of the next level to the clean prediction; the last
    prediction is the result.

    Args:
        steps: Network calls, 1 to the number of levels left by ``strength``.
        num: Levels above 0.
        strength: Part of the trajectory to run, in (0, 1]: below 1 only the lower levels are used.

    Returns:
        Long ``[steps]``.

    Raises:
        ValueError: If an argument is outside its range.
    """
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"strength is {strength}; allowed: above 0, up to 1. Use 1 to start from pure noise.")
    length = int(round(num * strength, 6))
    if not 1 <= steps <= length:
        raise ValueError(
            f"steps is {steps}; allowed: 1 to {length} of the {num} noise levels at strength {strength}. Choose a "
            f"number in this range{'' if length else ', and a higher strength'}."
        )
    return num - length + torch.arange(steps) * (length // steps)
