"""The training loop that every command shares: steps, learning rate, progress, atomic checkpoints, exact resume.

It knows no paper: a task turns (step index, random generator) into an updated state. Each step's generator is seeded
by (seed, step), so a run that was killed and resumed draws the same numbers as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm


class Task(Protocol):
    """What the loop drives."""

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as tensors, numbers and dicts."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Make one optimiser step.

        Returns:
            Named numbers for the progress bar; a ``loss`` that is not finite stops the run.
        """


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How long to train and where to keep the checkpoint.

    Attributes:
        checkpoint: file of the running state; an existing one is resumed.
        steps: total steps, those of earlier runs included.
        save_seconds: time between checkpoints.
        seed: with the step index, seeds every step's random numbers.
    """

    checkpoint: Path
    steps: int
    save_seconds: float = 120.0
    seed: int = 0
    log_every: int = 20


def step_generator(seed: int, index: int) -> torch.Generator:
    """The random generator of one step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)


def warmup_stable_decay(index: int, steps: int, *, peak: float, warmup: int = 100, decay: float = 0.35) -> float:
    """Learning rate: linear warm-up, plateau, half cosine to 1 % of the peak in the last ``decay`` of the steps."""
    start = int(steps * (1 - decay))
    if index < start:
        return peak * min(1.0, (index + 1) / warmup)
    progress = (index - start) / max(1, steps - start)
    return peak * min(1.0, (index + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """``average <- decay * average + (1 - decay) * model`` for parameters; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1.0 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint under a temporary name, then rename it: a kill leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".part")
    torch.save(state, temporary)
    temporary.replace(path)


def run(task: Task, options: LoopOptions) -> None:
    """Train until ``options.steps``; the same call resumes after any interruption.

    Raises:
        FloatingPointError: the loss is no longer finite; the last checkpoint is untouched.
    """
    start = 0
    if options.checkpoint.exists():
        saved = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
        task.load_state(saved["task"])
        start = int(saved["step"])
    last_save = time.monotonic()
    bar = tqdm(range(start, options.steps), initial=start, total=options.steps, dynamic_ncols=True, mininterval=5.0)
    index = start
    smooth: dict[str, float] = {}
    try:
        for index in bar:
            values = task.step(index, step_generator(options.seed, index))
            if not math.isfinite(values.get("loss", 0.0)):
                raise FloatingPointError(
                    f"the loss became {values['loss']} at step {index}; {options.checkpoint} still holds the last good "
                    "state: resume from it with a lower learning rate."
                )
            smooth = {k: 0.98 * smooth.get(k, v) + 0.02 * v for k, v in values.items()}
            if index % options.log_every == 0:
                bar.set_postfix({k: f"{v:.4f}" for k, v in smooth.items()}, refresh=False)
            if time.monotonic() - last_save > options.save_seconds:
                save_atomically({"step": index + 1, "task": task.state()}, options.checkpoint)
                last_save = time.monotonic()
    except KeyboardInterrupt:
        # The step in flight may have changed some parameters only; the state before it is what the file holds.
        bar.write(f"interrupted at step {index}; the same command resumes from {options.checkpoint}")
        raise
    save_atomically({"step": options.steps, "task": task.state()}, options.checkpoint)
