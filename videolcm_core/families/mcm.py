"""LoRAs of Motion Consistency Models (arXiv 2406.06890), which carry no metadata: known by the layers that they adapt.

The authors' trainer adapts what the training script of LCM-LoRA does, and the same layers of the modules along time:
482 of ModelScope's network, where convolutions along time stay as they are, and 530 of AnimateDiff's, 278 of Stable
Diffusion 1.5 and 252 of the motion modules (MCM ``main.py:646-673``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..files.lora import LoraFile
from ..files.lora_fit import LoraFit
from ..files.lora_names import without_prefixes
from .animatediff.keymaps import diffusers_motion_name
from .animatediff.lora import LCM_TARGETS, lcm_targets
from .vgen.keymaps import vgen_to_diffusers

# The first part of the authors' own names; MCM was trained under diffusers'.
_VGEN: Final = ("input_blocks", "middle_block", "output_blocks")


def modelscope_targets(unet: Iterable[str]) -> set[str]:
    """Keys of a VGen network's weights that MCM adapts: 482 of ModelScope's.

    Args:
        unet: All its keys.
    """
    named = vgen_to_diffusers([key for key in unet if key.endswith(".weight")])
    return {key for key, name in named.items() if _is_adapted(name) and not ("temp" in name and "conv" in name)}


def animatediff_targets(unet: Iterable[str], motion: Iterable[str]) -> set[str]:
    """Keys of Stable Diffusion 1.5's and of motion modules' weights that MCM adapts: 530 of AnimateDiff v2.

    Args:
        unet: All keys of the UNet, LDM's.
        motion: All keys of the motion modules, the published ones.
    """
    layers = (key for key in motion if key.endswith(".weight"))
    return {f"{own}.weight" for own in lcm_targets(tuple(unet))} | {
        key for key in layers if _is_adapted(diffusers_motion_name(key))
    }


def _is_adapted(name: str) -> bool:
    return name.removesuffix(".weight").endswith(LCM_TARGETS)


def is_mcm(lora: LoraFile, fit: LoraFit, unet: Iterable[str], motion: Iterable[str] | None) -> bool:
    """Whether a LoRA changes exactly the layers that MCM adapts, and its names are not those of another trainer.

    Args:
        lora: The file.
        fit: Of the file against the networks.
        unet: All keys of the UNet.
        motion: All keys of the motion modules of Stable Diffusion 1.5, empty where there are none; None for a network
            of the VGen family. This pack's own trainer adapts the same layers there, under the network's own names.
    """
    if fit.unknown or fit.misshapen or fit.biases or fit.values or fit.names:
        return False
    if motion is not None:
        return bool(motion) and set(fit.changes) == animatediff_targets(unet, motion)
    if any(without_prefixes(name).startswith(_VGEN) for name in lora.layers):
        return False
    return set(fit.changes) == modelscope_targets(unet)
