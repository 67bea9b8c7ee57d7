"""What the page's search finds, and blueprints: whole workflows as one node."""

import pytest
from templates import TEMPLATES

import setup
from pages import ComfyPage, assert_same_prompt
from prompts import frames_in

PLACED = "() => { const node = app.graph.nodes.at(-1); return [node.title, node.isSubgraphNode()] }"
# A clip of the pack into the inputs of the node that was added, and what takes its VIDEO.
CONNECT = """() => {
    const one = app.graph.nodes.find(node => node.isSubgraphNode?.());
    const clip = LiteGraph.createNode('VideoLCMExampleClip');
    app.graph.add(clip);
    one.inputs.forEach((input, slot) => {
        if (!input.widget) clip.connect(input.type === 'MASK' ? 1 : 0, one, slot);
    });
    one.widgets.find(widget => widget.name === 'steps').value = 1;
}"""
BLUEPRINTS = sorted(path.stem for path in (setup.ROOT / "subgraphs").glob("*.json"))
NEED_FILES = {"Text to Video (AnimateLCM, SD 1.5)": "videolcm_animatelcm_text_to_video"}
"""Those with published files, and the template that is the same graph."""


def test_nodes_are_found_by_what_people_type(open_page):
    page = open_page()
    page.clear()
    words = ("t2v", "i2v", "v2v", "text to video", "image to video", "fast video", "turbo", "few steps", "distilled")
    for word in (*words, "animate", "lightning", "compare", "random prompt", "videolcm"):
        found = page.search(word)
        # As many as are seen without scrolling.
        assert any("VideoLCM" in text for text in found[:12]), f"{word}: {found[:12]}"


def test_motion_modules_are_found_by_what_their_users_type(open_page):
    page = open_page()
    page.clear()
    for word in ("animatediff", "animatelcm", "motion module", "mm_sd_v15", "sd1.5"):
        found = page.search(word)
        assert any("Load Motion Module" in text for text in found[:12]), f"{word}: {found[:12]}"


def run_blueprint(page: ComfyPage, name: str, server) -> None:
    """Find, place, connect and run a blueprint; a video of 16 frames is saved."""
    page.clear()
    page.add_found(name[:24])  # the page's search takes no more than 32 letters
    assert page.page.evaluate(PLACED) == [name, True]
    page.page.evaluate(CONNECT)
    entry = page.finish(server.get_json, page.run())
    assert entry["status"]["status_str"] == "success", entry["status"]
    (saved,) = [file for output in entry["outputs"].values() for file in output.get("images", [])]
    assert len(frames_in(server.base / "output" / saved["subfolder"] / saved["filename"])) == 16


def test_host_lists_the_blueprints(comfy):
    listed = comfy.get_json("/global_subgraphs").values()
    ours = [entry["name"] for entry in listed if entry["info"]["node_pack"] == f"custom_nodes.{setup.PACK_NAME}"]
    assert sorted(ours) == BLUEPRINTS


@pytest.mark.parametrize("name", sorted(set(BLUEPRINTS) - set(NEED_FILES)))
def test_blueprints_are_found_and_run(open_page, comfy, name):
    run_blueprint(open_page(), name, comfy)


@pytest.mark.parametrize("name", sorted(NEED_FILES))
def test_blueprints_with_published_files_are_their_template(open_page, name):
    """Which tests/host/test_sd15_workflows.py runs."""
    page = open_page()
    page.clear()
    page.add_found(name[:24])
    assert page.page.evaluate(PLACED) == [name, True]
    (template,) = (template for template in TEMPLATES if template.name == NEED_FILES[name])
    assert_same_prompt(page.prompt(), template.api())


def test_blueprint_runs_with_vue_nodes(open_page, comfy):
    run_blueprint(open_page(True), "Text to Video (VideoLCM)", comfy)


def test_blueprint_needs_nothing_but_run(open_page, comfy):
    page = open_page()
    page.clear()
    page.add_found("Text to Video (VideoLCM)")
    assert page.finish(comfy.get_json, page.run())["status"]["status_str"] == "success"


def test_blueprints_on_the_oldest_host(open_page, tmp_comfy):
    server = tmp_comfy(version=setup.OLDEST_HOST)
    assert {entry["name"] for entry in server.get_json("/global_subgraphs").values()} >= set(BLUEPRINTS)
    for name in ("Text to Video (VideoLCM)", "Depth to Video (VideoLCM)"):
        run_blueprint(open_page(server=server), name, server)
