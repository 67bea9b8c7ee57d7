"""Two processes equal one; a killed run resumes to the same bits; Ctrl-C and a full disk lose nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from training.engine.files import load_checkpoint, save_atomically

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tests" / "support" / "tiny_training.py"
CONFIGS = ROOT / "training" / "configs"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}


def train(*arguments, launcher=(), check=True):
    command = [sys.executable, *launcher, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu.yaml"))


def difference(a, b, part):
    return max((a["task"][part][k] - v).abs().max().item() for k, v in b["task"][part].items())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "checkpoint.pt"
    train("--out", path)
    return load_checkpoint(path)


def test_two_processes_equal_one(tmp_path, alone):
    path = tmp_path / "checkpoint.pt"
    assert "2 processes" in train("--out", path, launcher=TWO).stdout
    together = load_checkpoint(path)
    for part in ("student", "target", "average"):
        assert difference(alone, together, part) <= 1e-6, part
    assert difference({"task": {"student": tiny.tiny_teacher().network.state_dict()}}, together, "student") > 1e-4


def test_two_processes_with_spread_parameters_equal_one(tmp_path, alone):
    path = tmp_path / "checkpoint.pt"
    train("--out", path, "--steps", "1", "--shard", launcher=TWO)
    train("--out", path, "--shard", launcher=TWO)  # resumed
    together = load_checkpoint(path)
    for part in ("student", "target", "average"):
        assert difference(alone, together, part) <= 1e-6, part


def test_a_gradient_that_one_process_lacks_counts_as_zero(tmp_path):
    script, out = ROOT / "tests" / "support" / "average_gradients.py", tmp_path / "gradients.json"
    command = [sys.executable, *TWO, str(script), str(out)]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(out.read_text()) == [[1.5, 1.5], [2.0, 2.0], None]


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    whole, path = tmp_path / "whole.pt", tmp_path / "killed.pt"
    train("--out", whole, "--steps", "4", "--mini")
    killed = train("--out", path, "--steps", "4", "--kill-at", "2", "--mini", check=False)
    assert killed.returncode == -signal.SIGKILL and load_checkpoint(path)["step"] == 2
    train("--out", path, "--steps", "4", "--mini")
    a, b = load_checkpoint(whole), load_checkpoint(path)
    for part in ("student", "target", "average"):
        assert difference(a, b, part) == 0, part
    for old, new in zip(
        a["task"]["optimizer"]["state"].values(), b["task"]["optimizer"]["state"].values(), strict=True
    ):
        assert all(torch.equal(old[k], new[k]) for k in old)


@pytest.fixture
def started(tmp_path):
    """A run of many steps that saves after each, once it has a checkpoint."""
    path = tmp_path / "checkpoint.pt"
    command = [sys.executable, str(SCRIPT), "--out", str(path), "--steps", "100000"]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True, **PIPES)
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert path.exists()
    yield process, path
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stderr.close(), process.stdout.close()


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(started):
    process, path = started
    for _ in range(20):
        load_checkpoint(path)  # whole while it is being replaced
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert load_checkpoint(path)["step"] >= 1


def test_ctrl_c_finishes_the_step_and_saves(started):
    process, path = started
    before = load_checkpoint(path)["step"]
    process.send_signal(signal.SIGINT)
    told, errors = process.communicate(timeout=120)
    saved = load_checkpoint(path)
    assert process.returncode != 0 and saved["step"] >= before
    assert f"stopped after step {saved['step'] - 1} and saved" in told and "KeyboardInterrupt" in errors


FULL = """
import resource, sys
from pathlib import Path
import torch
from training.engine.files import save_atomically
path = Path(sys.argv[1])
save_atomically({"step": 3, "task": {}}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # the system refuses further bytes, as a full disk does
save_atomically({"step": 4, "task": {"x": torch.zeros(100_000)}}, path)
"""


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], cwd=ROOT, capture_output=True, text=True)
    told = done.stderr.splitlines()[-1]
    assert re.search("checkpoint.pt cannot be written .*still holds the state saved before.*Make room", told), (
        done.stderr
    )
    assert load_checkpoint(path)["step"] == 3 and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no whole checkpoint.*another --out"):
        load_checkpoint(path)
    save_atomically({"weights": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="expected `step` and `task`"):
        load_checkpoint(path)


def test_accelerates_launcher_starts_the_same_run(tmp_path, alone):
    path = tmp_path / "checkpoint.pt"
    assert "1 processes" in train("--out", path, launcher=ACCELERATE).stdout
    assert difference(alone, load_checkpoint(path), "student") == 0


def test_every_shipped_configuration_is_read():
    from accelerate.commands.config.config_args import load_config_from_file

    found = sorted(p.name for p in CONFIGS.glob("*.yaml"))
    assert found == ["cpu.yaml", "ddp.yaml", "fsdp.yaml", "multi_node.yaml"]
    kinds = {name: str(load_config_from_file(str(CONFIGS / name)).distributed_type).split(".")[-1] for name in found}
    assert kinds == {
        "cpu.yaml": "NO",
        "ddp.yaml": "MULTI_GPU",
        "fsdp.yaml": "FSDP",
        "multi_node.yaml": "MULTI_GPU",
    }


def test_every_kind_of_teacher_trains_on_two_processes(tmp_path):
    """Encoders that the data never feeds used to stop such runs at their second step."""
    script = ROOT / "tests" / "support" / "every_teacher.py"
    command = [sys.executable, *TWO, str(script), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [line for line in done.stdout.splitlines() if " 2 [" in line]
    assert len(told) == 6 * 3 + 1 and not any("nan" in line for line in told), done.stdout
