"""Networks by file: what a cell samples with, whichever command or author wrote it, at its own settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from videolcm_core.files.settings import FileSettings

from ..data.encoders import Encoders
from ..engine.caches import file_digest
from ..teachers import Teacher, load_teacher
from ..teachers.running import RECIPE_ENTRIES, is_running_checkpoint

file_hash = file_digest
"""First digits of the SHA-256 of a file's content: its identity in caches and tables."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A network with its encoders and everything that its samplers have to know, from its file.

    Attributes:
        teacher: the network and its metadata, student or teacher.
        encoders: autoencoder and text encoder.
    """

    teacher: Teacher
    encoders: Encoders

    @property
    def unet(self) -> nn.Module:
        """The diffusion network."""
        return self.teacher.network

    @property
    def autoencoder(self) -> nn.Module:
        """With ``encode`` and ``decode`` of frames in [0, 1]."""
        return self.encoders.autoencoder

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``[N, L, D]`` on the network's device."""
        tokens = self.encoders.tokens(list(prompts)).to(self.encoders.device)
        return self.encoders.text_encoder(tokens)

    @property
    def original_steps(self) -> int:
        """Length of the grid that a student was distilled on."""
        return self.teacher.settings.original_steps

    @property
    def timestep_scaling(self) -> float:
        """Of a student's boundary condition."""
        return self.teacher.settings.timestep_scaling

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, height and width of the latents."""
        return 4, *self.teacher.latent_shape

    @property
    def fps(self) -> float:
        """Frames per second of its clips."""
        return self.teacher.settings.fps


def load_model(
    path: Path,
    parts: Sequence[Path] = (),
    device: torch.device | str = "cpu",
    encoders: tuple[Path, Path] | None = None,
) -> Sampled:
    """A network with text encoder and autoencoder, ready for sampling.

    Args:
        path: any file or folder that `load_teacher` reads, or a running checkpoint (``.pt``) of a training command.
        parts: files that give what the first has not; text encoder, autoencoder and settings come from the first that
            has them. A student's are its teacher's.
        device: where to put it.
        encoders: Stable Diffusion's autoencoder and text encoder, for networks that came without.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, or a part is nowhere.
    """
    for file in (path, *parts):
        if not file.exists():
            raise FileNotFoundError(f"{file} does not exist; give a checkpoint of a network (.safetensors, .pt, ...).")
    teacher = load_teacher(path, student=True)
    if is_running_checkpoint(path) and parts:
        teacher = replace(teacher, settings=_of_run(teacher.settings, load_teacher(parts[0], student=True).settings))
    if encoders is None and (teacher.text is None or teacher.autoencoder is None):
        teacher = _completed(teacher, path, parts)
    network = teacher.network.to(device)
    found = Encoders.of_teacher(teacher, device) if encoders is None else Encoders.stable_diffusion(*encoders, device)
    return Sampled(teacher=replace(teacher, network=network), encoders=found)


def _of_run(own: FileSettings, base: FileSettings) -> FileSettings:
    """A run says what it makes and on which grid; what its clips are like and what it predicts, its teacher's file."""
    return replace(base, **{name: getattr(own, name) for name in ("sampling", *RECIPE_ENTRIES)})


def _completed(teacher: Teacher, path: Path, parts: Sequence[Path]) -> Teacher:
    """A network with the encoders of the first parts that have them."""
    for file in parts:
        if teacher.text is not None and teacher.autoencoder is not None:
            break
        other = load_teacher(file, student=True)
        teacher = replace(
            teacher, text=teacher.text or other.text, autoencoder=teacher.autoencoder or other.autoencoder
        )
    missing = [n for n, part in (("text encoder", teacher.text), ("autoencoder", teacher.autoencoder)) if part is None]
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(missing)}; name files that have with --parts: a student's teacher (its "
            "text encoder), an all-in-one file (its autoencoder), or Stable Diffusion's with --vae and --text-encoder."
        )
    return teacher
