"""The networks that AnimateDiff's reference files were recorded with, and how they are called."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from reference import Reference, load_recipe
from torch import Tensor, nn
from torch.func import functional_call

from videolcm_core.families.animatediff.detection import read_motion
from videolcm_core.families.animatediff.lora import fit_lora
from videolcm_core.families.foreign import without_prefix
from videolcm_core.files.lora import read_lora
from videolcm_core.files.lora_fit import LoraFit, merged_state
from videolcm_core.networks.animatediff.motion import MotionNetwork
from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet

LISTS = re.compile(r"weights_\w+\.json")
"""Names of shape lists in a file's metadata."""
Values = dict[str, Tensor]


class Networks(nn.Module):
    """Stable Diffusion's UNet and its motion modules, with the image encoder where there is one."""

    def __init__(self, unet: SD15UNet, motion: MotionNetwork) -> None:
        super().__init__()
        self.unet, self.motion = unet, motion

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, features: list[Tensor] | None, across_frames: bool
    ) -> Tensor:
        """See `SD15UNet`."""
        return self.unet(x, t, context, self.motion, features, across_frames)

    def fit(self, lora: Path) -> LoraFit:
        """A LoRA held against both networks, whose every layer has to fit."""
        shapes = [{key: tuple(v.shape) for key, v in part.state_dict().items()} for part in (self.unet, self.motion)]
        fit = fit_lora(read_lora(lora), *shapes)
        if left := [*fit.unknown, *fit.misshapen, *fit.text]:
            raise ValueError(f"{len(left)} layers of {lora.name} fit nothing, first {left[0]}")
        return fit

    def merged(self, fit: LoraFit, strength: float) -> Values:
        """This module's weights with a LoRA on them."""
        merged = merged_state({**self.unet.state_dict(), **self.motion.state_dict()}, fit, strength)
        motion = self.motion.state_dict().keys()
        return {f"{'motion' if key in motion else 'unet'}.{key}": value for key, value in merged.items()}


def build(unet: Values, motion: Values) -> Networks:
    """Networks of the sizes that the weights have, in inference mode."""
    file = read_motion(motion, {}, "the recorded motion modules")
    config = SD15Config.from_weights(unet)
    networks = Networks(SD15UNet(config, device="meta"), MotionNetwork(file.config, device="meta"))
    networks.unet.load_state_dict(unet, assign=True)
    networks.motion.load_state_dict(file.weights, assign=True)
    return networks.train(False)


def recipe_weights(path: Path) -> Values:
    """Tensors of a shape list, from its recipe."""
    described = json.loads(path.read_text())
    recipe, array, constants = described["recipe"], load_recipe(path.parent), described.get("constant", {})

    def fill(key: str, shape: list[int]) -> Tensor:
        constant = next((value for end, value in constants.items() if key.endswith(end)), None)
        if constant is not None:
            return torch.full(shape, float(constant))
        return torch.from_numpy(array(key, tuple(shape), recipe["seed"], recipe.get("gain", 1.0)))

    return {key: fill(key, shape) for key, shape in described["tensors"].items()}


def networks_of(reference: Reference) -> Networks:
    """The networks that a file names in its metadata."""
    lists = LISTS.findall(reference.metadata["weights"])
    tensors: Values = {}
    for name in lists:
        tensors.update(recipe_weights(reference.path.parent / name))
    unet = without_prefix(tensors)
    return build(unet, {key: value for key, value in tensors.items() if not key.startswith("model.")})


def forward(
    networks: Networks,
    reference: Reference,
    x: Tensor,
    t: int,
    features: list[Tensor] | None = None,
    across_frames: bool = False,
    cond_only: bool = False,
    weights: Values | None = None,
) -> Tensor:
    """The UNet on the same latents without and with the prompt, in one batch; or with it alone.

    Args:
        networks: What to call.
        reference: That the text is in.
        x: Latents ``[1, 4, F, H, W]``.
        t: Timestep.
        features: Of the image encoder, each ``[F, ...]``.
        across_frames: See `MotionModule`.
        cond_only: Whether to leave the batch without prompt out.
        weights: In the place of the networks' own.
    """
    context = reference.get("context")
    context = context[1:] if cond_only else context
    batch = len(context)
    features = None if features is None else [feature.repeat(batch, 1, 1, 1) for feature in features]
    many = x.expand(batch, -1, -1, -1, -1)
    arguments = (many, torch.full((batch,), t), context, features, across_frames)
    return networks(*arguments) if weights is None else functional_call(networks, weights, arguments)


class Probes:
    """Mean and standard deviation of what each motion module returns, by its name, in the order of their calls."""

    def __init__(self, motion: MotionNetwork, names: list[str]) -> None:
        self._motion, self._names, self._seen, self._hooks = motion, names, {}, []

    def __enter__(self) -> Values:
        for name in self._names:

            def keep(_: Any, __: Any, output: Tensor, name: str = name) -> None:
                self._seen[name] = torch.stack([output.mean(), output.std()])

            self._hooks.append(self._motion.get_submodule(name).register_forward_hook(keep))
        return self._seen

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
