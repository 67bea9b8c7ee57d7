"""Every shipped workflow in API format runs, or names the file it misses."""

import json

import pytest

import setup
from prompts import absent_models

WORKFLOWS = sorted((setup.ROOT / "workflows" / "api").glob("*.json"))


def test_there_are_workflows_in_both_formats():
    assert len(WORKFLOWS) >= 12
    pages = {path.name for path in (setup.ROOT / "workflows").glob("*.json")} - {"index.json"}
    assert pages == {path.name for path in WORKFLOWS}


def test_all_but_two_run_from_a_clean_clone():
    """The exceptions are those that show the authors' weights."""
    need_files = {path.stem for path in WORKFLOWS if absent_models(json.loads(path.read_text()))}
    assert need_files == {"videolcm_text_to_video_authors_weights", "videolcm_depth_from_real_footage"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_or_names_what_is_missing(comfy, path):
    prompt = json.loads(path.read_text())
    known = comfy.object_info()
    assert {node["class_type"] for node in prompt.values()} <= set(known)
    missing = absent_models(prompt)
    result = comfy.queue(prompt)
    if missing:
        assert result.status == "rejected"
        assert any(name in error for name in missing for error in result.errors), result.errors
    else:
        assert result.ok, result.errors
        assert len(result.videos) == 1
