"""Put evaluations into README and model card: ``python -m training.report --evaluation DIR --control DIR``.

Replaces what stands between ``<!-- results -->`` and ``<!-- /results -->`` (quality, of ``training.evaluate``) and
between ``<!-- control -->`` and ``<!-- /control -->`` (obedience, ``training.evaluate_control``); writes the pictures
of ``docs/``. Either folder may be left out.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import torch

from . import evaluate, evaluate_control, pictures

_HERO = (0, 37, 11, 8, 16, 24, 27, 31)  # clips that show eight of the ten objects


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace the text between ``<!-- name -->`` and ``<!-- /name -->`` of a file (the markers stay).

    Raises:
        ValueError: the file has no such section.
    """
    before = path.read_text()
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.S)
    if not pattern.search(before):
        raise ValueError(f"{path} has no section <!-- {name} --> ... <!-- /{name} -->; put the two markers in.")
    path.write_text(pattern.sub(lambda _: f"<!-- {name} -->\n{text}\n<!-- /{name} -->", before))


def summary(results: dict[str, dict[str, float]]) -> str:
    """The student at 4 steps against the teacher at 4 and 50, in words and ratios."""
    teacher = {int(re.search(r"@(\d+)", n)[1]): r for n, r in results.items() if n.startswith("teacher@")}  # type: ignore[index]
    student = results["student@4"]
    few, many = (student["fvd"] / teacher[n]["fvd"] for n in (4, 50))
    few_latent, many_latent = (student["fvd_latent"] / teacher[n]["fvd_latent"] for n in (4, 50))
    points = 100 * (student["all"] - teacher[50]["all"])
    return (
        f"The student's distance at 4 steps is {few:.2f} times the teacher's at 4 steps and {many:.2f} times the "
        f"teacher's at 50 (after the autoencoder {few_latent:.2f} and {many_latent:.2f}); its agreement with the "
        f"prompt (all three) is {points:+.0f} points from the teacher's at 50."
    )


def write_quality(evaluation: Path, root: Path) -> None:
    """The quality table, its summary and pictures."""
    results = json.loads((evaluation / "results.json").read_text())
    docs = root / "docs"
    docs.mkdir(exist_ok=True)
    sheets = []
    for name in results:
        sheet = evaluation / f"{name.replace(' ', '-')}.png"
        if sheet.exists():
            target = docs / (re.sub(r"[^a-z0-9]+", "_", name.split(" cfg")[0]) + ".png")
            shutil.copyfile(sheet, target)
            sheets.append(_folded(name, f"PATH/{target.name}"))
    clips = torch.load(evaluation / "student@4.clips.pt", weights_only=True)["value"]
    four = [torch.cat([clips[a], clips[b]], dim=1) for a, b in zip(_HERO[:4], _HERO[4:], strict=True)]
    pictures.animation(four, docs / "hero.webp")
    text = f"{evaluate.table(results)}\n\n{summary(results)}"
    replace_section(root / "README.md", "results", text + "\n\n" + "\n".join(sheets).replace("PATH", "docs"))
    replace_section(root / "models" / "README.md", "results", text)


def write_control(folders: list[Path], root: Path) -> None:
    """The obedience tables, what they say about the aims, contact sheets and moving pictures."""
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    sheets: list[str] = []
    docs = root / "docs"
    docs.mkdir(exist_ok=True)
    for folder in folders:
        found = json.loads((folder / "results.json").read_text())
        results |= found
        for setting in found:
            key = setting.replace(" ", "-")
            target = docs / f"control_{key.replace('-', '_')}.jpg"
            pictures.compress(folder / f"sheet-{key}.png", target)
            sheets.append(_folded(f"{setting}: given, real, student and teacher", f"docs/{target.name}"))
            shutil.copyfile(folder / f"moving-{key}.webp", target.with_suffix(".webp"))
    text = f"{evaluate_control.tables(results)}\n\n{obedience(results)}"
    replace_section(root / "README.md", "control", text + "\n\n" + "\n".join(sheets))
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
    parser.add_argument("--evaluation", type=Path, help="folder that training.evaluate wrote")
    parser.add_argument("--control", type=Path, nargs="+", help="folders that training.evaluate_control wrote")
    parser.add_argument("--root", type=Path, default=Path("."), help="the repository")
    options = parser.parse_args(arguments)
    if options.evaluation is not None:
        write_quality(options.evaluation, options.root)
    if options.control is not None:
        write_control(options.control, options.root)


if __name__ == "__main__":
    main()
