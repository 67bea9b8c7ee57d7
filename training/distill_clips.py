"""Distil a student on your own clips: ``python -m training.distill_clips --cache DIR --out FILE --export FILE``.

``--cache`` is a folder that ``python -m training.data.cache`` made of clips and images with captions, with the encoders
of the same teacher. The exported all-in-one file loads in the graph like the embedded ones. The same command resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from . import mini
from .data.cache import Encoders
from .data.cache_files import CachedClips
from .data.latents import LatentClips
from .data.mixing import JointBatches, JointOptions, Ratio, SingleFrames
from .data.source import SkipReport
from .distill import DistillTask, load_student
from .loop import LoopOptions, run


class ClipDistillTask(DistillTask):
    """Consistency distillation on cached latents and text embeddings, images in every fourth step."""

    def __init__(
        self, batches: JointBatches, empty_text: Tensor, teacher: mini.TextVideoModel, options: argparse.Namespace
    ) -> None:
        nothing = LatentClips(latents=torch.empty(0, 4, 1, 1, 1), labels=torch.empty(0).long())
        super().__init__(nothing, teacher, options)
        self.batches, self.uncond, self.skipped = batches, empty_text.float()[None], SkipReport()

    def draw(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step."""
        batch = self.batches[index]
        for name, reason in batch.skipped:
            self.skipped.add(name, reason)
        assert batch.texts is not None
        return batch.values.float(), batch.texts.float(), torch.arange(len(batch.values))


def joint_batches(cache: CachedClips, options: argparse.Namespace) -> JointBatches:
    """Clips and images of a cache, 3 : 1; without images single frames of the clips stand in."""
    videos, images = cache.only("video"), cache.only("image")
    if not len(videos):
        raise ValueError(f"{cache.folder} holds images only; add clips and repeat the cache command.")
    joint = JointOptions(
        batch=options.batch, image_batch=options.image_batch, ratio=Ratio(images=options.images), seed=options.seed
    )
    return JointBatches(videos, images if len(images) else SingleFrames(videos), joint)


def export(student: Path, teacher: Path, out: Path, w: float) -> None:
    """Write the averaged student with the teacher's text encoder, autoencoder and preview colours."""
    parts = mini.load_all_in_one(teacher)
    with safe_open(teacher, "pt") as file:
        known = file.metadata()
    colors = {k: known[f"videolcm.{k}"] for k in ("latent_rgb_factors", "latent_rgb_bias")}
    mini.export(out, load_student(student), parts.text, parts.autoencoder, "lcm", w=w, **colors)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder that training.data.cache made")
    parser.add_argument("--teacher", type=Path, default=Path("models/videolcm-mini-teacher.safetensors"))
    parser.add_argument("--out", type=Path, required=True, help="checkpoint; resumed when it exists")
    parser.add_argument("--export", type=Path, help="all-in-one file to write at the end")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8, help="clips a step")
    parser.add_argument("--image-batch", type=int, default=32, help="images a step")
    parser.add_argument("--images", type=int, default=1, help="steps of images to three of clips (default 1; 0: none)")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--w", type=float, default=2.0, help="guidance: w = cfg - 1 (default 2)")
    parser.add_argument("--target-ema", type=float, default=0.95, help="the paper's 0.95")
    parser.add_argument("--ema", type=float, default=0.99, help="average that is exported")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    cache = CachedClips.open(options.cache, Encoders.load(options.teacher).identity)
    parts = mini.load_all_in_one(options.teacher)
    teacher = mini.TextVideoModel(parts.text.vocabulary)
    teacher.unet, teacher.text = parts.unet, parts.text
    task = ClipDistillTask(joint_batches(cache, options), cache.empty_text, teacher, options)
    run(task, LoopOptions(checkpoint=options.out, steps=options.steps, seed=options.seed))
    print(task.skipped.summary(len(cache)))
    if options.export is not None:
        export(options.out, options.teacher, options.export, options.w)
        print(options.export)


if __name__ == "__main__":
    main()
