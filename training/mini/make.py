"""Remake the embedded family from nothing: ``make mini``, or ``python -m training.mini.make --furniture DIR``.

Corpus, autoencoder, sharpened decoder, teacher, student, then the depth estimator and the compositional teacher and
student. Each stage keeps its own checkpoint, a finished stage is passed over, and the same command resumes after any
interruption. ``--scale 0.01`` runs everything in small, as a check.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from .. import distill
from ..data.corpus import Corpus
from ..engine.commands import run_command
from . import autoencoder as train_autoencoder
from . import compositional, corpus, pretrain
from . import decoder as sharpen_decoder
from . import depth as train_depth
from . import family as mini
from .worlds.base import DEFAULT, World, world_named, worlds


@dataclass(frozen=True, kw_only=True)
class FamilyRecipe:
    """Steps of each stage; batch sizes and learning rates are the defaults of the stages' commands.

    The teacher is trained in two legs: ``teacher_steps``, of which ``image_steps`` on single frames, then
    ``second_leg_steps`` of 20 clips from the first leg's average with a new schedule. So is the compositional teacher.
    """

    clips: int = 20
    held_out_clips: int = 16
    autoencoder_steps: int = 4000
    decoder_steps: int = 1000
    image_steps: int = 1400
    teacher_steps: int = 3400
    second_leg_steps: int = 1600
    student_steps: int = 800
    depth_steps: int = 1200
    compositional_teacher_steps: int = 1500
    compositional_second_leg_steps: int = 400
    compositional_student_steps: int = 300
    w: float = 2.0


def scaled(recipe: FamilyRecipe, scale: float) -> FamilyRecipe:
    """The recipe with every count multiplied by ``scale``, at least one of each."""
    values = {k: v if k == "w" else max(1, round(v * scale)) for k, v in vars(recipe).items()}
    return FamilyRecipe(**values)


def preview_colors(runs: Path, autoencoder: Path) -> tuple[list[list[float]], list[float]]:
    """Factors and bias of the latent preview, fitted to a few frames of each training combination."""
    model = mini.load_autoencoder(autoencoder)
    opened = Corpus.open(runs / "corpus")
    clips = opened.mapped(opened.training[::4])[0][::4][:, ::5]
    pixels = train_autoencoder.to_pixels(clips.reshape(-1, *clips.shape[2:]))
    with torch.no_grad():
        latents = model.encode(pixels)
    return mini.latent_rgb(latents, pixels)


def export_family(runs: Path, models: Path, recipe: FamilyRecipe, of: World) -> None:
    """Write teacher and student as all-in-one files."""
    autoencoder = mini.load_autoencoder(runs / "decoder.pt")
    factors, bias = preview_colors(runs, runs / "autoencoder.pt")
    teacher = mini.load_text_teacher(runs / "teacher.pt", mini.unet_of(of))
    student = mini.load_student(runs / "student.pt", mini.unet_of(of))
    models.mkdir(parents=True, exist_ok=True)
    colors = {"latent_rgb_factors": factors, "latent_rgb_bias": bias, "recipe": vars(recipe)}
    name = models / "videolcm-mini-teacher.safetensors"
    mini.export(name, teacher.unet, teacher.text, autoencoder, "teacher", of, **colors)
    name = models / "videolcm-mini.safetensors"
    mini.export(name, student, teacher.text, autoencoder, "lcm", of, w=recipe.w, **colors)


def make_compositional(runs: Path, models: Path, recipe: FamilyRecipe, of: World) -> None:
    """The depth estimator, and the compositional teacher and student, from the text-only teacher's file."""
    start, data = models / "videolcm-mini-teacher.safetensors", ["--corpus", str(runs / "corpus")]
    common = [*data, "--start", str(start)]
    depth = models / "annotators" / "videolcm-mini-depth.safetensors"
    steps = ["--steps", str(recipe.depth_steps), "--export", str(depth)]
    train_depth.main([*common, "--out", str(runs / "depth.pt"), *steps])
    first, second = str(runs / "compositional_teacher_first.pt"), str(runs / "compositional_teacher.pt")
    steps = ["--steps", str(recipe.compositional_teacher_steps)]
    compositional.main(["teacher", *common, "--out", first, *steps])
    steps = ["--steps", str(recipe.compositional_second_leg_steps), "--batch", "20", "--ema", "0.998"]
    compositional.main(["teacher", *common, "--first-leg", first, "--out", second, *steps])
    steps = ["--teacher", second, "--steps", str(recipe.compositional_student_steps), "--batch", "10"]
    steps += ["--w", str(recipe.w)]
    compositional.main(["student", *common, "--out", str(runs / "compositional_student.pt"), *steps])
    export_compositional(runs, models, start, recipe, of)


