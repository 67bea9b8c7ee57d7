"""Render the captioned corpus: ``python -m training.mini.corpus --furniture DIR --out DIR``.

One compressed shard per (object, motion, place) combination, written under a temporary name and renamed, so that the
same command resumes after any interruption. ``--furniture`` is the folder with the ``.sh3f`` libraries of the Debian
package ``sweethome3d-furniture`` (``scripts/fetch_furniture.sh`` unpacks it).
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..engine.commands import run_command
from . import world
from .models3d import Model3D, read_model
from .render import Renderer

LAYERS = ("depth", "silhouette", "motion")


def shard_path(out: Path, combination: world.Combination) -> Path:
    """Where the clips of one combination are kept."""
    return out / f"{combination.thing}_{combination.motion}_{combination.place}.npz".replace(" ", "-")


def render_combination(
    renderer: Renderer, model: Model3D, combination: world.Combination, floors: dict[str, np.ndarray], count: int
) -> dict[str, np.ndarray]:
    """Draw ``count`` clips of a combination; the n-th is the same in every run.

    Returns:
        "clips" ``uint8 [count, F, H, W, 3]``, and the `Layers` of each: "depth" ``float16 [count, F, H, W]``,
        "silhouette" ``uint8 [count, F, H, W]``, "motion" ``float16 [count, F, H, W, 2]``.
    """
    seed = zlib.crc32(f"{combination.thing} {combination.motion} {combination.place}".encode())
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in ("clips", *LAYERS)}
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        poses, scene = world.poses(combination, rng), world.scene(combination, floors, rng)
        drawn["clips"].append(renderer.clip(model, poses, scene))
        layers = renderer.layers(model, poses, scene)
        for name in LAYERS:
            drawn[name].append(getattr(layers, name))
    return {name: np.stack(values) for name, values in drawn.items()}


def load_models(furniture: Path) -> dict[str, Model3D]:
    """The world's objects from the libraries.

    Raises:
        FileNotFoundError: a library is missing; the message says how to get it.
    """
    models = {}
    for name, thing in world.OBJECTS.items():
        library = furniture / f"{thing.library}.sh3f"
        if not library.exists():
            raise FileNotFoundError(
                f"{library} is missing. Unpack the Debian package sweethome3d-furniture "
                "(scripts/fetch_furniture.sh DIR) and give the folder that holds its .sh3f files as --furniture."
            )
        models[name] = read_model(library, thing.number)
    return models


def load_corpus(folder: Path, combinations: list[world.Combination]) -> tuple[np.ndarray, list[world.Combination]]:
    """All clips of the given combinations.

    Returns:
        clips ``uint8 [N, F, H, W, 3]`` and the combination of each.

    Raises:
        FileNotFoundError: a combination was not rendered yet.
    """
    loaded, labels = load_layers(folder, combinations, ("clips",))
    return loaded["clips"], labels


def load_layers(
    folder: Path, combinations: list[world.Combination], names: tuple[str, ...] = ("clips", *LAYERS)
) -> tuple[dict[str, np.ndarray], list[world.Combination]]:
    """Clips and what belongs to them, as `render_combination` makes it.

    Returns:
        arrays by name, and the combination of each clip.

    Raises:
        FileNotFoundError: a combination was not rendered yet.
        KeyError: the corpus is of a version without the asked layer.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    labels: list[world.Combination] = []
    for combination in combinations:
        path = shard_path(folder, combination)
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: render it with python -m training.mini.corpus --out {folder}.")
        with np.load(path) as shard:
            if missing := set(names) - set(shard.files):
                raise KeyError(f"{path} has no {', '.join(sorted(missing))}: delete {folder} and render it again.")
            for name in names:
                parts[name].append(shard[name])
        labels += [combination] * len(parts[names[0]][-1])
    return {name: np.concatenate(values) for name, values in parts.items()}, labels


def write_credits(models: dict[str, Model3D], path: Path) -> None:
    """Write creator and licence of each object as JSON."""
    entries = [
        {"object": n, "model": m.name, "creator": m.creator, "licence": m.licence, "library": world.OBJECTS[n].library}
        for n, m in models.items()
    ]
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--furniture", type=Path, required=True, help="folder with the .sh3f libraries")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--clips", type=int, default=20, help="clips per training combination (default 20)")
    parser.add_argument("--held-out-clips", type=int, default=16, help="clips per held-out combination (default 16)")
    parser.add_argument("--part", default="0/1", help="i/n: draw every n-th combination from i, to share the work")
    options = parser.parse_args(arguments)
    models = load_models(options.furniture)
    options.out.mkdir(parents=True, exist_ok=True)
    write_credits(models, options.out / "credits.json")
    index, parts = (int(v) for v in options.part.split("/"))
    renderer, floors, out = Renderer(world.SIZE), world.floor_images(), set(world.held_out())
    for combination in tqdm(world.combinations()[index::parts], desc="render", unit="combination"):
        path = shard_path(options.out, combination)
        if path.exists():
            continue
        count = options.held_out_clips if combination in out else options.clips
        arrays = render_combination(renderer, models[combination.thing], combination, floors, count)
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        temporary.rename(path)


if __name__ == "__main__":
    run_command(main)
