"""MCM that takes a second a step: the network of `tiny_training`, a small DINOv2; also run as a script by processes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch  # noqa: E402
from tiny_training import TinyBatches, tiny_teacher  # noqa: E402

from training.data.stills import Stills  # noqa: E402
from training.engine.identity import Identity  # noqa: E402
from training.engine.loop import LoopOptions, run  # noqa: E402
from training.engine.processes import open_accelerator  # noqa: E402
from training.engine.task import MethodTask, Scale  # noqa: E402
from training.methods import Inputs, find_method  # noqa: E402
from training.recipes.mcm import paper  # noqa: E402
from training.students import LoraOptions, lora_student  # noqa: E402
from videolcm_core.networks.autoencoder import TinyAutoencoder  # noqa: E402

SIDE = 28
"""Of what the feature network sees: two by two patches."""


@dataclass
class FrameBatches(TinyBatches):
    """Latents, and frames of eight times their size that are others; or images beside, with captions of their own."""

    with_pixels: bool = True
    stills: int = 0

    def batch(self, step, samples):
        batch = super().batch(step, samples)
        rows = [torch.Generator().manual_seed(7000 * (step + 1) + sample) for sample in samples]
        shape = (3, batch.latents.shape[2], 32, 32)
        batch.pixels = torch.stack([torch.rand(shape, generator=g) for g in rows]) if self.with_pixels else None
        if self.stills:
            batch.stills = Stills(
                pixels=torch.stack([torch.rand(self.stills, 3, 40, 48, generator=g) for g in rows]),
                text=torch.stack([torch.randn(self.stills, 3, 16, generator=g) for g in rows]),
                captions=("an image",) * (self.stills * len(rows)),
            )
        return batch


def save_small_dino(folder: Path) -> Path:
    """A folder of transformers with a DINOv2 of twelve small blocks."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(5)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=12, num_attention_heads=2, image_size=SIDE, patch_size=14)
    Dinov2Model(config).save_pretrained(str(folder))
    return folder


def tiny_recipe(dino: Path | str, **changes):
    """The paper's in float32, at rates and an eps at which layouts can be compared; see `tiny_training`."""
    values = {
        "steps": 3,
        "batch": 4,
        "learning_rate": 1e-4,
        "disc_rate": 1e-4,
        "adam_eps": 1e-3,
        "precision": "no",
        "teacher_precision": "float32",
        "disc_group": 1,
        "feature_size": SIDE,
        "features_file": str(dino),
        "penalty_weight": 0.1,
    }
    return replace(paper(), **(values | changes))


def tiny_mcm(recipe, accelerator=None, scale=None, batches=None, teacher=None, student=None):
    """A task."""
    torch.manual_seed(3)
    teacher = teacher or tiny_teacher()
    if teacher.autoencoder is None:
        teacher.autoencoder = TinyAutoencoder()
    student = student or lora_student(teacher, LoraOptions(rank=4), seed=1)
    with torch.no_grad():
        for name, parameter in student.network.named_parameters():
            if ".lora_B." in name:  # as after some steps: without effect it would have no gradient in the other half
                parameter.normal_(std=0.02)
    scale = scale or Scale()
    accelerator = accelerator or open_accelerator(recipe.precision, scale.accumulation, cpu=True)
    inputs = Inputs(teacher=teacher, student=student, device=accelerator.device)
    return MethodTask(batches or FrameBatches(), find_method("mcm").build(recipe, inputs), accelerator, scale)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dino", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--kill-at", type=int, default=-1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = tiny_recipe(options.dino, steps=options.steps)
    accelerator = open_accelerator("no", options.accumulation, cpu=True)
    scale = Scale(accumulation=options.accumulation)
    task = tiny_mcm(recipe, accelerator, scale, FrameBatches(kill_at=options.kill_at))
    loop = LoopOptions(
        checkpoint=options.out, identity=Identity(fixed={"method": "mcm"}), steps=options.steps, save_steps=1
    )
    run(task, loop, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()
