"""Measure networks on prompts: ``python -m training.evaluate --corpus DIR [--cells teacher:ddim:4,50 ...]``.

Prompts are the held-out captions of a corpus (whose clips are the reference), or your own texts (``--prompts FILE``).
Every network is sampled at its own size, number of frames, schedule, prediction and grid, as its file says.

Rows: real clips, real clips through the autoencoder (what the latents can show at best), and cells, written
``NETWORK:SAMPLER:STEPS[,STEPS][:CFG]``. Samplers: ``lcm`` (students), ``ddim`` (the authors' grid, which starts at 981
for 50 steps and at 751 for 4), ``ddim-trailing`` (even grid from 999), ``dpm++`` (DPM-Solver++ 2M of diffusers). The
network ``teacher`` is ``--teacher``; any number of others is ``--student NAME=FILE``, files, folders or running
checkpoints, so that ablations are this same command. ``--given depth`` samples from the held-out clips' true depth.
``--reference-corpus NAME=DIR`` adds distances to the clips of another corpus, for each cell: clean and degraded, say.

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

from .data.corpus import Corpus
from .engine.caches import fingerprint
from .engine.commands import run_command
from .evaluation import previews, results, tables
from .evaluation.command_line import chosen_measures, networks, parse, reference_corpora, weights_of
from .evaluation.models import file_hash, load_model
from .evaluation.prompts import Prompt, of_corpus, read_prompts
from .evaluation.references import other_references, own_name
from .evaluation.sampling import Row, parse_cells
from .evaluation.sources import AUTOENCODED, CHUNK, HeldOut, RowSource, digest_of_prompts
from .evaluation.workers import Setup, Workers, open_workers


class Evaluation:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, prompts: list[Prompt], workers: Workers) -> None:
        self.options, self.workers, self.prompts = options, workers, prompts
        self.networks = networks(options)
        self.corpus = None if options.corpus is None else Corpus.open(options.corpus)
        self.names = [f"fvd-{options.feature_dtype}" if n == "fvd" else n for n in options.metrics]
        self.names = [n.removesuffix("-float32") for n in self.names]
        self.rows: dict[str, dict[str, Any]] = {}
        self.samples: dict[str, dict[str, Tensor]] = {}
        self.references: dict[str, dict[str, results.Reference]] = {}
        self.folders = reference_corpora(options)
        self.own = own_name(self.folders, options.corpus)
        self.real_references: dict[str, results.Reference] = {}
        self.data = digest_of_prompts(prompts, self.corpus)
        # Real clips are compared with where the prompts are the corpus's own.
        self.real = self.corpus is not None and options.prompts is None
        available = HeldOut(self.corpus).count if self.corpus is not None else 0
        self.reference_clips = min(options.reference or available, available)
        self.encoders = None if options.vae is None else (options.vae, options.text_encoder)

    def parts(self, path: Path) -> tuple[Path, ...]:
        """Files that may complete a network that came without encoders."""
        return tuple(p for p in self.options.parts if p.exists()) if self.encoders is None else ()

    def hashes(self, path: Path) -> tuple[str, ...]:
        """Of all files that a network's numbers depend on."""
        return tuple(_hash(f) for f in (path, *self.parts(path), *(self.encoders or ())))

    def source(self, row: Row) -> RowSource:
        """The clips of a cell."""
        path = self.networks[row.model]
        return RowSource(
            kind="cell",
            row=row,
            weights=path,
            parts=self.parts(path),
            encoders=self.encoders,
            hashes=self.hashes(path),
            given=tuple(self.options.given),
            clips=self.options.clips,
            data=self.data,
        )

    def take(self, source: RowSource, autoencoder: str) -> None:
        """Make, measure and note a source."""
        self.workers.run(source, self.names)
        # Real clips have no distance to themselves.
        references = self.real_references if source.kind == "real" else self.references.get(autoencoder, {})
        references = {suffix: known for suffix, known in references.items() if suffix != source.suffix}
        name = source.name
        self.rows[name], self.samples[name] = results.measure_row(self.workers, source, self.names, references)
        values = {k: round(v[0], 4) for k, v in self.rows[name]["values"].items()}
        print(name, values, flush=True)
        sheet = self.options.out / (name.replace(" ", "-").replace(",", "") + ".png")
        count = min(source.clips, len(self.prompts))
        previews.contact_sheet(self.workers.clips(source, count), [p.text for p in self.prompts[:count]], sheet)
        self.write()

    def prepare(self, used: set[str]) -> dict[str, str]:
        """Real clips, and real clips through every autoencoder in use.

        Returns:
            the autoencoder's fingerprint of each network; nothing where there are no real clips.
        """
        known: dict[str, str] = {}
        if not self.real:
            return known
        real = RowSource(kind="real", clips=self.reference_clips, data=self.data)
        assert self.corpus is not None
        others = other_references(self.folders, self.corpus, self.prompts, self.names, self.reference_clips)
        for source, names in [(real, self.names), *((o.source, o.measures) for o in others)]:
            self.workers.run(source, names)
            self.real_references[source.suffix or ""] = results.Reference(self.workers, source, names)
        for source in (real, *(o.source for o in others if o.row)):
            self.take(source, "")
        for model in sorted(used):
            path = self.networks[model]
            loaded = load_model(path, self.parts(path), encoders=self.encoders)
            mark = fingerprint(loaded.autoencoder)
            known[model] = mark
            if mark in self.references:
                continue
            again = RowSource(
                kind="autoencoded",
                weights=path,
                parts=self.parts(path),
                encoders=self.encoders,
                hashes=(mark,),
                clips=self.reference_clips,
                data=self.data,
                label=AUTOENCODED if not self.references else f"{AUTOENCODED} ({model})",
            )
            self.workers.run(again, self.names)
            self.references[mark] = self.real_references | {
                "_latent": results.Reference(self.workers, again, self.names)
            }
            self.take(again, mark)
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

    def goals(self, row: dict[str, Any]) -> list[str]:
        """The rows that a student's is compared with."""
        cells = {n: r for n, r in self.rows.items() if "steps" in r}
        if (baseline := self.options.baseline) is None:
            return [n for n, r in cells.items() if r["steps"] in (4, 50) and r["sampler"] != "lcm"]
        like = (baseline, row["sampler"], row["steps"])
        same = [n for n, r in cells.items() if (r["model"], r["sampler"], r["steps"]) == like]
        return [] if row["model"] == baseline else same

    def ratios(self) -> dict[str, results.Value]:
        """Every student's distance over every teacher's at 4 and 50 steps, or over the baseline's at as many."""
        found = {}
        for name, row in self.rows.items():
            for goal in self.goals(row) if row.get("sampler") == "lcm" else []:
                for key in [k for k in self.samples[name] if k in self.samples[goal]]:
                    first, second = self.samples[name][key], self.samples[goal][key]
                    estimate = row["values"][key][0] / self.rows[goal]["values"][key][0]
                    found[f"{key}: {name} / {goal}"] = results.ratio(first, second, estimate)
        return found

    @property
    def columns(self) -> dict[str, tuple[str, str]]:
        """All columns that the table may have."""
        return tables.columns_of(self.workers.measures, [n for n in self.folders if n != self.own], self.own)

    def write(self) -> None:
        """The files as far as they are known."""
        out = self.options.out
        document = {"protocol": protocol(self), "rows": self.rows, "ratios": self.ratios()}
        (out / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        text = [
            tables.markdown(self.rows, latency=True, columns=self.columns),
            "",
            tables.protocol_text(document["protocol"]),
        ]
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
            self.take(self.source(row), autoencoders.get(row.model, ""))
        for measure in [c for c in self.columns if c.startswith("fvd")]:
            for ending in ("svg", "png"):
                tables.plot(self.rows, self.options.out / f"{measure}.{ending}", measure, self.columns)
        print((self.options.out / "results.md").read_text(encoding="utf-8"))


def protocol(this: Evaluation) -> dict[str, Any]:
    """What the numbers depend on, for whoever compares with them."""
    options, corpus = this.options, this.corpus
    origin = "held-out captions" if options.prompts is None else f"texts of {options.prompts.name}"
    found = {
        "clips a cell": options.clips,
        "prompts": f"{len(this.prompts)} {origin} in turn",
        "conditions": ", ".join(options.given) or "text",
        "size": "each network's own, as its file says",
        "seeds": f"clip i starts from the CPU generator seeded with i, {CHUNK} clips at once",
        "network": f"bfloat16 autocast on {options.device}",
    }
    if this.real and corpus is not None:
        found |= {
            "reference": f"{this.reference_clips} real clips of the same captions, {corpus.frames} frames of "
            f"{corpus.width} x {corpus.height}",
            "FVD": f"Kinetics-400 I3D logits, frames resized bilinearly to 224 x 224, {options.feature_dtype}; at "
            f"{corpus.width} pixels it compares with itself only",
        }
    if this.folders:
        others = ", ".join(n for n in this.folders if n != this.own)
        found["further references"] = f"{others}: as many clips of the same captions, or four times as many images"
    return found | {
        "intervals": f"95 %, bootstrap over clips ({results.RESAMPLES} resamples for FVD with the reference fixed, "
        "2000 for means), seed 0",
        "teacher's guidance": f"of {options.cfg} the one whose first {options.cfg_clips} clips agree best"
        if len(options.cfg) > 1
        else options.cfg[0],
        "torch": torch.__version__,
    }


def _hash(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    if path.is_file():
        return file_hash(path)
    return "-".join(file_hash(f)[:6] for f in sorted(path.rglob("*")) if f.is_file())


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments, __doc__)
    options.out.mkdir(parents=True, exist_ok=True)
    corpus = None if options.corpus is None else Corpus.open(options.corpus)
    if options.prompts is not None:
        prompts = read_prompts(options.prompts)
    else:
        assert corpus is not None
        prompts = of_corpus(corpus)
    setup = Setup(
        out=options.cache or options.out,
        prompts=tuple(prompts),
        corpus=options.corpus,
        weights=weights_of(options, chosen_measures(arguments)),
        device=options.device,
        threads=options.threads,
    )
    with open_workers(setup, options.workers) as workers:
        Evaluation(options, prompts, workers).run()


if __name__ == "__main__":
    run_command(main)
