"""A distillation that takes milliseconds: a 64-channel network, random latents; also run as a script by processes."""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import torch  # noqa: E402

from training.engine.identity import Identity  # noqa: E402
from training.engine.loop import LoopOptions, run  # noqa: E402
from training.engine.processes import open_accelerator  # noqa: E402
from training.engine.task import MethodTask, Scale  # noqa: E402
from training.methods import Inputs, find_method  # noqa: E402
from training.recipes.videolcm import mini, paper  # noqa: E402
from training.students import FullStudent  # noqa: E402
from videolcm_core.diffusion.schedule import Schedule  # noqa: E402
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig  # noqa: E402

CONFIG = UNetConfig(
    model_channels=64,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_scales=(1.0,),
    context_dim=16,
    num_heads=1,
    head_dim=64,
    dropout=0.0,
)


@dataclass
class TinyBatches:
    """Random latents and texts; those of a sample depend on the step and its number alone."""

    clips: int = 4
    frames: int = 3
    broken_at: int = -1
    kill_at: int = -1
    image_every: int = 0
    skipped: list = field(default_factory=list)

    def size(self, step):
        return self.clips

    def uncond_context(self, text=""):
        return torch.full((1, 3, CONFIG.context_dim), 0.1)

    def batch(self, step, samples):
        rows = []
        for sample in samples:
            generator = torch.Generator().manual_seed(1000 * step + sample)
            rows.append(
                (torch.randn(4, self.frames, 4, 4, generator=generator), torch.randn(3, 16, generator=generator))
            )
        latents = torch.stack([r[0] for r in rows])
        if step == self.broken_at:
            latents[0, 0, 0, 0, 0] = float("nan")
        if step == self.kill_at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        images = bool(self.image_every) and step % self.image_every == self.image_every - 1
        latents = latents[:, :, :1] if images else latents
        return SimpleNamespace(latents=latents, context=torch.stack([r[1] for r in rows]), images=images, extra={})


def tiny_teacher(dropout=0.0, seed=0):
    torch.manual_seed(seed)
    network = UNet3D(replace(CONFIG, dropout=dropout))
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    network.train(False).requires_grad_(False)
    return SimpleNamespace(
        network=network,
        config=network.config,
        schedule=Schedule.create(dtype=torch.float64),
        prediction="v",
        conditions=(),
        text=None,
        autoencoder=None,
        metadata={},
    )


def exact_recipe(**changes):
    """The paper's in float32, with a rate at which a few steps are visible.

    Adam divides each gradient by its own size: at its usual eps, 1e-8, the rounding of a gradient that is 1e-9 becomes
    a step of full length. A larger eps keeps rounding small, so that layouts can be compared.
    """
    values = {
        "adam_eps": 1e-3,
        "precision": "no",
        "teacher_precision": "float32",
        "learning_rate": 1e-4,
        "steps": 3,
        "batch": 4,
    }
    return replace(paper(), **(values | changes))


def tiny_student(teacher):
    """All weights train."""
    return FullStudent(copy.deepcopy(teacher.network).requires_grad_(True))


def tiny_task(recipe=None, accelerator=None, scale=None, batches=None, teacher=None, recompute=False, **more):
    teacher = teacher or tiny_teacher()
    recipe, scale = recipe or exact_recipe(), scale or Scale()
    accelerator = accelerator or open_accelerator(recipe.precision, scale.accumulation, cpu=True)
    inputs = Inputs(
        teacher=teacher, student=tiny_student(teacher), device=accelerator.device, recompute=recompute, **more
    )
    return MethodTask(batches or TinyBatches(), find_method("videolcm").build(recipe, inputs), accelerator, scale)


def network_of(task, name):
    """The weights of a part of a task: student, target, average or teacher."""
    method = task.method
    part = method.trained.get(name) or method.followers.get(name)
    return method.frozen[name].network if part is None else part.weights


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--save-steps", type=int, default=1)
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--mini", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = exact_recipe(steps=options.steps, average_ema=0.9, release="average", clip_norm=1.0)
    if options.mini:
        recipe = replace(mini(), steps=options.steps, batch=4)
    accelerator = open_accelerator(recipe.precision, options.accumulation, cpu=True)
    print(f"{accelerator.num_processes} processes")
    scale = Scale(accumulation=options.accumulation, shard=options.shard)
    task = tiny_task(recipe, accelerator, scale, TinyBatches(kill_at=options.kill_at))
    loop = LoopOptions(checkpoint=options.out, identity=Identity(), steps=options.steps, save_steps=options.save_steps)
    run(task, loop, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()
