"""What a user does on ComfyUI's page: drop a file, press Run, open a template, read a node's help."""

import json
import re

import setup
from prompts import absent_models, inputs_of, quick

WORKFLOWS = sorted(path for path in (setup.ROOT / "workflows").glob("*.json") if path.name != "index.json")
SCREENSHOTS = setup.HOST / "screenshots"
HELP = sorted((setup.ROOT / "nodes" / "web" / "docs").glob("*.md"))
TEXT_TO_VIDEO = "videolcm_text_to_video"


def api_format(name: str) -> dict:
    return json.loads((setup.ROOT / "workflows" / "api" / f"{name}.json").read_text())


def wiring(prompt: dict) -> dict:
    """Types and inputs by node id, without titles and without inputs that only one side spells out."""
    return {id: (node["class_type"], node["inputs"]) for id, node in prompt.items()}


def assert_same_prompt(page_prompt: dict, shipped: dict) -> None:
    """The page queues the shipped prompt; the page may add defaults of inputs that the shipped one leaves out."""
    ours, theirs = wiring(shipped), wiring(page_prompt)
    assert set(ours) == set(theirs)
    for id, (class_type, inputs) in ours.items():
        assert theirs[id][0] == class_type
        assert inputs.items() <= theirs[id][1].items(), f"{class_type}: {inputs} is not in {theirs[id][1]}"


def test_shipped_workflows_open_without_missing_nodes(open_page, vue_nodes):
    page = open_page(vue_nodes)
    assert WORKFLOWS
    for path in WORKFLOWS:
        page.drop(path.name, path.read_bytes())
        assert page.missing_nodes() == [], path.name
        complaint = page.complaint()
        # Only the workflows with the authors' weights may ask for something: the files.
        assert not complaint or absent_models(api_format(path.stem)), f"{path.name}: {complaint}"
        assert "missing node" not in complaint.lower(), complaint
        assert_same_prompt(page.prompt(), api_format(path.stem))


def test_api_format_file_opens_too(open_page):
    page = open_page()
    page.drop("prompt.json", json.dumps(api_format(TEXT_TO_VIDEO)).encode())
    assert page.missing_nodes() == []
    assert_same_prompt(page.prompt(), api_format(TEXT_TO_VIDEO))


def test_run_makes_a_video_and_its_file_brings_the_workflow_back(open_page, vue_nodes, comfy):
    page = open_page(vue_nodes)
    path = setup.ROOT / "workflows" / f"{TEXT_TO_VIDEO}.json"
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
    page.screenshot(SCREENSHOTS / f"after_run_{'vue' if vue_nodes else 'canvas'}.png")
    page.drop(video.name, video.read_bytes())
    assert page.missing_nodes() == []
    assert_same_prompt(page.prompt(), shown)
    assert page.complaint() == ""


def test_saved_picture_brings_the_workflow_back(open_page, vue_nodes, comfy):
    shipped = quick(api_format(TEXT_TO_VIDEO))
    frames = inputs_of(shipped, "CreateVideo")["images"]
    with_picture = {
        **shipped,
        "900": {"class_type": "SaveImage", "inputs": {"images": frames, "filename_prefix": "still"}},
    }
    page_format = json.loads((setup.ROOT / "workflows" / f"{TEXT_TO_VIDEO}.json").read_text())
    result = comfy.queue(with_picture, extra_data={"extra_pnginfo": {"workflow": page_format}})
    assert result.ok, result.errors
    picture = comfy.path(result.images[0])
    page = open_page(vue_nodes)
    page.drop(picture.name, picture.read_bytes())
    assert page.missing_nodes() == []
    assert_same_prompt(page.prompt(), api_format(TEXT_TO_VIDEO))


def test_templates_are_listed_and_open(open_page):
    page = open_page()
    for path in WORKFLOWS:
        page.clear()
        page.command("Comfy.BrowseTemplates")
        browser_of_templates = page.page.locator("[role=dialog]").filter(has_text="Templates").first
        browser_of_templates.get_by_text(setup.PACK_NAME, exact=True).first.click()
        card = page.page.get_by_test_id(f"template-workflow-{path.stem}")
        card.wait_for()
        card.click()
        page.wait("() => app.graph.nodes.length > 1")
        page.settle()
        assert page.missing_nodes() == []
        assert_same_prompt(page.prompt(), api_format(path.stem))


def test_templates_have_pictures(comfy):
    for path in WORKFLOWS:
        status, body = comfy.request(f"/api/workflow_templates/{setup.PACK_NAME}/{path.stem}.jpg")
        assert status == 200 and body[:3] == b"\xff\xd8\xff", path.stem


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
