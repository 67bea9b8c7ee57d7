"""Frechet distance between two sets of features (arXiv 1706.08500, 1812.01717)."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Distance of the Gaussians fitted to two feature sets.

    ``|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))``; the trace of the root is the sum of the singular values of
    ``A_1 A_2^T`` with ``S = A^T A``, which needs no matrix root and stands rank-deficient covariances.

    Args:
        first: ``[N, D]``, N at least 2.
        second: ``[M, D]``.

    Raises:
        ValueError: fewer than two samples, or other widths.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(
            f"features have shapes {tuple(first.shape)} and {tuple(second.shape)}; "
            "needed: [N, D] and [M, D] with at least two rows each."
        )
    first, second = first.double(), second.double()
    mean_1, mean_2 = first.mean(0), second.mean(0)
    a_1 = (first - mean_1) / (len(first) - 1) ** 0.5
    a_2 = (second - mean_2) / (len(second) - 1) ** 0.5
    # Only the triangular factors matter to the singular values of a_1 a_2^T, which may have very many rows.
    r_1, r_2 = (torch.linalg.qr(a, mode="r").R for a in (a_1, a_2))
    root_trace = torch.linalg.svdvals(r_1 @ r_2.T).sum()
    value = (mean_1 - mean_2).square().sum() + a_1.square().sum() + a_2.square().sum() - 2 * root_trace
    return float(value.clamp(min=0.0))
