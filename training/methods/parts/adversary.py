"""Losses of generator and discriminator, one number a sample, and the penalty on the discriminator's gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class AdversarialLoss:
    """What each side minimises, element by element of the logits (above 0: real).

    Attributes:
        generator: of what was made.
        real: the discriminator's, of what is real.
        made: the discriminator's, of what was made.
    """

    generator: Callable[[Tensor], Tensor]
    real: Callable[[Tensor], Tensor]
    made: Callable[[Tensor], Tensor]


def _bce(sign: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: functional.softplus(sign * logits)


ADVERSARIAL_LOSSES: Final[dict[str, AdversarialLoss]] = {
    "hinge": AdversarialLoss(
        generator=lambda logits: 1.0 - logits,
        real=lambda logits: functional.relu(1.0 - logits),
        made=lambda logits: functional.relu(1.0 + logits),
    ),
    # The authors' name for the hinge less 1: gradients are the same.
    "wgan": AdversarialLoss(
        generator=lambda logits: -logits,
        real=lambda logits: (-logits).clamp(min=-1.0),
        made=lambda logits: logits.clamp(min=-1.0),
    ),
    "bce": AdversarialLoss(generator=_bce(-1.0), real=_bce(-1.0), made=_bce(1.0)),
}
"""By name; the paper's is the hinge (eq. 4 and 5)."""


def per_sample(values: Tensor, samples: int) -> Tensor:
    """The mean of each sample's numbers ``[samples * frames, L]``: ``[samples]``."""
    return values.reshape(samples, -1).mean(1)


def mixed(real: Tensor, made: Tensor, share: Tensor) -> Tensor:
    """Images between real and made ones ``[N, 3, H, W]``, ``share`` ``[N]`` of the real ones."""
    share = share.view(-1, 1, 1, 1).to(real)
    return share * real + (1.0 - share) * made


def gradient_norms(logits: Tensor, features: Mapping[str, Tensor]) -> Tensor:
    """Length of the gradient of each row's logits by its features, all layers together; differentiable.

    Args:
        logits: ``[N, L]``, each row of ``features``' own row alone but for the statistics that rows share.
        features: ``[N, L, width]`` by layer, that ``logits`` were computed from.

    Returns:
        ``[N]``.
    """
    found = torch.autograd.grad(logits.sum(), list(features.values()), create_graph=True)
    return torch.cat([gradient.flatten(1) for gradient in found], dim=1).norm(dim=1)


def gradient_penalty(norms: Tensor) -> Tensor:
    """``(|g| - 1)^2`` (arXiv 1704.00028), ``[N]``.

    The authors call it R1; its gradients are those by features of images between real and made ones.
    """
    return (norms - 1.0).square()
