"""How the engine calls a network, and the networks that follow the student."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videolcm_core.networks.vgen.attention import TemporalTransformer
from videolcm_core.networks.vgen.unet3d import TemporalConvBlock, UNet3D

Conditions = Mapping[str, tuple[Tensor, Tensor]]
"""Of each condition the samples that have it, long ``[b]``, and its pixels ``[b, c, F, H, W]``."""

CPU_POSITIONS: Final = 8192
"""Latent positions (samples x frames x height x width) that a processor computes at a time without gradient.

Eight clips of the embedded family. 16 at once, a batch with and without prompt, took 6 to 15 % longer; 4 at once, 6 to
10 %.
"""


def encode_conditions(unet: nn.Module, drawn: Conditions, x: Tensor) -> Tensor:
    """Sum of the encoded conditions; a sample without a condition gets zeros, as the authors' dropout gives.

    Args:
        unet: with the encoders.
        drawn: the conditions of a batch.
        x: latents ``[B, C, F, h, w]``, for the shape.

    Returns:
        ``[B, 8, F, h, w]``.
    """
    batch, _, frames, *size = x.shape
    total = torch.zeros(batch, unet.config.concat_channels, frames, *size, device=x.device)  # type: ignore[union-attr, arg-type]
    for name, (samples, pixels) in drawn.items():
        encoded = unet.encode_conditions(tuple(size), frames, **{name: pixels})
        total = total.index_add(0, samples, encoded.to(total.dtype))
    return total


class Predictor(nn.Module):
    """A network below the line ``predict(x, t, context)``: everything else about it stays in here.

    The answer is float32, so that the solver's arithmetic is exact whatever the network computes in. Prompt and
    negative prompt may come in one batch: conditions of half its size are used for both halves. A processor, whose
    cache a large batch leaves, computes it in parts where no gradient is needed; with dropout it does not, so that the
    draws are those of one batch.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, conditions: Conditions | None = None, batch: int | None = None
    ) -> Tensor:
        """Predict.

        Args:
            x: ``[B, C, F, h, w]``.
            t: long ``[B]``.
            context: ``[B, L, D]``.
            conditions: of the first ``batch`` samples, and of each further ``batch`` again.
            batch: None is B.
        """
        weights = next(self.network.parameters()).dtype
        # Under autocast the weights are float32 and the input stays so; frozen weights in low precision decide alone.
        x, context = x.to(weights), context.to(weights)
        concat = None
        if conditions:
            given = {k: (s, p.to(weights)) for k, (s, p) in conditions.items()}
            count = batch or len(x)
            concat = encode_conditions(self.network, given, x[:count])
            concat = concat.repeat(len(x) // count, 1, 1, 1, 1).to(weights)
        if x.device.type != "cpu" or torch.is_grad_enabled() or self.network.training:
            return self.network(x, t, context, concat=concat).float()
        each = max(1, CPU_POSITIONS // x[0, 0].numel())
        concats = [None] * len(x) if concat is None else concat.split(each)
        inputs = zip(x.split(each), t.split(each), context.split(each), concats, strict=False)
        return torch.cat([self.network(a, b, c, concat=d).float() for a, b, c, d in inputs])


def set_temporal(unet: nn.Module, active: bool) -> None:
    """Take the temporal layers in, or pass around them, for single frames; a new network has them as identities.

    Args:
        unet: whose layers.
        active: False makes each give back its input.
    """
    for module in unet.modules():
        own = module.__dict__
        if not isinstance(module, TemporalConvBlock | TemporalTransformer) or active == ("_before" not in own):
            continue
        if not active:
            own["_before"] = own.get("forward")
            module.forward = lambda x, step=None: x  # type: ignore[method-assign, misc]
        elif (before := own.pop("_before")) is not None:  # its activations are checkpointed
            own["forward"] = before
        else:
            del own["forward"]


def checkpoint_activations(network: UNet3D) -> None:
    """Keep only the inputs of the network's blocks for the backward pass and compute the rest again.

    Names and values of the parameters stay; numbers are the same, dropout included.
    """
    for block in (*network.input_blocks, *network.middle_block, *network.output_blocks):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def spatial_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The authors' "SD image keys", 682 of the large network: all but time, conditions and ``time_embed``."""
    temporal = {
        id(p)
        for module in network.modules()
        if isinstance(module, TemporalConvBlock | TemporalTransformer)
        for p in module.parameters()
    }
    kept = ("input_blocks.", "middle_block.", "output_blocks.", "out.")
    return [p for name, p in network.named_parameters() if id(p) not in temporal and name.startswith(kept)]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a parameter that is spread over processes; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@torch.no_grad()
def follow(average: Iterable[Tensor], values: Iterable[Tensor], decay: float) -> None:
    """``average <- decay * average + (1 - decay) * values``, in the precision of ``average``."""
    mine = [local(a.detach()) for a in average]
    theirs = [local(v.detach()).to(m) for m, v in zip(mine, values, strict=True)]
    torch._foreach_lerp_(mine, theirs, 1.0 - decay)


class TargetNetwork:
    """A network that follows the student's effective weights, in float32 and without gradient.

    Args:
        network: where it begins; copied.
        decay: 0.95 for the paper's target; 0 is the student itself, one step behind nothing.
        dropout: whether it is in training mode.
    """

    def __init__(self, network: nn.Module, decay: float, *, dropout: bool = False) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).float().requires_grad_(False).train(dropout)
        self.predictor = Predictor(self.network)

    def update(self, effective: Mapping[str, Tensor]) -> None:
        """Take a step towards the student's weights, by name."""
        parameters = dict(self.network.named_parameters())
        follow(parameters.values(), [effective[name] for name in parameters], self.decay)

    def state_dict(self) -> dict[str, Any]:
        """The weights."""
        return self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.network.load_state_dict(state)
