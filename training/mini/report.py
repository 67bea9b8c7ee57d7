"""Put evaluations into docs and card: ``python -m training.mini.report --evaluation [SECTION=]DIR --control DIR``.

Replaces what stands between ``<!-- results -->`` and ``<!-- /results -->`` (quality, of ``training.evaluate``; another
section where the folder is written ``SECTION=DIR``) and between ``<!-- control -->`` and ``<!-- /control -->``
(obedience, ``training.mini.control``); writes plots and images of ``docs/``. Any of them may be left out.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..engine.commands import run_command
from ..evaluation import tables
from ..evaluation.measures import with_judges
from ..evaluation.sources import CHUNK
from . import control as evaluate_control
from . import pictures

_HERO = (0, 37, 11, 8, 16, 24, 27, 31)  # clips that show eight of the ten objects

COLUMNS = tables.columns_of(with_judges("mini"))


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace the text between ``<!-- name -->`` and ``<!-- /name -->`` of a file (the markers stay).

    Raises:
        ValueError: the file has no such section.
    """
    before = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.S)
    if not pattern.search(before):
        raise ValueError(f"{path} has no section <!-- {name} --> ... <!-- /{name} -->; put the two markers in.")
    path.write_text(pattern.sub(lambda _: f"<!-- {name} -->\n{text}\n<!-- /{name} -->", before), encoding="utf-8")


def summary(document: Mapping[str, Any]) -> str:
    """The ratios of the distances of the student at four steps, as a table; empty where there are none."""
    chosen = {k: v for k, v in document.get("ratios", {}).items() if re.search(r": student@4 /", k)}
    if not chosen:
        return ""
    lines = ["| ratio of distances | value | 95 % interval |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {_spoken(k)} | {v[0]:.2f} | {v[1]:.2f} to {v[2]:.2f} |" for k, v in chosen.items())]
    )


def _spoken(key: str) -> str:
    measure, _, rows = key.partition(": ")
    return f"{rows}, {tables.FRECHET[measure][0]}"


def quality_text(document: Mapping[str, Any], latency: bool = False) -> str:
    """Table, ratios and protocol of one evaluation."""
    parts = [
        tables.markdown(document["rows"], latency, COLUMNS),
        summary(document),
        tables.protocol_text(document["protocol"]),
    ]
    return "\n\n".join(part for part in parts if part)


def write_quality(evaluation: Path, root: Path, section: str = "results") -> None:
    """Table, ratios, protocol, plot and contact sheets of an evaluation, in a section of docs/results.md and card.

    Args:
        evaluation: folder that ``training.evaluate`` wrote.
        root: the repository.
        section: name of the markers; images of sections other than "results" begin with it.
    """
    document = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))
    docs = root / "docs"
    docs.mkdir(exist_ok=True)
    prefix = "" if section == "results" else f"{section}_"
    shown = []
    several = len({row["steps"] for row in document["rows"].values() if row.get("steps")}) > 1
    for measure in ("fvd", "fvd_latent") if several else ():
        if (evaluation / f"{measure}.svg").exists():
            target = docs / f"{prefix}{measure}.svg"
            shutil.copyfile(evaluation / f"{measure}.svg", target)
            shown.append(f"![{tables.FRECHET[measure][0]} over steps]({target.name})")
    for name, row in document["rows"].items():
        sheet = evaluation / (name.replace(" ", "-").replace(",", "") + ".png")
        if sheet.exists() and _pictured(row, section):
            target = docs / (prefix + re.sub(r"[^a-z0-9]+", "_", name.lower()) + ".jpg")
            pictures.compress(sheet, target)
            kept = _without_twin(target) if prefix else target
            shown.append(_folded(name, kept.name))
    text = quality_text(document)
    replace_section(docs / "results.md", section, text + "\n\n" + "\n".join(shown))
    card = root / "models" / "README.md"
    if f"<!-- {section} -->" in card.read_text(encoding="utf-8"):
        replace_section(card, section, text)


