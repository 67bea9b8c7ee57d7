"""LoRA students with ``peft``: adapters inside the teacher's network, which keeps its class and its call.

Targets are those of MCM (linear layers and 2-D convolutions of residual blocks, attention, down- and upsampling) in
the authors' layout; MCM leaves the convolutions along time out, here they are an option.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..methods.method import Follower
from ..networks import VgenNetwork
from ..recipes.base import Recipe
from ..teachers import Teacher

ADAPTER: Final = "default"
ATTENTION: Final = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
RESIDUAL: Final = ("in_layers.2", "out_layers.3", "skip_connection", "emb_layers.1", "op", "conv")
DEFAULT_TARGETS: Final = ATTENTION + RESIDUAL
# Condition encoders, time embedding, first and last convolution keep the teacher's weights, as in MCM.
_BLOCKS: Final = r"(input_blocks|middle_block|output_blocks)\."
TEMPORAL_CONV: Final = "temopral_conv"  # the authors' spelling


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Size and place of the adapters.

    Attributes:
        rank: of each; at most the layer's own is of use.
        alpha: scale of an adapter is ``alpha / rank``; None is ``rank``, a scale of 1.
        targets: endings of module names within the blocks.
        temporal_convs: the (3, 1, 1) convolutions along time too.
        dropout: of an adapter's input, in training.
    """

    rank: int = 64
    alpha: float | None = None
    targets: tuple[str, ...] = DEFAULT_TARGETS
    temporal_convs: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the LoRA's rank is {self.rank}; allowed: 1 or more.")
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f"the LoRA's alpha is {self.alpha}; allowed: above 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"the LoRA's dropout is {self.dropout}; allowed: 0 up to 1.")


class LoraStudent:
    """Adapters train, everything else stays the teacher's.

    Args:
        network: with adapters inside.
        options: of the adapters.
        config: peft's, for the exported file.
    """

    def __init__(self, network: nn.Module, options: LoraOptions, config: Any) -> None:
        self.network, self.options, self.config = network, options, config

    def trainable(self) -> list[nn.Parameter]:
        """The adapters' parameters."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def effective_state(self, network: nn.Module | None = None) -> dict[str, Tensor]:
        """Weights with the adapters added, under the teacher's keys, in the dtype of the teacher's."""
        network = network or self.network
        state = {}
        for key, value in network.state_dict().items():
            if ".lora_" not in key:
                state[key.replace(".base_layer.", ".")] = value.detach()
        for name, layer in lora_layers(network):
            weight = state[f"{name}.weight"]
            delta = layer.get_delta_weight(ADAPTER).detach()
            state[f"{name}.weight"] = (weight.float() + delta.float()).to(weight.dtype)
        return state

    def average(self, recipe: Recipe) -> Follower:
        """Of the adapters' matrices: what is exported merged, for kohya and for peft is then one network."""
        weights = copy.deepcopy(self.network).requires_grad_(False).train(False)

        def adapters() -> dict[str, Tensor]:
            return {name: p.detach() for name, p in self.network.named_parameters() if p.requires_grad}

        return Follower(module=VgenNetwork(weights), weights=weights, values=adapters, decay=recipe.average_decay)

    def identity(self) -> dict[str, str]:
        """Rank, alpha and place: with another alpha the same weights are another network."""
        o = self.options
        alpha = float(o.rank if o.alpha is None else o.alpha)
        convs = "with" if o.temporal_convs else "without"
        targets = ", ".join(sorted(o.targets))
        return {"student": f"LoRA of rank {o.rank}, alpha {alpha:g}, {convs} temporal convolutions, on {targets}"}


def lora_layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and peft layer of each adapter in a network."""
    from peft.tuners.lora import LoraLayer

    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def target_names(network: nn.Module, options: LoraOptions) -> list[str]:
    """The modules of a network that get an adapter.

    Raises:
        ValueError: an ending fits no module.
    """
    unused, found = set(options.targets), []
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or not re.match(_BLOCKS, name):
            continue
        if TEMPORAL_CONV in name:
            if options.temporal_convs:
                found.append(name)
            continue
        if ending := next((t for t in options.targets if name.endswith(f".{t}")), None):
            unused.discard(ending)
            found.append(name)
    # A network of one level has no sampler, one without a change of width no skip connection.
    unused -= {"op", "conv", "skip_connection"}
    if unused or not found:
        raise ValueError(
            f"the LoRA's targets {', '.join(sorted(unused)) or 'none'} fit no layer of this network; allowed: endings "
            f"of module names, by default {', '.join(DEFAULT_TARGETS)}."
        )
    return found


def lora_student(teacher: Teacher, options: LoraOptions | None = None, seed: int = 0) -> LoraStudent:
    """A copy of the teacher's network with adapters, which begin without effect.

    Args:
        teacher: whose weights stay, in their own dtype.
        options: of the adapters, which are float32.
        seed: of their first weights.

    Raises:
        ImportError: peft is not installed.
        ValueError: a target fits no layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    options = options or LoraOptions()
    network: nn.Module = copy.deepcopy(teacher.network).requires_grad_(False)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.rank if options.alpha is None else options.alpha,  # type: ignore[arg-type]
        target_modules=target_names(network, options),
        lora_dropout=options.dropout,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = inject_adapter_in_model(config, network, ADAPTER)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return LoraStudent(network.train(True), options, config)
