"""How commands end: last line, exit status, and the group of processes closed whatever happened."""

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.engine.commands import is_users, told

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def python(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8", timeout=300, **options
    )


def run(body):
    """Run a command whose main is these lines."""
    lines = "\n".join("    " + line for line in body.splitlines())
    return python("-c", f"from training.engine.commands import run_command\ndef main():\n{lines}\nrun_command(main)")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('w is 3; allowed: 1.')", "w is 3; allowed: 1."),
        ("raise ValueError", "ValueError"),
        ("open('nowhere.txt', encoding='utf-8')", "nowhere.txt: No such file or directory"),
        ("raise FileNotFoundError('x is no folder. Give one.')", "x is no folder. Give one."),
        ("raise PermissionError(13, 'Permission denied', '/x')", "/x: Permission denied"),
        ("raise OSError(28, 'c.pt cannot be written (No space left); make room')", "c.pt cannot be written (No space"),
        ("open('/dev/full', 'w', encoding='utf-8').write('x' * 9999)", "No space left on device"),
        ("import a_package_that_is_missing", "No module named 'a_package_that_is_missing'"),
        ("raise FloatingPointError('the loss became nan')", "the loss became nan"),
        (
            "from videolcm_core.files.errors import CheckpointError\nraise CheckpointError('f', 'a', 'b', 'Take b.')",
            "f: got a; allowed: b. Take b.",
        ),
        (
            "import torch\nraise torch.cuda.OutOfMemoryError('out of memory.\\nmore')",
            "out of memory. Give a smaller --b",
        ),
    ],
)
def test_errors_of_the_user_are_one_paragraph(body, message):
    done = run(body)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("\nerror: ") and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("{}['x']", "KeyError"),
        ("None.x", "AttributeError"),
        ("raise RuntimeError('mat1 and mat2')", "RuntimeError"),
        ("from training.engine import nothing_of_this_name", "ImportError"),
        ("import training.nothing_of_this_name", "ModuleNotFoundError"),
        ("assert False", "AssertionError"),
    ],
)
def test_faults_of_ours_keep_their_traceback(body, name):
    done = run(body)
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(name)


@pytest.mark.parametrize(
    ("body", "status"), [("pass", 0), ("return 3", 3), ("return None", 0), ("raise SystemExit(2)", 2)]
)
def test_other_ends_keep_their_status(body, status):
    done = run(body)
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_a_line_that_says_what_to_do(number, status):
    body = "import time, sys\nprint('ready', flush=True)\ntime.sleep(60)"
    lines = "\n".join("    " + line for line in body.splitlines())
    script = f"from training.engine.commands import run_command\ndef main():\n{lines}\nrun_command(main)"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (status, "\nstopped; the same command goes on\n")


@pytest.mark.skipif(os.name == "nt", reason="pipes that are closed are told in another way")
def test_a_closed_pipe_is_no_traceback():
    script = "from training.engine.commands import run_command\nrun_command(lambda: print('x' * 10**6))"
    command = f'"{sys.executable}" -c "{script}" | head -c 1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_words_of_errors():
    assert is_users(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")) and not is_users(RuntimeError("x"))
    assert told(OSError(5, "Input/output error", "a.mp4")) == "a.mp4: Input/output error"
    assert is_users(torch.cuda.OutOfMemoryError("x"))


def test_every_training_command_ends_this_way():
    found = {}
    for path in (ROOT / "training").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
                found[path.relative_to(ROOT).as_posix()] = [ast.unparse(line) for line in node.body]
    assert len(found) >= 18
    # A stub of an old name runs the command of the new one, which ends so itself.
    allowed = r"run_command\(main.*\)|run_moved\('training\.[\w.]+'\)"
    last = {path: lines[-1] for path, lines in found.items()}
    assert not {path: line for path, line in last.items() if not re.fullmatch(allowed, line)}


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("training.distill", ("--teacher", "nowhere.pth", "--clips", ".", "--out", "{out}"), "nowhere.pth"),
        ("training.data.cache", ("--clips", "nowhere", "--out", "{out}"), "nowhere is no folder"),
        ("training.mini.pretrain_clips", ("--clips", "nowhere", "--out", "{out}/a.pt"), "nowhere is no folder"),
        ("training.mini.distill_clips", ("--cache", "nowhere", "--out", "{out}"), "nowhere"),
    ],
)
def test_real_commands_say_what_is_wrong_in_one_paragraph(tmp_path, module, arguments, message):
    done = python("-m", module, *(a.format(out=tmp_path / "out") for a in arguments))
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last and "Traceback" not in done.stderr


GLOO = """
import atexit, os, signal, sys
import torch
from torch import distributed
from training.engine.commands import run_command

def at_exit():
    os.write(1, b"open\\n" if distributed.is_initialized() else b"closed\\n")

def main():
    atexit.register(at_exit)
    store = ["file://" + os.environ["STORE"]] if "STORE" in os.environ else []
    rank, end = int(os.environ["RANK"]), sys.argv[1]
    distributed.init_process_group("gloo", *store, rank=rank, world_size=2)
    distributed.all_reduce(torch.ones(1000))
    distributed.barrier()
    if end == "error":
        raise ValueError("no caption")
    if end == "fault":
        raise KeyError("x")
    if end == "exit":
        raise SystemExit(1)
    if end == "one" and rank == 0:
        raise ValueError("no caption")
    if end == "one":
        try:
            distributed.barrier()
        except RuntimeError as error:
            raise ValueError("the other process has ended") from error
    if end == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    run_command(main)
"""
# Pairs of processes, one pair after the other, that are forked after torch was imported: importing it takes seconds.
PAIRS = """
import os, sys, tempfile
import gloo

for end in sys.argv[1:]:
    store, group = os.path.join(tempfile.mkdtemp(), "store"), []
    for rank in range(2):
        group.append(os.fork())
        if not group[-1]:
            os.environ.update(STORE=store, RANK=str(rank))
            sys.argv[1:] = [end]
            gloo.run_command(gloo.main)
    for process in group:
        print(end, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@pytest.fixture
def load():
    """As many processes that keep the cores busy as there are cores, at most two."""
    count = min(2, os.cpu_count() or 1)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    yield
    for process in busy:
        process.kill()
        process.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_two_processes_leave_their_group_whatever_ends_them(tmp_path, load):
    """A pair of each end, on cores that are busy: each says last that its group is closed, and none is aborted."""
    (tmp_path / "gloo.py").write_text(GLOO, encoding="utf-8")
    (tmp_path / "pairs.py").write_text(PAIRS, encoding="utf-8")
    ends = {"done": 0, "error": 1, "fault": 1, "exit": 1, "one": 1, "interrupt": 130}
    done = python(tmp_path / "pairs.py", *ends)
    wanted = [f"{end} {status}" for end, status in ends.items() for _ in range(2)] + ["closed"] * 12
    assert sorted(done.stdout.splitlines()) == sorted(wanted), done.stderr[-3000:]
    assert "terminate called" not in done.stderr


def test_the_launcher_reports_the_same(tmp_path, load):
    script = tmp_path / "gloo.py"
    script.write_text(GLOO, encoding="utf-8")
    failed = python(*TWO, script, "error")
    assert failed.returncode == 1 and failed.stderr.count("error: no caption") == 2
    assert failed.stdout.split() == ["closed"] * 2 and "terminate called" not in failed.stderr
