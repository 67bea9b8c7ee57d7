"""A headless Chromium on the shared server; each test gets a page of its own, without another's drafts."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

import comfy_server
import setup
from pages import CHROMIUM_FLAGS, ComfyPage

SCREENSHOTS = setup.HOST / "screenshots"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file's tests; Playwright's event loop would get in the way of other tests' `asyncio.run`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=setup.ensure_browser(), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[False, True], ids=["canvas nodes", "Vue nodes"])
def vue_nodes(request: pytest.FixtureRequest) -> bool:
    """Which of the page's two node renderers a test runs in."""
    return request.param


@pytest.fixture
def open_page(
    browser: Browser, comfy: comfy_server.ComfyServer, request: pytest.FixtureRequest
) -> Iterator[Callable[..., ComfyPage]]:
    """`open_page(vue_nodes=False)` opens ComfyUI; a screenshot is kept and script errors on the page fail the test.

    `query` follows the address, such as `?template=...`; `server` is another than the shared one.
    """
    pages: list[ComfyPage] = []

    def open_one(vue_nodes: bool = False, query: str = "", server: comfy_server.ComfyServer = comfy) -> ComfyPage:
        server.request("/settings/Comfy.VueNodes.Enabled", vue_nodes)
        context = browser.new_context(viewport={"width": 1600, "height": 1000})
        pages.append(ComfyPage(context.new_page(), f"{server.url}/{query}"))
        return pages[-1]

    yield open_one
    for page in pages:
        name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
        page.screenshot(SCREENSHOTS / f"{name}.png")
        page.page.context.close()
        assert page.errors == []
