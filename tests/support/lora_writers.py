"""LoRA files as their trainers write them, on a real UNet3DConditionModel, with the weights that the trainer samples.

Each writer returns the merged state dict under diffusers' names. peft and diffusers write their own files; kohya's,
stable_lora's and cloneofsimo's layouts follow networks/lora.py of sd-scripts, stable_lora/lora.py and utils/lora.py of
ExponentialML/Text-To-Video-Finetuning.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)


def seeded(shape, seed, scale=0.05):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def layers_of(unet, pattern=".*"):
    """Name and module of each layer, in the network's order."""
    return [(n, m) for n, m in unet.named_modules() if isinstance(m, LAYERS) and re.fullmatch(pattern, n)]


def factors_of(module, rank, seed):
    """Up and down of a layer, shaped as kohya, peft and cloneofsimo do."""
    out, inner, *kernel = module.weight.shape
    ones = [1] * len(kernel)
    return seeded((out, rank, *ones), 2 * seed), seeded((rank, inner, *kernel), 2 * seed + 1)


def product(up, down, weight):
    return (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)


def randomise(network):
    """Adapters as if they had been trained."""
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(network.named_parameters()):
            if "lora_magnitude" in name:
                parameter.mul_(1 + seeded(parameter.shape, seed, 0.2))
            elif "lora_" in name:
                parameter.copy_(seeded(parameter.shape, seed))
            elif parameter.requires_grad:
                parameter.add_(seeded(parameter.shape, seed))


def peft_config(unet, **options):
    from peft import LoraConfig

    names = [name for name, _ in layers_of(unet, r"(?!conv_in|time_embedding|conv_out).*")]
    return LoraConfig(**({"r": 4, "lora_alpha": 32, "target_modules": names} | options))


def peft_folder(unet, folder: Path, **options):
    """peft's own ``save_pretrained`` and ``merge_and_unload``."""
    from peft import get_peft_model

    wrapped = get_peft_model(unet, peft_config(unet, **options))
    randomise(wrapped)
    wrapped.save_pretrained(str(folder))
    return dict(wrapped.merge_and_unload().state_dict())


def with_adapter(unet):
    """diffusers gives its other networks this class of its own; its video UNet lacks it."""
    from diffusers.loaders.peft import PeftAdapterMixin

    unet.__class__ = type("UNet3DConditionModel", (type(unet), PeftAdapterMixin), {})
    unet.add_adapter(peft_config(unet))


def diffusers_adapter(unet, folder: Path):
    """diffusers' own ``save_lora_adapter``: one file, the settings in its metadata."""
    with_adapter(unet)
    randomise(unet)
    unet.save_lora_adapter(str(folder))
    return merged_by_peft(unet)


def diffusers_pipeline(unet, folder: Path):
    """diffusers' own ``save_lora_weights`` of a pipeline: names and settings begin with "unet."."""
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    with_adapter(unet)
    randomise(unet)
    settings = {k: sorted(v) if isinstance(v, set) else v for k, v in unet.peft_config["default"].to_dict().items()}
    StableDiffusionPipeline.save_lora_weights(
        str(folder), unet_lora_layers=get_peft_model_state_dict(unet), unet_lora_adapter_metadata=settings
    )
    return merged_by_peft(unet)


def merged_by_peft(unet):
    state = {k.replace(".base_layer.", "."): v for k, v in unet.state_dict().items() if ".lora_" not in k}
    for name, module in unet.named_modules():
        if hasattr(module, "get_delta_weight"):
            state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight("default")
    return state


def old_diffusers(unet, path: Path):
    """Attention in processors, the rest as ``.lora.down``; no alpha."""
    tensors, state = {}, dict(unet.state_dict())
    for seed, (name, module) in enumerate(layers_of(unet, r".*(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|proj)")):
        up, down = factors_of(module, 4, seed)
        base = f"unet.{name}.lora"
        if match := re.fullmatch(r"(.*)\.(to_[qkv]|to_out)(\.0)?", name):
            base = f"unet.{match[1]}.processor.{match[2]}_lora"
        tensors[f"{base}.up.weight"], tensors[f"{base}.down.weight"] = up, down
        state[f"{name}.weight"] = module.weight.detach() + product(up, down, module.weight)
    save_file(tensors, path)
    return state


