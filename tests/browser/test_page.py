"""What a user does on ComfyUI's page: drop a file, press Run, read a node's help."""

import json
import re

from templates import TEMPLATES

import setup
from pages import assert_same_prompt
from prompts import inputs_of, quick

SCREENSHOTS = setup.HOST / "screenshots"
HELP = sorted((setup.ROOT / "nodes" / "web" / "docs").glob("*.md"))
TEXT_TO_VIDEO = next(template for template in TEMPLATES if template.name == "videolcm_text_to_video")


def test_api_format_file_opens_too(open_page):
    page = open_page()
    page.drop("prompt.json", json.dumps(TEXT_TO_VIDEO.api()).encode())
    assert page.missing_nodes() == []
    assert_same_prompt(page.prompt(), TEXT_TO_VIDEO.api())


def test_run_makes_a_video_and_its_file_brings_the_workflow_back(open_page, vue_nodes, comfy):
    page = open_page(vue_nodes)
    path = TEXT_TO_VIDEO.page_file
    page.drop(path.name, path.read_bytes())
    # A seed of this test's own: an unchanged prompt would be answered from the cache.
    seed = 1000 + vue_nodes
    page.page.evaluate(
        "seed => app.graph.nodes.forEach(node => node.widgets?.filter(widget => widget.name === 'seed')"
        ".forEach(widget => { widget.value = seed }))",
        seed,
    )
    shown = page.prompt()
    entry = page.finish(comfy.get_json, page.run())
    assert entry["status"]["status_str"] == "success", entry["status"]
    ((node_id, output),) = [(id, output) for id, output in entry["outputs"].items() if "animated" in output]
    video = comfy.base / "output" / output["images"][0]["subfolder"] / output["images"][0]["filename"]
    assert video.stat().st_size > 1000
    page.wait("id => app.nodeOutputs[id]?.images?.length", argument=node_id)
    page.wait("() => [...document.querySelectorAll('video')].some(video => video.videoWidth > 0)")
    # The result plays by itself, and again from the start when it has ended.
    page.wait("() => [...document.querySelectorAll('video')].some(video => !video.paused && video.loop)")
    page.screenshot(SCREENSHOTS / f"after_run_{'vue' if vue_nodes else 'canvas'}.png")
    page.drop(video.name, video.read_bytes())
    assert page.missing_nodes() == []
    assert_same_prompt(page.prompt(), shown)
    assert page.complaint() == ""


def test_saved_picture_brings_the_workflow_back(open_page, vue_nodes, comfy):
    shipped = quick(TEXT_TO_VIDEO.api())
    frames = inputs_of(shipped, "CreateVideo")["images"]
    with_picture = {
        **shipped,
        "900": {"class_type": "SaveImage", "inputs": {"images": frames, "filename_prefix": "still"}},
    }
    page_format = TEXT_TO_VIDEO.page()
    result = comfy.queue(with_picture, extra_data={"extra_pnginfo": {"workflow": page_format}})
    assert result.ok, result.errors
    picture = comfy.path(result.images[0])
    page = open_page(vue_nodes)
    page.drop(picture.name, picture.read_bytes())
    assert page.missing_nodes() == []
    assert_same_prompt(page.prompt(), TEXT_TO_VIDEO.api())


def test_help_pages_are_shown(open_page):
    page = open_page()
    for path in HELP:
        page.clear()
        page.page.evaluate(
            "type => { const node = LiteGraph.createNode(type); node.pos = [300, 200];"
            " app.graph.add(node); app.canvas.selectNode(node) }",
            path.stem,
        )
        page.page.get_by_test_id("info-button").click()
        # The last line: the start would also be there in the page that is made of the schema alone.
        words = re.sub(r"[`*_]|^[-#\d. ]+", "", path.read_text().strip().splitlines()[-1])[:40]
        page.wait("words => document.querySelector('.node-help-content')?.innerText.includes(words)", 20, words)


def test_every_node_has_a_help_page(comfy):
    ours = {name for name, node in comfy.object_info().items() if node["python_module"].endswith(setup.PACK_NAME)}
    assert ours == {path.stem for path in HELP}
