"""One vector a caption, for a discriminator: the model's own text encoder's mean, or CLIP's projection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from videolcm_core.files.errors import CheckpointError, name_some
from videolcm_core.files.guard import reading
from videolcm_core.files.reading import load_state_dict
from videolcm_core.networks.text_encoder import END

from ...data.stable_diffusion import load_text_encoder
from ...data.tokens import tokenize
from ...engine.caches import fingerprint

REMEMBERED: Final = 4096
"""Captions whose vector is kept."""
_FILES: Final = (
    "CLIP's text encoder with its projection: open_clip_pytorch_model.bin (the authors' is ViT-g-14), or a file or "
    "folder of transformers' CLIPModel or CLIPTextModelWithProjection"
)
_AGAIN: Final = "Give --disc-text-file PATH, or --disc-text own."
_TOWER: Final = ("embeddings.", "encoder.", "final_layer_norm.")


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


class ClipProjection(nn.Module):
    """CLIP's text encoder up to its projection, not normalised.

    Args:
        tower: transformers' CLIPTextModel.
        projection: ``[hidden, width]``.
    """

    def __init__(self, tower: nn.Module, projection: Tensor) -> None:
        super().__init__()
        self.tower, self.projection = tower, nn.Parameter(projection)

    def forward(self, ids: Tensor) -> Tensor:
        """Long ``[B, 77]`` to ``[B, width]``: what the first end token has become, projected."""
        states = self.tower(ids).last_hidden_state
        ends = (ids == END).int().argmax(1)
        return states[torch.arange(len(ids), device=ids.device), ends] @ self.projection


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


def _weights_file(path: Path) -> Path | None:
    """The file with a text encoder's weights; None of a folder that transformers reads itself."""
    if not path.is_dir() or (path / "config.json").is_file():
        return None if path.is_dir() else path
    names = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".safetensors", ".pt", ".pth"))
    found = next((name for name in names if name.startswith("open_clip_")), None)
    if found is None:
        got = (
            f"a folder without config.json and without open_clip_pytorch_model.bin ({name_some(names) or 'no weights'})"
        )
        raise CheckpointError(path, got, _FILES, _AGAIN)
    return path / found


def _folder_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of a folder of transformers, whose weights may lie in several files."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return {k: v for file in files for k, v in load_state_dict(file, check_finite=False)[0].items()}
    raise CheckpointError(folder, "a folder with config.json and without weights", _FILES, _AGAIN)


def _projection_of(tensors: dict[str, Tensor], path: Path) -> Tensor:
    """The projection, ``[hidden, width]``; OpenCLIP keeps it so, transformers the other way round.

    Raises:
        CheckpointError: there is none.
    """
    for key, value in tensors.items():
        name = key.removeprefix("cond_stage_model.model.")
        if name in ("text_projection", "text_projection.weight") and value.ndim == 2 and value.is_floating_point():
            return (value if name == "text_projection" else value.T).float().contiguous()
    got = f"no text_projection among {name_some(list(tensors), 3)}"
    raise CheckpointError(path, got, _FILES, _AGAIN)


def load_clip_text(path: Path) -> ClipText:
    """CLIP's text side from the user's file or folder.

    Raises:
        CheckpointError: it is another network's.
    """
    file = _weights_file(path)
    tensors = _folder_tensors(path) if file is None else load_state_dict(file, check_finite=False)[0]
    projection = _projection_of(tensors, path)
    encoder, pad = load_text_encoder(file or path)
    tower: Any = encoder.network
    inner = getattr(tower, "text_model", tower)
    if file is None:  # transformers makes up what a folder lacks
        wanted = [key for key in inner.state_dict() if key.startswith(_TOWER) and not key.endswith("position_ids")]
        if lacking := [key for key in wanted if not {key, f"text_model.{key}"} & tensors.keys()]:
            raise CheckpointError(path, f"a folder without {name_some(lacking)}", _FILES, _AGAIN)
    if len(projection) != int(tower.config.hidden_size):
        got = f"a text encoder {tower.config.hidden_size} wide and a text_projection of {list(projection.shape)}"
        raise CheckpointError(path, got, _FILES, _AGAIN)
    network = ClipProjection(tower, projection)
    if odd := [name for name, value in network.named_parameters() if not bool(value.isfinite().all())]:
        raise CheckpointError(path, f"NaN or infinite values in {odd[0]}", "finite weights", _AGAIN)
    return ClipText(network, pad)


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
        raise ValueError(f"disc_text_file is {file!r}, which is not there; allowed: {_FILES}. {_AGAIN}")
    try:
        with reading(file), torch.random.fork_rng(devices=[]):
            return load_clip_text(Path(file))
    except CheckpointError as error:
        raise CheckpointError(file, error.got, _FILES, _AGAIN) from error


TEXT_VECTORS: Final[dict[str, type[TextVectors]]] = {text.name: text for text in (OwnText, ClipText)}
"""By name; the authors' is CLIP ViT-g-14, 1024 wide."""
