"""What a teacher is, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.files.settings import FileSettings
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen diffusion model and what came with it.

    Attributes:
        network: ``network(x [B, 4, F, h, w], t [B], context [B, L, D], *, concat=None)``; frozen, without dropout.
        config: its shape; ``config.dropout`` is what it was trained with.
        file: its name.
        settings: what its file says and is known to be.
        text: token ids ``[B, 77]`` to ``[B, L, D]``; None where the file has none.
        autoencoder: with ``encode`` and ``decode`` of frames; None where the file has none.
    """

    network: UNet3D
    config: UNetConfig
    file: str = "this teacher"
    settings: FileSettings = field(default_factory=FileSettings)
    text: nn.Module | None = None
    autoencoder: nn.Module | None = None

    @property
    def prediction(self) -> str:
        """What it predicts: "v", "eps" or "x_0", as in `videolcm_core.diffusion.prediction`."""
        return self.settings.prediction

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last timestep is pure noise."""
        return self.settings.zero_terminal_snr

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of what it takes beside text, sorted."""
        return tuple(sorted(self.config.conditions))

    @cached_property
    def schedule(self) -> Schedule:
        """In float64, the precision of the authors' solver, on the CPU."""
        settings = self.settings
        return Schedule.create(
            settings.beta_schedule, settings.zero_terminal_snr, torch.float64, beta_end=settings.beta_end
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the latents that it was trained on."""
        return self.settings.frames, self.settings.height // 8, self.settings.width // 8
