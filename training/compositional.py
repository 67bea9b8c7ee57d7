"""Teacher and student that take depth, sketches, a first frame, holes and motion beside the text.

``python -m training.compositional teacher --corpus DIR --out FILE`` continues a text-only teacher's file with condition
encoders; ``python -m training.compositional student --teacher FILE ...`` distils it. The same command resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from . import mini
from .data import conditions, latents, world
from .distill import DistillTask, load_teacher
from .loop import LoopOptions, run
from .methods.condition_dropout import keep_conditions
from .pretrain import TeacherTask


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


def encode(unet: nn.Module, drawn: dict[str, tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """Sum of the encoded conditions; a sample without a condition gets zeros, as the authors' dropout gives.

    Args:
        unet: with the encoders.
        drawn: from `Conditioner.draw`.
        x: latents ``[B, C, F, h, w]``, for the shape.

    Returns:
        ``[B, 8, F, h, w]``.
    """
    batch, _, frames, *size = x.shape
    total = torch.zeros(batch, unet.config.concat_channels, frames, *size)  # type: ignore[union-attr, arg-type]
    for name, (samples, pixels) in drawn.items():
        encoded = unet.encode_conditions(tuple(size), frames, **{name: pixels})
        total = total.index_add(0, samples, encoded.float())
    return total


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


class CompositionalDistillTask(DistillTask):
    """Consistency distillation with the same conditions in student, teacher (both guidance branches) and target."""

    def __init__(
        self,
        data: latents.LatentClips,
        conditioner: Conditioner,
        teacher: mini.TextVideoModel,
        options: argparse.Namespace,
    ) -> None:
        super().__init__(data, teacher, options)
        self.conditioner = conditioner

    def concat(self, chosen: Tensor, generator: torch.Generator) -> Callable[[nn.Module], Tensor]:
        """Each network encodes the batch's conditions with its own encoders."""
        drawn, x_0 = self.conditioner.draw(chosen, generator), self.data.latents[chosen]
        return lambda network: encode(network, drawn, x_0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", required=True)
    teacher = roles.add_parser("teacher", help="continue a text-only teacher with condition encoders")
    student = roles.add_parser("student", help="distil the compositional teacher")
    for role in (teacher, student):
        role.add_argument("--corpus", type=Path, required=True)
        role.add_argument("--out", type=Path, required=True, help="checkpoint; resumed when it exists")
        role.add_argument("--start", type=Path, default=Path("models/videolcm-mini-teacher.safetensors"))
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
    task: TeacherTask | DistillTask
    if options.role == "teacher":
        task = CompositionalTeacherTask(data, conditioner, start, options)
    else:
        teacher = load_teacher(options.teacher, mini.COMPOSITIONAL)
        task = CompositionalDistillTask(data, conditioner, teacher, options)
    run(task, LoopOptions(checkpoint=options.out, steps=options.steps))


if __name__ == "__main__":
    main()
