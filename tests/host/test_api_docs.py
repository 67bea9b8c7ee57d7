"""Every snippet of docs/api.md, as it stands there, on a real server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prompts import frames_in

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "api.md"
SNIPPETS = re.findall(r"```(python|sh)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def clone(tmp_path):
    """A folder that looks like a clone to a script, where it may write."""
    for name in ("workflows", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name, target_is_directory=True)
    (tmp_path / "prompts.txt").write_text("a bus jumps up and down on sand\na cactus spins around on snow\n")
    return tmp_path


def run(kind: str, snippet: str, comfy, clone: Path, home: Path) -> subprocess.CompletedProcess:
    text = snippet.replace("http://127.0.0.1:8188", comfy.url).replace("--port 8188", f"--port {comfy.port}")
    assert text != snippet, "a snippet that speaks to no server"
    command = [sys.executable, "-c", text] if kind == "python" else ["sh", "-ec", text]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(home), "DO_NOT_TRACK": "1"}
    return subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_makes_its_videos(comfy, clone, tmp_path_factory, number):
    kind, snippet = SNIPPETS[number]
    done = run(kind, snippet, comfy, clone, tmp_path_factory.mktemp("home"))
    assert done.returncode == 0, done.stdout + done.stderr
    # What ran before comes from the server's cache, with the file of then: the snippet names it all the same.
    names = set(re.findall(r"[\w.-]+\.mp4", done.stdout))
    assert len(names) == (2 if "prompts.txt" in snippet else 1), done.stdout
    for path in (path for path in comfy.outputs() if path.name in names):
        assert len(frames_in(path)) == 16
    assert names <= {path.name for path in comfy.outputs()}
    if "urlretrieve" in snippet:
        (video,) = clone.glob("*.mp4")
        assert video.stat().st_size > 1000


def test_the_first_snippet_is_as_short_as_it_says():
    lines = [line for line in SNIPPETS[0][1].splitlines() if line.strip()]
    assert len(lines) <= 20


def test_the_first_snippet_tells_the_error_of_a_node(comfy, clone, tmp_path_factory):
    kind, snippet = SNIPPETS[0]
    broken = snippet.replace('["4"]["inputs"]["seed"] = 7', '["4"]["inputs"]["cfg"] = 3.0')
    assert broken != snippet
    done = run(kind, broken, comfy, clone, tmp_path_factory.mktemp("home"))
    assert done.returncode != 0 and "no negative prompt is connected" in done.stderr
    assert not list(clone.glob("*.mp4"))
