"""DINOv2 from its authors' release (torch hub: ``dinov2_vits14_pretrain.pth``), or transformers' file or folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.guard import cause

from .feature_files import read_weights, recognised

HEAD_WIDTH: Final = 64
"""Of every published DINOv2."""
PATCH: Final = 14
"""Pixels, of every published DINOv2."""
_ALLOWED: Final = "dinov2_vits14_pretrain.pth, or a folder of transformers (facebook/dinov2-small)"
_AGAIN: Final = "Give --features-file PATH."
_TOP: Final = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_IN_BLOCK: Final = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}


def read_hub_dino(path: Path, heads: int = 0) -> Any:
    """Transformers' ``Dinov2Model`` with the weights of a file of the original release, or of transformers'.

    Args:
        path: the file.
        heads: of attention; 0 takes those of width `HEAD_WIDTH`.

    Raises:
        ValueError: it is another network's.
    """
    from transformers import Dinov2Config, Dinov2Model

    tensors = {key.removeprefix("dinov2."): value for key, value in read_weights(path).items()}
    weights = tensors if "embeddings.cls_token" in tensors else hub_to_transformers(tensors)
    patches, positions = (weights.get(_TOP[key]) for key in ("patch_embed.proj.weight", "pos_embed"))
    if patches is None or positions is None:
        got = f"a network without DINOv2's patch_embed and pos_embed: {recognised(tensors)}"
        raise CheckpointError(path, got, _ALLOWED, _AGAIN)
    width, _, patch, _ = patches.shape
    side = round((positions.shape[1] - 1) ** 0.5)
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len({key.split(".")[2] for key in weights if key.startswith("encoder.layer.")}),
        num_attention_heads=heads or max(1, width // HEAD_WIDTH),
        image_size=side * patch,
        patch_size=patch,
    )
    # Names within transformers differ from version to version; those of its files are known to all.
    reader: Any = Dinov2Model
    network, told = reader.from_pretrained(
        None,
        config=config,
        state_dict={key: value for key, value in weights.items() if not key.startswith("classifier.")},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told instead
    )
    _check(path, network, [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]])
    return network


def read_dino_folder(folder: Path) -> Any:
    """Transformers' ``Dinov2Model`` of a folder; what lies beside it, such as a classifier, is left out.

    Raises:
        ValueError: it is another network's, or not whole.
    """
    from transformers import Dinov2Model

    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        got = "a folder without a config.json that names its model_type"
        raise CheckpointError(folder, got, _ALLOWED, _AGAIN) from error
    if kind != "dinov2":
        raise CheckpointError(folder, f"a folder of transformers' {kind!r}", _ALLOWED, _AGAIN)
    reader: Any = Dinov2Model
    try:
        network, told = reader.from_pretrained(
            str(folder),
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told instead
        )
    except Exception as error:  # of a damaged file nearly every kind was seen
        got = f"a folder that transformers cannot read ({cause(error)})"
        raise CheckpointError(folder, got, _ALLOWED, _AGAIN) from error
    _check(folder, network, [*told["missing_keys"], *told["mismatched_keys"]])
    return network


def _check(path: Path, network: Any, wrong: list[Any]) -> None:
    """Refuse weights that transformers made up, and patches that the size of the images is not made for."""
    if wrong:
        got = f"{len(wrong)} weights that are missing, unexpected or misshapen, such as {wrong[0]}"
        raise CheckpointError(path, got, _ALLOWED, _AGAIN)
    if (patch := int(network.config.patch_size)) != PATCH:
        raise CheckpointError(path, f"patches of {patch} pixels", f"those of {PATCH} of DINOv2", _AGAIN)
    if odd := [name for name, value in network.named_parameters() if not bool(value.isfinite().all())]:
        raise CheckpointError(path, f"NaN or infinite values in {odd[0]}", "finite weights", _AGAIN)


def hub_to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights in the names of transformers' files; the release has queries, keys and values in one."""
    renamed = {}
    for key, value in tensors.items():
        if key in _TOP:
            renamed[_TOP[key]] = value
            continue
        block = key.replace("blocks.", "encoder.layer.", 1)
        for old, new in _IN_BLOCK.items():
            block = block.replace(old, new)
        if ".attn.qkv." not in block:
            renamed[block] = value
            continue
        for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
            renamed[block.replace("attn.qkv", f"attention.attention.{name}")] = part
    return renamed
