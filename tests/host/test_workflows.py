"""Every shipped workflow in API format runs, or names the file it misses."""

import json

import pytest

import setup

WORKFLOWS = sorted((setup.ROOT / "workflows" / "api").glob("*.json"))


def model_files(prompt):
    return {
        value
        for node in prompt.values()
        for value in node["inputs"].values()
        if isinstance(value, str) and value.endswith((".safetensors", ".pth", ".bin", ".ckpt", ".pt"))
    }


def test_there_are_workflows_in_both_formats():
    assert len(WORKFLOWS) >= 4
    pages = {path.name for path in (setup.ROOT / "workflows").glob("*.json")} - {"index.json"}
    assert pages == {path.name for path in WORKFLOWS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_or_names_what_is_missing(comfy, path):
    prompt = json.loads(path.read_text())
    known = comfy.object_info()
    assert {node["class_type"] for node in prompt.values()} <= set(known)
    missing = {name for name in model_files(prompt) if not (setup.ROOT / "models" / name).is_file()}
    result = comfy.queue(prompt)
    if missing:
        assert result.status == "rejected"
        assert any(name in error for name in missing for error in result.errors), result.errors
    else:
        assert result.ok, result.errors
        assert len(result.videos) == 1
