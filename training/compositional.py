"""Teacher and student that take depth, sketches, a first frame, holes and motion beside the text.

``python -m training.compositional teacher --corpus DIR --out FILE`` continues a text-only teacher's file with condition
encoders; ``python -m training.compositional student --teacher FILE ...`` distils it. The same command resumes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from . import mini, recipes
from .data import conditions, latents, world
from .data.batches import Batch, BatchOptions, SourceBatches
from .data.corpus_clips import CorpusClips
from .data.encoders import Encoders
from .data.mixing import Ratio
from .distill import checkpoint_of, folder_of
from .engine.distillation import DistillationTask
from .engine.networks import encode_conditions as encode
from .engine.processes import open_accelerator
from .engine.randomness import mixed_seed
from .engine.trackers import TRACKERS
from .loop import LoopOptions, run
from .methods.condition_dropout import keep_conditions
from .pretrain import TeacherTask
from .recipes import Recipe
from .students import full_student
from .teachers import Teacher, load_teacher


class Conditioner:
    """Draws the conditions of a batch and which samples keep them; encodes them with a network's own encoders."""

    def __init__(self, clips: conditions.ConditionClips, single: float) -> None:
        self.clips, self.single = clips, single

    def draw(self, chosen: Tensor, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
        """Kept samples (long ``[b]``) and pixels ``[b, c, F, H, W]`` of each condition.

        Args:
            chosen: long ``[B]``, clips as in `ConditionClips.take`.
            generator: draws.
        """
        kept = keep_conditions(list(conditions.NAMES), len(chosen), generator, single=self.single)
        drawn = {}
        for name, mask in kept.items():
            if mask.any():
                clips = self.clips.take(chosen[mask])
                drawn[name] = (mask.nonzero()[:, 0], conditions.condition_of(name, clips, generator))
        return drawn


class CompositionalTeacherTask(TeacherTask):
    """v-prediction with text and conditions dropped; clips only."""

    def __init__(
        self, data: latents.LatentClips, conditioner: Conditioner, start: mini.AllInOne, options: argparse.Namespace
    ) -> None:
        model = mini.TextVideoModel(start.text.vocabulary, mini.COMPOSITIONAL)
        model.text.load_state_dict(start.text.state_dict())
        if start.unet.config.conditions:
            known = ", ".join(sorted(start.unet.config.conditions))
            raise ValueError(
                f"--start has encoders for {known} already; allowed: a text-only one. To continue a compositional run, "
                "repeat its command with the same --out."
            )
        model.unet.load_state_dict(start.unet.state_dict(), strict=False)
        with torch.no_grad():  # the conditions' input channels saw zeros so far; they begin without effect
            model.unet.input_blocks[0][0].weight[:, mini.UNET.in_channels :] = 0  # type: ignore[index, union-attr]
        super().__init__(data, options, model)
        self.conditioner = conditioner

    def frames_only(self, index: int) -> bool:
        """Never."""
        return False

    def predict(self, x_t: Tensor, t: Tensor, ids: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """The network's output for a batch."""
        unique, rows = torch.unique(ids, dim=0, return_inverse=True)
        concat = encode(self.model.unet, self.conditioner.draw(chosen, generator), x_t)
        return self.model.unet(x_t, t, self.model.text(unique)[rows], concat=concat)


class ConditionBatches:
    """Batches of clips with their conditions: the same ones in student, teacher (both guidance branches) and target.

    Which samples keep a condition is drawn for the whole step, holes and the like for each sample, so that the batch
    does not depend on how it is spread over processes.
    """

    def __init__(self, batches: SourceBatches, conditioner: Conditioner, seed: int) -> None:
        self.batches, self.conditioner, self.seed = batches, conditioner, seed
        self.skipped = batches.skipped

    def size(self, step: int) -> int:
        """Samples of a step, of all processes together."""
        return self.batches.size(step)

    def uncond_context(self, text: str = "") -> Tensor:
        """Context without a prompt, or with a negative one."""
        return self.batches.uncond_context(text)

    def batch(self, step: int, samples: range) -> Batch:
        """Some samples of a step's batch, with ``conditions`` in ``extra``."""
        batch, names = self.batches.batch(step, samples), list(conditions.NAMES)
        whole = torch.Generator().manual_seed(mixed_seed(self.seed, step, 2))
        kept = keep_conditions(names, self.size(step), whole, single=self.conditioner.single)
        drawn: dict[str, tuple[list[int], list[Tensor]]] = {}
        for place, (sample, clip) in enumerate(zip(samples, batch.extra["index"], strict=True)):
            own = torch.Generator().manual_seed(mixed_seed(self.seed, step, sample, 3))
            for name in names:
                if kept[name][sample]:
                    pixels = conditions.condition_of(name, self.conditioner.clips.take(clip[None]), own)
                    places, found = drawn.setdefault(name, ([], []))
                    places.append(place)
                    found.append(pixels)
        encoded = {name: (torch.tensor(places), torch.cat(found)) for name, (places, found) in drawn.items()}
        return replace(batch, extra={**batch.extra, "conditions": encoded})


def student_task(
    data: latents.LatentClips, conditioner: Conditioner, teacher: Teacher, recipe: Recipe, accelerator: Accelerator
) -> DistillationTask:
    """Consistency distillation with conditions.

    Args:
        data: latents; number i is the conditioner's clip i.
        conditioner: their conditions.
        teacher: with encoders of conditions, text and an autoencoder.
        recipe: its images are not used.
        accelerator: of this process.
    """
    clips, options = CorpusClips(data=data), BatchOptions(batch=recipe.batch, ratio=Ratio(images=0), seed=recipe.seed)
    batches = SourceBatches(clips, clips, options, Encoders.of_teacher(teacher, accelerator.device))
    conditioned = ConditionBatches(batches, conditioner, recipe.seed)
    return DistillationTask(conditioned, teacher, full_student(teacher), recipe, accelerator)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", required=True)
    teacher = roles.add_parser("teacher", help="continue a text-only teacher with condition encoders")
    student = roles.add_parser("student", help="distil the compositional teacher")
    for role in (teacher, student):
        role.add_argument("--corpus", type=Path, required=True)
        role.add_argument("--out", type=Path, required=True, help="checkpoint; resumed when it exists")
        role.add_argument("--start", type=Path, default=Path("models/videolcm-mini-teacher.safetensors"))
        role.add_argument("--tracker", choices=TRACKERS, default="tensorboard")
        role.add_argument("--single", type=float, default=0.5, help="share of samples with one condition alone")
    teacher.set_defaults(image_steps=0, image_batch=0)
    teacher.add_argument("--steps", type=int, default=1500)
    teacher.add_argument("--batch", type=int, default=10)
    teacher.add_argument("--learning-rate", type=float, default=8e-4)
    teacher.add_argument("--timestep-power", type=float, default=0.75)
    teacher.add_argument("--ema", type=float, default=0.995)
    student.add_argument("--teacher", type=Path, required=True, help="checkpoint of the teacher's run")
    student.add_argument("--steps", type=int, default=800)
    student.add_argument("--batch", type=int, default=8)
    student.add_argument("--learning-rate", type=float, default=2e-4)
    student.add_argument("--w", type=float, default=2.0, help="guidance: w = cfg - 1 (default 2)")
    student.add_argument("--target-ema", type=float, default=0.95, help="the paper's 0.95")
    student.add_argument("--ema", type=float, default=0.99, help="average that is shipped")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = _parser().parse_args(arguments)
    torch.manual_seed(0)
    start, seen = mini.load_all_in_one(options.start), world.training_combinations()
    data = latents.cached_latents(options.corpus, start.autoencoder, seen)
    conditioner = Conditioner(conditions.load_conditions(options.corpus, seen), options.single)
    checkpoint, events = checkpoint_of(options.out), folder_of(options.out) / "events"
    loop = LoopOptions(checkpoint=checkpoint, steps=options.steps, tracker=options.tracker, events=events)
    if options.role == "teacher":
        run(CompositionalTeacherTask(data, conditioner, start, options), loop)
        return
    recipe = replace(
        recipes.mini(), steps=options.steps, batch=options.batch, learning_rate=options.learning_rate, w=options.w,
        target_ema=options.target_ema, average_ema=options.ema,
    )  # fmt: skip
    teacher = replace(load_teacher(options.teacher), autoencoder=start.autoencoder)
    accelerator = open_accelerator(recipe.precision, unused_parameters=True)
    run(student_task(data, conditioner, teacher, recipe, accelerator), loop, accelerator)


if __name__ == "__main__":
    main()
