"""Files that are rewritten in place while they are read or used: an error or whole weights, never a dead process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from videolcm_core.files import reading, safetensors_file
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.reading import load_state_dict

ROOT = Path(__file__).resolve().parents[3]
SIZE = 2_000_000

CODE = """
import json, os, sys, threading
sys.path.insert(0, sys.argv[1])
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.reading import load_state_dict

def total(path):
    tensors, _, _ = load_state_dict(path)
    os.truncate(path, 100)  # before the weights are used
    return float(sum(float(value.sum()) for value in tensors.values()))

def rewrite():
    while not stop.is_set():
        with open(path, "r+b") as file:
            file.truncate(100)
            file.seek(0)
            file.write(content)

found = {}
for path in sys.argv[2:]:
    content, stop = open(path, "rb").read(), threading.Event()
    ends = {total(path)}
    writer = threading.Thread(target=rewrite)
    writer.start()
    for _ in range(40):
        try:
            ends.add(total(path))
        except CheckpointError as error:
            assert os.path.basename(path) in str(error), error
            ends.add("refused")
    stop.set()
    writer.join()
    found[os.path.basename(path)] = sorted(map(str, ends))
print(json.dumps(found))
"""
NAMES = ("a.safetensors", "a.pth", "old.pth")


def write(path):
    tensors = {f"a{n}": torch.ones(SIZE) for n in range(4)}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=path.name == "a.pth")
    return path


def test_cut_and_rewritten_while_they_are_loaded_and_used(tmp_path):
    paths = [write(tmp_path / name) for name in NAMES]
    done = subprocess.run([sys.executable, "-c", CODE, ROOT, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr[-1000:])
    assert json.loads(done.stdout) == {name: [str(4.0 * SIZE), "refused"] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["same size", "longer"])
def test_another_content_meanwhile_is_refused(tmp_path, name, change, monkeypatch):
    """Half old and half new weights of one size would load without an error."""
    path, read = write(tmp_path / name), reading._read_file

    def slow(file):
        content = read(file)
        data = file.read_bytes()
        file.write_bytes(data if change == "same size" else data + b"\0")
        os.utime(file, ns=(0, 0))
        return content

    monkeypatch.setattr(reading, "_read_file", slow)
    with pytest.raises(CheckpointError, match="a file that was written while it was read; allowed: a file at rest"):
        load_state_dict(path)


def test_large_files_stay_mapped(tmp_path, monkeypatch):
    """Beyond `PRIVATE_MOST` nothing is copied, as in the host; the values are the same."""
    save_file({"a": torch.arange(1000.0), "b": torch.ones(0)}, tmp_path / "a.safetensors")
    private, _ = safetensors_file.read_tensors(tmp_path / "a.safetensors")
    monkeypatch.setattr(safetensors_file, "PRIVATE_MOST", 100)
    mapped, _ = safetensors_file.read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(private[key], mapped[key]) for key in private) and set(mapped) == {"a", "b"}
