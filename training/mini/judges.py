"""The measures that only judges of the embedded world can make; `training.evaluate` finds them by the corpus's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..evaluation.measures import Chunk, Measure
from ..evaluation.prompts import Prompt
from . import world
from .recognizer import ATTRIBUTES, load_recognizer, recognised
from .retrieval import caption_ranks, load_retriever
from .watermark import sharpness, visibility


def combinations_of(prompts: Sequence[Prompt]) -> list[world.Combination]:
    """What prompts ask for, by their labels.

    Raises:
        ValueError: a prompt is not of this world's corpus.
    """
    try:
        return [world.Combination(**{n: p.extra[n] for n in ("thing", "motion", "place")}) for p in prompts]
    except KeyError as error:
        raise ValueError(
            f"the judges of videolcm-mini know prompts of its corpus only, which say their {error.args[0]}; leave "
            "agreement and retrieval out of --metrics, or give the corpus without --prompts."
        ) from error


def _agreement(model: Any, chunk: Chunk) -> Tensor:
    return recognised(model, chunk.videos, combinations_of(chunk.prompts)).float()


def _retrieval(model: Any, chunk: Chunk) -> Tensor:
    return caption_ranks(model, chunk.videos, combinations_of(chunk.prompts))


MEASURES: dict[str, Measure] = {
    "agreement": Measure(
        title="share recognised as asked",
        weights="recognizer",
        load=load_recognizer,
        rows=_agreement,
        columns=lambda rows: {name: rows[:, i] for i, name in enumerate((*ATTRIBUTES, "all"))},
        titles={**{name: (name, "%") for name in ATTRIBUTES}, "all": ("all three", "%")},
        default=Path("runs/mini/recognizer.pt"),
        origin="python -m training.mini.recognizer",
    ),
    "retrieval": Measure(
        title="text-video retrieval trained on the corpus",
        weights="retriever",
        load=load_retriever,
        rows=_retrieval,
        columns=lambda rows: {f"R@{k}": (rows < k).float() for k in (1, 5)},
        titles={"R@1": ("retrieval R@1", "%"), "R@5": ("retrieval R@5", "%")},
        default=Path("runs/mini/retriever.pt"),
        origin="python -m training.mini.retrieval",
    ),
    "watermark": Measure(
        title="correlation with the watermark of training.mini.degraded",
        rows=lambda model, chunk: visibility(chunk.videos),
        titles={"watermark": ("watermark", "{:.2f}")},
    ),
    "sharpness": Measure(
        title="difference of a pixel from its neighbours, above the watermark",
        rows=lambda model, chunk: sharpness(chunk.videos),
        titles={"sharpness": ("sharpness (of 255)", "{:.2f}")},
    ),
}
