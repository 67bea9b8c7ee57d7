"""The seam: a second method in one file of the tests, with no edit anywhere else."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import toy_method as toy

import setup
from training.engine.files import load_checkpoint, released_state
from training.engine.processes import open_accelerator
from training.engine.task import MethodTask
from training.methods import find_method, method_names

SCRIPT = setup.ROOT / "tests" / "support" / "toy_method.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
PARTS = ("student", "projection", "critic", "twin")


def train(path, *arguments, launcher=(), check=True):
    command = [sys.executable, *launcher, str(SCRIPT), "--out", str(path), *arguments]
    done = subprocess.run(command, cwd=setup.ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "c.pt"
    train(path)
    return load_checkpoint(path)["task"]


def difference(a, b, part):
    return max((a[part][k] - v).abs().max().item() for k, v in b[part].items())


def test_everything_that_it_names_is_in_its_checkpoint_and_moved(alone):
    assert set(alone) == {*PARTS, "optimizer.student", "optimizer.projection", "optimizer.critic"}
    recipe = replace(toy.ToyRecipe(name="toy"), batch=4)
    start = MethodTask(toy.ToyBatches(), toy.Toy(recipe), open_accelerator("no", cpu=True)).state()
    assert all(difference(start, alone, part) > 1e-4 for part in PARTS)
    steps = {name: alone[f"optimizer.{name}"]["state"][0]["step"] for name in ("student", "projection", "critic")}
    assert steps == {"student": 6, "projection": 3, "critic": 3}, "the student trains in two phases"


@pytest.mark.parametrize("layout", ["two processes", "accumulation"])
def test_one_process_equals(tmp_path, alone, layout):
    path = tmp_path / "c.pt"
    if layout == "two processes":
        train(path, launcher=TWO)
    else:
        train(path, "--accumulation", "2")
    together = load_checkpoint(path)["task"]
    assert all(difference(alone, together, part) <= 1e-6 for part in PARTS)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, alone):
    path = tmp_path / "c.pt"
    assert train(path, "--kill-at", "2", check=False).returncode == -signal.SIGKILL
    assert load_checkpoint(path)["step"] == 2
    train(path)
    resumed = load_checkpoint(path)["task"]
    for part in PARTS:
        assert difference(alone, resumed, part) == 0
    for name in ("student", "projection", "critic"):
        for old, new in zip(
            alone[f"optimizer.{name}"]["state"].values(), resumed[f"optimizer.{name}"]["state"].values(), strict=True
        ):
            assert all(torch.equal(old[k], new[k]) for k in old)
    assert set(released_state(path)) == set(alone["student"])


def test_a_method_that_needs_frames_says_so():
    class Latents(toy.ToyBatches):
        def batch(self, step, samples):
            batch = super().batch(step, samples)
            batch.pixels = None
            return batch

    recipe = replace(toy.ToyRecipe(name="toy"), batch=4)
    task = MethodTask(Latents(), toy.Toy(recipe), open_accelerator("no", cpu=True))
    with pytest.raises(ValueError, match="toy compares frames, and this data has latents only; allowed: --clips"):
        task.step(0, torch.Generator())


def test_methods_are_found_by_name():
    assert "videolcm" in method_names() and find_method("videolcm").name == "videolcm"
    with pytest.raises(ValueError, match="method is 'parts'; allowed: .*videolcm"):
        find_method("parts")
