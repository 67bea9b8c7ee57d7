"""LoRA files for a narrow Stable Diffusion 1.5 with motion modules, as AnimateLCM's, MCM's and AnimateDiff's name them.

Networks and LoRAs are those of tests/golden/animatediff: every tensor follows from its name, its shape and a seed.
Names are those of MCM's published LoRA for AnimateDiff (530 modules, of which 278 are the UNet's); AnimateLCM's LoRA
has the same 278 in kohya's spelling.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent / "golden"))

from recipe import recipe_array

from videolcm_core.networks.animatediff.motion import MotionConfig, MotionNetwork
from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
UNET = SD15Config(model_channels=32, context_dim=48)
MOTION = MotionConfig(channels=(32, 64, 128, 128))
SEED = 11
T = 499
LISTED = json.loads((GOLDEN / "mcm_lora_animatediff.json").read_text())
"""Rank, and diffusers' name of each layer -> outputs and shape of an input, at full width."""
MODULES = tuple(LISTED["layers"])
SPATIAL = tuple(name for name in MODULES if "motion_modules" not in name)
TEMPORAL = tuple(name for name in MODULES if "motion_modules" in name)
PREFIX = "base_model.model."


def recorded(name):
    """Tensors of a file of recorded values."""
    return load_file(GOLDEN / f"{name}.safetensors")


def filled(key, shape, gain):
    return torch.from_numpy(recipe_array(key, shape, SEED, gain))


def unet_weights(prefix=""):
    """Of the narrow UNet, by LDM's keys after a prefix."""
    shapes = {key: value.shape for key, value in SD15UNet(UNET, device="meta").state_dict().items()}
    return {prefix + k: filled(f"model.diffusion_model.{k}", shape, 0.8) for k, shape in shapes.items()}


def motion_weights():
    """Of its motion modules, by the published keys."""
    shapes = {key: value.shape for key, value in MotionNetwork(MOTION, device="meta").state_dict().items()}
    return {key: filled(key, shape, 0.8) for key, shape in shapes.items()}


def networks(unet=None, motion=None):
    """Both networks with the given weights, the recorded ones where none are given."""
    net = SD15UNet(UNET, device="meta").train(False)
    net.load_state_dict(unet_weights() if unet is None else unet, assign=True)
    modules = MotionNetwork(MOTION, device="meta").train(False)
    modules.load_state_dict(motion_weights() if motion is None else motion, assign=True)
    return net.requires_grad_(False), modules.requires_grad_(False)


def forward(unet, motion, values, across_frames=False):
    """The recorded step: the same latents without and with the prompt."""
    x = values["x"].expand(2, *values["x"].shape[1:])
    return unet(x, torch.tensor([T, T]), values["context"], motion, across_frames=across_frames)


def narrow(name):
    """Outputs and shape of an input of a layer of the narrow networks.

    Widths are a tenth of the published ones, but for the text and for the feed-forward's and the time's, which follow.
    """
    out, inner = LISTED["layers"][name]
    inner = [UNET.context_dim] if inner == [768] else [inner[0] // 10, *inner[1:]]
    return out // 10, inner


def factors(name, rank, up_key, down_key, gain=0.6):
    """Recorded factors of a layer, ``[out, rank, 1...]`` and ``[rank, in, ...]``."""
    out, inner = narrow(name)
    return filled(up_key, (out, rank, *[1] * (len(inner) - 1)), gain), filled(down_key, (rank, *inner), gain)


def peft_tensors(modules=MODULES, prefix=PREFIX):
    """MCM's LoRA, or some of its layers."""
    tensors = {}
    for name in modules:
        keys = f"{PREFIX}{name}.lora_B.weight", f"{PREFIX}{name}.lora_A.weight"
        tensors |= dict(zip((key.replace(PREFIX, prefix) for key in keys), factors(name, 4, *keys), strict=True))
    return tensors


def kohya_tensors(modules=SPATIAL, alpha=0.5, rank=4):
    """AnimateLCM's spatial LoRA: of rank 4, or with zeros added up to another rank; with alpha, or None without."""
    tensors = {}
    for name in modules:
        base = f"lora_unet_{name.replace('.', '_')}"
        up, down = factors(name, 4, f"{base}.lora_up.weight", f"{base}.lora_down.weight")
        more = rank - 4
        up = torch.cat([up, up.new_zeros(up.shape[0], more, *up.shape[2:])], dim=1)
        tensors[f"{base}.lora_up.weight"] = up
        tensors[f"{base}.lora_down.weight"] = torch.cat([down, down.new_zeros(more, *down.shape[1:])])
        if alpha is not None:
            tensors[f"{base}.alpha"] = torch.tensor(alpha * rank / 4)
    return tensors


def authors_name(name):
    """AnimateDiff's name of a layer of a motion module."""
    head, _, rest = name.partition(".transformer_blocks.")
    rest = rest.replace("attn1.", "attention_blocks.0.").replace("attn2.", "attention_blocks.1.")
    return f"{head}.temporal_transformer.transformer_blocks.{rest}"


def animatediff_tensors(rank=4):
    """AnimateDiff's own motion LoRA: attention alone, by processors, without alpha."""
    tensors = {}
    for name in TEMPORAL:
        if ".attn" in name:
            block, _, layer = authors_name(name).rpartition(".to_")
            key = f"{block}.processor.to_{layer.removesuffix('.0')}_lora"
            up, down = factors(name, rank, f"{key}.up.weight", f"{key}.down.weight")
            tensors |= {f"{key}.up.weight": up, f"{key}.down.weight": down}
    return tensors
