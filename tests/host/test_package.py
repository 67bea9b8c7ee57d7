"""What the registry would ship, packed by its own tool, in a host that has nothing else of this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote

import pytest

import setup
from prompts import frames_in

LINKS = re.compile(r"(?:\]\(|src=\")(?!https?:|#|mailto:)([^)#\s\"]+)")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive, made by ``comfy node pack`` in a copy of the working tree."""
    copy = tmp_path_factory.mktemp("repository")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=setup.ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (setup.ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(setup.ROOT / name, copy / name)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    environment = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home")), "DO_NOT_TRACK": "1"}
    comfy = Path(sys.executable).parent / "comfy"
    command = [comfy, "--skip-prompt", "node", "pack"]
    packed = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=120)
    (archive,) = copy.glob("*.zip")
    assert packed.returncode == 0, packed.stderr
    target = tmp_path_factory.mktemp("package")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(target)
    return target


def test_an_installed_archive_runs_its_templates(package, tmp_comfy):
    server = tmp_comfy(start=False, pack_name=None)
    shutil.copytree(package, server.base / "custom_nodes" / "videolcm")  # the name that the registry gives it
    server.start()
    assert len(server.get_json("/workflow_templates")["videolcm"]) >= 14
    for name in ("videolcm_text_to_video", "videolcm_depth_to_video"):
        prompt = json.loads((package / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
        result = server.queue(prompt)
        assert result.ok, result.errors
        assert len(frames_in(server.path(result.videos[0]))) == 16


def test_readme_works_as_shipped(package):
    """Images and links of README are inside, but for sections that say they need a clone."""
    missing = {}
    for section in re.split(r"^(?=## )", (package / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        title = section.splitlines()[0]
        if "(in a clone)" not in title:
            links = [link for link in LINKS.findall(section) if not (package / unquote(link)).exists()]
            commands = re.findall(r"^(?:make|scripts/|python -m training)\S*", section, flags=re.MULTILINE)
            if links or commands:
                missing[title] = [*links, *commands]
    assert not missing


def test_docs_link_to_what_is_inside(package):
    for page in (package / "docs").glob("*.md"):
        links = LINKS.findall(page.read_text(encoding="utf-8"))
        images = [link for link in links if link.endswith((".jpg", ".webp", ".svg", ".png"))]
        assert not [link for link in images if not (page.parent / link).exists()], page.name


def test_an_archive_is_small(package):
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    assert size < 120 * 2**20
