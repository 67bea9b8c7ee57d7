"""Measure networks on held-out prompts: ``python -m training.evaluate --corpus DIR [--cells teacher:ddim:4,50 ...]``.

Rows: real clips, real clips through the autoencoder (what the latents can show at best), and cells, written
``NETWORK:SAMPLER:STEPS[,STEPS][:CFG]``. Samplers: ``lcm`` (students), ``ddim`` (the authors' grid, which starts at 981
for 50 steps and at 751 for 4), ``ddim-trailing`` (even grid from 999), ``dpm++`` (DPM-Solver++ 2M of diffusers). The
network ``teacher`` is ``--teacher``; any number of others is ``--student NAME=FILE``, all-in-one files or running
checkpoints, so that ablations are this same command. ``--given depth`` samples from the held-out clips' true depth.

Written to ``--out``: ``results.md``, ``results.json`` (with the protocol), ``fvd.svg`` and ``.png``, contact sheets.
Clips and features are kept in chunks of eight: the same command resumes, other cells can be asked for later.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data.latents import fingerprint
from .engine.commands import run_command
from .evaluation import results, tables
from .evaluation.measures import MEASURES
from .evaluation.models import file_hash, load_model
from .evaluation.sampling import Row, held_out_prompts, parse_cells, sample_videos
from .evaluation.sources import AUTOENCODED, CHUNK, HeldOut, Source
from .evaluation.workers import Setup, Workers, open_workers
from .mini import family as mini
from .mini import pictures, world

__all__ = ["Row", "generate", "held_out_prompts", "main", "sample_videos"]

WEIGHTS = {
    "i3d": (Path("runs/i3d/i3d-kinetics-400.ckpt"), "scripts/fetch_i3d.sh"),
    "recognizer": (Path("runs/mini/recognizer.pt"), "python -m training.mini.recognizer"),
    "inception": (Path("runs/metrics/default_1.pt"), "scripts/fetch_inception.sh"),
    "lpips": (Path("runs/metrics/lpips_alex_v0.1.pt"), "scripts/fetch_metrics.sh"),
    "raft": (Path("runs/metrics/raft-things.pth"), "scripts/fetch_metrics.sh"),
    "retriever": (Path("runs/mini/retriever.pt"), "python -m training.mini.retrieval"),
    "clip": (Path("runs/clip"), "your own copy of openai/clip-vit-base-patch16"),
}
"""Default place of each measure's network, and what puts it there."""
TEACHER = Path("models/videolcm-mini-teacher.safetensors")
STEPS = "1,2,4,6,8,25,50"


def generate(model: mini.AllInOne, row: Row, prompts: list[world.Combination], batch: int = 16) -> Tensor:
    """Videos of a row, one per prompt, in this process: uint8 ``[N, F, H, W, 3]``."""
    parts = [range(i, min(i + batch, len(prompts))) for i in range(0, len(prompts), batch)]
    return torch.cat([sample_videos(model, row, [prompts[i] for i in part], part) for part in parts])


