"""Measure how well videos obey their condition: ``python -m training.mini.control --corpus DIR ...``.

Held-out scenes that no model has seen, their true conditions, and the compositional student and teacher at a few steps
each; beside them the student with the text alone, and real clips after the autoencoder (the best that the latents can
show). What is measured:

- depth: inverse depth, re-estimated from the video by a judge network, against the given depth (mean difference of the
  logarithms, rank correlation), and the object's silhouette against the true one (IoU);
- sketch: the video's own Canny edges against the given ones (F1, one pixel apart at most);
- motion: RAFT's flow of the video against the given flow, on the moving object and its surroundings (pixels);
- inpainting: absolute error of the pixels outside the hole (kept) and inside (repainted), in [0, 1];
- first frame: LPIPS of frame 0 against the given one;
- all: depth, sketch and first frame together, measured by the three.

Every row's clips are cached in ``--out``; the same command resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from videolcm_core.annotators.sketch import canny_edges

from ..data import conditions
from ..data.corpus import Corpus
from ..engine.caches import cached, digest_of, file_digest
from ..engine.commands import run_command
from ..evaluation.models import Sampled, load_model
from ..evaluation.prompts import Prompt
from ..evaluation.sampling import Row, reconstruct, sample_videos
from ..metrics import control
from ..metrics.lpips import Lpips, load_lpips, lpips
from ..metrics.raft import Raft, flow, load_raft
from . import pictures, world
from .depth import MiniDepth, estimate, load_depth

SETTINGS: dict[str, tuple[str, ...]] = {
    "depth": ("depth",),
    "sketch": ("sketch",),
    "motion": ("motion",),
    "inpainting": ("masked",),
    "first frame": ("local_image",),
    "all": ("depth", "sketch", "local_image"),
}
"""What is given at once, by the name in the table."""
MEASURES: dict[str, tuple[str, ...]] = {
    "depth": ("log depth error", "depth rank correlation", "silhouette IoU"),
    "sketch": ("edge F1",),
    "motion": ("flow error on the object, px", "flow error, px"),
    "inpainting": ("error outside the hole", "error inside the hole"),
    "first frame": ("LPIPS of frame 0",),
    "all": ("depth rank correlation", "silhouette IoU", "edge F1", "LPIPS of frame 0"),
}
LARGER_IS_BETTER = ("depth rank correlation", "silhouette IoU", "edge F1")
TEXT_ONLY, CEILING = "student@4, text only", "real clips, autoencoded"
_FLOW_EVERY, _FLOW_ITERATIONS = 3, 6  # six corrections are as near the truth here as twelve, in half the time


def batches(count: int, batch: int, name: str) -> Iterator[range]:
    """Numbers of clips, ``batch`` at a time, with a progress bar."""
    for start in tqdm(range(0, count, batch), desc=name, unit="batch", mininterval=5.0):
        yield range(start, min(start + batch, count))


@dataclass(frozen=True, kw_only=True)
class ControlScenes:
    """Held-out clips, their true layers and captions."""

    clips: conditions.ConditionClips
    combinations: list[world.Combination]
    digest: str

    @property
    def truth(self) -> conditions.Clips:
        """All of the clips, not mirrored."""
        return self.clips.take(torch.arange(len(self.clips)))

    @property
    def videos(self) -> Tensor:
        """uint8 ``[N, F, H, W, 3]``."""
        return self.clips.rgb.permute(0, 2, 3, 4, 1)


def load_scenes(corpus: Path, count: int) -> ControlScenes:
    """``count`` held-out clips, as many of each combination as possible."""
    combinations, opened = world.held_out(), Corpus.open(corpus)
    every = conditions.load_conditions(opened, opened.held_out)
    each, per = divmod(count, len(combinations)), len(every) // len(combinations)
    rows = [i * per + j for j in range(each[0] + bool(each[1])) for i in range(len(combinations))][:count]
    chosen = conditions.ConditionClips(**{name: value[rows] for name, value in vars(every).items()})
    digest = digest_of({"shards": opened.digests(opened.held_out), "rows": rows})
    return ControlScenes(clips=chosen, combinations=[combinations[row // per] for row in rows], digest=digest)


@torch.no_grad()
def generate(model: Sampled, row: Row, scenes: ControlScenes, given: tuple[str, ...], batch: int = 16) -> Tensor:
    """Videos of a row, one per scene; clip i starts from the noise of seed i.

    Args:
        model: student or teacher.
        row: which, with how many steps.
        scenes: what to obey.
        given: conditions beside the caption.
        batch: clips at a time.

    Returns:
        uint8 ``[N, F, H, W, 3]``.
    """
    made = []
    for part in batches(len(scenes.clips), batch, row.name):
        truth = scenes.clips.take(torch.tensor(list(part)))
        pixels = {name: conditions.exact_condition(name, truth) for name in given}

        def encode(noise: Tensor, pixels: dict[str, Tensor] = pixels) -> Tensor | None:
            return model.teacher.network.encode_conditions((noise.shape[-2], noise.shape[-1]), noise.shape[2], **pixels)

        prompts = [Prompt(text=scenes.combinations[i].caption) for i in part]
        made.append(sample_videos(model, row, prompts, part, encode if given else None))
    return torch.cat(made)


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The networks that look at the videos."""

    depth: MiniDepth
    raft: Raft
    lpips: Lpips


