"""Write `workflows/*.json` (for the page) and `workflows/api/*.json` (for /prompt) from one description.

Run `.venv/bin/python tests/tools/make_workflows.py`; a test fails while the files differ from what this writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import condition_workflows  # noqa: E402
import text_workflows  # noqa: E402
from workflow_graph import api_format, inputs_of, page_format  # noqa: E402

__all__ = ["GRAPHS", "inputs_of", "main", "render"]

GRAPHS = (*text_workflows.GRAPHS, *condition_workflows.GRAPHS)


def render(classes: dict[str, Any], names: dict[str, str]) -> dict[str, str]:
    """Every file of `workflows/` -> its text.

    Args:
        classes: The host's NODE_CLASS_MAPPINGS, with the pack loaded.
        names: The host's NODE_DISPLAY_NAME_MAPPINGS.
    """
    files = {}
    for build in GRAPHS:
        graph = build()
        files[f"{graph.name}.json"] = json.dumps(page_format(graph, classes), indent=2, ensure_ascii=False) + "\n"
        files[f"api/{graph.name}.json"] = json.dumps(api_format(graph, classes, names), indent=2) + "\n"
    return files


def main() -> None:
    """Write the files, with the host's code in this process."""
    from in_process_host import load_host

    host_nodes = load_host(ROOT)
    for name, text in render(host_nodes.NODE_CLASS_MAPPINGS, host_nodes.NODE_DISPLAY_NAME_MAPPINGS).items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