class Evaluation:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, workers: Workers) -> None:
        self.options, self.workers = options, workers
        self.networks = networks(options)
        self.names = [f"fvd-{options.feature_dtype}" if n == "fvd" else n for n in options.metrics]
        self.names = [n.removesuffix("-float32") for n in self.names]
        self.rows: dict[str, dict[str, Any]] = {}
        self.samples: dict[str, dict[str, Tensor]] = {}
        self.references: dict[str, dict[str, results.Reference]] = {}
        available = HeldOut(options.corpus).count
        self.reference_clips = min(options.reference or available, available)
        self.protocol = protocol(options, self.reference_clips)

    def parts(self, path: Path) -> tuple[Path, ...]:
        """Files that complete a network: none for an all-in-one file."""
        return () if path.suffix == ".safetensors" else tuple(self.options.parts)

    def source(self, row: Row) -> Source:
        """The clips of a cell."""
        path = self.networks[row.model]
        parts = self.parts(path)
        return Source(
            kind="cell",
            row=row,
            weights=path,
            parts=parts,
            hashes=tuple(file_hash(f) for f in (path, *parts)),
            given=tuple(self.options.given),
            clips=self.options.clips,
        )

    def take(self, source: Source, autoencoder: str, combinations: list[world.Combination]) -> None:
        """Make, measure and note a source."""
        self.workers.run(source, self.names)
        # Real clips are the reference: they have no distance to it.
        references = {} if source.kind == "real" else self.references[autoencoder]
        name = source.name
        self.rows[name], self.samples[name] = results.measure_row(self.workers, source, self.names, references)
        values = {k: round(v[0], 4) for k, v in self.rows[name]["values"].items()}
        print(name, values, flush=True)
        sheet = self.options.out / (name.replace(" ", "-").replace(",", "") + ".png")
        count = min(source.clips, len(world.held_out()))
        pictures.contact_sheet(self.workers.clips(source, count), combinations[:count], sheet)
        self.write()

    def prepare(self, used: set[str]) -> dict[str, str]:
        """Real clips, and real clips through every autoencoder in use.

        Returns:
            The autoencoder's fingerprint of each network.
        """
        real = Source(kind="real", clips=self.reference_clips)
        self.workers.run(real, self.names)
        plain = {"": results.Reference(self.workers, real, self.names)}
        self.take(real, "", held_out_prompts(real.clips))
        known: dict[str, str] = {}
        for model in sorted(used):
            path = self.networks[model]
            parts = self.parts(path)
            mark = fingerprint(load_model(path, parts).autoencoder)
            known[model] = mark
            if mark in self.references:
                continue
            again = Source(
                kind="autoencoded",
                weights=path,
                parts=parts,
                hashes=(mark,),
                clips=self.reference_clips,
                label=AUTOENCODED if not self.references else f"{AUTOENCODED} ({model})",
            )
            self.workers.run(again, self.names)
            self.references[mark] = plain | {"_latent": results.Reference(self.workers, again, self.names)}
            self.take(again, mark, held_out_prompts(again.clips))
        return known

    def guided(self, row: Row) -> Row:
        """A cell with its guidance: the given one, or of ``--cfg`` the one whose first clips agree best."""
        if row.cfg:
            return row
        scales = self.options.cfg
        if len(scales) == 1:
            return replace(row, cfg=scales[0])
        scores = {}
        for scale in scales:
            few = replace(self.source(replace(row, cfg=scale)), clips=min(self.options.cfg_clips, self.options.clips))
            self.workers.run(few, ["agreement"])
            scores[scale] = float(self.workers.rows(few, "agreement")[:, 3].mean())
        print(f"{row.base}: agreement by cfg {scores}", flush=True)
        return replace(row, cfg=max(scores, key=lambda scale: scores[scale]))

    def ratios(self) -> dict[str, results.Value]:
        """Every student's distance over every teacher's at 4 and 50 steps."""
        found = {}
        goals = [n for n, r in self.rows.items() if r.get("steps") in (4, 50) and r["sampler"] != "lcm"]
        for name, row in self.rows.items():
            for goal in goals if row.get("sampler") == "lcm" else []:
                for key in [k for k in ("fvd", "fvd_latent") if k in self.samples[name] and k in self.samples[goal]]:
                    first, second = self.samples[name][key], self.samples[goal][key]
                    estimate = row["values"][key][0] / self.rows[goal]["values"][key][0]
                    found[f"{key}: {name} / {goal}"] = results.ratio(first, second, estimate)
        return found

    def write(self) -> None:
        """The files as far as they are known."""
        out = self.options.out
        document = {"protocol": self.protocol, "rows": self.rows, "ratios": self.ratios()}
        (out / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        text = [tables.markdown(self.rows, latency=True), "", tables.protocol_text(self.protocol)]
        if document["ratios"]:
            text += ["", "| ratio | value | 95 % interval |", "|---|---|---|"]
            text += [f"| {k} | {v[0]:.2f} | {v[1]:.2f} to {v[2]:.2f} |" for k, v in document["ratios"].items()]
        (out / "results.md").write_text("\n".join(text) + "\n", encoding="utf-8")

    def run(self) -> None:
        """Every cell."""
        cells = [row for word in self.options.cells for row in parse_cells(word)]
        if unknown := {row.model for row in cells} - set(self.networks):
            raise ValueError(
                f"no file for {', '.join(sorted(unknown))}; known networks: {', '.join(self.networks)}. "
                "Name it with --student NAME=FILE."
            )
        autoencoders = self.prepare({row.model for row in cells})
        for cell in cells:
            row = self.guided(cell)
            self.take(self.source(row), autoencoders[row.model], held_out_prompts(self.options.clips))
        for measure in ("fvd", "fvd_latent"):
            for ending in ("svg", "png"):
                tables.plot(self.rows, self.options.out / f"{measure}.{ending}", measure)
        print((self.options.out / "results.md").read_text(encoding="utf-8"))


def networks(options: argparse.Namespace) -> dict[str, Path]:
    """Files by name.

    Raises:
        ValueError: a name is given twice.
    """
    found = {"teacher": options.teacher}
    for word in options.student:
        name, equals, path = word.partition("=")
        name, path = (name, path) if equals else ("student", word)
        if name in found:
            raise ValueError(f"two files are named {name!r}; give each another name: --student NAME=FILE.")
        found[name] = Path(path)
    return found


def protocol(options: argparse.Namespace, reference_clips: int) -> dict[str, Any]:
    """What the numbers depend on, for whoever compares with them."""
    return {
        "clips a cell": options.clips,
        "prompts": f"{len(world.held_out())} held-out combinations in turn",
        "conditions": ", ".join(options.given) or "text",
        "frames": world.FRAMES,
        "resolution": f"{world.SIZE} x {world.SIZE}",
        "seeds": f"clip i starts from the CPU generator seeded with i, {CHUNK} clips at once",
        "network": f"bfloat16 autocast on {options.device}",
        "reference": f"{reference_clips} real clips of the same combinations",
        "FVD": f"Kinetics-400 I3D logits, frames resized bilinearly to 224 x 224, {options.feature_dtype}; at "
        f"{world.SIZE} pixels it compares with itself only",
        "intervals": f"95 %, bootstrap over clips ({results.RESAMPLES} resamples for FVD with the reference fixed, "
        "2000 for means), seed 0",
        "teacher's guidance": f"of {options.cfg} the one whose first {options.cfg_clips} clips agree best"
        if len(options.cfg) > 1
        else options.cfg[0],
        "torch": torch.__version__,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    parser.add_argument(
        "--student",
        nargs="+",
        default=["models/videolcm-mini.safetensors"],
        metavar="NAME=FILE",
        help="any further networks; a FILE without name is called student",
    )
    parser.add_argument(
        "--parts",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="complete running checkpoints (.pt): text encoder and autoencoder of the first file that has one "
        "(default: --teacher, then the shipped teacher)",
    )
    parser.add_argument("--cells", nargs="+", metavar="NETWORK:SAMPLER:STEPS[:CFG]", help="default: every network")
    parser.add_argument("--given", nargs="*", default=[], metavar="CONDITION", help="for example depth")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--reference", type=int, default=0, help="real clips to compare with (default: all held-out)")
    parser.add_argument("--cfg", type=float, nargs="+", default=[1.5, 3.0], help="guidance of guided samplers")
    parser.add_argument("--cfg-clips", type=int, default=64, help="clips that choose it when several are given")
    known = "; ".join(f"{n}: {m.title}" for n, m in MEASURES.items())
    parser.add_argument(
        "--metrics", nargs="+", default=["fvd", "agreement", "flicker"], choices=list(MEASURES), help=known
    )
    parser.add_argument("--feature-dtype", choices=["float32", "bfloat16"], default="float32", help="of the I3D")
    parser.add_argument("--workers", type=int, default=1, help="processes; the numbers do not depend on it")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--device", default="cpu", help="of the sampled networks; cuda wants --workers 1")
    for name, (path, source) in WEIGHTS.items():
        parser.add_argument(f"--{name}", type=Path, default=path, help=f"from {source} (default {path})")
    options = parser.parse_args(arguments)
    if options.cells is None:
        teacher = [f"teacher:{sampler}:{STEPS}" for sampler in ("ddim", "ddim-trailing", "dpm++")]
        options.cells = teacher + [f"{name}:lcm:{STEPS}" for name in list(networks(options))[1:]]
    options.parts = options.parts or [options.teacher, TEACHER]
    return options


def weights_of(options: argparse.Namespace) -> dict[str, Path]:
    """Files of the measures in use.

    Raises:
        FileNotFoundError: one is missing; the message says how to get it.
    """
    # The recogniser also chooses the guidance.
    choosing = ["agreement"] if len(options.cfg) > 1 else []
    found = {}
    for name in [*options.metrics, *choosing]:
        if weights := MEASURES[name].weights:
            path = getattr(options, weights)
            if not path.exists():
                raise FileNotFoundError(
                    f"{name} needs {path}, which is missing: get it with {WEIGHTS[weights][1]}, name another place "
                    f"with --{weights}, or leave {name} out of --metrics."
                )
            found[weights] = path
    return found


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    setup = Setup(
        out=options.out,
        corpus=options.corpus,
        weights=weights_of(options),
        device=options.device,
        threads=options.threads,
    )
    with open_workers(setup, options.workers) as workers:
        Evaluation(options, workers).run()


if __name__ == "__main__":
    run_command(main)
