"""How ComfyUI's ``sigma`` meets the schedule: grid, prediction type, boundary scaling, zero terminal SNR.

ComfyUI samples ``x_0 + sigma eps``; the networks were trained on ``alpha_t x_0 + sigma_t eps``. Here, and
only here, one is turned into the other: ``sigma = sigma_t / alpha_t``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ...videolcm_core.diffusion.consistency import consistency_function
from ...videolcm_core.diffusion.prediction import to_x_0
from ...videolcm_core.diffusion.schedule import BETA_END, BETA_START, NUM_TIMESTEPS, Schedule, distillation_grid
from ...videolcm_core.files.entries import check_value
from ...videolcm_core.files.settings import FileSettings
from .. import host

log = logging.getLogger(__name__)

# The last sigma of a zero-terminal-SNR schedule is infinite. ComfyUI's own finite stand-in keeps its
# sigma-spaced schedulers (karras, exponential, kl_optimal) usable; the exact 0 comes back in `_alpha_sigma`.
TERMINAL_ALPHA_CUMPROD: Final = 4.8973451890853435e-08


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """What a checkpoint needs to know to be sampled.

    Attributes:
        prediction: What the network predicts: "v", "eps" or "x_0".
        beta_schedule: "scaled_linear" or "linear".
        beta_end: The last beta; AnimateLCM's image-to-video has 0.014.
        zero_terminal_snr: Whether the last timestep is pure noise.
        distilled: A consistency model (grid and boundary scaling) or a plain diffusion model, a teacher.
        original_steps: Grid a distilled model was trained on.
        timestep_scaling: Of the boundary scaling; VideoLCM 10, MCM 4.
    """

    prediction: str = "v"
    beta_schedule: str = "scaled_linear"
    beta_end: float = BETA_END
    zero_terminal_snr: bool = True
    distilled: bool = True
    original_steps: int = 50
    timestep_scaling: float = 10.0

    def __post_init__(self) -> None:
        """Reject values that no schedule has.

        Raises:
            ValueError: Naming the option, the value and what is allowed.
        """
        for name, value in self.entries().items():
            check_value(name, value)

    @classmethod
    def of(cls, settings: FileSettings) -> SamplingOptions:
        """Options of a file that says whether it is a student or a teacher."""
        return cls(
            prediction=settings.prediction,
            beta_schedule=settings.beta_schedule,
            beta_end=settings.beta_end,
            zero_terminal_snr=settings.zero_terminal_snr,
            distilled=settings.sampling == "lcm",
            original_steps=settings.original_steps,
            timestep_scaling=settings.timestep_scaling,
        )

    def entries(self) -> dict[str, Any]:
        """The same as fields of `FileSettings`."""
        return {
            "prediction": self.prediction,
            "beta_schedule": self.beta_schedule,
            "beta_end": self.beta_end,
            "zero_terminal_snr": self.zero_terminal_snr,
            "sampling": "lcm" if self.distilled else "teacher",
            "original_steps": self.original_steps,
            "timestep_scaling": self.timestep_scaling,
        }


class VideoLCMModelSampling(host.ModelSamplingDiscrete, host.EPS):
    """Sampling of consistency models (on their grid) and of their teachers (on all 1000 timesteps).

    Input scaling, step noise and the schedulers are the host's; ``sigmas`` holds the grid, so that the
    scheduler ``simple`` chooses exactly the timesteps of diffusers' LCMScheduler.
    """

    def __init__(self, options: SamplingOptions | None = None, *, chosen: bool = False) -> None:
        """Build the tables.

        Args:
            options: None means VideoLCM's.
            chosen: By the user, rather than by what a file says; no other node changes it then.
        """
        torch.nn.Module.__init__(self)
        self.options, self.chosen = options or SamplingOptions(), chosen
        self.num_timesteps = NUM_TIMESTEPS
        self.linear_start, self.linear_end = BETA_START, self.options.beta_end
        self.sigma_data = 1.0
        # The host writes a marker into saved checkpoints when it finds this attribute set.
        self.zsnr = self.options.zero_terminal_snr
        schedule = Schedule.create(self.options.beta_schedule, self.zsnr, torch.float64, beta_end=self.options.beta_end)
        alphas_cumprod = schedule.alphas_cumprod.clamp(min=TERMINAL_ALPHA_CUMPROD)
        every_sigma = ((1.0 - alphas_cumprod) / alphas_cumprod).sqrt()
        steps = self.options.original_steps if self.options.distilled else NUM_TIMESTEPS
        grid = distillation_grid(steps, NUM_TIMESTEPS)[0]
        # Of timestep 999, whether or not the grid ends there: 30 steps of 33 end at 989, where alpha is not 0.
        self.terminal_sigma = float(every_sigma[-1].float())
        self.register_buffer("every_sigma", every_sigma.float(), persistent=False)
        self.register_buffer("grid", grid, persistent=False)
        self.set_sigmas(every_sigma[grid])

    def timestep(self, sigma: Tensor) -> Tensor:
        """The grid's timestep nearest to ``sigma``: a scheduler that ignores the grid is snapped to it."""
        distance = sigma.log().reshape(-1).to(self.log_sigmas.device) - self.log_sigmas[:, None]
        return self.grid[distance.abs().argmin(dim=0)].view(sigma.shape).to(sigma.device)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Noise level at a timestep in [0, 999], interpolated between whole ones."""
        table = self.every_sigma.log()
        t = timestep.float().to(table.device).clamp(0, len(table) - 1)
        low, high, weight = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - weight) * table[low] + weight * table[high]).exp().to(timestep.device)

    def sigma_at(self, t: Tensor) -> Tensor:
        """Noise level at whole timesteps, without the rounding of `sigma`.

        Args:
            t: Long, any shape, in [0, 999].
        """
        return self.every_sigma[t.to(self.every_sigma.device)].to(t.device)

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """Clean latents from the network's output; for a distilled model the consistency function.

        Args:
            sigma: Noise levels ``[B]``.
            model_output: Network's output ``[B, ...]``.
            model_input: The sample at ComfyUI's scale, ``x_0 + sigma eps``, same shape.
        """
        t = host.reshape_sigma(self.timestep(sigma), model_output.ndim)
        sigma = host.reshape_sigma(sigma, model_output.ndim)
        alpha, sigma_t = self._alpha_sigma(sigma)
        x_t = self.calculate_input(sigma, model_input)
        pred_x_0 = to_x_0(self.options.prediction, model_output, x_t, alpha, sigma_t)
        if not self.options.distilled:
            return pred_x_0
        return consistency_function(pred_x_0, x_t, t, timestep_scaling=self.options.timestep_scaling)

    def _alpha_sigma(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha = 1.0 / (sigma**2 + 1.0).sqrt()
        sigma_t = sigma * alpha
        # eps divides by alpha, so there the finite stand-in stays.
        if self.zsnr and self.options.prediction != "eps":
            last = sigma >= self.terminal_sigma * (1 - 1e-5)
            alpha, sigma_t = alpha.masked_fill(last, 0.0), sigma_t.masked_fill(last, 1.0)
        return alpha, sigma_t

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool | None = None
    ) -> Tensor:
        """Noised sample at ComfyUI's scale.

        Args:
            sigma: Noise level.
            noise: Gaussian noise.
            latent_image: Clean latents, zeros for none.
            max_denoise: Given by the host at the start of sampling only: whether ``sigma`` is the largest.
        """
        # Without a video to start from, the authors' DDIM starts from unit noise at timestep 981; the host
        # does so at the largest sigma only.
        if max_denoise is False and not torch.any(latent_image):
            max_denoise = True
        return super().noise_scaling(sigma, noise, latent_image, bool(max_denoise))


def options_of(sampling: Any, loaded: SamplingOptions) -> SamplingOptions:
    """How a MODEL is sampled, from its sampling object: ours, or one that core's Model Sampling node made.

    Args:
        sampling: Of the MODEL.
        loaded: Of the file; taken, with a warning, where a file cannot say what the object does.
    """
    if isinstance(sampling, VideoLCMModelSampling):
        return sampling.options
    steps = getattr(sampling, "original_timesteps", None)  # core's "lcm": noise prediction on a grid, scaled by 10
    kinds = {host.EPS: "eps", host.V_PREDICTION: "v", host.X0: "x_0"}
    same = [name for kind, name in kinds.items() if kind.calculate_denoised is type(sampling).calculate_denoised]
    found = SamplingOptions(
        prediction="eps" if steps or not same else same[0],
        zero_terminal_snr=bool(getattr(sampling, "zsnr", False)),
        distilled=steps is not None,
        original_steps=steps or loaded.original_steps,
    )
    if (steps or same) and _is_sampled_as(sampling, found):
        return found
    log.warning(
        "VideoLCM: this MODEL is sampled by %s, which a VideoLCM file cannot say; the saved file says what the loaded "
        "one did. Add the same node after loading it.",
        type(sampling).__name__,
    )
    return loaded


def _is_sampled_as(sampling: Any, options: SamplingOptions) -> bool:
    """Whether another sampling object has the noise levels and the input scaling of these options."""
    if type(sampling).calculate_input is not host.EPS.calculate_input:
        return False
    theirs, ours = sampling.sigmas.cpu(), VideoLCMModelSampling(options).sigmas
    # The host computes its tables in float32: near the terminal level, where alpha is small, a few parts in a thousand.
    return theirs.shape == ours.shape and torch.allclose(theirs, ours, rtol=1e-2)
