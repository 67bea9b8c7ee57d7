"""Write the templates, their API files, the files behind links to them, and the blueprints, from one description.

    workflows/TITLE.json         what the page opens; the page shows the file's name as the card's title
    workflows/api/NAME.json      the same for /prompt
    workflows/NAME.json.gz       the same for links (`?template=NAME`) and under the templates' names of before
    subgraphs/TITLE.json         blueprints

Links may hold letters, digits and `_.-` only, so no card's title; and every `.json` here becomes a card. A `.json.gz`
is no card, and the host's server sends it, as a compressed answer, to a page that asks for the `.json`.

Run `.venv/bin/python tests/tools/make_workflows.py`; a test fails while the files differ from what this writes.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("workflows", "subgraphs")
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import animatelcm_workflows  # noqa: E402
import condition_workflows  # noqa: E402
import text_workflows  # noqa: E402
from blueprints import BLUEPRINTS, blueprint_format  # noqa: E402
from workflow_graph import api_format, inputs_of, page_format  # noqa: E402

__all__ = ["BLUEPRINTS", "GRAPHS", "inputs_of", "main", "render", "written"]

GRAPHS = sorted(
    (*text_workflows.GRAPHS, *condition_workflows.GRAPHS, *animatelcm_workflows.GRAPHS),
    key=lambda build: build().title,
)


def render(classes: dict[str, Any], names: dict[str, str]) -> dict[str, bytes]:
    """Every file -> its content.

    Args:
        classes: The host's NODE_CLASS_MAPPINGS, with the pack loaded.
        names: The host's NODE_DISPLAY_NAME_MAPPINGS.
    """
    files = {}
    for build in GRAPHS:
        graph = build()
        page = text_of(page_format(graph, classes))
        files[f"workflows/{graph.title}.json"] = page
        files[f"workflows/{graph.name}.json.gz"] = gzip.compress(page, mtime=0)
        files[f"workflows/api/{graph.name}.json"] = text_of(api_format(graph, classes, names))
    for make in BLUEPRINTS:
        blueprint = make()
        files[f"subgraphs/{blueprint.title}.json"] = text_of(blueprint_format(blueprint, classes))
    return files


def text_of(value: dict[str, Any]) -> bytes:
    """A file's text."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def written() -> list[Path]:
    """The files that are there."""
    return [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.json*")]


def main() -> None:
    """Write the files, with the host's code in this process, and remove those of before."""
    from in_process_host import load_host

    host_nodes = load_host(ROOT)
    files = render(host_nodes.NODE_CLASS_MAPPINGS, host_nodes.NODE_DISPLAY_NAME_MAPPINGS)
    for path in written():
        if str(path.relative_to(ROOT)) not in files:
            path.unlink()
    for name, content in files.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(name)


if __name__ == "__main__":
    main()
