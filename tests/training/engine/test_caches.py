"""Results that are kept: their names hash all that they depend on; one process makes them and tells the others."""

import subprocess
import sys

import pytest
import torch

import setup
from training.engine.caches import cached, digest_of, fingerprint


def counted(value=1.0):
    calls = []

    def make():
        calls.append(1)
        return {"value": torch.full((3,), value)}

    return make, calls


def test_the_same_inputs_are_read_and_others_are_made(tmp_path):
    make, calls = counted()
    base = {"weights": "a", "count": 3, "of": torch.ones(2)}
    for _ in range(2):
        assert torch.equal(cached(tmp_path, "x", base, make)["value"], torch.ones(3))
    assert len(calls) == 1
    others = [base | {"weights": "b"}, base | {"count": 4}, base | {"of": torch.zeros(2)}, base | {"of": torch.ones(3)}]
    for other in others:
        cached(tmp_path, "x", other, make)
    assert len(calls) == 5 and len(list(tmp_path.iterdir())) == 5


def test_a_damaged_cache_is_made_again(tmp_path):
    make, calls = counted()
    cached(tmp_path, "x", {"a": 1}, make)
    (path,) = tmp_path.iterdir()
    for damage in (
        b"",
        path.read_bytes()[:200],
        path.read_bytes().replace(b"\x00\x00\x80\x3f", b"\x00\x00\x80\x40", 1),
    ):
        path.write_bytes(damage)
        assert torch.equal(cached(tmp_path, "x", {"a": 1}, make)["value"], torch.ones(3))
    assert len(calls) == 4


def test_what_does_not_say_what_it_is_names_no_cache(tmp_path):
    with pytest.raises(TypeError, match="Linear cannot name a cache"):
        digest_of({"network": torch.nn.Linear(1, 1)})
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert fingerprint(first) != fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second)


WAITING = """
import datetime, os, sys, time
import torch
from training.engine.commands import run_command
from training.engine.processes import by_one_process
rank, folder, seconds, fails = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4] == "fails"

def make():
    time.sleep(seconds)
    if fails:
        raise ValueError("the disk of the latents is full")

def main():
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=4)
    )
    by_one_process(make)
    print("made", flush=True)

run_command(main)
"""


@pytest.mark.parametrize(("seconds", "ends"), [(0, "fails"), (7, "fails"), (7, "well")])
def test_others_wait_for_the_first_process_beyond_the_groups_timeout_and_hear_why_it_failed(tmp_path, seconds, ends):
    command = [sys.executable, "-c", WAITING]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path), str(seconds), ends],
            cwd=setup.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for rank in (1, 0)
    ]
    (other, why), (first, told) = (p.communicate(timeout=120) for p in started)
    codes = [p.returncode for p in started]
    if ends == "well":
        assert (other.strip(), first.strip(), codes) == ("made", "made", [0, 0]), (why, told)
        return
    assert 0 not in codes and "the disk of the latents is full" in told
    assert "the first process failed while the others waited" in why and "the disk of the latents is full" in why
