"""From the numbers of all clips to the columns of the table, with 95 % intervals by the bootstrap over clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..metrics.control import mean_interval
from ..metrics.frechet import FrechetReference
from .measures import Measure
from .sources import RowSource
from .workers import Workers

Value = list[float]
"""Estimate, lower and upper bound of its 95 % interval."""
RESAMPLES = 200
FRECHET = ("fvd", "fvd-bfloat16", "fid")


class Reference:
    """Features of real clips, or of real clips after an autoencoder."""

    def __init__(self, workers: Workers, source: RowSource, names: list[str]) -> None:
        self.sets = {n: FrechetReference(flat(workers.rows(source, n))) for n in names if n in FRECHET}


def flat(rows: Tensor) -> Tensor:
    """Features of clips or of their frames as one set: ``[N, ...]`` to ``[N', D]``."""
    return rows.double().flatten(0, -2)


def column(name: str) -> str:
    """The table's name of a Frechet measure."""
    return "fid" if name == "fid" else "fvd"


def frechet_values(
    rows: Tensor, name: str, references: dict[str, Reference], samples: dict[str, Tensor]
) -> dict[str, Value]:
    """Distances to each reference.

    Clips are resampled, the reference stays: its own sampling error is shared by every row. FID's frames are not
    resampled (2,048 features: its roots take too long), so its interval is left out.

    Args:
        rows: features of the row's clips.
        name: of the measure.
        references: by the suffix of the column ("", "_latent", or "_" and the name of another corpus).
        samples: takes the bootstrap's distances, for intervals of ratios.
    """
    found = {}
    for suffix, reference in references.items():
        if name not in reference.sets:  # of single frames, which have no FVD
            continue
        key = column(name) + suffix
        features = flat(rows)
        if name == "fid":
            value = reference.sets[name].distance(features, torch.ones(len(features)))
            found[key] = [value, value, value]
            continue
        value = reference.sets[name].distance(features)
        samples[key] = reference.sets[name].bootstrap(features, RESAMPLES)
        low, high = torch.quantile(samples[key], torch.tensor([0.025, 0.975]).double()).tolist()
        found[key] = [value, low, high]
    return found


def mean_values(rows: Tensor, name: str, measure: Measure) -> dict[str, Value]:
    """Means over clips of a measure that has a number for each."""
    if bool(rows.isnan().all()) and rows.is_floating_point():
        return {}
    columns = {name: rows} if measure.columns is None else measure.columns(rows)
    return {key: list(mean_interval(values)) for key, values in columns.items()}


def measure_row(
    workers: Workers, source: RowSource, names: list[str], references: dict[str, Reference]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything the table says of a source, and the bootstrap's distances.

    Args:
        workers: that made and measured it.
        source: the row.
        names: measures.
        references: see `frechet_values`.
    """
    values: dict[str, Any] = {}
    samples: dict[str, Tensor] = {}
    for name in names:
        rows = workers.rows(source, name)
        values |= (
            frechet_values(rows, name, references, samples)
            if name in FRECHET
            else mean_values(rows, name, workers.measures[name])
        )
    about: dict[str, Any] = {"clips": source.clips, "weights": source.hashes[0] if source.hashes else None}
    about["cache"] = source.folder(workers.setup.out).name
    if source.row:
        row = source.row
        about |= {"model": row.model, "sampler": row.sampler, "steps": row.steps, "cfg": row.cfg}
        about |= {"network_calls": row.network_calls, "seconds": workers.seconds(source)}
    return about | {"values": values}, samples


def ratio(first: Tensor, second: Tensor, estimate: float) -> Value:
    """A ratio of two distances with its interval; equally many clips, resampled alike."""
    low, high = torch.quantile(first / second, torch.tensor([0.025, 0.975]).double()).tolist()
    return [estimate, low, high]
