"""Render the captioned corpus: ``python -m training.mini.corpus --furniture DIR --out DIR``.

One shard per (object, motion, place) combination, written whole or not at all, and their list
``corpus.json``, which is what the trainer reads; the same command resumes after any interruption and renders again what
is damaged or of another number of clips. ``--world`` chooses what is rendered; every later command reads it from the
list. ``--style`` renders single frames in another look. ``--furniture`` is the folder with the ``.sh3f`` libraries of
the Debian package ``sweethome3d-furniture`` (``scripts/fetch_furniture.sh`` unpacks it).
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from videolcm_core.files.writing import whole_file

from ..data.corpus import Corpus, Shard, write_index
from ..engine.caches import digest_of, file_digest
from ..engine.commands import run_command
from . import captions, styles, world
from .models3d import Model3D, dyed, read_model
from .render import Renderer
from .worlds.base import DEFAULT, World, world_named, worlds

LAYERS = ("depth", "silhouette", "motion")


def shard_path(out: Path, combination: world.Combination) -> Path:
    """Where the clips of one combination are kept."""
    return out / f"{combination.thing}_{combination.motion}_{combination.place}.npz".replace(" ", "-")


def render_combination(
    renderer: Renderer,
    model: Model3D,
    combination: world.Combination,
    floors: dict[str, np.ndarray],
    count: int,
    *,
    layers: bool = True,
    style: str = "",
) -> dict[str, np.ndarray]:
    """Draw ``count`` clips of a combination; the n-th is the same in every run.

    Args:
        renderer: of the world's size.
        model: the combination's object.
        combination: what to draw.
        floors: the world's floors.
        count: how many clips.
        layers: whether to draw depth, silhouette and motion too.
        style: a look of `styles.STYLES`; then each clip is one frame, without layers. Empty is the world's own look.

    Returns:
        "clips" ``uint8 [count, F, H, W, 3]``, and the `Layers` of each: "depth" ``float16 [count, F, H, W]``,
        "silhouette" ``uint8 [count, F, H, W]``, "motion" ``float16 [count, F, H, W, 2]``.
    """
    seed = zlib.crc32(f"{combination.thing} {combination.motion} {combination.place}".encode())
    of, names = world_named(combination.world), ("clips", *LAYERS) if layers and not style else ("clips",)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        poses, scenes = of.poses(combination, rng), of.scenes(combination, floors, rng)
        if style:
            at = slice(frame := int(rng.integers(of.frames)), frame + 1)
            poses, scenes = poses[at], scenes[at]
            frames = renderer.clip(model, poses, scenes)
            drawn["clips"].append(styles.STYLES[style](frames, renderer.layers(model, poses, scenes)))
            continue
        drawn["clips"].append(renderer.clip(model, poses, scenes))
        if layers:
            seen = renderer.layers(model, poses, scenes)
            for name in LAYERS:
                drawn[name].append(getattr(seen, name))
    return {name: np.stack(values) for name, values in drawn.items()}


def load_models(furniture: Path, of: World = world.MINI) -> dict[str, Model3D]:
    """The world's objects from the libraries, dyed where it says so.

    Raises:
        FileNotFoundError: a library is missing; the message says how to get it.
    """
    models = {}
    for name, thing in of.objects.items():
        library = furniture / f"{thing.library}.sh3f"
        if not library.exists():
            raise FileNotFoundError(
                f"{library} is missing. Unpack the Debian package sweethome3d-furniture "
                "(scripts/fetch_furniture.sh DIR) and give the folder that holds its .sh3f files as --furniture."
            )
        model = read_model(library, thing.number)
        models[name] = model if thing.tint is None else dyed(model, thing.tint)
    return models


def corpus_of(
    folder: Path, present: Iterable[world.Combination] | None = None, of: World = world.MINI, style: str = ""
) -> Corpus:
    """The list of a folder of shards, as it is there; the n-th shard is the n-th of the world's combinations.

    Args:
        folder: with the shards.
        present: the combinations to look for; None is all of them.
        of: the world.
        style: the look of its frames; empty is the world's own.
    """
    every, out = of.combinations(), set(of.held_out())
    index = {c: i for i, c in enumerate(every)}
    looked_for = set(every if present is None else present)
    return Corpus(
        folder=folder,
        shards=tuple(_entry(folder, c, c in out, index[mirrored(c)], c in looked_for) for c in every),
        world=of.name,
        width=of.size,
        height=of.size,
        frames=1 if style else of.frames,
        fps=of.fps,
        judges="mini" if of.name == DEFAULT and not style else "",
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
    return world_named(combination.world).mirrored(combination)


def world_of(folder: Path) -> World:
    """The world that a corpus shows; errors as in `Corpus.open`, and ValueError for an unknown world."""
    return world_named(Corpus.open(folder).world)


def numbers_of(combinations: Iterable[world.Combination], of: World = world.MINI) -> list[int]:
    """The shards of combinations."""
    index = {c: i for i, c in enumerate(of.combinations())}
    return [index[c] for c in combinations]


def corpus_identity(*folders: Path) -> dict[str, str]:
    """Which clips a trainer of this package saw, for its run's identity; those of each corpus."""
    opened = [Corpus.open(folder) for folder in folders]
    names = ["corpus", *(f"corpus {i}" for i in range(2, len(folders) + 1))]
    return {n: digest_of({"shards": c.digests(c.training)}) for n, c in zip(names, opened, strict=True)}


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
    opened = Corpus.open(folder)
    of = world_named(opened.world)
    arrays, labels = opened.layers(numbers_of(combinations, of), names)
    every = of.combinations()
    return arrays, [every[label] for label in labels]


def write_credits(models: dict[str, Model3D], path: Path, of: World = world.MINI) -> None:
    """Write creator and licence of each object as JSON."""
    entries = [
        {"object": n, "model": m.name, "creator": m.creator, "licence": m.licence, "library": of.objects[n].library}
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
    parser.add_argument("--world", choices=list(worlds()), default=DEFAULT, help=f"what to render (default {DEFAULT})")
    parser.add_argument("--style", choices=list(styles.STYLES), default="", help="another look, single frames only")
    parser.add_argument("--no-layers", action="store_true", help="without depth, silhouette and motion")
    options = parser.parse_args(arguments)
    of = world_named(options.world)
    models = load_models(options.furniture, of)
    options.out.mkdir(parents=True, exist_ok=True)
    write_credits(models, options.out / "credits.json", of)
    index, parts = (int(v) for v in options.part.split("/"))
    renderer, floors, out = Renderer(of.size), of.floors(), set(of.held_out())
    for combination in tqdm(of.combinations()[index::parts], desc="render", unit="combination"):
        path, count = shard_path(options.out, combination), options.clips
        if combination in out:
            count = options.held_out_clips
        found = clips_in(path)
        if found == count:
            continue
        if path.is_file():
            tqdm.write(f"{path.name}: {found or 'no whole'} clips, {count} are wanted: rendered again")
        arrays = render_combination(
            renderer,
            models[combination.thing],
            combination,
            floors,
            count,
            layers=not options.no_layers,
            style=options.style,
        )
        with whole_file(path) as temporary, temporary.open("wb") as file:
            (np.savez_compressed if of.compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    write_index(corpus_of(options.out, of=of, style=options.style))


if __name__ == "__main__":
    run_command(main)
