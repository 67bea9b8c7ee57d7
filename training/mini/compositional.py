"""Teacher and student that take depth, sketches, a first frame, holes and motion beside the text.

``python -m training.mini.compositional teacher --corpus DIR --out FILE`` continues a text-only teacher's file with
condition encoders; ``python -m training.mini.compositional student --teacher FILE ...`` distils it. The same command
resumes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data import conditions, latents
from ..data.batches import Batch, BatchOptions, SourceBatches
from ..data.corpus import Corpus, CorpusClips
from ..data.encoders import Encoders
from ..data.mixing import Ratio
from ..distill_options import checkpoint_of, folder_of
from ..engine.caches import digest_of, file_digest, fingerprint
from ..engine.commands import run_command
from ..engine.identity import Identity, told
from ..engine.loop import LoopOptions, run
from ..engine.processes import open_accelerator
from ..engine.randomness import mixed_seed
from ..engine.task import MethodTask
from ..engine.trackers import TRACKERS
from ..methods import Inputs, find_method
from ..methods.parts.condition_dropout import keep_conditions
from ..networks.vgen import Conditions
from ..recipes.videolcm import VideoLCMRecipe
from ..recipes.videolcm import mini as small_recipe
from ..students import full_student
from ..teachers import Teacher, load_teacher
from . import family as mini
from . import world
from .pretrain import TeacherTask, first_leg
from .worlds.base import World, world_named


class Conditioner:
    """Draws the conditions of a batch and which samples keep them; encodes them with a network's own encoders."""

    def __init__(self, clips: conditions.ConditionClips, single: float) -> None:
        self.clips, self.single = clips, single

    def draw(self, chosen: Tensor, samples: range, count: int, seed: int) -> Conditions:
        """Of each condition the places in ``chosen`` that keep it, and their pixels ``[b, c, F, H, W]``.

        Which samples keep a condition is drawn for the whole step, holes and the like for each sample, so that a batch
        does not depend on how it is spread over processes.

        Args:
            chosen: long ``[B]``, clips as in `ConditionClips.take`.
            samples: their numbers in the step's batch.
            count: samples of the step's batch, of all processes together.
            seed: of the step.
        """
        names, whole = list(conditions.NAMES), torch.Generator().manual_seed(mixed_seed(seed, 2))
        kept = keep_conditions(names, count, whole, single=self.single)
        drawn: dict[str, tuple[list[int], list[Tensor]]] = {}
        for place, (sample, clip) in enumerate(zip(samples, chosen, strict=True)):
            own = torch.Generator().manual_seed(mixed_seed(seed, sample, 3))
            for name in names:
                if kept[name][sample]:
                    places, found = drawn.setdefault(name, ([], []))
                    places.append(place)
                    found.append(conditions.condition_of(name, self.clips.take(clip[None]), own))
        return {name: (torch.tensor(places), torch.cat(found)) for name, (places, found) in drawn.items()}


