"""Drive ComfyUI's page in a headless Chromium."""

import base64
import json
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
).split()
READY = "() => window.app?.extensionManager && window.app.canvas && !window.app.extensionManager.spinner"
UNMASKED = "() => !document.querySelector('.p-blockui-mask')"
SETTLED = (
    "async () => { await document.fonts.ready; for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame) }"
)
DROP = """async ([name, type, text]) => {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type}));
    const canvas = document.querySelector('#graph-canvas');
    const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
    canvas.dispatchEvent(new DragEvent('drop', options));
}"""
MISSING = """() => {
    const nodes = graph => graph.nodes.flatMap(node => node.subgraph ? nodes(node.subgraph) : [node.type]);
    return nodes(app.graph).filter(type => !(type in LiteGraph.registered_node_types)
        && !['MarkdownNote', 'Note', 'Reroute', 'PrimitiveNode'].includes(type));
}"""


SHOWN = """() => {
    const box = thing => Object.fromEntries(['x', 'y', 'w', 'h'].map((key, i) => [key, thing.boundingRect[i]]));
    const points = link => {
        const ends = [app.graph.getNodeById(link.origin_id).getOutputPos(link.origin_slot),
                      app.graph.getNodeById(link.target_id).getInputPos(link.target_slot)];
        const middle = [];
        for (let at = app.graph.reroutes.get(link.parentId); at; at = app.graph.reroutes.get(at.parentId))
            middle.unshift([...at.pos]);
        return [[...ends[0]], ...middle, [...ends[1]]];
    };
    return {
        scale: app.canvas.ds.scale,
        nodes: app.graph.nodes.map(node => ({name: node.title, type: node.type, ...box(node)})),
        groups: app.graph.groups.map(group => ({name: group.title, ...box(group)})),
        links: [...app.graph.links.values()].map(points),
    };
}"""


def assert_same_prompt(page_prompt: dict[str, Any], shipped: dict[str, Any]) -> None:
    """The page queues what the shipped prompt does, under ids of its own, and shows images beside it.

    The page may add defaults of inputs that the shipped prompt leaves out.
    """
    seen: dict[str, str] = {}

    def compare(ours: str, theirs: str) -> None:
        if ours in seen:
            assert seen[ours] == theirs
            return
        seen[ours] = theirs
        one, other = shipped[ours], page_prompt[theirs]
        assert one["class_type"] == other["class_type"]
        for name, value in one["inputs"].items():
            given = other["inputs"].get(name)
            if isinstance(value, list) and len(value) == 2 and value[0] in shipped:
                assert isinstance(given, list) and given[1] == value[1], f"{one['class_type']}: {name} is {given}"
                compare(value[0], given[0])
            else:
                assert given == value, f"{one['class_type']}: {name} is {given}, not {value}"

    (ours,) = (id for id, node in shipped.items() if node["class_type"] == "SaveVideo")
    (theirs,) = (id for id, node in page_prompt.items() if node["class_type"] == "SaveVideo")
    compare(ours, theirs)
    assert set(seen) == set(shipped), "nodes of the shipped prompt that lead to no video"
    beside = {page_prompt[id]["class_type"] for id in set(page_prompt) - set(seen.values())}
    assert beside <= {"PreviewImage", "MaskToImage"}, f"the page runs {beside} beside the shipped prompt"


class ComfyPage:
    """ComfyUI's page with what a user does on it."""

    def __init__(self, page: Page, url: str):
        """Open the page and wait until it can be used."""
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(url)
        page.wait_for_function(READY, timeout=60_000)
        self.settle()

    def settle(self) -> None:
        """Wait until nothing covers the page: a load under a fading mask would leave the mask for good."""
        self.page.wait_for_function(UNMASKED, timeout=30_000)
        self.page.evaluate(SETTLED)

    def clear(self) -> None:
        """Empty the graph, so that what is there later was loaded by the test."""
        self.page.evaluate("() => app.graph.clear()")

    def drop(self, name: str, content: bytes) -> None:
        """Drop a file on the canvas and wait until its workflow is there."""
        self.clear()
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self.page.evaluate(DROP, [name, kind, base64.b64encode(content).decode()])
        self.wait("() => app.graph.nodes.length > 1")
        self.settle()

    def wait(self, condition: str, timeout: float = 60, argument: Any = None) -> None:
        """Wait for a condition written in JavaScript."""
        self.page.wait_for_function(condition, arg=argument, timeout=timeout * 1000)

    def command(self, name: str) -> None:
        """Run a command of the page's menus."""
        self.page.evaluate("name => { app.extensionManager.command.execute(name) }", name)

    def node_types(self) -> set[str]:
        """Types of the nodes in the graph."""
        return set(self.page.evaluate("() => app.graph.nodes.map(node => node.type)"))

    def missing_nodes(self) -> list[str]:
        """Types in the graph that the page does not know."""
        return self.page.evaluate(MISSING)

    def complaint(self) -> str:
        """Text of the error overlay, which needs about a second to appear; empty when there is none."""
        self.page.wait_for_timeout(1500)
        overlay = self.page.get_by_test_id("error-overlay")
        return overlay.first.inner_text() if overlay.count() and overlay.first.is_visible() else ""

    def shown(self) -> dict[str, Any]:
        """Scale, and the boxes of nodes and groups and the points of links, in the graph's coordinates."""
        return self.page.evaluate(SHOWN)

    def search(self, words: str) -> list[str]:
        """Open the search by a double click and type; gives the texts of what is found, best first."""
        field = self.page.get_by_placeholder("Add a node...")
        # On a busy machine the two clicks may arrive too far apart to be a double click.
        for _ in range(10):
            if not field.count():
                self.page.mouse.dblclick(800, 800)
                self.page.wait_for_timeout(700)
        field.fill(words)
        self.page.wait_for_timeout(700)
        return self.page.get_by_test_id("result-item").all_inner_texts()

    def add_found(self, words: str) -> None:
        """Search, take the first that is found and put it into the middle of the canvas."""
        before = self.page.evaluate("() => app.graph.nodes.length")
        assert self.search(words), words
        self.page.keyboard.press("Enter")
        # A click that comes before the page has the node in hand is lost; two this far apart are no double click.
        for _ in range(20):
            self.page.wait_for_timeout(500)
            self.page.mouse.click(700, 350)
            if self.page.evaluate("() => app.graph.nodes.length") > before:
                return
        raise AssertionError(f"{words} was found and could not be placed")

    def prompt(self) -> dict[str, Any]:
        """The graph in API format, as the page would queue it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def run(self) -> str:
        """Press Run; gives the id of the queued prompt."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as answer:
            self.page.get_by_test_id("queue-button").click()
        body = answer.value.json()
        assert answer.value.status == 200 and not body.get("node_errors"), json.dumps(body)[:500]
        return body["prompt_id"]

    def finish(self, get_json: Callable[[str], Any], prompt_id: str, timeout: float = 120) -> dict[str, Any]:
        """Wait until the history has the prompt; gives its entry."""
        for _ in range(int(timeout * 5)):
            entry = get_json(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return entry
            self.page.wait_for_timeout(200)
        raise TimeoutError(f"prompt {prompt_id} did not finish within {timeout:.0f} s")

    def screenshot(self, path: Path) -> None:
        """Save what the window shows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))
