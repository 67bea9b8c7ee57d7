"""Further corpora that distances are measured to: degraded clips beside clean ones, or a set of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.corpus import Corpus
from .measures import FRAMES_FOR_FID
from .prompts import Prompt
from .sources import REAL, HeldOut, RowSource, digest_of_prompts


@dataclass(frozen=True, kw_only=True)
class OtherReference:
    """The real clips of another corpus.

    Attributes:
        source: its clips.
        measures: that can be made of them.
        row: whether the table has a row of them.
    """

    source: RowSource
    measures: list[str]
    row: bool


def own_name(folders: Mapping[str, Path], own: Path | None) -> str:
    """The name that the evaluation's own corpus has among the references; empty where it has none."""
    return next((n for n, f in folders.items() if own is not None and f.resolve() == own.resolve()), "")


def other_references(
    folders: Mapping[str, Path], own: Corpus, prompts: Sequence[Prompt], measures: Sequence[str], clips: int
) -> list[OtherReference]:
    """The corpora beside the evaluation's own.

    Args:
        folders: by name; the own one among them is left out.
        own: the evaluation's corpus.
        prompts: of the evaluation.
        measures: that are asked for.
        clips: of a reference, at most.

    Raises:
        FileNotFoundError: a folder holds no corpus.
        ValueError: a corpus holds out other prompts, or is of single frames and no FID is asked for.
    """
    skipped = own_name(folders, own.folder)
    return [_other(n, f, own, prompts, measures, clips) for n, f in folders.items() if n != skipped]


def _other(
    name: str, folder: Path, own: Corpus, prompts: Sequence[Prompt], measures: Sequence[str], clips: int
) -> OtherReference:
    corpus = Corpus.open(folder)
    single = corpus.frames == 1
    if single and "fid" not in measures:
        raise ValueError(
            f"the reference {name} ({folder}) is of single frames, to which FID alone measures; add fid to --metrics, "
            "or leave this reference out."
        )
    captions, known = ([c.shards[i].caption for i in c.held_out] for c in (corpus, own))
    if not single and captions != known:
        raise ValueError(
            f"the reference {name} ({folder}) holds out {len(captions)} prompts, {own.folder} {len(known)}, not the "
            "same; allowed: corpora with the same held-out prompts, such as training.mini.degraded makes of one."
        )
    source = RowSource(
        kind="real",
        # As many frames of images as are looked at in clips.
        clips=min(clips * (FRAMES_FOR_FID if single else 1), HeldOut(corpus).count),
        data=digest_of_prompts(list(prompts), corpus),
        label=f"{REAL}, {name}",
        corpus=folder,
    )
    return OtherReference(source=source, measures=["fid"] if single else list(measures), row=not single)


def titles(names: Sequence[str], own: str) -> dict[str, tuple[str, str]]:
    """Columns of the distances, in the order of the table.

    Args:
        names: of the other references.
        own: of the evaluation's corpus, or empty.
    """
    found: dict[str, tuple[str, str]] = {}
    for measure, title, style in (("fvd", "FVD", "{:.0f}"), ("fid", "FID of frames", "{:.1f}")):
        short = measure.upper()
        found[measure] = (f"{title} ({own})" if own else title, style)
        found |= {f"{measure}_{name}": (f"{title} ({name})", style) for name in names}
        found[f"{measure}_latent"] = (f"{short} after the autoencoder", style)
    return found