class CompositionalTeacherTask(TeacherTask):
    """v-prediction with text and conditions dropped; clips only."""

    def __init__(
        self,
        data: latents.LatentClips,
        conditioner: Conditioner,
        model: mini.TextVideoModel,
        options: argparse.Namespace,
        accelerator: Accelerator | None = None,
        of: World = world.MINI,
    ) -> None:
        super().__init__(data, options, model, accelerator, of)
        self.conditioner = conditioner

    def frames_only(self, index: int) -> bool:
        """Never."""
        return False

    def conditions(self, chosen: Tensor, samples: range, generator: torch.Generator) -> Conditions:
        """The conditions of this process's share."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        drawn = self.conditioner.draw(chosen[samples.start :: samples.step], samples, len(chosen), seed)
        return {name: (rows.to(self.device), pixels.to(self.device)) for name, (rows, pixels) in drawn.items()}


def with_encoders(start: mini.AllInOne, of: World = world.MINI) -> mini.TextVideoModel:
    """A text-only teacher with condition encoders that begin without effect.

    Raises:
        ValueError: it has some already.
    """
    if start.unet.config.conditions:
        known = ", ".join(sorted(start.unet.config.conditions))
        raise ValueError(
            f"--start has encoders for {known} already; allowed: a text-only one. To train a compositional teacher on, "
            "name its checkpoint with --first-leg."
        )
    model = mini.TextVideoModel(start.text.vocabulary, mini.compositional_of(of))
    model.text.load_state_dict(start.text.state_dict())
    model.unet.load_state_dict(start.unet.state_dict(), strict=False)
    with torch.no_grad():  # the conditions' input channels saw zeros so far
        model.unet.input_blocks[0][0].weight[:, mini.UNET.in_channels :] = 0  # type: ignore[index, union-attr]
    return model


class ConditionBatches:
    """Batches of clips with their conditions: the same ones in student, teacher (both guidance branches) and target."""

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
        batch = self.batches.batch(step, samples)
        drawn = self.conditioner.draw(batch.extra["index"], samples, self.size(step), mixed_seed(self.seed, step))
        return replace(batch, extra={**batch.extra, "conditions": drawn})


def student_task(
    clips: CorpusClips, conditioner: Conditioner, teacher: Teacher, recipe: VideoLCMRecipe, accelerator: Accelerator
) -> MethodTask:
    """Consistency distillation with conditions.

    Args:
        clips: latents; number i is the conditioner's clip i.
        conditioner: their conditions.
        teacher: with encoders of conditions, text and an autoencoder.
        recipe: its images are not used.
        accelerator: of this process.
    """
    options = BatchOptions(batch=recipe.batch, ratio=Ratio(images=0), seed=recipe.seed)
    batches = SourceBatches(clips, clips, options, Encoders.of_teacher(teacher, accelerator.device))
    conditioned = ConditionBatches(batches, conditioner, recipe.seed)
    inputs = Inputs(
        teacher=teacher, student=full_student(teacher), device=accelerator.device, fed=frozenset(conditions.NAMES)
    )
    return MethodTask(conditioned, find_method("videolcm").build(recipe, inputs), accelerator)


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
    teacher.add_argument("--first-leg", type=Path, help="checkpoint of an earlier run, whose average is trained on")
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


def identity_of(options: argparse.Namespace, start: mini.AllInOne, corpus: Corpus) -> Identity:
    """What a run of either role is made from."""
    origin = options.teacher if options.role == "student" else options.first_leg or options.start
    fixed = {"role": options.role, "from": file_digest(origin), "autoencoder": fingerprint(start.autoencoder)}
    shards = digest_of({"shards": corpus.digests(corpus.training)})
    return Identity(fixed=fixed, data={"corpus": shards, **told(options, "batch", "learning_rate", "single", "ema")})


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = _parser().parse_args(arguments)
    torch.manual_seed(0)
    start, corpus = mini.load_all_in_one(options.start), Corpus.open(options.corpus)
    data = latents.cached_latents(corpus, start.autoencoder, corpus.training)
    conditioner = Conditioner(conditions.load_conditions(corpus, corpus.training), options.single)
    loop = LoopOptions(
        checkpoint=checkpoint_of(options.out),
        identity=identity_of(options, start, corpus),
        steps=options.steps,
        tracker=options.tracker,
        events=folder_of(options.out) / "events",
    )
    if options.role == "teacher":
        of = world_named(corpus.world)
        first = options.first_leg
        model = first_leg(first, mini.compositional_of(of)) if first else with_encoders(start, of)
        accelerator = open_accelerator()
        run(CompositionalTeacherTask(data, conditioner, model, options, accelerator, of), loop, accelerator)
        accelerator.end_training()
        return
    recipe = replace(
        small_recipe(),
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        w=options.w,
        target_ema=options.target_ema,
        average_ema=options.ema,
    )
    teacher = replace(load_teacher(options.teacher), autoencoder=start.autoencoder)
    accelerator = open_accelerator(recipe.precision)
    clips = CorpusClips(corpus=corpus, latents=data.latents, labels=data.labels)
    run(student_task(clips, conditioner, teacher, recipe, accelerator), loop, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    run_command(main)
