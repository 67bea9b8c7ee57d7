"""The training loop that every command shares: steps, progress, curves, atomic checkpoints, exact resume.

It knows no paper: a task turns (step index, random generator) into an updated state. Each step's generator is seeded
by (seed, step), so a run that was killed and resumed draws the same numbers as one that was not. With several
processes every one runs the loop; they agree after each step on whether to save or to stop.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from .files import load_checkpoint, locked, save_atomically
from .identity import Identity, changes, check_fixed
from .interruption import Stop
from .progress import Rate, Smooth
from .trackers import Tracker, open_tracker

__all__ = ["Hook", "LoopOptions", "Task", "run", "step_generator"]


class Task(Protocol):
    """What the loop drives.

    A task may also have ``description() -> dict``, the settings that a checkpoint keeps and a resumed run is compared
    with, and ``released``, the name of the weights in its state that a run releases. Among the numbers of a step,
    ``samples`` is how many it took, all processes together.
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
        identity: what the run is made from; has no default, so that no trainer forgets it.
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
    identity: Identity
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
        path = self.options.checkpoint
        if not path.exists():
            return 0
        saved = load_checkpoint(path)
        check_fixed(self.options.identity, saved, path)
        if self.main and (changed := changes(self.options.identity, self.description, saved)):
            warnings.warn(
                f"{path} was trained with other settings and goes on with these: {', '.join(changed)}", stacklevel=4
            )
        try:
            self.task.load_state(saved["task"])
        except (KeyError, RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{path} does not fit this run ({type(error).__name__}: {str(error)[:300]}); allowed: a checkpoint of "
                "the same command and networks. Give the inputs it began with, or another --out."
            ) from error
        return int(saved["step"])

    def save(self, steps: int) -> None:
        """Write the state after ``steps`` steps; every process takes part in collecting it, one writes."""
        state = {
            "step": steps,
            "task": self.task.state(),
            "description": self.description,
            "identity": self.options.identity.entries(),
        }
        if released := getattr(self.task, "released", None):
            state["released"] = released
        if self.main:
            save_atomically(state, self.options.checkpoint)
        self.last_save = time.monotonic()

    def due(self, made: int) -> bool:
        """Whether to save after ``made`` steps; the first process's clock decides."""
        o = self.options
        by_time = time.monotonic() - self.last_save > o.save_seconds
        return self.main and (by_time or bool(o.save_steps and made % o.save_steps == 0))

    def check(self, values: Mapping[str, float], index: int) -> None:
        """Refuse losses that are not finite; they are the same on every process."""
        bad = [n for n, v in values.items() if n.split("/")[0] == "loss" and not math.isfinite(v)]
        if bad:
            told = kept_state(self.options.checkpoint) if self.main else "the first process says what is kept"
            name = "the loss" if "loss" in bad else bad[0]
            raise FloatingPointError(f"{name} became {values[bad[0]]} at step {index}; {told}.")


def kept_state(path: Path) -> str:
    """What a checkpoint's file holds, looked at: after which step, and whether its numbers are finite."""
    if not path.exists():
        return "nothing was saved before: begin again with a lower learning rate"
    try:
        saved = load_checkpoint(path)
    except (ValueError, OSError) as error:
        return f"and the checkpoint cannot be read: {error}"
    bad = first_not_finite(saved["task"])
    if bad is not None:
        return (
            f"{path} holds the state after {saved['step']} steps, and its {bad} is not finite either: delete it and "
            "begin again with a lower learning rate"
        )
    return (
        f"{path} holds the state after {saved['step']} steps, all of whose numbers are finite: the same command goes "
        "on from there; give a lower learning rate"
    )


def first_not_finite(state: Any, name: str = "") -> str | None:
    """Name of the first tensor in a nested state with a value that is not finite; None without one."""
    if isinstance(state, torch.Tensor):
        return None if not state.is_floating_point() or bool(state.isfinite().all()) else name or "tensor"
    items = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list) else ()
    found = (first_not_finite(value, f"{name}.{key}" if name else str(key)) for key, value in items)
    return next((bad for bad in found if bad is not None), None)


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
        ValueError: the checkpoint is another run's, damaged, or in use by another process.
    """
    this = _Run(task, options, processes)
    with ExitStack() as stack:
        if this.main:
            stack.enter_context(locked(options.checkpoint))
        start = this.resume()
        if start >= options.steps:
            if this.main:
                print(f"all {options.steps} steps are done; {options.checkpoint} is after {start}.", flush=True)
            return
        tracker = None
        if this.main:
            folder = options.events or options.checkpoint.parent / "events"
            tracker = open_tracker(options.tracker, folder, start, this.description)
            if tracker is not None:
                stack.callback(tracker.close)
        progress = tqdm(
            range(start, options.steps),
            initial=start,
            total=options.steps,
            dynamic_ncols=True,
            mininterval=5.0,
            disable=not this.main,
        )
        stack.callback(progress.close)
        stop = stack.enter_context(Stop().caught())
        _steps(this, start, progress, stop, tracker)


def _steps(this: _Run, start: int, bar: tqdm, stop: Stop, tracker: Tracker | None) -> None:
    """The loop itself."""
    options, smooth, rate = this.options, Smooth(), Rate()
    index = start
    try:
        for index in bar:
            values = dict(this.task.step(index, step_generator(options.seed, index)))
            this.check(values, index)
            values["samples/s"] = rate.add(values.pop("samples", 1.0))
            smooth.update(values)
            made = index + 1
            if index % options.log_every == 0 or made == options.steps:
                _show(bar, tracker, made, smooth.values | {"samples/s": values["samples/s"]})
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
    this.save(options.steps)


def _show(bar: tqdm, tracker: Tracker | None, made: int, values: Mapping[str, float]) -> None:
    bar.set_postfix({k.removeprefix("loss/"): f"{v:.4g}" for k, v in values.items()}, refresh=False)
    if tracker is not None:
        tracker.numbers(made, values)
