"""The training loop that every command shares: steps, progress, curves, atomic checkpoints, exact resume.

It knows no paper: a task turns (step index, random generator) into an updated state. Each step's generator is seeded
by (seed, step), so a run that was killed and resumed draws the same numbers as one that was not. With several
processes every one runs the loop; they agree after each step on whether to save or to stop.
"""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from .commands import Terminated
from .files import load_checkpoint, save_atomically
from .progress import Rate, Smooth
from .trackers import Tracker, open_tracker

__all__ = ["LoopOptions", "Task", "run", "save_atomically", "set_learning_rate", "step_generator", "update_ema"]


class Task(Protocol):
    """What the loop drives.

    A task may also have ``description() -> dict``, the settings that a checkpoint keeps and a resumed run is checked
    against. Among the numbers of a step, ``samples`` is how many it took, all processes together.
    """

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as tensors, numbers and dicts; called by every process."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """Make one optimiser step.

        Returns:
            Named numbers for the progress bar; a ``loss`` that is not finite stops the run.
        """


@dataclass(frozen=True, kw_only=True)
class Hook:
    """Something to do every so many steps, on every process.

    Attributes:
        every: how many; 0 is never.
        call: gets the number of steps made and the tracker (None on all processes but the first).
    """

    every: int
    call: Callable[[int, Tracker | None], None]


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How long to train and where to keep the checkpoint.

    Attributes:
        checkpoint: file of the running state; an existing one is resumed.
        steps: total steps, those of earlier runs included.
        save_seconds: time between checkpoints.
        save_steps: steps between checkpoints, beside the time; 0 is by time alone.
        seed: with the step index, seeds every step's random numbers.
        log_every: steps between points of the curves.
        tracker: see `trackers.TRACKERS`.
        events: folder of the tracker's files.
        hooks: called after some steps.
    """

    checkpoint: Path
    steps: int
    save_seconds: float = 120.0
    save_steps: int = 0
    seed: int = 0
    log_every: int = 20
    tracker: str = "none"
    events: Path | None = None
    hooks: Sequence[Hook] = ()


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


class _Stop:
    """Set by the first Ctrl-C or termination signal; the second one is not caught."""

    def __init__(self) -> None:
        self.asked = False
        self.error: type[KeyboardInterrupt] = KeyboardInterrupt

    @contextmanager
    def caught(self) -> Iterator[_Stop]:
        """Catch signals inside the block; only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def ask(number: int, _: Any) -> None:
            self.asked, self.error = True, Terminated if number == signal.SIGTERM else KeyboardInterrupt
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, ask)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Processes(Protocol):
    """The part of ``accelerate.Accelerator`` that the loop needs."""

    is_main_process: bool
    num_processes: int
    device: torch.device

    def reduce(self, tensor: Any, reduction: str = "mean") -> Any:
        """Combine a tensor over all processes."""

    def wait_for_everyone(self) -> None:
        """Return when all processes have called it."""


def _agree(processes: Processes | None, *flags: bool) -> list[bool]:
    """Whether any process raised each flag: all must save, or stop, after the same step."""
    if processes is None or processes.num_processes == 1:
        return list(flags)
    values = torch.tensor([float(f) for f in flags], device=processes.device)
    return [v > 0 for v in processes.reduce(values, "sum").tolist()]


class _Run:
    """One call of `run`."""

    def __init__(self, task: Task, options: LoopOptions, processes: Processes | None) -> None:
        self.task, self.options, self.processes = task, options, processes
        self.main = processes is None or processes.is_main_process
        describe = getattr(task, "description", None)
        self.description: dict[str, Any] = describe() if describe else {}
        self.last_save = time.monotonic()

    def resume(self) -> int:
        """Load the checkpoint if there is one; returns the steps made so far."""
        if not self.options.checkpoint.exists():
            return 0
        saved = load_checkpoint(self.options.checkpoint)
        known = saved.get("description", {})
        changed = [k for k, v in self.description.items() if k in known and known[k] != v and k != "steps"]
        if changed and self.main:
            told = ", ".join(f"{k}: {known[k]} -> {self.description[k]}" for k in changed)
            warnings.warn(
                f"{self.options.checkpoint} was trained with other settings and goes on with these: {told}",
                stacklevel=3,
            )
        self.task.load_state(saved["task"])
        return int(saved["step"])

    def save(self, steps: int) -> None:
        """Write the state after ``steps`` steps; every process takes part in collecting it, one writes."""
        state = {"step": steps, "task": self.task.state(), "description": self.description}
        if self.main:
            save_atomically(state, self.options.checkpoint)
        self.last_save = time.monotonic()

    def due(self, made: int) -> bool:
        """Whether to save after ``made`` steps; the first process's clock decides."""
        o = self.options
        by_time = time.monotonic() - self.last_save > o.save_seconds
        return self.main and (by_time or bool(o.save_steps and made % o.save_steps == 0))

    def check(self, loss: float, index: int) -> None:
        """Refuse a loss that is not finite; it is the same on every process."""
        if not math.isfinite(loss):
            path = self.options.checkpoint
            kept = f"{path} still holds the last good state: resume from it" if path.exists() else "start again"
            raise FloatingPointError(f"the loss became {loss} at step {index}; {kept} with a lower learning rate.")


