"""`make demo`, run as a user runs it."""

import json
import os
import re
import subprocess
import sys

import av
import pytest
from PIL import Image

import demo
import setup
from prompts import set_checkpoint, text_of


def make(*variables, timeout=600):
    """Run `make demo`; gives the completed process with its text."""
    command = ["make", "demo", f"PYTHON={sys.executable}", *variables]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        command,
        cwd=setup.ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_demo_writes_a_video_and_a_contact_sheet(tmp_path):
    leftovers = set(setup.HOST.glob("demo-*"))
    prompt = 'a "dog" costs $5, isn\'t it'
    done = make(f"PROMPT={prompt}", "SEED=7", "STEPS=2", f"OUT={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    video, sheet = sorted(tmp_path.iterdir())
    assert (video.suffix, sheet.suffix) == (".mp4", ".png")
    assert "seed7_steps2" in video.name
    assert str(video) in done.stdout and str(sheet) in done.stdout
    with av.open(str(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
        written = container.metadata
    assert len(frames) == 16
    assert text_of(json.loads(written["prompt"]))["text"] == prompt
    assert min(Image.open(sheet).size) >= 4 * 64
    assert "sampling [########################] 2/2" in done.stdout
    for stage in ("setup", "server start", "sample", "decode", "save", "server stop"):
        assert re.search(rf"{stage} +\d+\.\d s", done.stdout), stage
    assert set(setup.HOST.glob("demo-*")) == leftovers


def test_demo_with_an_existing_comfyui(tmp_path):
    tree = setup.host_tree()
    before = {path for path in tree.rglob("*") if "__pycache__" not in path.parts}
    done = make(f"COMFYUI={tree}", f"COMFYUI_PYTHON={setup.venv_python()}", "STEPS=1", f"OUT={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("*.mp4"))) == 1
    assert {path for path in tree.rglob("*") if "__pycache__" not in path.parts} == before


@pytest.mark.parametrize(
    ("variable", "complaint"),
    [
        ("PROMPT=", "PROMPT is empty"),
        ("STEPS=0", "STEPS=0 cannot be used: it must be a whole number from 1 to 50"),
        ("STEPS=51", "from 1 to 50"),
        ("STEPS=four", "STEPS=four cannot be used"),
        ("SEED=-1", "SEED=-1 cannot be used"),
        ("COMFYUI=/nowhere", "is not a ComfyUI folder"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(tmp_path, variable, complaint):
    done = make(variable, f"OUT={tmp_path}", timeout=60)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_server_that_does_not_start_is_shown_with_its_log(tmp_path):
    tree = tmp_path / "ComfyUI"
    (tree / "comfy").mkdir(parents=True)
    (tree / "main.py").write_text("print('the reason it failed'); raise SystemExit(3)")
    done = make(f"COMFYUI={tree}", f"COMFYUI_PYTHON={setup.venv_python()}", f"OUT={tmp_path / 'out'}")
    assert done.returncode != 0
    assert "the reason it failed" in done.stderr
    log = re.search(r"the whole log: (.*)\)", done.stderr)
    assert log and "the reason it failed" in open(log[1]).read()
    assert not (tmp_path / "out").exists()


def test_prompt_that_the_server_refuses(tmp_path, monkeypatch, capsys, text_to_video):
    """A workflow whose checkpoint is gone: the server's own words, no output, status 1."""
    set_checkpoint(text_to_video, "gone.safetensors")
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(text_to_video))
    monkeypatch.setattr(demo, "WORKFLOW", workflow)
    status = demo.main(["--out", str(tmp_path / "out"), "--prepared", str(setup.host_tree()), "0"])
    assert status == 1
    assert "gone.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
