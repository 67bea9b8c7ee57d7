"""The shapes of the embedded family ``videolcm-mini`` and its all-in-one checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.families.vgen.defaults import MINI_FAMILY, defaults_of
from videolcm_core.families.vgen.detection import detect_unet_config
from videolcm_core.files.entries import FORMAT, PREFIX, write_entry
from videolcm_core.files.settings import read_settings, to_metadata
from videolcm_core.files.writing import save_safetensors
from videolcm_core.networks.autoencoder import TinyAutoencoder
from videolcm_core.networks.text_encoder import TextConfig, TextEncoder
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

from ..data import conditions
from ..engine.files import released_state
from . import world
from .worlds.base import World
from .worlds.large import LARGE

TEXT = TextConfig()
UNET = UNetConfig(
    model_channels=64,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_scales=(1.0, 0.5),
    context_dim=TEXT.hidden_size,
    num_heads=1,
    head_dim=64,
    dropout=0.0,
)
LARGE_UNET = replace(UNET, channel_mult=(1, 2, 2), attention_scales=(1.0, 0.5, 0.25))
_UNETS = {world.MINI.name: UNET, LARGE.name: LARGE_UNET}
PREDICTION = "v"
COMPOSITIONAL = replace(UNET, conditions=frozenset(conditions.NAMES))


def unet_of(of: World) -> UNetConfig:
    """The text-only network of a world: latents of 16 x 16 get one level more than those of 8 x 8."""
    return _UNETS[of.name]


def compositional_of(of: World) -> UNetConfig:
    """The network of a world with all conditions."""
    return replace(unet_of(of), conditions=COMPOSITIONAL.conditions)


def schedule() -> Schedule:
    """The authors' schedule: scaled linear betas, zero terminal signal."""
    return Schedule.create("scaled_linear", zero_terminal_snr=True)


class TextVideoModel(nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self, vocabulary: Tensor, config: UNetConfig = UNET) -> None:
        super().__init__()
        self.unet = UNet3D(config)
        self.text = TextEncoder(vocabulary, TEXT)


def load_text_teacher(path: Path, config: UNetConfig = UNET) -> TextVideoModel:
    """The averaged teacher out of a checkpoint of ``pretrain``, with its text encoder."""
    state = released_state(path)
    model = TextVideoModel(state["text.vocabulary"], config)
    model.load_state_dict(state)
    return model.train(False).requires_grad_(False)


def load_student(path: Path, config: UNetConfig = UNET) -> UNet3D:
    """The student out of a checkpoint of ``training.distill``: what its recipe releases."""
    model = UNet3D(config)
    model.load_state_dict(released_state(path))
    return model.train(False).requires_grad_(False)


def load_autoencoder(path: Path) -> TinyAutoencoder:
    """The averaged autoencoder out of a training checkpoint of ``train_autoencoder``."""
    model = TinyAutoencoder()
    model.load_state_dict(released_state(path))
    model.skip_idle_blocks()
    return model.train(False).requires_grad_(False).channels_last()


def read_autoencoder(path: Path) -> TinyAutoencoder:
    """The autoencoder out of a training checkpoint or an all-in-one file, told by the suffix."""
    return load_all_in_one(path).autoencoder if path.suffix == ".safetensors" else load_autoencoder(path)


def latent_rgb(latents: Tensor, clips: Tensor) -> tuple[list[list[float]], list[float]]:
    """Least-squares map from a latent cell to the mean colour of its 8 x 8 pixels, for cheap previews.

    Args:
        latents: ``[N, 4, h, w]``.
        clips: the same frames in [0, 1], ``[N, 3, 8h, 8w]``.

    Returns:
        factors ``[4][3]`` and bias ``[3]``; colours in [-1, 1], as the host's previewer expects.
    """
    colors = torch.nn.functional.avg_pool2d(clips, 8).permute(0, 2, 3, 1).reshape(-1, 3) * 2 - 1
    cells = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    design = torch.cat([cells, torch.ones(len(cells), 1)], dim=1)
    solution = torch.linalg.lstsq(design, colors).solution
    return solution[:-1].tolist(), solution[-1].tolist()


