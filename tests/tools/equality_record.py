"""Record what a distillation gives, to compare before and after a change: ``equality_record.py OUT.json``.

Three steps of every recipe on every kind of data, with the shipped teacher and fixed small inputs, and a LoRA in its
three formats: losses of each step and SHA-256 of every tensor written. ``--tree DIR`` records another checkout with
this one's environment; ``--against FILE`` compares and exits with 1 where a number differs in a bit.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ("paper", "authors", "mini")
SMALL = ("--steps", "3", "--batch", "2", "--image-batch", "2", "--precision", "no", "--cpu", "--log-every", "1")
WORDS = ("a red square", "a blue ball on sand", "a green dot moves")


def write_film(path: Path, seed: int) -> None:
    """A film of 24 frames that moves, 64 x 64, lossless."""
    import av

    rng = np.random.default_rng(seed)
    base = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "bgr0"
        for index in range(24):
            frame = np.ascontiguousarray(np.roll(base, index, 1)[:, :64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_inputs(folder: Path) -> None:
    """A folder of clips with captions, the same as shards, and a corpus of noise in the world's layout."""
    clips, shards, corpus = folder / "clips", folder / "shards", folder / "corpus"
    for made in (clips, shards, corpus):
        made.mkdir()
    with tarfile.open(shards / "part-000.tar", "w") as tar:
        for index, words in enumerate(WORDS):
            film = clips / f"clip{index}.mkv"
            write_film(film, index)
            film.with_suffix(".txt").write_text(words, encoding="utf-8")
            for name, data in ((film.name, film.read_bytes()), (f"clip{index}.txt", words.encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def write_corpus(tree: Path, folder: Path) -> None:
    """Noise for every combination of the embedded world, with the file names that the tree gives them."""
    program = """
import sys
from pathlib import Path
import numpy as np
try:
    from training.mini import corpus, world
except ImportError:
    from training.data import corpus, world
out = Path(sys.argv[1])
for index, combination in enumerate(world.combinations()):
    rng = np.random.default_rng(index)
    clips = rng.integers(0, 255, (1, 16, 64, 64, 3), dtype=np.uint8)
    np.savez(corpus.shard_path(out, combination).open("wb"), clips=clips)
if hasattr(corpus, "write_index"):
    corpus.write_index(corpus.corpus_of(out))
"""
    command = [sys.executable, "-c", program, str(folder)]
    subprocess.run(command, cwd=tree, check=True, env=environment())


def environment() -> dict[str, str]:
    """One thread, so that sums have one order."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names and bytes of tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous().reshape(-1)
        found.update(name.encode() + str(value.dtype).encode() + value.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def losses_of(events: Path) -> list[float]:
    """The loss of every step, as float32 numbers."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curve = EventAccumulator(str(events))
    curve.Reload()
    return (
        [float(point.tensor_proto.float_val[0]) for point in curve.Tensors("loss")]
        if "loss" in curve.Tags().get("tensors", [])
        else [point.value for point in curve.Scalars("loss")]
    )


def distil(tree: Path, out: Path, *options: str) -> dict[str, Any]:
    """One run: its losses and the hash of what it exports."""
    teacher = tree / "models" / "videolcm-mini-teacher.safetensors"
    export = out / "student.safetensors"
    command = [sys.executable, "-m", "training.distill", "--teacher", str(teacher), "--out", str(out)]
    done = subprocess.run(
        [*command, "--export", str(export), *SMALL, *options],
        cwd=tree,
        env=environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = {"losses": losses_of(out / "events"), "export": digest(load_file(export))}
    for name in ("kohya.safetensors", "peft/adapter_model.safetensors"):
        if (out / name).exists():
            found[name] = digest(load_file(out / name))
    return found


def record(tree: Path) -> dict[str, Any]:
    """Every recipe on every kind of data, and a LoRA."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        write_corpus(tree, folder / "corpus")
        sources = {
            "corpus": ("--corpus", str(folder / "corpus")),
            "clips": ("--clips", str(folder / "clips")),
            "shards": ("--shards", str(folder / "shards")),
            "cache": ("--clips", str(folder / "clips"), "--cache", str(folder / "cache")),
        }
        for source, data in sources.items():
            for recipe in RECIPES:
                key = f"{source} {recipe}"
                # 0.3's default in all but the embedded recipe; today's is float32 but for the authors'.
                solver = "float32" if recipe == "mini" else "float64"
                options = (*data, "--recipe", recipe, "--solver-precision", solver)
                results[key] = distil(tree, folder / key.replace(" ", "-"), *options)
                print(key, results[key], flush=True)
        lora = folder / "lora"
        results["lora"] = distil(
            tree,
            lora,
            *sources["clips"],
            # 0.3 exported two networks of one run, the average merged and the student as LoRA: here all the student.
            *("--recipe", "mini", "--release", "student", "--lora", "4", "--learning-rate", "1e-3"),
            *("--export-kohya", str(lora / "kohya.safetensors"), "--export-peft", str(lora / "peft")),
        )
        print("lora", results["lora"], flush=True)
    return results


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write, JSON")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout to record")
    parser.add_argument("--against", type=Path, help="a record to compare with")
    options = parser.parse_args()
    found = record(options.tree.resolve())
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.against is None:
        return 0
    before = json.loads(options.against.read_text(encoding="utf-8"))
    different = [key for key in before if before[key] != found.get(key)]
    print(f"{len(before) - len(different)} of {len(before)} equal to the bit; different: {different or 'none'}")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
