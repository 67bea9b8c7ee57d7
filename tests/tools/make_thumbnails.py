"""Write the moving images of the templates' cards: each embedded workflow's video, run in this process.

Run `.venv/bin/python tests/tools/make_thumbnails.py [NAME ...]` after the embedded models or the prompts have changed.
The page asks for `TITLE.jpg`; what lies there is an animated WebP, which every browser plays under that name. Where a
workflow previews conditions, they are shown small in the lower corners.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from typing import Any

import numpy as np
import torch
from in_process_host import load_host
from make_workflows import GRAPHS, ROOT
from PIL import Image, ImageDraw, ImageFont

FOLDER = ROOT / "workflows"
SIDE, INSET, GAP, MILLISECONDS = 320, 100, 6, 125
BACKGROUND = (20, 20, 24)
# Words and a hue of 0 to 255 for each workflow whose weights are not here.
WITHOUT_WEIGHTS = {
    "videolcm_text_to_video_authors_weights": (["VideoLCM", "weights of the authors", "448 x 256, 16 frames"], 200),
    "videolcm_depth_from_real_footage": (["VideoLCM", "your footage's depth", "weights of the authors"], 150),
    "videolcm_animatelcm_text_to_video": (["AnimateLCM", "your SD 1.5 checkpoint", "text to video, 4 steps"], 0),
    "videolcm_animatelcm_depth": (["AnimateLCM", "ControlNet depth", "your clip, 4 steps"], 25),
    "videolcm_animatelcm_image_to_video": (["AnimateLCM", "image to video", "4 steps"], 75),
    "videolcm_animatelcm_long_video": (["AnimateLCM", "48 frames", "context windows, 4 steps"], 110),
    "videolcm_mcm_animatediff": (["MCM", "AnimateDiff v2", "text to video, 4 steps"], 230),
}
# Four prompts of the template that shuffles them.
WORDS = (
    {"object": "a horse", "motion": "jumps up and down", "place": "on snow"},
    {"object": "a bus", "motion": "moves to the side", "place": "on a checkered floor"},
    {"object": "a cactus", "motion": "spins around", "place": "on sand"},
    {"object": "a chicken", "motion": "jumps up and down", "place": "on grass"},
)
Frames = list[Image.Image]


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
    """The frames that a workflow saves and the conditions it previews, each ``[F, H, W, 3]`` in [0, 1]."""
    results: dict[str, tuple] = {}
    (saved,) = [node["inputs"]["images"] for node in prompt.values() if node["class_type"] == "CreateVideo"]
    previews = [node["inputs"]["images"] for node in prompt.values() if node["class_type"] == "PreviewImage"]
    with torch.inference_mode():
        frames, *conditions = (run_node(classes, prompt, node, results)[output] for node, output in [saved, *previews])
    return frames, conditions


def animated(frames: torch.Tensor, side: int = SIDE) -> Frames:
    """Frames as square images, whole and centred."""
    cells = []
    for frame in (frames.float().clamp(0, 1) * 255).byte().numpy():
        image = Image.fromarray(frame)
        factor = side / max(image.size)
        image = image.resize([round(edge * factor) for edge in image.size], Image.Resampling.BICUBIC)
        cell = Image.new("RGB", (side, side), BACKGROUND)
        cell.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        cells.append(cell)
    return cells


def with_insets(video: Frames, insets: list[Frames]) -> Frames:
    """The video with smaller ones along its lower edge, from the left; a single image stays."""
    for index, inset in enumerate(insets):
        for moment, frame in enumerate(video):
            x, y = GAP + index * (INSET + GAP), SIDE - INSET - GAP
            frame.paste((255, 255, 255), (x - 2, y - 2, x + INSET + 2, y + INSET + 2))
            frame.paste(inset[min(moment, len(inset) - 1)], (x, y))
    return video


def four(videos: list[Frames]) -> Frames:
    """Four videos in a square."""
    side = (SIDE - GAP) // 2
    sheets = []
    for moment in range(len(videos[0])):
        sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
        for index, video in enumerate(videos):
            cell = video[moment].resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(cell, (index % 2 * (side + GAP), index // 2 * (side + GAP)))
        sheets.append(sheet)
    return sheets


def drawn(lines: list[str], hue: int) -> Frames:
    """Words on waves of colour, for a workflow whose weights are not here."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    frames = []
    for moment in range(16):
        phase = 2 * math.pi * moment / 16
        wave = 0.5 + 0.5 * np.sin(6 * x + 3 * np.sin(4 * y + phase) + phase)
        channels = np.stack([np.full_like(wave, hue), 150 + 60 * wave, 60 + 80 * wave], -1)
        image = Image.fromarray(channels.astype(np.uint8), "HSV").convert("RGB")
        pen = ImageDraw.Draw(image)
        for index, line in enumerate(lines):
            place = (SIDE // 2, SIDE // 2 + (index - (len(lines) - 1) / 2) * 40)
            font = ImageFont.load_default(24 if index else 40)
            pen.text(place, line, anchor="mm", fill="white", font=font, stroke_width=2, stroke_fill="black")
        frames.append(image)
    return frames


def thumbnail(classes: dict[str, Any], name: str, prompt: dict[str, Any]) -> Frames:
    """The moving image of a workflow."""
    if name in WITHOUT_WEIGHTS:
        return drawn(*WITHOUT_WEIGHTS[name])
    words = [node["inputs"] for node in prompt.values() if node["class_type"] == "VideoLCMPromptWords"]
    if words:
        videos = []
        for chosen in WORDS:
            words[0].update(chosen)
            videos.append(animated(images_of(classes, copy.deepcopy(prompt))[0]))
        return four(videos)
    frames, conditions = images_of(classes, prompt)
    return with_insets(animated(frames), [animated(condition, INSET) for condition in conditions])


def main() -> None:
    """Write every image, or those of the workflows that are named, and say which."""
    torch.set_num_threads(1)
    names = sys.argv[1:]
    classes = load_host(ROOT).NODE_CLASS_MAPPINGS
    graphs = [build() for build in GRAPHS]
    for path in FOLDER.glob("*.jpg"):
        if path.stem not in {graph.title for graph in graphs}:
            path.unlink()
    for graph in graphs:
        if names and graph.name not in names:
            continue
        prompt = json.loads((FOLDER / "api" / f"{graph.name}.json").read_text())
        first, *others = thumbnail(classes, graph.name, prompt)
        path = FOLDER / f"{graph.title}.jpg"
        options = {"save_all": True, "append_images": others, "duration": MILLISECONDS, "loop": 0}
        first.save(path, "WEBP", quality=70, method=6, **options)
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size // 1024} KB", flush=True)


if __name__ == "__main__":
    main()
