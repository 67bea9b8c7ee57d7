"""AnimateLCM-SVD on core's Stable Video Diffusion: sampling on the noise levels that it was distilled on."""

from __future__ import annotations

from typing import Any, Final

from ...videolcm_core.diffusion.edm import EDMGrid
from .. import host

SVD_PRESET: Final = "animatelcm-svd"


class AnimateLCMSVDSampling(host.ModelSamplingContinuousEDM, host.V_PREDICTION):
    """A consistency model on 40 noise levels of EDM, from 700 down to 0.002 (`EDMGrid`).

    Preconditioning, the time ``ln(sigma) / 4``, start noise of ``sqrt(sigma_max^2 + 1)`` and step noise of ``sigma``
    are core's own for Stable Video Diffusion and are the authors'; only the levels are not. ``sigmas`` holds theirs, so
    that core's scheduler ``simple`` takes levels 0, 10, 20, 30 for 4 steps, as the authors do. Their rule is every
    ``floor(40 / steps)``-th level, core's is ``floor(i * 40 / steps)``: the same for 1 to 5, 8, 10, 13, 20, 39
    and 40 steps; VideoLCM Scheduler and VideoLCM Sampler have theirs for every number
    (animatelcm_svd/animatelcm_scheduler.py, `set_timesteps` and `step`).
    """

    def __init__(self, model_config: Any = None) -> None:
        """Replace core's 1000 levels; ``model_config`` is core's, or None."""
        super().__init__(model_config)
        self.sigma_data = 1.0
        levels = EDMGrid.create().sigmas[:-1].flip(0)
        self.register_buffer("sigmas", levels.float())
        self.register_buffer("log_sigmas", levels.log().float())
