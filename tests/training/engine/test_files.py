"""Files of a run: whole or not at all, checked when read, one writer at a time, nothing left behind."""

import os
import random
import subprocess
import sys
import time

import pytest
import torch

import setup
from training.engine.files import load_checkpoint, locked, released_state, save_atomically
from videolcm_core.files.writing import save_safetensors, whole_file

STATE = {"step": 3, "task": {"student": {"w": torch.arange(2000.0)}, "optimizer": {"lr": 0.1}}}


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    """Before, a run resumed from a damaged file without a word."""
    path = tmp_path / "checkpoint.pt"
    save_atomically(STATE, path)
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(120):
        place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            found = load_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error) and "another --out" in str(error)
            refused += 1
            continue
        assert found["step"] == 3 and torch.equal(found["task"]["student"]["w"], STATE["task"]["student"]["w"])
        assert found["task"]["optimizer"] == {"lr": 0.1}
    assert refused > 80, "most of the file is numbers"


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.9, 0.999])
def test_a_file_that_ends_early_is_refused(tmp_path, kept):
    path = tmp_path / "checkpoint.pt"
    save_atomically(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ValueError, match="no whole checkpoint"):
        load_checkpoint(path)


HOLD = """
import sys, time
from pathlib import Path
from training.engine.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_told_who_holds_the_checkpoint(tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=setup.ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        assert first.stdout.readline().strip() == "held"
        with pytest.raises(ValueError, match=rf"in use by process {first.pid} on .*another --out"), locked(path):
            pass
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    with locked(path):  # a killed run leaves no lock behind
        assert f"process {os.getpid()} " in (path.parent / "checkpoint.pt.lock").read_text(encoding="utf-8")
    with locked(path):
        pass


WRITE = """
import sys
from pathlib import Path
import torch
from training.engine.files import save_atomically
path, value = Path(sys.argv[1]), float(sys.argv[2])
for step in range(60):
    save_atomically({"step": step, "task": {"student": {"w": torch.full((20_000,), value)}}}, path)
"""


def test_two_writers_of_one_file_never_mix(tmp_path):
    path = tmp_path / "checkpoint.pt"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(path), value], cwd=setup.ROOT) for value in ("1", "2")
    ]
    reads, ended = 0, time.monotonic() + 120
    while any(w.poll() is None for w in writers) and time.monotonic() < ended:
        if path.exists():
            values = load_checkpoint(path)["task"]["student"]["w"].unique()
            assert len(values) == 1
            reads += 1
    assert [w.wait() for w in writers] == [0, 0] and reads > 5
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from videolcm_core.files.writing import whole_file
with whole_file(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_stays(tmp_path):
    path = tmp_path / "student.safetensors"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=setup.ROOT)
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"] and not path.exists()
    with whole_file(path) as temporary:
        temporary.write_bytes(b"mine")
        save_safetensors({"x": torch.ones(1)}, path)  # another writer of the same file, in this process
        assert temporary.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["student.safetensors"] and path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("saved", "wanted"),
    [
        ({"released": "target"}, "target"),
        ({"description": {"release": "student"}}, "student"),
        ({}, "average"),
    ],
)
def test_the_released_weights_are_those_that_the_recipe_names(tmp_path, saved, wanted):
    parts = {name: {"name": torch.tensor(i)} for i, name in enumerate(("student", "target", "average"))}
    save_atomically({"step": 1, "task": parts, **saved}, tmp_path / "c.pt")
    assert released_state(tmp_path / "c.pt") == parts[wanted]
    save_atomically({"step": 1, "task": parts, "released": "other"}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="holds average, student, target and releases other"):
        released_state(tmp_path / "c.pt")