def run(task: Task, options: LoopOptions, processes: Processes | None = None) -> None:
    """Train until ``options.steps``; the same call resumes after any interruption.

    Args:
        task: what is trained.
        options: how long, and where the files are.
        processes: the accelerator, where there may be several.

    Raises:
        FloatingPointError: the loss is no longer finite; the last checkpoint is untouched.
        KeyboardInterrupt: after Ctrl-C, when the step in flight is finished and saved.
        OSError: the checkpoint cannot be written; the last one is untouched.
    """
    this = _Run(task, options, processes)
    start = this.resume()
    tracker = None
    if this.main:
        folder = options.events or options.checkpoint.parent / "events"
        tracker = open_tracker(options.tracker, folder, start, this.description)
    bar = tqdm(
        range(start, options.steps),
        initial=start,
        total=options.steps,
        dynamic_ncols=True,
        mininterval=5.0,
        disable=not this.main,
    )
    try:
        with _Stop().caught() as stop:
            _steps(this, start, bar, stop, tracker)
    finally:
        bar.close()
        if tracker is not None:
            tracker.close()


def _steps(this: _Run, start: int, bar: tqdm, stop: _Stop, tracker: Tracker | None) -> None:
    """The loop itself."""
    options, smooth, rate = this.options, Smooth(), Rate()
    index = start
    try:
        for index in bar:
            values = dict(this.task.step(index, step_generator(options.seed, index)))
            this.check(values.get("loss", 0.0), index)
            values["samples/s"] = rate.add(values.pop("samples", 1.0))
            smooth.update(values)
            made = index + 1
            if index % options.log_every == 0 or made == options.steps:
                shown = {k: v for k, v in smooth.values.items() if k != "samples/s"} | {
                    "samples/s": values["samples/s"]
                }
                bar.set_postfix({k.removeprefix("loss/"): f"{v:.4g}" for k, v in shown.items()}, refresh=False)
                if tracker is not None:
                    tracker.numbers(made, shown)
            stopping, saving = _agree(this.processes, stop.asked, this.due(made))
            if saving or stopping:
                this.save(made)
            if stopping:
                bar.write(f"stopped after step {index} and saved; the same command resumes from {options.checkpoint}")
                raise stop.error
            for hook in options.hooks:
                if hook.every and (made % hook.every == 0 or made == options.steps):
                    with rate.paused(bar):
                        hook.call(made, tracker)
    except KeyboardInterrupt:
        if not stop.asked:
            # Raised inside a step, which may have changed some parameters only: the file holds the state before it.
            bar.write(f"interrupted at step {index}; the same command resumes from {options.checkpoint}")
        raise
    if start < options.steps:  # a finished run keeps its file
        this.save(options.steps)
