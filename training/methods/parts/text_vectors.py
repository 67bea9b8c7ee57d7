"""One vector a caption, for a discriminator: the model's own text encoder's mean, or CLIP's projection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

import torch
from torch import Tensor

from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.guard import reading
from videolcm_core.networks.text_encoder import END

from ...data.tokens import tokenize
from ...engine.caches import fingerprint
from .clip_files import AGAIN, CLIP_FILES, ClipProjection, load_clip_text

REMEMBERED: Final = 4096
"""Captions whose vector is kept."""


class TextVectors(ABC):
    """A vector for each caption.

    Attributes:
        name: in `TEXT_VECTORS`.
        width: of the vectors.
    """

    name: ClassVar[str]
    width: int

    @abstractmethod
    def __call__(self, captions: Sequence[str], text: Tensor) -> Tensor:
        """Look up.

        Args:
            captions: B texts.
            text: what the diffusion model is given for them, ``[B, L, D]``.

        Returns:
            float32 ``[B, width]`` on the device of ``text``; a caption's does not depend on the others.
        """

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """What a run must share that goes on with these vectors."""


class OwnText(TextVectors):
    """The mean of the tokens that the diffusion model is given.

    Args:
        width: of a token.
    """

    name = "own"

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, captions: Sequence[str], text: Tensor) -> Tensor:
        """See `TextVectors`."""
        return text.float().mean(1)

    def identity(self) -> dict[str, str]:
        """See `TextVectors`; the encoder is the run's own, which has an identity already."""
        return {"disc_text": self.name}


class ClipText(TextVectors):
    """CLIP's projected vectors, as the authors take them.

    No module of a method: each process computes the captions that it has not met, and a network that is spread over
    processes would wait for the others.

    Args:
        network: frozen.
        pad: token id after the end of a text.
    """

    name = "clip"

    def __init__(self, network: ClipProjection, pad: int = END) -> None:
        self.network, self.pad = network.float().train(False).requires_grad_(False), pad
        self.width = network.projection.shape[1]
        self._known: dict[str, Tensor] = {}

    def __call__(self, captions: Sequence[str], text: Tensor) -> Tensor:
        """See `TextVectors`; each caption is computed by itself."""
        return torch.stack([self._vector(caption, text.device) for caption in captions])

    @torch.no_grad()
    def _vector(self, caption: str, device: torch.device) -> Tensor:
        if caption not in self._known:
            while len(self._known) >= REMEMBERED:
                self._known.pop(next(iter(self._known)))
            ids = tokenize([caption], self.pad).to(device)
            with torch.autocast(device.type, enabled=False):
                self._known[caption] = self.network.to(device)(ids)[0].cpu()
        return self._known[caption].to(device)

    def identity(self) -> dict[str, str]:
        """See `TextVectors`."""
        return {"disc_text": f"{self.name} {fingerprint(self.network)}"}


def load_text_vectors(name: str, file: str, width: int) -> TextVectors:
    """Vectors by the recipe's names; nothing is drawn from torch's generator meanwhile.

    Args:
        name: of `TEXT_VECTORS`.
        file: CLIP's, for "clip".
        width: of the diffusion model's tokens, for "own".

    Raises:
        ValueError: the name is unknown, the file is missing, not needed, or another network's.
    """
    if name not in TEXT_VECTORS:
        raise ValueError(f"disc_text is {name!r}; allowed: {', '.join(TEXT_VECTORS)}. Give --disc-text with one.")
    if name == OwnText.name:
        if file:
            raise ValueError(
                f"disc_text_file is {file!r} and disc_text 'own', which needs none; allowed: --disc-text clip with "
                "this file, or no file. Give one of the two."
            )
        return OwnText(width)
    if not file or not Path(file).exists():
        raise ValueError(f"disc_text_file is {file!r}, which is not there; allowed: {CLIP_FILES}. {AGAIN}")
    try:
        with reading(file), torch.random.fork_rng(devices=[]):
            return ClipText(*load_clip_text(Path(file)))
    except CheckpointError as error:
        raise CheckpointError(file, error.got, CLIP_FILES, AGAIN) from error


TEXT_VECTORS: Final[dict[str, type[TextVectors]]] = {text.name: text for text in (OwnText, ClipText)}
"""By name; the authors' is CLIP ViT-g-14, 1024 wide."""