def kohya(unet, path: Path, dora_axis=None, mid=False):
    """networks.lora and LyCORIS' LoCon, with alpha of half the rank."""
    tensors, state = {}, dict(unet.state_dict())
    for seed, (name, module) in enumerate(layers_of(unet)):
        base, weight = f"lora_unet_{name.replace('.', '_')}", module.weight.detach()
        up, down = factors_of(module, 4, seed)
        delta = product(up, down, weight)
        if mid and weight.ndim > 2 and max(weight.shape[2:]) > 1:
            small = seeded((4, weight.shape[1], *[1] * (weight.ndim - 2)), seed)
            kernel = seeded((4, 4, *weight.shape[2:]), seed, 1)
            tensors[f"{base}.lora_mid.weight"], down = kernel, small
            delta = torch.einsum("oa,ab...,bi->oi...", up.flatten(1), kernel, small.flatten(1))
        tensors |= {f"{base}.lora_up.weight": up, f"{base}.lora_down.weight": down, f"{base}.alpha": torch.tensor(2.0)}
        merged = weight + 0.5 * delta
        if dora_axis is not None:
            over = tuple(axis for axis in range(weight.ndim) if axis != dora_axis)
            length = torch.linalg.vector_norm(weight, dim=over, keepdim=True) * (1 + seeded((1,), seed, 0.2))
            tensors[f"{base}.dora_scale"] = length
            merged = merged * length / torch.linalg.vector_norm(merged, dim=over, keepdim=True)
        state[f"{name}.weight"] = merged
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"ss_network_module": "networks.lora"})
    return state


class StableConv(nn.Module):
    """A convolution of stable_lora in its own shapes; ``merged`` is the weight that its forward uses."""

    def __init__(self, module, rank, seed):
        super().__init__()
        self.weight, k = module.weight, module.kernel_size[0]
        self.lora_A = nn.Parameter(seeded((rank * k, module.in_channels * k), 2 * seed))
        self.lora_B = nn.Parameter(seeded((module.out_channels * k, rank * k), 2 * seed + 1))

    def merged(self):
        matrix = self.lora_B @ self.lora_A
        if self.weight.ndim == 4:
            return self.weight + matrix.view(self.weight.shape)
        out, inner, k = self.weight.shape[:3]
        return self.weight + torch.mean(matrix.view(out, inner, k, k, 1), dim=-2, keepdim=True)


def stable_lora(unet, path: Path, names=None):
    """stable_lora's file of diffusers' names, or with a map of names its file for the web page (half precision)."""
    tensors, state = {}, dict(unet.state_dict())
    for seed, (name, module) in enumerate(layers_of(unet)):
        if isinstance(module, nn.Linear):
            up, down = factors_of(module, 4, seed)
            merged = module.weight + up @ down
        else:
            layer = StableConv(module, 4, seed)
            up, down, merged = layer.lora_B, layer.lora_A, layer.merged()
        if names is not None:
            up, down = up.half(), down.half()
            if "proj_" in name:
                up, down = up.unsqueeze(-1), down.unsqueeze(-1)
        own = name if names is None else names[f"{name}.weight"].removesuffix(".weight")
        tensors[f"{own}.lora_A"], tensors[f"{own}.lora_B"] = down.detach().contiguous(), up.detach().contiguous()
        state[f"{name}.weight"] = merged.detach()
    if names is not None:
        bias = next(n for n, p in unet.named_parameters() if n.endswith("resnets.0.conv1.bias"))
        state[bias] = seeded(state[bias].shape, 5).half().float()
        tensors[names[bias]] = state[bias].half()
    save_file(tensors, path, metadata={"stable_lora_text_to_video": "v1", "lora_name": "x"})
    return state


def cloneofsimo(unet, path: Path, targets, old_order=False):
    """A list without names (.pt), or the numbered safetensors form, walked as the trainer walks."""
    values, metadata, state = [], {"unet": json.dumps(list(targets))}, dict(unet.state_dict())
    done = {}
    for ancestor_name, ancestor in modules_in_order(unet, old_order):
        if type(ancestor).__name__ not in targets:
            continue
        for inner, module in modules_in_order(ancestor, old_order):
            if not isinstance(module, LAYERS):
                continue
            name = ".".join(part for part in (ancestor_name, inner) if part)
            if name not in done:
                done[name] = factors_of(module, 2, len(done))
                state[f"{name}.weight"] = module.weight.detach() + product(*done[name], module.weight)
            values += done[name]
    if path.suffix == ".pt":
        torch.save(values, path)
    else:
        tensors = {f"unet:{i // 2}:{('up', 'down')[i % 2]}": v.clone() for i, v in enumerate(values)}
        save_file(tensors, path, metadata | {f"unet:{i}:rank": "2" for i in range(len(values) // 2)})
    return state


def modules_in_order(module, old_order, prefix=""):
    """``named_modules``; in the old order a block's feed-forward comes before its second attention."""
    yield prefix, module
    children = dict(module.named_children())
    if old_order and "attn2" in children:
        children = {k: children[k] for k in ("attn1", "ff", "attn2")}
    for name, child in children.items():
        yield from modules_in_order(child, old_order, f"{prefix}.{name}" if prefix else name)
