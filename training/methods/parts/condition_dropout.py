"""Which conditions each sample of a batch keeps: the authors' dropout for compositional training."""

from __future__ import annotations

import torch
from torch import Tensor

ALL_ZERO, ALL_KEEP, EACH = 0.1, 0.1, 0.5
"""The authors' shares: no condition at all, every condition, and each one dropped by itself (``misc_dropout``)."""


def keep_conditions(
    names: list[str],
    batch: int,
    generator: torch.Generator,
    *,
    all_zero: float = ALL_ZERO,
    all_keep: float = ALL_KEEP,
    each: float = EACH,
    single: float = 0.0,
) -> dict[str, Tensor]:
    """Draw the samples that keep each condition.

    As ``unet_videolcm.py``, lines 144-182 and 586-595: binomial numbers of samples lose all or keep all conditions, two
    disjoint sets shared by every condition; of the others each condition drops a binomial number by itself.

    Args:
        names: The conditions.
        batch: B.
        generator: Draws.
        all_zero: Share of samples without any condition.
        all_keep: Share of samples with all.
        each: Share of the others that loses a condition.
        single: Share of the others that keeps exactly one condition instead (0 is the authors' scheme; a small model
            that sees few clips meets a condition alone too rarely: at 0.5 and six conditions once in 64 clips).

    Returns:
        Of each condition a bool mask ``[B]``, true where it is kept.
    """
    order = torch.randperm(batch, generator=generator)
    zeros = _binomial(batch, all_zero, generator)
    keeps = min(_binomial(batch, all_keep, generator), batch - zeros)
    others = order[zeros + keeps :]
    alone = others[: _binomial(len(others), single, generator)]
    others = others[len(alone) :]
    kept = {}
    for name in names:
        mask = torch.zeros(batch, dtype=torch.bool)
        mask[order[zeros : zeros + keeps]] = True
        dropped = _binomial(len(others), each, generator)
        mask[others[torch.randperm(len(others), generator=generator)[dropped:]]] = True
        kept[name] = mask
    for sample in alone.tolist():
        chosen = names[int(torch.randint(len(names), (1,), generator=generator))]
        kept[chosen][sample] = True
    return kept


def _binomial(count: int, share: float, generator: torch.Generator) -> int:
    return int((torch.rand(count, generator=generator) < share).sum())
