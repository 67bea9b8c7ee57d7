"""Curves of runs: TensorBoard's files as they are read back, and which run on a server a folder is."""

import importlib.util
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.engine import trackers
from training.engine.trackers import IDENTITY, open_tracker, run_identity, run_name, wandb_tracker


def events(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_tensorboard_gets_numbers_and_pictures(tmp_path):
    tracker = open_tracker("tensorboard", tmp_path / "run" / "events", 0, {"w": 1})
    pixels = torch.arange(4 * 6 * 3, dtype=torch.uint8).reshape(4, 6, 3)
    for step in (1, 2):
        tracker.numbers(step, {"loss": 1.0 / step, "loss/t000": 0.5})
    tracker.image(2, "samples", pixels)
    tracker.close()
    found = read(tmp_path / "run" / "events")
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 1.0), (2, 0.5)]
    assert found.Tags()["scalars"] == ["loss", "loss/t000"] and found.Tags()["images"] == ["samples"]
    [image] = found.Images("samples")
    shown = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    assert image.step == 2 and np.array_equal(shown, pixels.numpy())


def test_a_resumed_run_goes_on_in_the_same_curve_and_forgets_what_a_kill_took_back(tmp_path):
    for start, steps in ((0, range(1, 6)), (3, range(4, 8))):
        tracker = open_tracker("tensorboard", tmp_path, start, {})
        for step in steps:
            tracker.numbers(step, {"loss": float(step + 100 * bool(start))})
        tracker.close()
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("loss")] == [
        (1, 1.0),
        (2, 2.0),
        (4, 104.0),
        (5, 105.0),
        (6, 106.0),
        (7, 107.0),
    ]


def test_a_folder_keeps_its_identity_and_no_two_folders_share_one(tmp_path):
    names = ["a/run", "b/run", "c/run", "a/run.2"]
    first = {name: run_identity(events(tmp_path / name / "events")) for name in names}
    assert len(set(first.values())) == len(names)
    assert {name: run_identity(tmp_path / name / "events") for name in names} == first
    assert all(re.fullmatch(r"[0-9a-f]{32}", identity) for identity in first.values())


def test_a_moved_folder_keeps_its_run_and_a_copy_begins_its_own(tmp_path):
    identity = run_identity(events(tmp_path / "a" / "events"))
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    copied = run_identity(tmp_path / "copy" / "events")
    assert copied != identity and run_identity(tmp_path / "a" / "events") == identity
    assert run_identity(tmp_path / "copy" / "events") == copied
    (tmp_path / "a").rename(tmp_path / "moved")
    assert run_identity(tmp_path / "moved" / "events") == identity
    (tmp_path / "link").symlink_to(tmp_path / "moved", target_is_directory=True)
    assert run_identity(tmp_path / "link" / "events") == identity


def test_runs_of_earlier_versions_go_on_under_their_names(tmp_path):
    events(tmp_path / "old" / "events" / "wandb" / "run-20250101_000000-old")
    assert run_identity(tmp_path / "old" / "events") == "old"
    assert json.loads((tmp_path / "old" / "events" / IDENTITY).read_text(encoding="utf-8"))["id"] == "old"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "x"}'])
def test_a_damaged_identity_is_named(tmp_path, content):
    (tmp_path / IDENTITY).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{IDENTITY} is damaged.*Delete it"):
        run_identity(tmp_path)


@pytest.mark.parametrize(
    ("run", "end"),
    [
        ("runs/first", "runs-first"),
        ("runs/a b:c?#%", "runs-a-b-c"),
        ("läufe/größe é", "l-ufe-gr-e"),
        ("x/" + "n" * 200, "n" * 100),
        ("☃/☃", "run"),
    ],
)
def test_names_have_no_character_that_a_server_refuses(tmp_path, run, end):
    name = run_name(events(tmp_path / run / "events"))
    assert name == end and re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name)


def test_what_the_server_is_asked_for(tmp_path):
    """Accelerate's tracker takes it without the package; it is imported when the run starts."""
    folder = tmp_path / "runs" / "a b?" / "events"
    tracker = wandb_tracker(folder)
    assert tracker.run_name == trackers.PROJECT
    assert tracker.init_kwargs == {
        "dir": str(folder),
        "id": run_identity(folder),
        "name": "runs-a-b",
        "resume": "allow",
    }


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the package wandb is not installed")
def test_a_resumed_run_is_the_same_run_on_the_server(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    found = []
    for start in (0, 2):
        tracker = open_tracker("wandb", tmp_path / "run" / "events", start, {"w": start})
        tracker.numbers(start + 1, {"loss": 1.0})
        tracker.image(start + 1, "samples", torch.zeros(4, 4, 3, dtype=torch.uint8))
        found.append(tracker.tracker.run.id)
        tracker.close()
    assert found == [run_identity(tmp_path / "run" / "events")] * 2
