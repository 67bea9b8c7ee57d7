"""CLIP's text encoder with its projection, from the user's file or folder; networks of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from videolcm_core.files.errors import CheckpointError, name_some
from videolcm_core.files.reading import load_state_dict
from videolcm_core.networks.text_encoder import END

from ...data.stable_diffusion import load_text_encoder

CLIP_FILES: Final = (
    "CLIP's text encoder with its projection: open_clip_pytorch_model.bin (the authors' is ViT-g-14), or a folder of "
    "transformers' CLIPModel or CLIPTextModelWithProjection"
)
"""Those that are read."""
AGAIN: Final = "Give --disc-text-file PATH, or --disc-text own."


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


def _weights_file(path: Path) -> Path | None:
    """The file with a text encoder's weights; None of a folder that transformers reads itself."""
    if (path / "config.json").is_file():
        return None
    if path.is_file():
        return path
    names = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".safetensors", ".pt", ".pth"))
    found = next((name for name in names if name.startswith("open_clip_")), None)
    if found is None:
        got = (
            f"a folder without config.json and without open_clip_pytorch_model.bin ({name_some(names) or 'no weights'})"
        )
        raise CheckpointError(path, got, CLIP_FILES, AGAIN)
    return path / found


def _check_activation(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a file whose activation is another than GELU, or is not known: its numbers would be near, and wrong.

    Raises:
        CheckpointError: of transformers without its folder, or of OpenCLIP with the fast GELU of OpenAI's weights.
    """
    if not any(key.removeprefix("cond_stage_model.model.") == "positional_embedding" for key in tensors):
        got = f"weights without their config.json, which names the activation ({name_some(list(tensors), 3)})"
        raise CheckpointError(file, got, CLIP_FILES, AGAIN)
    beside = file.with_name("open_clip_config.json")
    if beside.is_file() and json.loads(beside.read_text(encoding="utf-8")).get("model_cfg", {}).get("quick_gelu"):
        got = "a network with the fast GELU, as its open_clip_config.json says"
        raise CheckpointError(file, got, CLIP_FILES, AGAIN)


def _folder_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of a folder of transformers, whose weights may lie in several files."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return {k: v for file in files for k, v in load_state_dict(file, check_finite=False)[0].items()}
    raise CheckpointError(folder, "a folder with config.json and without weights", CLIP_FILES, AGAIN)


def _projection_of(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    """The projection, ``[hidden, width]``; OpenCLIP keeps it so, transformers the other way round.

    Raises:
        CheckpointError: there is none.
    """
    for key, value in tensors.items():
        name = key.removeprefix("cond_stage_model.model.")
        if name in ("text_projection", "text_projection.weight") and value.ndim == 2 and value.is_floating_point():
            return (value if name == "text_projection" else value.T).float().contiguous()
    got = f"no text_projection among {name_some(list(tensors), 3)}"
    raise CheckpointError(path, got, CLIP_FILES, AGAIN)


def load_clip_text(path: Path) -> tuple[ClipProjection, int]:
    """CLIP's text side from the user's file or folder.

    Returns:
        the network, and the token id that pads its texts.

    Raises:
        CheckpointError: it is another network's.
    """
    file = _weights_file(path)
    tensors = _folder_tensors(path) if file is None else load_state_dict(file, check_finite=False)[0]
    projection = _projection_of(tensors, path)
    if file is not None:
        _check_activation(file, tensors)
    encoder, pad = load_text_encoder(file or path)
    tower: Any = encoder.network
    if len(projection) != int(tower.config.hidden_size):
        got = f"a text encoder {tower.config.hidden_size} wide and a text_projection of {list(projection.shape)}"
        raise CheckpointError(path, got, CLIP_FILES, AGAIN)
    network = ClipProjection(tower, projection)
    if odd := [name for name, value in network.named_parameters() if not bool(value.isfinite().all())]:
        raise CheckpointError(path, f"NaN or infinite values in {odd[0]}", "finite weights", AGAIN)
    return network, pad
