"""Render the captioned corpus: ``python -m training.mini.corpus --furniture DIR --out DIR``.

One compressed shard per (object, motion, place) combination, written whole or not at all, and their list
``corpus.json``, which is what the trainer reads; the same command resumes after any interruption and renders again what
is damaged or of another number of clips. ``--furniture`` is the folder with the ``.sh3f`` libraries of the Debian
package ``sweethome3d-furniture`` (``scripts/fetch_furniture.sh`` unpacks it).
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from videolcm_core.files.writing import whole_file

from ..data.corpus import Corpus, Shard, write_index
from ..engine.caches import digest_of, file_digest
from ..engine.commands import run_command
from . import captions, world
from .models3d import Model3D, read_model
from .render import Renderer

LAYERS = ("depth", "silhouette", "motion")
_MIRRORED = {"left": "right", "right": "left"}


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


def corpus_of(folder: Path, present: Iterable[world.Combination] | None = None) -> Corpus:
    """The list of a folder of shards, as it is there; the n-th shard is the n-th of `world.combinations`.

    Args:
        folder: with the shards.
        present: the combinations to look for; None is all of them.
    """
    every, out = world.combinations(), set(world.held_out())
    looked_for = set(every if present is None else present)
    return Corpus(
        folder=folder,
        shards=tuple(_entry(folder, c, c in out, every.index(mirrored(c)), c in looked_for) for c in every),
        world="videolcm-mini",
        width=world.SIZE,
        height=world.SIZE,
        frames=world.FRAMES,
        fps=world.FPS,
        judges="mini",
    )


def _entry(folder: Path, combination: world.Combination, held_out: bool, twin: int, look: bool) -> Shard:
    path = shard_path(folder, combination)
    there = look and path.is_file()
    return Shard(
        file=path.name,
        forms=tuple(captions.caption_forms(combination)),
        clips=clips_in(path) if there else 0,
        digest=file_digest(path) if there else "",
        mirrored=twin,
        held_out=held_out,
        labels={"thing": combination.thing, "motion": combination.motion, "place": combination.place},
    )


def clips_in(path: Path) -> int:
    """How many clips a shard has, every record of it checked; 0 where it is damaged or missing."""
    try:
        with np.load(path, allow_pickle=False) as shard:
            return len(shard["clips"]) if all(len(shard[n]) == len(shard["clips"]) for n in shard.files) else 0
    except Exception:  # numpy, zipfile and zlib have their own kinds
        return 0


def mirrored(combination: world.Combination) -> world.Combination:
    """The combination that a horizontally flipped clip shows."""
    return replace(combination, motion=_MIRRORED.get(combination.motion, combination.motion))


def numbers_of(combinations: Iterable[world.Combination]) -> list[int]:
    """The shards of combinations."""
    index = {c: i for i, c in enumerate(world.combinations())}
    return [index[c] for c in combinations]


def corpus_identity(folder: Path) -> dict[str, str]:
    """Which clips a trainer of this package saw, for its run's identity."""
    corpus = Corpus.open(folder)
    return {"corpus": digest_of({"shards": corpus.digests(corpus.training)})}


def load_corpus(folder: Path, combinations: list[world.Combination]) -> tuple[np.ndarray, list[world.Combination]]:
    """All clips of the given combinations; errors as in `load_layers`.

    Returns:
        clips ``uint8 [N, F, H, W, 3]`` and the combination of each.
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
        FileNotFoundError: the corpus, or a combination of it, was not rendered yet.
        ValueError: a shard is damaged, or of a version without the asked layer.
    """
    arrays, labels = Corpus.open(folder).layers(numbers_of(combinations), names)
    every = world.combinations()
    return arrays, [every[label] for label in labels]


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
        path, count = shard_path(options.out, combination), options.clips
        if combination in out:
            count = options.held_out_clips
        found = clips_in(path)
        if found == count:
            continue
        if path.is_file():
            tqdm.write(f"{path.name}: {found or 'no whole'} clips, {count} are wanted: rendered again")
        arrays = render_combination(renderer, models[combination.thing], combination, floors, count)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_index(corpus_of(options.out))


if __name__ == "__main__":
    run_command(main)
