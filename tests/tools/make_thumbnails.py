"""Write the pictures beside the workflows: frames of each embedded workflow's video, run in this process.

Run `.venv/bin/python tests/tools/make_thumbnails.py [NAME ...]` after the embedded models or the prompts have changed.
Where a workflow previews conditions, they are in the upper row and the video is in the lower one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

from in_process_host import load_host  # noqa: E402

FOLDER = ROOT / "workflows"
CELL, GRID, GAP = 252, 2, 8
WITHOUT_WEIGHTS = {
    "videolcm_text_to_video_authors_weights": ["VideoLCM", "the authors' weights", "448x256, 16 frames"],
    "videolcm_depth_from_real_footage": ["VideoLCM", "depth of real footage", "the authors' weights"],
}


def run_node(classes: dict[str, Any], prompt: dict[str, Any], node_id: str, results: dict[str, tuple]) -> tuple:
    """Outputs of a node of an API-format prompt, and of all it needs."""
    if node_id not in results:
        node, inputs = prompt[node_id], {}
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                inputs[name] = run_node(classes, prompt, value[0], results)[value[1]]
            elif "." not in name:
                nested = {k.split(".")[1]: v for k, v in node["inputs"].items() if k.startswith(f"{name}.")}
                inputs[name] = {name: value, **nested} if nested or name == "mode" else value
        node_class = classes[node["class_type"]]
        if hasattr(node_class, "define_schema"):
            results[node_id] = node_class.EXECUTE_NORMALIZED(**inputs).result
        else:
            results[node_id] = getattr(node_class(), node_class.FUNCTION)(**inputs)
    return results[node_id]


def images_of(classes: dict[str, Any], prompt: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The decoded frames of a workflow and the conditions it previews, each ``[F, H, W, 3]`` in [0, 1]."""
    results: dict[str, tuple] = {}
    (decode,) = [key for key, node in prompt.items() if node["class_type"] == "VAEDecode"]
    previews = [node["inputs"]["images"] for node in prompt.values() if node["class_type"] == "PreviewImage"]
    with torch.inference_mode():
        frames = run_node(classes, prompt, decode, results)[0]
        return frames, [run_node(classes, prompt, source, results)[output] for source, output in previews]


def chosen(frames: torch.Tensor, conditions: list[torch.Tensor]) -> list[torch.Tensor]:
    """Four frames, evenly spread; with previews: the last two of them above two frames of the video."""

    def at(images: torch.Tensor, *moments: float) -> list[torch.Tensor]:
        return [images[round(moment * (len(images) - 1))] for moment in moments]

    if not conditions:
        return at(frames, 0, 1 / 3, 2 / 3, 1)
    if len(conditions) > 1:
        return [*(at(c, 0.3)[0] for c in conditions[-2:]), *at(frames, 0.3, 0.8)]
    (condition,) = conditions
    if len(condition) == 1:
        return [condition[0], *at(frames, 1 / 3, 2 / 3, 1)]
    return at(condition, 0.3, 0.8) + at(frames, 0.3, 0.8)


def grid_of(frames: list[torch.Tensor]) -> Image.Image:
    """Four frames on one picture."""
    pictures = [Image.fromarray((f.float().clamp(0, 1) * 255).byte().numpy()) for f in frames]
    return paste([p.resize((CELL, CELL), Image.Resampling.BICUBIC) for p in pictures])


def paste(cells: Iterable[Image.Image]) -> Image.Image:
    """Cells on a dark sheet, row by row."""
    side = GRID * CELL + (GRID - 1) * GAP
    sheet = Image.new("RGB", (side, side), (20, 20, 24))
    for index, cell in enumerate(cells):
        sheet.paste(cell, ((index % GRID) * (CELL + GAP), (index // GRID) * (CELL + GAP)))
    return sheet


def drawn(lines: list[str]) -> Image.Image:
    """A picture of words, for a workflow whose weights are not here."""
    cells = []
    for shade in range(GRID * GRID):
        cell = Image.linear_gradient("L").resize((CELL, CELL)).rotate(90 * shade)
        cells.append(Image.merge("RGB", (cell.point(lambda v: v // 5 + 20), cell.point(lambda v: v // 4 + 24), cell)))
    sheet = paste(cells)
    pen, middle = ImageDraw.Draw(sheet), sheet.height // 2
    for index, line in enumerate(lines):
        pen.text(
            (sheet.width // 2, middle + (index - (len(lines) - 1) / 2) * 52),
            line,
            anchor="mm",
            fill="white",
            font=ImageFont.load_default(40 if index else 56),
            stroke_width=2,
            stroke_fill="black",
        )
    return sheet


def main() -> None:
    """Write every picture, or those that are named, and say which."""
    torch.set_num_threads(1)
    names = sys.argv[1:]
    classes = load_host(ROOT).NODE_CLASS_MAPPINGS
    for path in sorted((FOLDER / "api").glob("*.json")):
        if names and path.stem not in names:
            continue
        words = WITHOUT_WEIGHTS.get(path.stem)
        picture = drawn(words) if words else grid_of(chosen(*images_of(classes, json.loads(path.read_text()))))
        picture.save(FOLDER / f"{path.stem}.jpg", quality=88)
        print(f"workflows/{path.stem}.jpg")


if __name__ == "__main__":
    main()
