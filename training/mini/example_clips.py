"""Draw the short clips of the example workflows: ``python -m training.mini.example_clips --furniture DIR``.

Scenes of held-out combinations at twice the models' size, each as ``NAME.mp4`` (its caption is the title) and
``NAME_mask.mp4`` (white is the object), written under a temporary name and renamed.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videolcm_core.files.writing import whole_file

from ..engine.commands import run_command
from . import corpus, world
from .render import Pose, Renderer, Scene

SIZE = 128


@dataclass(frozen=True, kw_only=True)
class Example:
    """A clip: what it shows, the seed of its camera and speed, and how often its motion is played on."""

    combination: world.Combination
    seed: int
    frames: int = world.FRAMES


EXAMPLES = (
    Example(combination=world.Combination("teddy bear", "right", "checkered"), seed=2),
    Example(combination=world.Combination("chicken", "jump", "sand"), seed=3),
    Example(combination=world.Combination("snowman", "left", "grass"), seed=4),
    Example(combination=world.Combination("horse", "spin", "grass"), seed=5, frames=48),
)


def file_name(example: Example) -> str:
    """Such as ``a_chicken_jumps_up_and_down_on_sand``."""
    long = f"_{example.frames}_frames" if example.frames != world.FRAMES else ""
    return re.sub(r"\W+", "_", example.combination.caption.lower()) + long


def path_of(example: Example, floors: dict[str, np.ndarray]) -> tuple[list[Pose], list[Scene]]:
    """Poses and scenes; a longer clip goes on with the same speed of turning."""
    rng = np.random.default_rng([20, example.seed])
    poses = world.poses(example.combination, rng)
    turn = poses[1].yaw - poses[0].yaw
    for _ in range(example.frames - world.FRAMES):
        last = poses[-1]
        poses.append(Pose(position=last.position, yaw=last.yaw + turn, roll=last.roll, scale=last.scale))
    return poses, [world.scene(example.combination, floors, rng)] * len(poses)


def write_video(frames: np.ndarray, path: Path, title: str) -> None:
    """H.264 at the world's frame rate.

    Args:
        frames: uint8 ``[F, H, W, 3]``.
        path: the mp4 file.
        title: kept in the file.
    """
    import av

    with whole_file(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        container.metadata["title"] = title
        stream: Any = container.add_stream("libx264", rate=world.FPS, options={"crf": "12", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--furniture", type=Path, required=True, help="folder with the .sh3f libraries")
    parser.add_argument("--out", type=Path, default=Path("workflows/clips"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    models, floors, renderer = corpus.load_models(options.furniture), world.floor_images(), Renderer(SIZE)
    for example in EXAMPLES:
        model, (poses, scenes) = models[example.combination.thing], path_of(example, floors)
        caption, name = example.combination.caption, file_name(example)
        write_video(renderer.clip(model, poses, scenes), options.out / f"{name}.mp4", caption)
        mask = renderer.layers(model, poses, scenes).silhouette
        write_video(np.repeat(mask[..., None], 3, -1), options.out / f"{name}_mask.mp4", f"where {caption}")
        print(options.out / f"{name}.mp4")


if __name__ == "__main__":
    run_command(main)
