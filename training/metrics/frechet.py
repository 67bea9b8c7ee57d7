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


class FrechetReference:
    """A fixed feature set, from which distances of many others (bootstrap resamples above all) are cheap.

    ``tr (S_1 S_2)^(1/2)`` is the sum of the roots of the eigenvalues of ``R_2 S_1 R_2^T`` with ``S_2 = R_2^T R_2``.
    """

    def __init__(self, features: Tensor) -> None:
        """Fit.

        Args:
            features: ``[M, D]``, M at least 2.
        """
        features = features.double()
        self.mean = features.mean(0)
        centred = (features - self.mean) / (len(features) - 1) ** 0.5
        self.trace = centred.square().sum()
        self.root = torch.linalg.qr(centred, mode="r").R

    def distance(self, features: Tensor, counts: Tensor | None = None) -> float:
        """Frechet distance to a feature set.

        Args:
            features: ``[N, D]``.
            counts: how often each row is taken ``[N]``; None takes each once.
        """
        features = features.double()
        weights = features.new_ones(len(features)) if counts is None else counts.double()
        mean = weights @ features / weights.sum()
        centred = (features - mean) * (weights / (weights.sum() - 1)).sqrt()[:, None]
        if counts is None:
            root_trace = torch.linalg.svdvals(torch.linalg.qr(centred, mode="r").R @ self.root.T).sum()
        else:  # exact to eight digits only, and several times as fast
            seen = centred @ self.root.T
            small = seen @ seen.T if len(seen) < seen.shape[1] else seen.T @ seen
            root_trace = torch.linalg.eigvalsh(small).clamp(min=0).sqrt().sum()
        value = (mean - self.mean).square().sum() + centred.square().sum() + self.trace - 2 * root_trace
        return float(value.clamp(min=0.0))

    def bootstrap(self, features: Tensor, resamples: int = 200, seed: int = 0) -> Tensor:
        """Distances of resampled clips, moved so that their mean is the distance of all.

        Resamples repeat clips, which makes each distance larger than it should be (fewer different clips); only their
        spread is meant. Sets of equally many clips are resampled alike, so that ratios of them can be formed.

        Args:
            features: ``[N, D]``.
            resamples: how many.
            seed: of the choice.

        Returns:
            float64 ``[resamples]``.
        """
        generator = torch.Generator().manual_seed(seed)
        values = []
        for _ in range(resamples):
            chosen = torch.randint(len(features), (len(features),), generator=generator)
            values.append(self.distance(features, torch.bincount(chosen, minlength=len(features))))
        found = torch.tensor(values, dtype=torch.float64)
        return found - found.mean() + self.distance(features)
