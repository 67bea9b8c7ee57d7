"""Stable Diffusion's autoencoder and OpenCLIP's text encoder, as the authors' models were trained with.

The networks are those of the packages ``diffusers`` and ``transformers``, imported when they are asked for; weights are
files that the user has, in the names of the original release or of Hugging Face. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from videolcm_core.files.errors import CheckpointError, name_some
from videolcm_core.files.loading import check_weights
from videolcm_core.files.reading import load_state_dict
from videolcm_core.networks.autoencoder import LATENT_SCALE
from videolcm_core.networks.text_encoder import END

OPENCLIP_PAD: Final = 0
_VAE = "Stable Diffusion's autoencoder: a diffusers folder, or a file such as v2-1_512-ema-pruned.ckpt"
_TEXT = "OpenCLIP's or CLIP's text encoder: open_clip_pytorch_model.bin, or a file or folder of CLIPTextModel"


class StableDiffusionAutoencoder(nn.Module):
    """diffusers' AutoencoderKL with frames in [0, 1] and latents in the scale of the diffusion model.

    Training takes `sample`, a draw from the posterior, as the authors do: the means of all clips spread less than the
    latents that the decoder was trained for.
    """

    def __init__(self, network: nn.Module, scale: float = LATENT_SCALE) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def encode(self, pixels: Tensor) -> Tensor:
        """The posterior's mean: ``[B, 3, H, W]`` in [0, 1] to ``[B, 4, H/8, W/8]``, a frame at a time (memory)."""
        encode: Any = self.network.encode
        return torch.cat([encode(frame * 2 - 1).latent_dist.mode() for frame in pixels.split(1)]) * self.scale

    def sample(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """A draw from the posterior, shaped as `encode`'s; the generator is the CPU's, wherever the network is."""
        encode: Any = self.network.encode
        drawn = [encode(frame * 2 - 1).latent_dist.sample(generator) for frame in pixels.split(1)]
        return torch.cat(drawn) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """``[B, 4, h, w]`` to ``[B, 3, 8h, 8w]``, about [0, 1], a frame at a time."""
        decode: Any = self.network.decode
        return torch.cat([decode(frame).sample for frame in (latents / self.scale).split(1)]) / 2 + 0.5


class ClipTextEncoder(nn.Module):
    """transformers' CLIPTextModel up to a layer, then its final norm.

    Args:
        network: the CLIPTextModel.
        layers: how many are used; the authors leave out the last of ViT-H's 24 ("penultimate").
    """

    def __init__(self, network: nn.Module, layers: int) -> None:
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, ids: Tensor) -> Tensor:
        """Long ``[B, 77]`` to ``[B, 77, D]``."""
        hidden = self.network(ids, output_hidden_states=True).hidden_states[self.layers]
        norm: Any = getattr(self.network, "text_model", self.network).final_layer_norm
        return norm(hidden)


def load_autoencoder(path: Path) -> StableDiffusionAutoencoder:
    """Read an autoencoder.

    Raises:
        ValueError: the file is none.
        ImportError: diffusers is not installed.
    """
    from diffusers import AutoencoderKL

    path = path / "vae" if (path / "vae").is_dir() else path
    if path.is_dir():
        network = _whole(AutoencoderKL, path, "diffusers", _VAE)
        scale = float(network.config.scaling_factor)
    else:
        tensors = _part(path, "first_stage_model.", "encoder.conv_in.weight", _VAE)
        network, scale = _autoencoder_of(tensors, path), LATENT_SCALE
    return StableDiffusionAutoencoder(network, scale).train(False).requires_grad_(False)


def load_text_encoder(path: Path) -> tuple[ClipTextEncoder, int]:
    """Read a text encoder.

    Returns:
        the encoder, and the token id that pads its texts.

    Raises:
        ValueError: the file is none.
        ImportError: transformers is not installed.
    """
    from transformers import CLIPTextModel

    path = path / "text_encoder" if (path / "text_encoder").is_dir() else path
    if path.is_dir() and (path / "config.json").is_file():
        network = _whole(CLIPTextModel, path, "transformers", _TEXT)
    else:
        network = _text_of(path)
    config = network.config
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    openclip = config.hidden_act == "gelu"
    # Stable Diffusion 2's folder holds 23 layers: the last is cut off already.
    used = layers - 1 if openclip and (width, layers) != (1024, 23) else layers
    encoder = ClipTextEncoder(network, used).train(False).requires_grad_(False)
    return encoder, OPENCLIP_PAD if openclip else END


