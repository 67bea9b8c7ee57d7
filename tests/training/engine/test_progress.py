"""Samples a second and the time left, with and without pauses."""

import time

import pytest
import torch
from tqdm import tqdm

from training.engine import progress
from training.engine.identity import Identity
from training.engine.loop import Hook, LoopOptions, run
from training.engine.progress import Rate


class Clock:
    """Time that goes on only when it is told to, for whatever clock is asked."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)

    def pass_by(self, seconds):
        self.now += seconds


def test_a_pause_counts_neither_for_the_rate_nor_for_the_time_left(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    rate, bar = Rate(), tqdm(range(100), mininterval=0.0, miniters=1)
    for step in range(10):
        clock.pass_by(2.0)
        bar.update()
        assert rate.add(8.0) == pytest.approx(4.0)
        if step == 4:
            with rate.paused(bar):
                clock.pass_by(600.0)
    shown = bar.format_dict
    left = (bar.total - bar.n) / (shown["rate"] or bar.n / shown["elapsed"])
    assert left == pytest.approx(180.0)
    bar.close()


def test_a_pause_that_fails_is_over_too_and_silent_bars_are_left_alone(monkeypatch):
    clock, rate = Clock(monkeypatch), Rate()
    with pytest.raises(RuntimeError), rate.paused(tqdm(disable=True)):
        clock.pass_by(50.0)
        raise RuntimeError
    clock.pass_by(1.0)
    assert rate.add(3.0) == pytest.approx(3.0)


class Steps:
    """A task of steps that take a second each, and a tracker's numbers."""

    def __init__(self, clock):
        self.clock = clock

    def state(self):
        return {}

    def load_state(self, state):
        pass

    def step(self, index, generator):
        self.clock.pass_by(1.0)
        return {"loss": 1.0, "samples": 4.0}


def test_the_loop_leaves_validation_out_of_its_curves(monkeypatch, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    clock = Clock(monkeypatch)
    hook = Hook(every=2, call=lambda made, tracker: clock.pass_by(500.0))
    options = LoopOptions(
        identity=Identity(),
        checkpoint=tmp_path / "c.pt",
        steps=6,
        log_every=1,
        save_seconds=1e9,
        hooks=[hook],
        events=tmp_path / "e",
        tracker="tensorboard",
    )
    run(Steps(clock), options)
    events = EventAccumulator(str(tmp_path / "e"))
    events.Reload()
    assert [e.value for e in events.Scalars("samples/s")] == pytest.approx([4.0] * 6)


def test_losses_are_shown_by_timestep():
    sums = progress.bin_sums(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 199, 999]))
    assert progress.bin_means(sums) == {"loss/t000": 2.0, "loss/t800": 5.0}
