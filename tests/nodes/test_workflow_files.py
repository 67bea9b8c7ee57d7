"""The shipped workflows are what the generator writes from the nodes as they are."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import make_workflows  # noqa: E402

NEED_FILES = ("videolcm_text_to_video_authors_weights", "videolcm_depth_from_real_footage")
NAMES = [build().name for build in make_workflows.GRAPHS]


def test_files_are_up_to_date(host):
    """Else run `.venv/bin/python tests/tools/make_workflows.py`."""
    files = make_workflows.render(host.nodes.NODE_CLASS_MAPPINGS, host.nodes.NODE_DISPLAY_NAME_MAPPINGS)
    folder = ROOT / "workflows"
    assert {str(p.relative_to(folder)) for p in folder.rglob("*.json")} == set(files)
    for name, text in files.items():
        assert (folder / name).read_text() == text, name


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_has_a_picture_and_a_note(name):
    page = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    assert [n for n in page["nodes"] if n["type"] == "MarkdownNote"]
    assert (ROOT / "workflows" / f"{name}.jpg").stat().st_size < 200_000


@pytest.mark.parametrize("name", NAMES)
def test_only_core_nodes_and_ours(host, name):
    prompt = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    for node in prompt.values():
        module = host.nodes.NODE_CLASS_MAPPINGS[node["class_type"]].__module__
        assert module == "nodes" or module.startswith(host.name) or "comfy_extras" in module


@pytest.mark.parametrize("name", NAMES)
def test_links_join_equal_types(host, name):
    page = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    nodes = {node["id"]: node for node in page["nodes"]}
    for link, source, output, target, slot, kind in page["links"]:
        assert nodes[source]["outputs"][output]["type"] == kind
        assert kind in nodes[target]["inputs"][slot]["type"].split(",")
        assert nodes[target]["inputs"][slot]["link"] == link
        assert link in nodes[source]["outputs"][output]["links"]


def test_chosen_values_are_offered(host):
    """Combo values in the embedded workflows exist in the nodes' lists."""
    for name in NAMES:
        if name in NEED_FILES:
            continue
        prompt = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
        for node in prompt.values():
            for field, kind, options, _ in make_workflows.inputs_of(host.nodes.NODE_CLASS_MAPPINGS[node["class_type"]]):
                if kind == "COMBO" and field in node["inputs"] and "options" in options:
                    assert node["inputs"][field] in options["options"], (name, field)
