"""Show a server's log in the terminal while it grows."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

ERROR_EDGE = "********** ERROR ***********"  # first and last line of a boxed error


def show(path: Path, ended: threading.Event, own_host: bool) -> None:
    """Copy a growing log until `ended`; of our own host without the error about what it leaves out on purpose."""
    lines = growing_lines(path, ended)
    for line in without_templates_error(lines) if own_host else lines:
        print(line, end="", flush=True)


def growing_lines(path: Path, ended: threading.Event) -> Iterator[str]:
    """Whole lines of a file that is still being written; after `ended` those that are left."""
    while not path.exists():
        if ended.wait(0.05):
            return
    with open(path, encoding="utf-8", errors="replace") as log:
        rest = ""
        while True:
            last = ended.is_set()  # asked before reading: what came in between is read in the next round
            rest += log.read()
            *lines, rest = rest.splitlines(keepends=True) or [""]
            if rest.endswith("\n"):
                lines, rest = [*lines, rest], ""
            yield from lines
            if last:
                yield from [rest] if rest else []
                return
            ended.wait(0.1)


def without_templates_error(lines: Iterable[str]) -> Iterator[str]:
    """A log without the host's boxed error that its own example gallery is not installed.

    `.host` leaves that gallery out, 400 MB of images of other models' workflows; this pack's templates come from the
    pack. Every other error stays.
    """
    box: list[str] = []
    for line in lines:
        edge = ERROR_EDGE in line
        if not box and not edge:
            yield line
            continue
        box.append(line)
        if edge and len(box) > 1:
            if not any("comfyui-workflow-templates is not installed" in inner for inner in box):
                yield from box
            box = []
    yield from box
