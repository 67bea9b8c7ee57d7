"""A classifier of the world's clips: which object, which motion, which place. It judges agreement with a prompt.

Trained on real rendered clips of the training combinations only; ``python -m training.mini.recognizer`` prints its
accuracy on real clips of combinations that neither it nor the video models have seen. With several corpora, clean and
degraded clips say, it learns both alike, so that it does not judge how good the frames are.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..engine.commands import run_command
from ..engine.identity import Identity
from ..engine.loop import LoopOptions, run
from ..engine.rates import set_learning_rate, warmup_stable_decay
from . import corpus, world

ATTRIBUTES = ("object", "motion", "place")
MOTION_CLASSES = list(dict.fromkeys(world.MOTIONS.values()))
_INPUT = 32


def label_indices(combination: world.Combination) -> list[int]:
    """Index of the combination's object, motion and place."""
    return [
        list(world.OBJECTS).index(combination.thing),
        MOTION_CLASSES.index(world.MOTIONS[combination.motion]),
        list(world.PLACES).index(combination.place),
    ]


class Recognizer(nn.Module):
    """Frame features, then a convolution over time for the motion; objects and places from the mean over time."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 2 * width), (2 * width, 2 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.frames = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * 4, 128), nn.SiLU())
        self.time = nn.Sequential(
            nn.Conv1d(128, 128, 5, padding=2), nn.SiLU(), nn.Conv1d(128, 128, 5, padding=2), nn.SiLU()
        )
        self.motion = nn.Linear(128, len(MOTION_CLASSES))
        self.thing = nn.Linear(128, len(world.OBJECTS))
        self.place = nn.Linear(128, len(world.PLACES))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of clips.

        Args:
            clips: ``[B, F, 3, 32, 32]`` in [0, 1].

        Returns:
            Logits of object, motion and place.
        """
        features = self.frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        mean = features.mean(1)
        return self.thing(mean), self.motion(self.time(features.transpose(1, 2)).amax(-1)), self.place(mean)


def to_input(clips: Tensor) -> Tensor:
    """``uint8 [B, F, H, W, 3]`` to the network's ``[B, F, 3, 32, 32]`` in [0, 1]."""
    frames = clips.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    return functional.adaptive_avg_pool2d(frames, _INPUT).unflatten(0, clips.shape[:2])


def blurred(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Random softness, brightness and noise, so that an autoencoder's blur does not decide."""
    size = int(torch.randint(14, _INPUT + 1, (1,), generator=generator))
    frames = functional.interpolate(clips.flatten(0, 1), size, mode="area")
    frames = functional.interpolate(frames, _INPUT, mode="bilinear").unflatten(0, clips.shape[:2])
    gain = 1 + 0.15 * torch.randn(len(clips), 1, 1, 1, 1, generator=generator)
    return frames * gain + 0.03 * torch.randn(frames.shape, generator=generator)


class JudgeTask(ABC):
    """A small network that learns to judge clips; only its loss is its own.

    Args:
        model: what learns.
        clips: uint8, as `training_clips` gives.
        labels: long, of each clip.
        steps: of the run.
        batch: clips of a step.
    """

    def __init__(self, model: nn.Module, clips: Tensor, labels: Tensor, steps: int, batch: int = 32) -> None:
        self.model, self.clips, self.labels, self.steps, self.batch = model, clips, labels, steps, batch
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3, weight_decay=0.02)

    @abstractmethod
    def loss(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch of network inputs and its labels."""

    def state(self) -> dict[str, Any]:
        """Model and optimiser."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One step."""
        set_learning_rate(self.optimizer, warmup_stable_decay(index, self.steps, peak=2e-3, decay=0.5))
        chosen = torch.randint(len(self.labels), (self.batch,), generator=generator)
        loss = self.loss(blurred(self.clips[chosen].float() / 255, generator), self.labels[chosen])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss.detach())}


class RecognizerTask(JudgeTask):
    """Cross-entropy of the three attributes."""

    def __init__(self, clips: Tensor, labels: Tensor, steps: int, batch: int = 32) -> None:
        super().__init__(Recognizer(), clips, labels, steps, batch)

    def loss(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Sum over the attributes."""
        return torch.stack([functional.cross_entropy(s, labels[:, i]) for i, s in enumerate(self.model(clips))]).sum()


def training_clips(*folders: Path) -> tuple[Tensor, list[world.Combination]]:
    """The training clips of corpora and their mirror images as network inputs (uint8), and what each shows."""
    inputs, shown = [], []
    for folder in folders:
        frames, combinations = corpus.load_corpus(folder, world.training_combinations())
        inputs += [(to_input(torch.from_numpy(p)) * 255).byte() for p in np.array_split(frames, 64) if len(p)]
        shown += combinations
    small = torch.cat(inputs)
    return torch.cat([small, small.flip(-1)]), shown + [corpus.mirrored(c) for c in shown]


@torch.no_grad()
def recognised(model: Recognizer, clips: Tensor, combinations: list[world.Combination]) -> Tensor:
    """Which attributes of each clip are recognised as asked.

    Args:
        model: the classifier.
        clips: uint8 ``[N, F, H, W, 3]``.
        combinations: what each clip should show.

    Returns:
        bool ``[N, 4]``: object, motion, place, and all three.
    """
    wanted = torch.tensor([label_indices(c) for c in combinations])
    parts = [torch.stack([s.argmax(1) for s in model(to_input(p))], 1) for p in clips.split(32)]
    right = torch.cat(parts) == wanted
    return torch.cat([right, right.all(1, keepdim=True)], 1)


def agreement(model: Recognizer, clips: Tensor, combinations: list[world.Combination]) -> dict[str, float]:
    """Share of clips whose recognised attributes are the asked ones; arguments as `recognised`.

    Returns:
        Shares in [0, 1] for "object", "motion", "place" and "all" three.
    """
    shares = recognised(model, clips, combinations).float().mean(0).tolist()
    return dict(zip((*ATTRIBUTES, "all"), shares, strict=True))


def load_recognizer(path: Path) -> Recognizer:
    """The trained classifier."""
    model = Recognizer()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["task"]["model"])
    return model.train(False)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="one, or several to learn alike")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    clips, shown = training_clips(*options.corpus)
    labels = torch.tensor([label_indices(c) for c in shown])
    task = RecognizerTask(clips, labels, options.steps)
    identity = Identity(data=corpus.corpus_identity(*options.corpus))
    run(task, LoopOptions(checkpoint=options.out, identity=identity, steps=options.steps))
    for folder in options.corpus:
        held_out, combinations = corpus.load_corpus(folder, world.held_out())
        found = agreement(load_recognizer(options.out), torch.from_numpy(held_out), combinations)
        print(f"accuracy on real held-out clips of {folder}:", found)


if __name__ == "__main__":
    run_command(main)
