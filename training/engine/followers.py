"""Weights that follow others: exponential moving averages."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def local(tensor: Tensor) -> Tensor:
    """This process's part of a parameter that is spread over processes; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@torch.no_grad()
def follow(average: Iterable[Tensor], values: Iterable[Tensor], decay: float) -> None:
    """``average <- decay * average + (1 - decay) * values``, in the precision of ``average``."""
    mine = [local(a.detach()) for a in average]
    theirs = [local(v.detach()).to(m) for m, v in zip(mine, values, strict=True)]
    torch._foreach_lerp_(mine, theirs, 1.0 - decay)


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """``average <- decay * average + (1 - decay) * model`` for parameters; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1.0 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
