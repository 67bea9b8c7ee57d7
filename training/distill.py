"""Distil the student: ``python -m training.distill --teacher FILE --corpus DIR --autoencoder FILE --out FILE``.

Consistency distillation as in VideoLCM (arXiv 2312.09109); one step of it is held to the authors' code by
``tests/parity.py`` (``distill_step``). The same command resumes.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videolcm_core.models.unet3d import UNet3D, UNetConfig

from . import mini
from .data import captions, latents, world
from .loop import LoopOptions, run, set_learning_rate, update_ema, warmup_stable_decay
from .methods.consistency_distillation import ConsistencyDistillation


class _Autocast(nn.Module):
    """Run a network in bfloat16 and return float32, so that the solver's arithmetic stays exact."""

    def __init__(self, network: nn.Module, concat: Callable[[nn.Module], Tensor] | None = None) -> None:
        super().__init__()
        self.network, self.concat = network, concat

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            concat = None if self.concat is None else self.concat(self.network)
            if concat is not None and len(concat) != len(x):  # prompt and negative prompt in one batch
                concat = concat.repeat(len(x) // len(concat), 1, 1, 1, 1)
            return self.network(x.float(), t, context, concat=concat).float()


def load_teacher(path: Path, config: UNetConfig = mini.UNET) -> mini.TextVideoModel:
    """The averaged teacher out of a checkpoint of ``pretrain``."""
    state = torch.load(path, map_location="cpu", weights_only=True)["task"]["average"]
    model = mini.TextVideoModel(state["text.vocabulary"], config)
    model.load_state_dict(state)
    return model.train(False).requires_grad_(False)


def load_student(path: Path, config: UNetConfig = mini.UNET) -> UNet3D:
    """The averaged student out of a checkpoint of this command."""
    model = UNet3D(config)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["task"]["average"])
    return model.train(False).requires_grad_(False)


class DistillTask:
    """Student, its fast average (the target network) and a slow average (what is shipped)."""

    def __init__(self, data: latents.LatentClips, teacher: mini.TextVideoModel, options: argparse.Namespace) -> None:
        self.data, self.options = data, options
        self.tokens = captions.CaptionTokens()
        self.text = teacher.text
        self.teacher = teacher.unet
        self.student = copy.deepcopy(teacher.unet).requires_grad_(True).train(True)
        self.target = copy.deepcopy(teacher.unet)
        self.average = copy.deepcopy(teacher.unet)
        self.method = ConsistencyDistillation(mini.schedule(), prediction=mini.PREDICTION)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=options.learning_rate, betas=(0.9, 0.999), weight_decay=0.0, fused=True
        )
        with torch.no_grad():
            self.contexts = self.text(self.tokens.ids[:, captions.FULL])
            self.uncond = self.text(self.tokens.empty(1))

    def state(self) -> dict[str, Any]:
        """Networks and optimiser."""
        return {n: getattr(self, n).state_dict() for n in ("student", "target", "average", "optimizer")}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)

    def concat(self, chosen: Tensor, generator: torch.Generator) -> Callable[[nn.Module], Tensor] | None:
        """Of a batch, what each network adds to its input; this student has text only."""
        return None

    def draw(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step: latents ``[B, 4, F, h, w]``, text ``[B, L, D]`` and which clips they are."""
        chosen = torch.randint(len(self.data.labels), (self.options.batch,), generator=generator)
        return self.data.latents[chosen].float(), self.contexts[self.data.labels[chosen]], chosen

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One distillation step."""
        o = self.options
        set_learning_rate(
            self.optimizer, warmup_stable_decay(index, o.steps, peak=o.learning_rate, warmup=20, decay=0.4)
        )
        x_0, context, chosen = self.draw(index, generator)
        # One grid point in each of `batch` equal parts: every noise level has its share in every step.
        count = len(x_0)
        grid = ((torch.arange(count) + torch.rand(count, generator=generator)) / count * 50).long().clamp(max=49)
        noise, concat = torch.randn(x_0.shape, generator=generator), self.concat(chosen, generator)
        student, teacher, target = (_Autocast(n, concat) for n in (self.student, self.teacher, self.target))
        losses, _ = self.method.loss(
            student, teacher, target, x_0, context,
            self.uncond.expand_as(context), index=grid, noise=noise, w=o.w,
        )  # fmt: skip
        loss = losses.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        update_ema(self.target, self.student, o.target_ema)
        update_ema(self.average, self.student, min(o.ema, (index + 1) / (index + 10)))
        detached = losses.detach()
        return {
            "loss": float(loss.detach()),
            "low": float(detached[grid < 16].mean()),
            "high": float(detached[grid >= 33].mean()),
        }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint of training.pretrain")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint; resumed when it exists")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--w", type=float, default=2.0, help="guidance: w = cfg - 1 (default 2)")
    parser.add_argument("--target-ema", type=float, default=0.95, help="the paper's 0.95")
    parser.add_argument("--ema", type=float, default=0.99, help="average that is shipped")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    data = latents.cached_latents(
        options.corpus, mini.load_autoencoder(options.autoencoder), world.training_combinations()
    )
    run(
        DistillTask(data, load_teacher(options.teacher), options),
        LoopOptions(checkpoint=options.out, steps=options.steps),
    )


if __name__ == "__main__":
    main()
