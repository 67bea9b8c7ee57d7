"""MCM's published LoRAs with drawn values: the authors' names and layouts, at a tenth of the published widths.

Names are those of the authors' files: 482 modules of ModelScope's network, here, and 530 of AnimateDiff's, see
`sd15_loras`. The narrow network has the structure of ModelScope's, and its text is as wide as that of the narrow Stable
Diffusion 1.5, so that layers of space fit both.
"""

import json
from pathlib import Path

import sd15_loras
import torch
from safetensors.torch import save_file

from videolcm_core.families.vgen.lora import module_names
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

LISTED = json.loads((Path(__file__).resolve().parents[1] / "golden" / "mcm_lora_modelscope.json").read_text())
RANK = ALPHA = 4
CONFIG = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2, 4, 4),
    num_res_blocks=2,
    attention_scales=(1.0, 0.5, 0.25),
    context_dim=sd15_loras.UNET.context_dim,
    num_heads=8,
    head_dim=8,
    concat_channels=0,
)
TEACHER = {"videolcm.head_dim": "8", "videolcm.prediction": "eps", "videolcm.sampling": "teacher"}
"""Metadata of the narrow network's file."""
PREFIX = sd15_loras.PREFIX


def modelscope_weights(prefix=""):
    """Of the narrow network, by the authors' keys after a prefix."""
    shapes = {key: value.shape for key, value in UNet3D(CONFIG, device="meta").state_dict().items()}
    return {prefix + key: sd15_loras.filled(key, shape, 0.8) for key, shape in shapes.items()}


def modelscope_tensors(weights):
    """peft's tensors of the 482 modules, and the network's key of each.

    Kernels of 1 are matrices in diffusers.
    """
    names, tensors, keys = module_names(weights), {}, {}
    for number, name in enumerate(LISTED["layers"]):
        keys[name] = key = f"{names[name]}.weight"
        out, *inner = weights[key].shape
        inner = inner[:1] if name.endswith(("proj_in", "proj_out")) else inner
        generator = torch.Generator().manual_seed(number)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(RANK, *inner, generator=generator) * 0.1
        ones = [1] * (len(inner) - 1)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(out, RANK, *ones, generator=generator) * 0.1
    return tensors, keys


def settings_of(tensors, **changes):
    """peft's settings, every module by its whole name, as the published folders have them."""
    names = [key.removeprefix(PREFIX).removesuffix(".lora_A.weight") for key in tensors if ".lora_A" in key]
    base = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": names, "use_rslora": False}
    return base | {"use_dora": False, "bias": "none", "base_model_name_or_path": None} | changes


def renamed(tensors, prefix, down="lora_A", up="lora_B"):
    """The same tensors under another prefix and with other words for the factors."""
    parts = {"lora_A": down, "lora_B": up}
    found = {}
    for key, value in tensors.items():
        name, part = key.removeprefix(PREFIX).removesuffix(".weight").rsplit(".", 1)
        found[f"{prefix}{name}.{parts[part]}.weight"] = value
    return found


def peft(folder, tensors, **changes):
    """The folder as published; ``changes`` of its settings."""
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings_of(tensors, **changes)))
    return "adapter_model.safetensors"


def unet_lora(folder, tensors):
    """The LoRA once more, for diffusers, in the same folder."""
    peft(folder, tensors)
    (folder / "unet_lora").mkdir()
    save_file(renamed(tensors, "unet.base_model.model."), folder / "unet_lora" / "pytorch_lora_weights.safetensors")
    return "unet_lora/pytorch_lora_weights.safetensors"


def diffusers(folder, tensors):
    """What diffusers' ``save_lora_weights`` writes without settings."""
    save_file(renamed(tensors, "unet."), folder / "pytorch_lora_weights.safetensors")
    return "pytorch_lora_weights.safetensors"


def old_diffusers(folder, tensors):
    """The same of diffusers before it took peft."""
    save_file(renamed(tensors, "unet.", "lora.down", "lora.up"), folder / "old.safetensors")
    return "old.safetensors"


def kohya(folder, tensors):
    """As converted for programs that read kohya's names."""
    found = {}
    for key, value in renamed(tensors, "", "lora_down", "lora_up").items():
        name, part = key.rsplit(".lora_", 1)
        module = f"lora_unet_{name.replace('.', '_')}"
        found[f"{module}.lora_{part}"], found[f"{module}.alpha"] = value, torch.tensor(float(ALPHA))
    save_file(found, folder / "kohya.safetensors")
    return "kohya.safetensors"


LAYOUTS = {write.__name__: write for write in (peft, unet_lora, diffusers, old_diffusers, kohya)}
"""Each writes files into a folder and returns the name of the one to choose."""
