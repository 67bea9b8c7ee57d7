"""Templates on the page: cards, links, how they look when they are opened."""

import itertools

import pytest
from playwright.sync_api import Locator
from templates import NEED_FILES, TEMPLATES

import setup
from pages import ComfyPage, assert_same_prompt
from prompts import absent_models

READABLE = 0.65  # the classic renderer draws no text below about 0.5


def overlap(one: dict, other: dict) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def contains(outer: dict, inner: dict) -> bool:
    return (
        outer["x"] <= inner["x"]
        and outer["y"] <= inner["y"]
        and inner["x"] + inner["w"] <= outer["x"] + outer["w"]
        and inner["y"] + inner["h"] <= outer["y"] + outer["h"]
    )


def crosses(start: list[float], end: list[float], box: dict) -> bool:
    """Whether a straight line passes through a box, tried at points 4 apart."""
    steps = int(max(abs(end[0] - start[0]), abs(end[1] - start[1])) // 4) + 1
    for step in range(steps + 1):
        x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
        if box["x"] < x < box["x"] + box["w"] and box["y"] < y < box["y"] + box["h"]:
            return True
    return False


def assert_readable(page: ComfyPage, name: str) -> None:
    """Large enough, nothing covers anything, each node in its group, no link backwards behind a node."""
    shown = page.shown()
    assert shown["scale"] >= READABLE, f"{name}: {shown['scale']}"
    nodes, groups = shown["nodes"], shown["groups"]
    assert groups
    for one, other in [*itertools.combinations(nodes, 2), *itertools.combinations(groups, 2)]:
        assert not overlap(one, other), f"{name}: {one} and {other}"
    for node in nodes:
        around = [group for group in groups if contains(group, node)]
        beside = node["type"] == "MarkdownNote"
        assert len(around) == (0 if beside else 1), f"{name}: {node} in {around}"
        assert not beside or not any(overlap(group, node) for group in groups), f"{name}: {node}"
    for points in shown["links"]:
        for start, end in itertools.pairwise(points):
            if end[0] < start[0]:
                hidden = [node["name"] for node in nodes if crosses(start, end, node)]
                assert not hidden, f"{name}: a link from {start} back to {end} runs behind {hidden}"


def test_templates_open_complete_and_readable(open_page, vue_nodes):
    page = open_page(vue_nodes)
    for template in TEMPLATES:
        page.drop(template.page_file.name, template.page_file.read_bytes())
        assert page.missing_nodes() == [], template.title
        complaint = page.complaint()
        # Only the workflows with the authors' weights may ask for something: the files.
        assert not complaint or absent_models(template.api()), f"{template.title}: {complaint}"
        assert "missing node" not in complaint.lower(), complaint
        assert_same_prompt(page.prompt(), template.api())
        assert_readable(page, template.title)


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("videolcm_text_to_video_authors_weights", "videolcm_t2v_non_ema_544000.pth", "diffusion_models"),
        ("videolcm_animatelcm_text_to_video", "AnimateLCM_sd15_t2v.ckpt", "animatediff_models"),
        ("videolcm_animatelcm_depth", "control_v11f1p_sd15_depth.pth", "controlnet"),
    ],
)
def test_missing_weights_are_offered_with_their_folder(open_page, name, file, folder):
    page = open_page()
    (template,) = (template for template in TEMPLATES if template.name == name)
    page.drop(template.page_file.name, template.page_file.read_bytes())
    assert page.complaint()
    page.page.get_by_text("View details").first.click()
    page.page.get_by_text(file).first.wait_for()
    page.page.get_by_text(folder).first.wait_for()


def plays(page: ComfyPage, image: Locator) -> bool:
    """Whether what is seen of an image changes within its two seconds."""
    image.evaluate("image => image.decode()")
    first = image.screenshot()
    for _ in range(8):
        page.page.wait_for_timeout(250)
        if image.screenshot() != first:
            return True
    return False


def browse(page: ComfyPage) -> None:
    page.clear()
    page.command("Comfy.BrowseTemplates")
    browser_of_templates = page.page.locator("[role=dialog]").filter(has_text="Templates").first
    browser_of_templates.get_by_text(setup.PACK_NAME, exact=True).first.click()


def test_cards_have_titles_and_moving_images(open_page):
    page = open_page()
    browse(page)
    for template in TEMPLATES:
        card = page.page.get_by_test_id(f"template-workflow-{template.title}")
        card.wait_for()
        assert card.get_by_role("heading").first.inner_text() == template.title
        card.scroll_into_view_if_needed()
        assert plays(page, card.locator("img").first), template.title
    assert page.page.locator("[data-testid^=template-workflow-]").count() == len(TEMPLATES)


def test_cards_open_their_template(open_page):
    page = open_page()
    for template in (TEMPLATES[0], TEMPLATES[2]):
        browse(page)
        page.page.get_by_test_id(f"template-workflow-{template.title}").click()
        page.wait("() => app.graph.nodes.length > 1")
        page.settle()
        assert page.missing_nodes() == []
        assert_same_prompt(page.prompt(), template.api())


def test_links_open_templates(open_page):
    for template in TEMPLATES:
        if template.name not in ("videolcm_text_to_video", "videolcm_long_depth_video", "videolcm_compare_steps"):
            continue
        page = open_page(query=f"?template={template.name}&source={setup.PACK_NAME}")
        page.wait("() => app.graph.nodes.some(node => node.type.startsWith('VideoLCM'))")
        page.settle()
        assert page.complaint() == ""
        assert_same_prompt(page.prompt(), template.api())
        assert template.name not in NEED_FILES