def _whole(kind: Any, folder: Path, library: str, allowed: str) -> Any:
    """A library's network from its folder, in float32; weights that the folder lacks would be made up.

    Raises:
        CheckpointError: it cannot be read, or is not whole.
    """
    try:
        network, told = kind.from_pretrained(str(folder), local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(folder, f"a folder that {library} cannot read ({error})", allowed, "Mend it.") from error
    lacking = [key for key in told["missing_keys"] if not key.endswith("position_ids")]
    if lacking:
        got = f"a folder without {name_some(sorted(lacking))}"
        raise CheckpointError(folder, got, allowed, "Download or export it again.")
    return network.float()


def _part(path: Path, prefix: str, marker: str, allowed: str) -> dict[str, Tensor]:
    """Tensors of a file, those under a prefix where it has them.

    Raises:
        CheckpointError: without the marker among them.
    """
    tensors, _, info = load_state_dict(path)
    inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    found = inside or tensors
    if marker not in found:
        got = f"no {marker} among {', '.join(sorted(found)[:3])}"
        raise CheckpointError(info.file, got, allowed, "Choose another file.")
    return {k: v.float() for k, v in found.items() if v.is_floating_point()}


def _autoencoder_of(tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Diffusers' AutoencoderKL with the weights of a file, in the original names or in its own."""
    from diffusers import AutoencoderKL

    converted = dict(tensors) if "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors else _vae_names(tensors)
    levels = sorted({int(m[1]) for k in converted if (m := re.match(r"encoder\.down_blocks\.(\d+)\.", k))})
    widths = [len(converted[f"encoder.down_blocks.{level}.resnets.0.conv2.weight"]) for level in levels]
    depth = len({k.split(".")[4] for k in converted if k.startswith("encoder.down_blocks.0.resnets.")})
    network: Any = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(levels),
        up_block_types=["UpDecoderBlock2D"] * len(levels),
        block_out_channels=widths,
        layers_per_block=depth,
        latent_channels=converted["decoder.conv_in.weight"].shape[1],
    )
    check_weights(converted, network.state_dict(), path.name)
    network.load_state_dict(converted)
    return network


def _vae_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Original names of the autoencoder's tensors to diffusers'; 1 x 1 convolutions of its attention to matrices."""
    levels = 1 + max((int(m[1]) for k in tensors if (m := re.match(r"encoder\.down\.(\d+)\.", k))), default=0)
    attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    found = {}
    for key, value in tensors.items():
        if key.startswith("loss.") or "model_ema" in key:
            continue
        name = key.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")
        name = re.sub(r"\.mid\.block_(\d)\.", lambda m: f".mid_block.resnets.{int(m[1]) - 1}.", name)
        name = re.sub(r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets.", name)
        name = re.sub(r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0.", name)
        # The original counts its levels going up from the largest image, diffusers from the smallest.
        name = re.sub(r"\.up\.(\d+)\.block\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.resnets.", name)
        name = re.sub(r"\.up\.(\d+)\.upsample\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.", name)
        if match := re.match(r"(encoder|decoder)\.mid\.attn_1\.(\w+)\.(\w+)$", name):
            part, layer, kind = match.groups()
            name = f"{part}.mid_block.attentions.0.{attention[layer]}.{kind}"
            value = value[:, :, 0, 0] if value.ndim == 4 else value
        found[name] = value
    return found


def _text_of(path: Path) -> nn.Module:
    """Transformers' CLIPTextModel with the weights of a file, in OpenCLIP's names or in its own."""
    from transformers import CLIPTextConfig, CLIPTextModel

    if path.is_dir():
        path = next((f for f in sorted(path.iterdir()) if f.name.startswith("open_clip_")), path)
    tensors, _, info = load_state_dict(path)
    for prefix in ("cond_stage_model.model.", "cond_stage_model.transformer.", "text_model."):
        if inside := {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}:
            tensors = inside
    tensors = {k.removeprefix("text_model."): v.float() for k, v in tensors.items() if v.is_floating_point()}
    openclip = "token_embedding.weight" in tensors and "positional_embedding" in tensors
    weights = _openclip_names(tensors) if openclip else tensors
    weights = {k: v for k, v in weights.items() if k.startswith(("embeddings.", "encoder.", "final_layer_norm."))}
    table = weights.get("embeddings.token_embedding.weight")
    if table is None or "final_layer_norm.weight" not in weights:
        got = f"{', '.join(sorted(tensors)[:3])}"
        raise CheckpointError(info.file, got, _TEXT, "Choose another file.")
    width = table.shape[1]
    config = CLIPTextConfig(
        vocab_size=len(table),
        hidden_size=width,
        num_hidden_layers=len({k.split(".")[2] for k in weights if k.startswith("encoder.layers.")}),
        num_attention_heads=max(1, width // 64),
        intermediate_size=len(weights["encoder.layers.0.mlp.fc1.weight"]),
        max_position_embeddings=len(weights["embeddings.position_embedding.weight"]),
        hidden_act="gelu" if openclip or width == 1024 else "quick_gelu",
        eos_token_id=END,
    )
    network = CLIPTextModel(config)
    inner: Any = getattr(network, "text_model", network)
    check_weights(weights, inner.state_dict(), info.file)
    inner.load_state_dict(weights)
    return network


def _openclip_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names of the text tower to transformers'; queries, keys and values apart. Images are left out."""
    whole = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts["attn.out_proj"] = "self_attn.out_proj"
    found = {theirs: tensors[own] for own, theirs in whole.items() if own in tensors}
    for key, value in tensors.items():
        if not (match := re.match(r"transformer\.resblocks\.(\d+)\.(.+)$", key)):
            continue
        layer, rest = f"encoder.layers.{match[1]}", match[2]
        if joined := re.match(r"attn\.in_proj_(weight|bias)$", rest):
            for name, third in zip("qkv", value.chunk(3), strict=True):
                found[f"{layer}.self_attn.{name}_proj.{joined[1]}"] = third
        else:
            module, _, kind = rest.rpartition(".")
            found[f"{layer}.{parts[module]}.{kind}"] = value
    return found
