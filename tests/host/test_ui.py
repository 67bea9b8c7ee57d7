"""`make ui`: what a user reads in the terminal, and where its links lead."""

import json
import re
import signal
import subprocess
import threading
import time

import pytest

import demo
import host_log
import setup
from comfy_server import free_port

# As `make ui` runs it, in a base directory of this test's own.
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {scripts!r})
import demo, setup
setup.BASE = Path({base!r})
sys.exit(demo.main(["--ui", "--port", "{port}", "--prepared", {tree!r}, "0"]))
"""
BOX = f"[ERROR] {host_log.ERROR_EDGE}\n\ncomfyui-workflow-templates is not installed.\n\n{host_log.ERROR_EDGE}\n"


def test_ui_prints_links_to_templates_and_no_error(tmp_path):
    port = free_port()
    program = PROGRAM.format(
        scripts=str(setup.ROOT / "scripts"), base=str(tmp_path / "base"), port=port, tree=str(setup.host_tree())
    )
    process = subprocess.Popen(
        [str(setup.venv_python()), "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        printed = read_until(process, "Ctrl-C stops")
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    printed += rest
    assert "To see the GUI go to" in printed
    assert "ERROR" not in printed and "not installed" not in printed, printed[-3000:]
    links = re.findall(rf"http://127\.0\.0\.1:{port}/\?template=([\w.-]+)&source=([\w.-]+)  .+", printed)
    assert links == [(name, setup.PACK_NAME) for name in demo.LINKED.values()]
    assert all((setup.ROOT / "workflows" / f"{name}.json.gz").is_file() for name, _ in links)
    assert (tmp_path / "base" / "server.log").read_text().count("not installed") == 1


def read_until(process: subprocess.Popen, words: str, seconds: float = 120) -> str:
    lines: list[str] = []
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    for line in process.stdout:
        lines.append(line)
        if words in line:
            break
    watchdog.cancel()
    assert lines and words in lines[-1], "".join(lines)
    return "".join(lines)


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        (f"a\n{BOX}b\n", "a\nb\n"),
        (BOX.replace("workflow-templates", "frontend-package"), BOX.replace("workflow-templates", "frontend-package")),
        (f"a\n{host_log.ERROR_EDGE}\nunfinished\n", f"a\n{host_log.ERROR_EDGE}\nunfinished\n"),
        ("plain\n[ERROR] of a node\n", "plain\n[ERROR] of a node\n"),
    ],
)
def test_only_the_error_about_the_gallery_is_left_out(log, shown):
    assert "".join(host_log.without_templates_error(log.splitlines(keepends=True))) == shown


def test_growing_log_is_read_to_its_end(tmp_path):
    path, ended, read = tmp_path / "log", threading.Event(), []
    reader = threading.Thread(target=lambda: read.extend(host_log.growing_lines(path, ended)))
    reader.start()
    with open(path, "w") as log:
        for part in ("one\ntw", "o\n", "thr", "ee\nno end"):
            log.write(part)
            log.flush()
            time.sleep(0.15)
    ended.set()
    reader.join(5)
    assert read == ["one\n", "two\n", "three\n", "no end"], json.dumps(read)
