"""A second method, to prove the seam: no teacher, three optimisers, a projection that learns with an EMA twin.

Nothing outside this file knows it. The student learns to predict clean latents; a projection maps them to what is
compared, and its slow twin makes the goal. The second phase teaches a critic to tell real frames from decoded ones, and
a third lets the student please it. Also run as a script by processes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import torch  # noqa: E402
from torch import nn  # noqa: E402

from training.engine.identity import Identity  # noqa: E402
from training.engine.loop import LoopOptions, run  # noqa: E402
from training.engine.processes import open_accelerator  # noqa: E402
from training.engine.task import MethodTask, Scale  # noqa: E402
from training.methods.method import AdamW, Follower, Inputs, Losses, Method, Needs, Phase, Trained  # noqa: E402
from training.recipes.base import Recipe  # noqa: E402

WIDTH = 12


@dataclass(frozen=True, kw_only=True)
class ToyRecipe(Recipe):
    """Numbers of the toy.

    Attributes:
        twin_ema: decay of the projection's twin.
        critic_rate: learning rate of the critic.
    """

    twin_ema: float = 0.9
    critic_rate: float = 3e-4


class Denoiser(nn.Module):
    """Clean latents from noised ones, frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(4, WIDTH, 1), nn.SiLU(), nn.Conv3d(WIDTH, 4, 1))

    def forward(self, x):
        return self.layers(x)


class Critic(nn.Module):
    """A number for each clip of frames."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(3, WIDTH, 1), nn.SiLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, frames):
        return self.last(self.layers(frames))[:, 0]


class Toy(Method):
    """See the module's text."""

    name = "toy"
    phases = (
        Phase(name="denoise", trains=("student", "projection")),
        Phase(name="critic", trains=("critic",)),
        Phase(name="please", trains=("student",)),
    )
    released = "student"
    needs = Needs(teacher=False, pixels=True)

    def __init__(self, recipe: ToyRecipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        student, projection, critic = Denoiser(), nn.Conv3d(4, 4, 1), Critic()
        twin = nn.Conv3d(4, 4, 1).requires_grad_(False)
        twin.load_state_dict(projection.state_dict())
        # A large eps keeps the rounding of tiny gradients small, so that layouts can be compared.
        adam = AdamW(eps=1e-3)
        self.trained = {
            name: Trained(
                module=module,
                parameters=lambda m=module: list(m.parameters()),
                rate=rate,
                optimizer=adam,
                clip_norm=1.0,
            )
            for name, module, rate in (
                ("student", student, recipe.rate),
                ("projection", projection, recipe.rate),
                ("critic", critic, lambda _: recipe.critic_rate),
            )
        }
        self.followers = {
            "twin": Follower(
                module=twin,
                values=lambda: {n: p.detach() for n, p in projection.named_parameters()},
                decay=lambda _: recipe.twin_ema,
            )
        }
        self.frozen = {}

    @classmethod
    def build(cls, recipe: ToyRecipe, inputs: Inputs) -> Toy:
        """It needs no inputs."""
        return cls(recipe)

    def loss(self, phase, networks, micro):
        """Losses of a micro-batch; gradients reach the phase's modules only."""
        t = (micro.draws.grid * 1000).long().to(micro.latents.device)
        noised = micro.latents + (t.float() / 1000).view(-1, 1, 1, 1, 1) * micro.draws.noise
        if phase == "denoise":
            found = networks["projection"](networks["student"](noised))
            with torch.no_grad():
                goal = networks["twin"](micro.latents)
            return Losses(values=(found - goal).square().flatten(1).mean(1), t=t)
        if phase == "critic":
            with torch.no_grad():
                made = networks["student"](noised)[:, :3]
            real, fake = networks["critic"](torch.cat([micro.pixels, made])).chunk(2)
            return Losses(values=torch.relu(1 - real) + torch.relu(1 + fake), t=t)
        return Losses(values=-networks["critic"](networks["student"](noised)[:, :3]), t=t)

    def released_state(self):
        """The student's weights."""
        return {k: v.detach() for k, v in self.trained["student"].module.state_dict().items()}


class ToyBatches:
    """Random latents with their frames; those of a sample depend on the step and its number alone."""

    def __init__(self, kill_at: int = -1) -> None:
        self.kill_at = kill_at

    def size(self, step):
        return 4

    def uncond_context(self, text=""):
        return torch.zeros(1, 1, 1)

    def batch(self, step, samples):
        if step == self.kill_at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        made = [torch.Generator().manual_seed(1000 * step + sample) for sample in samples]
        latents = torch.stack([torch.randn(4, 2, 3, 3, generator=g) for g in made])
        pixels = torch.stack([torch.rand(3, 2, 3, 3, generator=g) for g in made])
        text = torch.zeros(len(latents), 1, 1)
        return SimpleNamespace(latents=latents, context=text, images=False, extra={}, pixels=pixels)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--kill-at", type=int, default=-1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = replace(ToyRecipe(name="toy"), steps=options.steps, batch=4, learning_rate=1e-3, precision="no")
    accelerator = open_accelerator("no", options.accumulation, cpu=True)
    task = MethodTask(ToyBatches(options.kill_at), Toy(recipe), accelerator, Scale(accumulation=options.accumulation))
    loop = LoopOptions(
        checkpoint=options.out, identity=Identity(fixed={"method": "toy"}), steps=options.steps, save_steps=1
    )
    run(task, loop, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()