def _channels_first(videos: Tensor) -> Tensor:
    return videos.permute(0, 1, 4, 2, 3).float() / 255


def _measure_depth(videos: Tensor, truth: conditions.Clips, judges: Judges) -> dict[str, Tensor]:
    depth, silhouette = estimate(judges.depth, videos)
    given = truth.depth[:, 0]
    return {
        "log depth error": control.depth_error(depth, given)[0],
        "depth rank correlation": control.rank_correlation(depth, given),
        "silhouette IoU": control.silhouette_iou(silhouette, truth.silhouette[:, 0] > 0.5),
    }


def _measure_sketch(videos: Tensor, truth: conditions.Clips, judges: Judges) -> dict[str, Tensor]:
    drawn = torch.stack([canny_edges(video.float() / 255) for video in videos])
    return {"edge F1": control.edge_f1(drawn, truth.canny[:, 0])}


def _measure_motion(videos: Tensor, truth: conditions.Clips, judges: Judges) -> dict[str, Tensor]:
    frames = torch.arange(1, videos.shape[1], _FLOW_EVERY)
    pixels = _channels_first(videos)
    now, before = (pixels[:, at].flatten(0, 1) for at in (frames, frames - 1))
    # From this frame back to the one before, then turned round: where the content of a pixel has come from.
    moved = -flow(judges.raft, now, before, _FLOW_ITERATIONS).unflatten(0, (len(videos), -1))
    given = truth.motion.transpose(1, 2)[:, frames]
    around = conditions.object_holes(truth.silhouette)[:, 0, frames]
    return {
        "flow error on the object, px": control.end_point_error(moved, given, around),
        "flow error, px": control.end_point_error(moved, given),
    }


def _measure_inpainting(videos: Tensor, truth: conditions.Clips, judges: Judges) -> dict[str, Tensor]:
    hole = conditions.object_holes(truth.silhouette).transpose(1, 2)
    outside, inside = control.hole_errors(_channels_first(videos), truth.rgb.transpose(1, 2), hole)
    return {"error outside the hole": outside, "error inside the hole": inside}


def _measure_first_frame(videos: Tensor, truth: conditions.Clips, judges: Judges) -> dict[str, Tensor]:
    return {"LPIPS of frame 0": lpips(judges.lpips, _channels_first(videos)[:, 0], truth.rgb[:, :, 0])}