def metadata(sampling: str, extra: dict[str, Any], of: World = world.MINI) -> dict[str, str]:
    """The file's metadata, with the sizes of its world; every value a string, as safetensors demands."""
    entries: dict[str, Any] = {
        "format": FORMAT,
        "family": MINI_FAMILY,
        "prediction": PREDICTION,
        "beta_schedule": "scaled_linear",
        "zero_terminal_snr": True,
        "sampling": sampling,
        "original_steps": 50,
        "timestep_scaling": 10.0,
        "head_dim": unet_of(of).head_dim,
        "text_config": asdict(TEXT),
        "width": of.size,
        "height": of.size,
        "frames": of.frames,
        "fps": of.fps,
        "steps": 4 if sampling == "lcm" else 50,
        "cfg": 1.0,
        **extra,
    }
    texts = {PREFIX + name: write_entry(value) for name, value in entries.items()}
    settings = read_settings(texts, defaults_of(unet_of(of)), "the file to write")
    role = "consistency student" if sampling == "lcm" else "teacher"
    described = {
        "modelspec.title": f"videolcm-mini {role}",
        "modelspec.author": "ComfyUI-VideoLCM",
        "modelspec.license": "CC BY 3.0 (trained on renderings of CC0 and CC BY 3.0 models, see models/README.md)",
    }
    return to_metadata(settings, settings.given) | described


def export(
    path: Path,
    unet: nn.Module,
    text: TextEncoder,
    autoencoder: TinyAutoencoder,
    sampling: str,
    of: World = world.MINI,
    **extra: Any,
) -> None:
    """Write the all-in-one file: UNet and text encoder in float16, autoencoder in float16 where it is exact enough.

    Args:
        path: the ``.safetensors`` file.
        unet: the network to ship.
        text: its text encoder.
        autoencoder: of its latents.
        sampling: "lcm" or "teacher".
        of: the world that it was trained on.
        **extra: further metadata entries.
    """
    tensors: dict[str, Tensor] = {}
    parts = (("model.diffusion_model", unet), ("first_stage_model", autoencoder), ("cond_stage_model", text))
    for prefix, module in parts:
        for key, value in module.state_dict().items():
            value = value.detach()
            tensors[f"{prefix}.{key}"] = value.half() if value.is_floating_point() and value.ndim else value
    save_safetensors(tensors, path, metadata(sampling, extra, of))


@dataclass(frozen=True, kw_only=True)
class AllInOne:
    """The parts of an all-in-one file, in float32 and ready for inference."""

    unet: UNet3D
    text: TextEncoder
    autoencoder: TinyAutoencoder


def load_all_in_one(path: Path) -> AllInOne:
    """Read a file that `export` wrote."""
    tensors = load_file(path)

    def part(prefix: str) -> dict[str, Tensor]:
        found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}

    text, unet = part("cond_stage_model."), part("model.diffusion_model.")
    with torch.random.fork_rng(devices=[]):  # reading a file must not use up the run's random numbers
        loaded = AllInOne(
            unet=UNet3D(detect_unet_config(unet, {f"{PREFIX}head_dim": str(UNET.head_dim)}, path.name)),
            text=TextEncoder(text["vocabulary"], TEXT),
            autoencoder=TinyAutoencoder().channels_last(),
        )
    loaded.unet.load_state_dict(unet)
    loaded.text.load_state_dict(text)
    loaded.autoencoder.load_state_dict(part("first_stage_model."))
    loaded.autoencoder.skip_idle_blocks()
    for module in (loaded.unet, loaded.text, loaded.autoencoder):
        module.train(False).requires_grad_(False)
    return loaded
