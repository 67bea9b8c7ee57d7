"""Put an evaluation into README and model card: ``python -m training.report --evaluation DIR``.

Replaces what stands between ``<!-- results -->`` and ``<!-- /results -->`` and writes the pictures of ``docs/``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import torch

from . import evaluate, pictures

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


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluation", type=Path, required=True, help="folder that training.evaluate wrote")
    parser.add_argument("--root", type=Path, default=Path("."), help="the repository")
    options = parser.parse_args(arguments)
    results = json.loads((options.evaluation / "results.json").read_text())
    docs = options.root / "docs"
    docs.mkdir(exist_ok=True)
    sheets = []
    for name in results:
        sheet = options.evaluation / f"{name.replace(' ', '-')}.png"
        if sheet.exists():
            target = docs / (re.sub(r"[^a-z0-9]+", "_", name.split(" cfg")[0]) + ".png")
            shutil.copyfile(sheet, target)
            sheets.append(f"<details><summary>{name}</summary>\n\n![{name}](PATH/{target.name})\n\n</details>")
    clips = torch.load(options.evaluation / "student@4.clips.pt", weights_only=True)["value"]
    four = [torch.cat([clips[a], clips[b]], dim=1) for a, b in zip(_HERO[:4], _HERO[4:], strict=True)]
    pictures.animation(four, docs / "hero.webp")
    text = f"{evaluate.table(results)}\n\n{summary(results)}"
    replace_section(options.root / "README.md", "results", text + "\n\n" + "\n".join(sheets).replace("PATH", "docs"))
    replace_section(options.root / "models" / "README.md", "results", text)


if __name__ == "__main__":
    main()
