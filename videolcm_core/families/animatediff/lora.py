"""Which weights of Stable Diffusion 1.5's UNet, and of motion modules beside it, a LoRA file changes.

One file may hold layers of both networks: MCM's have 278 of the UNet and 252 of the motion modules, in peft's names.
AnimateDiff's own motion LoRAs and AnimateLCM's spatial LoRA have those of one. The names of the two networks are
disjoint, so one file is held against both at once and each change belongs to the network that has its key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from torch import Tensor

from ...files.entries import PREFIX, read_entry
from ...files.errors import CheckpointError
from ...files.lora import LoraFile, LoraLayer
from ...files.lora_fit import LoraFit, Shapes, fit_layers, lora_names
from .keymaps import AUTHORS, diffusers_motion_name, sd15_to_diffusers
from .sd15 import is_sd15

MOTION: Final = "motion_modules"
"""In every name of a motion module's layer, in every layout."""
ANIMATELCM_RANK: Final = 64
ANIMATELCM_SCALE: Final = 1 / 8
"""Alpha 8 of rank 64, which AnimateLCM's authors multiply by whatever the file says
(``animatelcm/utils/lcm_utils.py:142-237``, ``convert_lcm_lora``)."""
# The layers that the training script of LCM-LoRA, and with it AnimateLCM's, adapts: 278 of Stable Diffusion 1.5.
LCM_TARGETS: Final = (
    *(".to_q", ".to_k", ".to_v", ".to_out.0", ".proj_in", ".proj_out", ".ff.net.0.proj", ".ff.net.2"),
    *(".conv1", ".conv2", ".conv_shortcut", ".downsamplers.0.conv", ".upsamplers.0.conv", ".time_emb_proj"),
)


def takes_sd15_loras(state: Mapping[str, Tensor]) -> bool:
    """Whether weights, of which only shapes are looked at, are Stable Diffusion 1.5's UNet, of any width.

    Stable Diffusion 2 has the same keys, with matrices for the projections around attention.

    Args:
        state: By LDM's keys.
    """
    return is_sd15(state) and state["input_blocks.8.1.proj_in.weight"].ndim == 4


def module_names(unet: Collection[str], motion: Collection[str] = ()) -> dict[str, str]:
    """Every name that a LoRA may use for a module, without prefixes -> the network's module.

    Args:
        unet: All keys of the UNet, LDM's.
        motion: All keys of the motion modules, the published ones.
    """
    modules = _diffusers_names(unet)
    for key in motion:
        if key.endswith(".weight"):
            modules[key.removesuffix(".weight")] = diffusers_motion_name(key).removesuffix(".weight")
    return lora_names(modules)


def fit_lora(lora: LoraFile, unet: Shapes, motion: Shapes | None = None) -> LoraFit:
    """Find the weights that a file's layers belong to, and check their shapes.

    A file in kohya's layout that carries no alpha is taken at 1, as its trainers do, with one exception: layers of rank
    64 on exactly the 278 modules that LCM-LoRA adapts are AnimateLCM's, and get 1/8 (`LoraFit.assumed`).

    Args:
        lora: The file.
        unet: Shapes of the UNet's weights, by LDM's keys.
        motion: Of the motion modules' weights, by the published keys; None where there are none.

    Returns:
        Changes of both, each under the key of its network.

    Raises:
        CheckpointError: If the layers have no names.
    """
    if lora.unnamed:
        raise CheckpointError(
            lora.file,
            f"{len(lora.unnamed)} layers without names",
            "named layers for Stable Diffusion 1.5; lists without names are read for ModelScope alone",
            "Convert it to kohya's or diffusers' layout with the tool that wrote it.",
        )
    fit = fit_layers(lora, module_names(unet, motion or ()), {**unet, **(motion or {})})
    if _is_animatelcm(lora, fit, unet):
        fit.assumed = ANIMATELCM_SCALE
        fit.changes = {key: change._replace(scale=ANIMATELCM_SCALE) for key, change in fit.changes.items()}
    return fit


def trained_group_norm(lora: LoraFile) -> str | None:
    """The convention of group norm that a LoRA's motion layers were trained with, "frame" or "video"; None if unknown.

    A file may say so in its metadata. peft layers under diffusers' names were trained inside diffusers, whose motion
    modules take statistics of the whole video.

    Raises:
        SettingsError: If the metadata's entry has no allowed value.
    """
    layers = [layer for layer in lora.layers.values() if MOTION in layer.name]
    if not layers:
        return None
    if (said := lora.metadata.get(f"{PREFIX}group_norm")) is not None:
        return read_entry("group_norm", said, lora.file)
    return "video" if all(_is_from_diffusers(layer) for layer in layers) else None


def _is_from_diffusers(layer: LoraLayer) -> bool:
    return layer.layout == "peft" and AUTHORS.rstrip(".") not in layer.name


def _is_animatelcm(lora: LoraFile, fit: LoraFit, unet: Collection[str]) -> bool:
    """Whether a file without alpha has exactly AnimateLCM's layers: see `fit_lora`."""
    layers = lora.layers.values()
    if not all(layer.layout == "kohya" and layer.guessed and len(layer.down) == ANIMATELCM_RANK for layer in layers):
        return False
    targets = lcm_targets(unet)
    return len(layers) == len(targets) and set(fit.changes) == {f"{own}.weight" for own in targets}


def lcm_targets(unet: Collection[str]) -> dict[str, str]:
    """Modules of the UNet that LCM-LoRA adapts, 278 of Stable Diffusion 1.5 -> diffusers' names of them."""
    return {own: theirs for own, theirs in _diffusers_names(unet).items() if theirs.endswith(LCM_TARGETS)}


def _diffusers_names(unet: Collection[str]) -> dict[str, str]:
    """Modules of the UNet with weights -> diffusers' names of them."""
    weights = [key for key in unet if key.endswith(".weight")]
    names = sd15_to_diffusers(weights)
    return {key.removesuffix(".weight"): names.get(key, key).removesuffix(".weight") for key in weights}