def _measure_all(videos: Tensor, truth: conditions.Clips, judges: Judges) -> dict[str, Tensor]:
    parts = (_measure_depth, _measure_sketch, _measure_first_frame)
    found = {name: value for part in parts for name, value in part(videos, truth, judges).items()}
    return {name: found[name] for name in MEASURES["all"]}


MEASURE: dict[str, Callable[[Tensor, conditions.Clips, Judges], dict[str, Tensor]]] = {
    "depth": _measure_depth,
    "sketch": _measure_sketch,
    "motion": _measure_motion,
    "inpainting": _measure_inpainting,
    "first frame": _measure_first_frame,
    "all": _measure_all,
}


def best_cfg(
    make: Callable[[float], Tensor], judge: Callable[[Tensor], Tensor], scales: list[float], name: str
) -> float:
    """The guidance scale whose clips obey best; ``judge`` gives one number per clip."""
    if len(scales) == 1:
        return scales[0]
    sign = 1.0 if name in LARGER_IS_BETTER else -1.0
    scores = {scale: sign * float(judge(make(scale)).nanmean()) for scale in scales}
    return max(scores, key=lambda scale: scores[scale])


def tables(results: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """A markdown table for each setting: mean, and half the 95 % interval of the mean over clips."""
    parts = []
    for setting, rows in results.items():
        names = MEASURES[setting]
        head = [f"{n} {'(more is better)' if n in LARGER_IS_BETTER else '(less is better)'}" for n in names]
        lines = [f"| {setting} | {' | '.join(head)} |", "|---" * (len(names) + 1) + "|"]
        for row, found in rows.items():
            cells = [f"{found[n][0]:.3f} ± {(found[n][2] - found[n][1]) / 2:.3f}" for n in names]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--judge", type=Path, required=True, help="checkpoint of training.mini.depth, another seed")
    parser.add_argument("--metrics", type=Path, required=True, help="folder that scripts/fetch_metrics.sh filled")
    parser.add_argument("--teacher", type=Path, default=Path("models/videolcm-mini-vcomposer-teacher.safetensors"))
    parser.add_argument("--student", type=Path, default=Path("models/videolcm-mini-vcomposer.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("runs/control"))
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument(
        "--cfg", type=float, nargs="+", default=[1.5, 3.0], help="guidance scales of the teacher to try"
    )
    parser.add_argument("--cfg-clips", type=int, default=16)
    parser.add_argument("--teacher-steps", type=int, nargs="*", default=[50, 8, 4, 2, 1])
    parser.add_argument("--student-steps", type=int, nargs="*", default=[1, 2, 4, 8])
    return parser.parse_args(arguments)


class ControlEvaluation:
    """Rows of one run; clips and results are kept in ``options.out``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.scenes = load_scenes(options.corpus, options.clips)
        self.few = load_scenes(options.corpus, options.cfg_clips)
        self.judges = Judges(
            depth=load_depth(options.judge),
            raft=load_raft(options.metrics / "raft-things.pth"),
            lpips=load_lpips(options.metrics / "lpips_alex_v0.1.pt"),
        )
        self.networks = {"teacher": load_model(options.teacher), "student": load_model(options.student)}
        self.hashes = {"teacher": file_digest(options.teacher), "student": file_digest(options.student)}
        files = (options.judge, options.metrics / "raft-things.pth", options.metrics / "lpips_alex_v0.1.pt")
        self.judged_by = [file_digest(path) for path in files]
        self.clips: dict[tuple[str, str], Tensor] = {}
        self.results: dict[str, dict[str, dict[str, list[float]]]] = {}

    def made(self, row: Row | None, given: tuple[str, ...], scenes: ControlScenes) -> tuple[dict[str, Any], Tensor]:
        """Clips of a row (None is the real ones through the autoencoder), and all that they depend on."""
        which = "student" if row is None else row.model
        inputs = {
            "format": 2,
            "network": self.hashes[which],
            "row": None if row is None else asdict(row),
            "given": list(given),
            "scenes": scenes.digest,
        }

        def make() -> dict[str, Any]:
            network = self.networks[which]
            clips = reconstruct(network, scenes.videos) if row is None else generate(network, row, scenes, given)
            return {"value": clips}

        return inputs, cached(self.options.out, "clips", inputs, make)["value"]

    def measure(self, setting: str, name: str, row: Row | None, given: tuple[str, ...]) -> None:
        """One row of a setting's table."""
        inputs, videos = self.made(row, given, self.scenes)

        def make() -> dict[str, Any]:
            scores = MEASURE[setting](videos, self.scenes.truth, self.judges)
            return {n: list(control.mean_interval(v)) for n, v in scores.items()}

        of = {"setting": setting, "judges": self.judged_by, "clips": inputs}
        found = cached(self.options.out, "scores", of, make)
        self.clips[setting, name] = videos
        self.results.setdefault(setting, {})[name] = found
        print(f"{setting}: {name}", {n: round(v[0], 4) for n, v in found.items()}, flush=True)

    def teacher_row(self, setting: str, steps: int) -> Row:
        """The teacher at ``steps`` with the guidance that obeys best on a few clips."""
        name, given = MEASURES[setting][0], SETTINGS[setting]

        def make() -> dict[str, Any]:
            best = best_cfg(
                lambda cfg: self.made(Row(model="teacher", steps=steps, cfg=cfg), given, self.few)[1],
                lambda videos: MEASURE[setting](videos, self.few.truth, self.judges)[name],
                self.options.cfg,
                name,
            )
            return {"cfg": float(best)}

        of = {"setting": setting, "steps": steps, "tried": list(self.options.cfg), "scenes": self.few.digest}
        of |= {"network": self.hashes["teacher"], "judges": self.judged_by}
        return Row(model="teacher", steps=steps, cfg=cached(self.options.out, "cfg", of, make)["cfg"])

    def run(self, setting: str) -> None:
        """Every row of a setting."""
        given = SETTINGS[setting]
        self.measure(setting, CEILING, None, ())
        self.measure(setting, TEXT_ONLY, Row(model="student", steps=4), ())
        for steps in self.options.student_steps:
            row = Row(model="student", steps=steps)
            self.measure(setting, row.name, row, given)
        for steps in self.options.teacher_steps:
            row = self.teacher_row(setting, steps)
            self.measure(setting, row.name, row, given)

    def sheet(self, setting: str) -> None:
        """An image of a few scenes: what was given, the real clip, and some rows."""
        out, key = self.options.out, setting.replace(" ", "-")
        shown = {"real clip": self.scenes.videos} | pictures.condition_images(self.scenes.truth, SETTINGS[setting])
        for name in self.results[setting]:
            if name.split("@")[0] in ("student", "teacher") and name != TEXT_ONLY:
                shown[name] = self.clips[setting, name]
        kept = [n for n in shown if not n.startswith(("student@8", "teacher@8", "teacher@2", "teacher@1"))]
        pictures.comparison_sheet({n: shown[n] for n in kept}, self.scenes.combinations, out / f"sheet-{key}.png")
        if "student@4" in shown:
            rows = [v for n, v in shown.items() if n.startswith("given")] + [shown["student@4"]]
            some = [int(i) for i in torch.linspace(0, len(rows[0]) - 1, 8)[1:-1]]
            columns = [torch.cat([row[index] for row in rows], dim=1) for index in some]
            pictures.animation(columns, out / f"moving-{key}.webp")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    evaluation = ControlEvaluation(options)
    for setting in options.settings:
        evaluation.run(setting)
        evaluation.sheet(setting)
    (options.out / "results.json").write_text(json.dumps(evaluation.results, indent=1) + "\n", encoding="utf-8")
    (options.out / "results.md").write_text(tables(evaluation.results) + "\n", encoding="utf-8")
    print(tables(evaluation.results))


if __name__ == "__main__":
    run_command(main)