def export_compositional(runs: Path, models: Path, start: Path, recipe: FamilyRecipe, of: World) -> None:
    """Write the compositional teacher and student as all-in-one files; autoencoder and colours are the start's."""
    with safe_open(start, "pt") as file:
        known = file.metadata()
    colors = {k: known[f"videolcm.{k}"] for k in ("latent_rgb_factors", "latent_rgb_bias")}
    autoencoder = mini.load_all_in_one(start).autoencoder
    teacher = mini.load_text_teacher(runs / "compositional_teacher.pt", mini.compositional_of(of))
    student = mini.load_student(runs / "compositional_student.pt", mini.compositional_of(of))
    extra = {**colors, "recipe": vars(recipe), "conditions": sorted(mini.COMPOSITIONAL.conditions)}
    name = models / "videolcm-mini-vcomposer-teacher.safetensors"
    mini.export(name, teacher.unet, teacher.text, autoencoder, "teacher", of, **extra)
    name = models / "videolcm-mini-vcomposer.safetensors"
    mini.export(name, student, teacher.text, autoencoder, "lcm", of, w=recipe.w, **extra)


def make_autoencoder(runs: Path, recipe: FamilyRecipe, lpips: Path) -> None:
    """The autoencoder, then its decoder once more with a perceptual and an adversarial loss."""
    corpus_of = ["--corpus", str(runs / "corpus")]
    steps = ["--steps", str(recipe.autoencoder_steps), "--light-fraction", "1"]
    train_autoencoder.main([*corpus_of, "--out", str(runs / "autoencoder.pt"), *steps])
    start = ["--start", str(runs / "autoencoder.pt"), "--lpips", str(lpips)]
    steps = ["--steps", str(recipe.decoder_steps)]
    sharpen_decoder.main([*corpus_of, *start, "--out", str(runs / "decoder.pt"), *steps])


def make_text(runs: Path, recipe: FamilyRecipe) -> None:
    """The teacher in two legs, and its student."""
    data = ["--corpus", str(runs / "corpus"), "--autoencoder", str(runs / "autoencoder.pt")]
    first, second = str(runs / "teacher_first.pt"), str(runs / "teacher.pt")
    steps = ["--image-steps", str(recipe.image_steps), "--steps", str(recipe.teacher_steps)]
    pretrain.main([*data, "--out", first, *steps])
    steps = ["--image-steps", "0", "--steps", str(recipe.second_leg_steps)]
    numbers = ["--batch", "20", "--learning-rate", "8e-4"]
    pretrain.main([*data, "--start", first, "--out", second, *steps, *numbers])
    steps = ["--recipe", "mini", "--steps", str(recipe.student_steps), "--w", str(recipe.w)]
    distill.main([*data, "--teacher", second, "--out", str(runs / "student.pt"), *steps])


def main(arguments: list[str] | None = None) -> None:
    """Command line.

    Raises:
        FileNotFoundError: the weights of LPIPS are missing.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--furniture", type=Path, required=True, help="folder with the .sh3f libraries")
    parser.add_argument("--lpips", type=Path, default=Path("runs/metrics/lpips_alex_v0.1.pt"))
    parser.add_argument("--runs", type=Path, default=Path("runs/mini"), help="checkpoints and corpus")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the five files are written")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every count, for a quick check")
    parser.add_argument(
        "--world", choices=list(worlds()), default=DEFAULT, help=f"what to train on (default {DEFAULT})"
    )
    options = parser.parse_args(arguments)
    if not options.lpips.is_file():
        raise FileNotFoundError(
            f"{options.lpips} is missing, the weights that the decoder is sharpened with: get them with "
            "scripts/fetch_metrics.sh, or name another place with --lpips."
        )
    recipe, runs = scaled(FamilyRecipe(), options.scale), options.runs
    of = world_named(options.world)
    clips = ["--world", of.name, "--clips", str(recipe.clips), "--held-out-clips", str(recipe.held_out_clips)]
    corpus.main(["--furniture", str(options.furniture), "--out", str(runs / "corpus"), *clips])
    make_autoencoder(runs, recipe, options.lpips)
    make_text(runs, recipe)
    export_family(runs, options.models, recipe, of)
    make_compositional(runs, options.models, recipe, of)


if __name__ == "__main__":
    run_command(main)
