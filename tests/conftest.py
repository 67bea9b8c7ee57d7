"""Fixtures shared by all tests: real ComfyUI servers with this pack in them.

`comfy`      one server for the whole run, of the newest host; tests must leave it as they found it.
`tmp_comfy`  makes a server for one test: `tmp_comfy(version=..., pack_name=..., arguments=..., environment=...,
             start=...)`.

Both give a `ComfyServer` (scripts/comfy_server.py): `.queue(prompt)` -> Result (status, errors, files, images, videos,
outputs, steps), `.submit`, `.object_info()`, `.interrupt()`, `.path(file)`, `.log()`, `.url`. Folders in `tests/packs`
are linked into `custom_nodes` beside the pack.
"""

import json
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import comfy_server
import setup

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows" / "api"


def make_server(
    base: Path, version: str = setup.NEWEST_HOST, pack_name: str | None = setup.PACK_NAME, **options: Any
) -> comfy_server.ComfyServer:
    """A server on the CPU with the pack linked in under `pack_name` (None: without the pack)."""
    arguments = ("--cpu", *options.pop("arguments", ()))
    tree, python = setup.host_tree(version), setup.venv_python()
    server = comfy_server.ComfyServer(tree, python, base, arguments=arguments, **options)
    if pack_name is not None:
        setup.link_pack(server.base, pack_name)
    for pack in (ROOT / "tests" / "packs").glob("*/"):
        link = server.base / "custom_nodes" / pack.name
        if not link.exists():
            link.symlink_to(pack, target_is_directory=True)
    return server


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[comfy_server.ComfyServer]:
    """The newest host with the pack, shared by the whole run."""
    with make_server(tmp_path_factory.mktemp("comfy")) as server:
        yield server


@pytest.fixture
def tmp_comfy(tmp_path: Path) -> Iterator[Callable[..., comfy_server.ComfyServer]]:
    """A function that starts a server for this test alone; all are stopped at its end."""
    servers: list[comfy_server.ComfyServer] = []

    def start_one(start: bool = True, **options: Any) -> comfy_server.ComfyServer:
        server = make_server(tmp_path / f"comfy{len(servers)}", **options)
        servers.append(server)
        return server.start() if start else server

    yield start_one
    for server in servers:
        server.stop()


@pytest.fixture
def text_to_video() -> dict[str, dict]:
    """The shipped text-to-video workflow in API format."""
    return json.loads((WORKFLOWS / "videolcm_text_to_video.json").read_text())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the server's log with a test that fails."""
    report = yield
    servers = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, comfy_server.ComfyServer)]
    if report.failed:
        for server in servers:
            report.sections.append(("server log", server.tail()))
    return report


def pytest_sessionstart() -> None:
    """Let a terminated run stop its servers: SIGTERM becomes the interrupt that pytest cleans up after."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
