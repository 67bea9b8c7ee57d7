"""How the models of each paper are sampled, by name: one table for the loader, the sampling node and motion modules."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from .model_sampling import SamplingOptions

_SD15: Final = SamplingOptions(prediction="eps", zero_terminal_snr=False)
"""Noise prediction on Stable Diffusion's betas, as a consistency model on the grid of 50."""
_ANIMATEDIFF: Final = replace(_SD15, beta_schedule="linear")
"""The same on AnimateDiff's betas."""

PRESETS: Final[dict[str, SamplingOptions]] = {
    # arXiv 2312.09109, on TF-T2V's schedule.
    "videolcm": SamplingOptions(),
    # Its teacher, TF-T2V, on all timesteps.
    "teacher": SamplingOptions(distilled=False),
    # Stable Diffusion 1.5 and ModelScope as they are, on all timesteps.
    "eps": replace(_SD15, distilled=False),
    # arXiv 2406.06890, the ModelScope student: its boundary is scaled by 4.
    "mcm": replace(_SD15, timestep_scaling=4.0),
    # The AnimateDiff student, on AnimateDiff's betas as in its authors' demonstration.
    "mcm-animatediff": replace(_ANIMATEDIFF, timestep_scaling=4.0),
    # arXiv 2402.00769, text to video, configs/inference-t2v.yaml.
    "animatelcm": replace(_ANIMATEDIFF, original_steps=100),
    # The same on the grid of 50 that diffusers takes; AnimateDiff-Evolved's author sees less flicker with 50.
    "animatelcm-50": _ANIMATEDIFF,
    # Image to video, configs/inference-i2v.yaml.
    "animatelcm-i2v": replace(_ANIMATEDIFF, beta_end=0.014, original_steps=200),
    # What AnimateDiff-Evolved's `lcm` does to an AnimateLCM module: Stable Diffusion's betas, not AnimateDiff's.
    "animatediff-evolved": _SD15,
    # AnimateDiff v1 to v3, a teacher.
    "animatediff": replace(_ANIMATEDIFF, distilled=False),
}
"""Names are saved in graphs and never change."""