def _without_twin(image: Path) -> Path:
    """The image, or the one beside it with the same content, which is kept in its place."""
    for other in sorted(image.parent.glob(f"*{image.suffix}")):
        if other != image and other.read_bytes() == image.read_bytes():
            image.unlink()
            return other
    return image


def _pictured(row: Mapping[str, Any], section: str) -> bool:
    """Whether a row's contact sheet is shown: real clips once, student and teacher at 4 and 50 steps."""
    if not row.get("steps"):
        return section == "results"
    return row["model"] in ("student", "teacher") and row["steps"] in (4, 50)


def write_hero(evaluation: Path, root: Path, name: str = "student@4") -> None:
    """The moving image at the top of README: eight four-step clips."""
    row = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))["rows"][name]
    chunks = sorted((evaluation / "cells" / row["cache"]).glob("clips_*.pt"))
    clips = torch.cat([torch.load(chunk, weights_only=True)["value"] for chunk in chunks[: max(_HERO) // CHUNK + 1]])
    four = [torch.cat([clips[a], clips[b]], dim=1) for a, b in zip(_HERO[:4], _HERO[4:], strict=True)]
    pictures.animation(four, root / "docs" / "hero.webp")


def write_control(folders: list[Path], root: Path) -> None:
    """The obedience tables, what they say about the aims, contact sheets and moving images."""
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    sheets: list[str] = []
    docs = root / "docs"
    docs.mkdir(exist_ok=True)
    for folder in folders:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        results |= found
        for setting in found:
            key = setting.replace(" ", "-")
            target = docs / f"control_{key.replace('-', '_')}.jpg"
            pictures.compress(folder / f"sheet-{key}.png", target)
            sheets.append(_folded(f"{setting}: given, real, student and teacher", target.name))
            shutil.copyfile(folder / f"moving-{key}.webp", target.with_suffix(".webp"))
    text = f"{evaluate_control.tables(results)}\n\n{obedience(results)}"
    replace_section(docs / "steering.md", "control", text + "\n\n" + "\n".join(sheets))
    replace_section(root / "models" / "README.md", "control", text)


def obedience(results: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """The student at one step against four, and at four against the teacher at 50, for every measure."""
    lines = ["| setting, measure | student@1 / student@4 | student@4 / teacher@50 |", "|---|---|---|"]
    for setting, rows in results.items():
        teacher = next((row for name, row in rows.items() if name.startswith("teacher@50")), None)
        for measure in evaluate_control.MEASURES[setting]:
            one, four = (rows[f"student@{steps}"][measure][0] for steps in (1, 4))
            many = "-" if teacher is None else f"{four / teacher[measure][0]:.2f}"
            better = "more" if measure in evaluate_control.LARGER_IS_BETTER else "less"
            lines.append(f"| {setting}: {measure} ({better} is better) | {one / four:.2f} | {many} |")
    return "\n".join(lines)


def _folded(title: str, path: str) -> str:
    return f"<details><summary>{title}</summary>\n\n![{title}]({path})\n\n</details>"


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--evaluation",
        nargs="+",
        default=[],
        metavar="[SECTION=]DIR",
        help="folders that training.evaluate wrote; the section is results where none is named",
    )
    parser.add_argument("--hero", type=Path, help="folder whose student@4 moves at the top of README")
    parser.add_argument("--control", type=Path, nargs="+", help="folders that training.mini.control wrote")
    parser.add_argument("--root", type=Path, default=Path("."), help="the repository")
    options = parser.parse_args(arguments)
    for word in options.evaluation:
        section, equals, folder = word.partition("=")
        write_quality(Path(folder if equals else word), options.root, section if equals else "results")
    if options.hero is not None:
        write_hero(options.hero, options.root)
    if options.control is not None:
        write_control(options.control, options.root)


if __name__ == "__main__":
    run_command(main)
