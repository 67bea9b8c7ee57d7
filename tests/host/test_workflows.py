"""Every shipped workflow in API format runs, or names the file it misses."""

import gzip
import json
import urllib.request

import pytest
from templates import FOLDER, NEED_FILES, TEMPLATES

import setup
from prompts import absent_models

WORKFLOWS = sorted((FOLDER / "api").glob("*.json"))


def test_there_are_workflows_in_both_formats():
    assert len(WORKFLOWS) >= 14
    assert {path.stem for path in FOLDER.glob("*.json")} == {template.title for template in TEMPLATES}
    assert {path.stem for path in WORKFLOWS} == {template.name for template in TEMPLATES}


def test_all_run_from_a_clean_clone_but_those_with_published_weights():
    assert {path.stem for path in WORKFLOWS if absent_models(json.loads(path.read_text()))} == NEED_FILES


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_or_names_what_is_missing(comfy, path):
    prompt = json.loads(path.read_text())
    known = comfy.object_info()
    assert {node["class_type"] for node in prompt.values()} <= set(known)
    missing = absent_models(prompt)
    result = comfy.queue(prompt)
    if missing:
        assert result.status == "rejected"
        assert_only_files_are_missing(result.node_errors, missing)
    else:
        assert result.ok, result.errors
        assert len(result.videos) == 1


def assert_only_files_are_missing(node_errors, missing):
    """The host's complaints are that these files are not among its own, and nothing else."""
    complaints = [error for node in node_errors.values() for error in node["errors"]]
    absent = {e["extra_info"]["received_value"] for e in complaints if e["type"] == "value_not_in_list"}
    assert absent == missing
    others = [error for error in complaints if error["type"] != "value_not_in_list"]
    assert all("your_video.mp4" in error["details"] for error in others), others


def test_links_give_the_templates(comfy):
    """A page that opens `?template=NAME&source=PACK` asks for this address, with the browser's encodings."""
    for template in TEMPLATES:
        address = f"{comfy.url}/api/workflow_templates/{setup.PACK_NAME}/{template.name}.json"
        request = urllib.request.Request(address, headers={"Accept-Encoding": "gzip, deflate, br, zstd"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert answer.headers["Content-Type"] == "application/json"
            assert json.loads(gzip.decompress(answer.read())) == template.page()


def test_only_titles_become_cards(comfy):
    listed = comfy.get_json("/api/workflow_templates")[setup.PACK_NAME]
    assert sorted(listed) == [template.title for template in TEMPLATES]
