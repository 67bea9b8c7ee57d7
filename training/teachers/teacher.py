"""What a teacher is, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen diffusion model and what came with it.

    Attributes:
        network: ``network(x [B, 4, F, h, w], t [B], context [B, L, D], *, concat=None)``; frozen, without dropout.
        config: its shape; ``config.dropout`` is what it was trained with.
        schedule: in float64, the precision of the authors' solver.
        prediction: "v", "eps" or "x_0", as in `videolcm_core.diffusion.prediction`.
        conditions: names of what it takes beside text, sorted.
        text: token ids ``[B, 77]`` to ``[B, L, D]``; None where the file has none.
        autoencoder: with ``encode`` and ``decode`` of frames; None where the file has none.
        metadata: the file's entries without the prefix ``videolcm.``; always there: ``family`` (tf-t2v, videocomposer,
            modelscope, diffusers, videolcm-mini), ``file``, ``latent_scale``, ``beta_schedule``,
            ``zero_terminal_snr``, ``sampling``, ``width``, ``height``, ``frames``, ``fps``.
    """

    network: UNet3D
    config: UNetConfig
    schedule: Schedule
    prediction: str
    conditions: tuple[str, ...]
    text: nn.Module | None = None
    autoencoder: nn.Module | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last timestep is pure noise."""
        return self.metadata["zero_terminal_snr"] == "true"

    def number(self, name: str) -> float:
        """A metadata entry that is a number, such as "fps".

        Raises:
            ValueError: it is none.
        """
        text = self.metadata.get(name, "")
        try:
            return float(text)
        except ValueError as error:
            raise ValueError(
                f"{self.metadata.get('file', 'this teacher')}: metadata videolcm.{name} is {text!r}; allowed: a number."
            ) from error
