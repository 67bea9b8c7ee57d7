"""The shipped workflows are what the generator writes from the nodes as they are."""

import gzip
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from templates import FOLDER, NEED_FILES, TEMPLATES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import make_workflows  # noqa: E402
from workflow_layout import GROUPS, arrange, detour  # noqa: E402
from workflow_models import EMBEDDED, MODELS  # noqa: E402

each_template = pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
# Under these names templates were linked and their files fetched before the cards had titles.
OLD_NAMES = {
    "videolcm_custom_sampling",
    "videolcm_depth_from_real_footage",
    "videolcm_depth_sketch_first_frame",
    "videolcm_depth_to_video",
    "videolcm_first_frame_to_video",
    "videolcm_inpainting",
    "videolcm_long_depth_video",
    "videolcm_motion_transfer",
    "videolcm_sketch_to_video",
    "videolcm_teacher_50_steps",
    "videolcm_text_to_video",
    "videolcm_text_to_video_authors_weights",
}


def test_files_are_up_to_date(host):
    """Else run `.venv/bin/python tests/tools/make_workflows.py`."""
    files = make_workflows.render(host.nodes.NODE_CLASS_MAPPINGS, host.nodes.NODE_DISPLAY_NAME_MAPPINGS)
    assert {str(path.relative_to(ROOT)) for path in make_workflows.written()} == set(files)
    for name, content in files.items():
        written = (ROOT / name).read_bytes()
        # Compressed by another version of zlib, the same text is other bytes.
        assert unpacked(name, written) == unpacked(name, content), name


def unpacked(name: str, content: bytes) -> bytes:
    return gzip.decompress(content) if name.endswith(".gz") else content


def test_old_names_still_lead_to_the_templates():
    assert {template.name for template in TEMPLATES} >= OLD_NAMES
    for template in TEMPLATES:
        assert json.loads(gzip.decompress(template.linked_file.read_bytes())) == template.page()


def test_titles_are_numbered_in_the_order_of_their_names():
    titles = [template.title for template in TEMPLATES]
    assert titles == sorted(titles)
    assert [re.match(r"(\d\d)\. [A-Z]", title)[1] for title in titles] == [f"{i:02}" for i in range(1, len(titles) + 1)]
    assert all("_" not in title and len(title) < 60 for title in titles)


@each_template
def test_every_workflow_has_a_moving_image_and_a_note(template):
    assert [n for n in template.page()["nodes"] if n["type"] == "MarkdownNote"]
    assert template.image.stat().st_size < 200_000
    with Image.open(template.image) as image:
        assert image.format == "WEBP" and image.n_frames >= 16 and image.size == (320, 320)


def test_no_two_images_are_alike():
    looks = {}
    for template in TEMPLATES:
        with Image.open(template.image) as image:
            looks[template.name] = np.asarray(image.convert("RGB").resize((32, 32)), np.float32)
    for one, other in itertools.combinations(looks, 2):
        assert np.abs(looks[one] - looks[other]).mean() > 8, (one, other)


def test_no_other_images():
    assert {path.stem for path in FOLDER.glob("*.jpg")} == {template.title for template in TEMPLATES}


@each_template
def test_groups_are_numbered_and_coloured(template):
    groups = template.page()["groups"]
    names = [group["title"].split(" ", 1)[1] for group in groups]
    assert names == [name for name in GROUPS if name in names] and {"Model", "Result"} <= set(names)
    assert [group["title"][0] for group in groups] == [str(number) for number in range(1, len(groups) + 1)]
    assert len({group["color"] for group in groups}) == len(groups)


def test_layouts_that_cannot_be_read_are_refused():
    node = make_workflows.GRAPHS[0]().nodes[0]
    with pytest.raises(ValueError, match=r"allowed: \(1840, 1140\)"):
        arrange([node], 900, (0, 2, 2000))
    with pytest.raises(ValueError, match="runs backwards"):
        detour((400, 100), (60, 500), 300)
    with pytest.raises(ValueError, match="runs backwards"):
        detour((400, 500), (400, 100), 300)


def nodes_of(page: dict) -> list[dict]:
    """All nodes, those inside a blueprint too."""
    inside = [node for subgraph in page.get("definitions", {}).get("subgraphs", []) for node in subgraph["nodes"]]
    return [*page["nodes"], *inside]


@pytest.mark.parametrize("path", [*(t.page_file for t in TEMPLATES), *BLUEPRINTS], ids=lambda path: path.stem)
def test_missing_packs_and_weights_are_offered(host, path):
    project = (ROOT / "pyproject.toml").read_text()
    name, version = (re.search(rf'^{key} = "(.+)"$', project, re.MULTILINE)[1] for key in ("name", "version"))
    ours = {node_class.GET_SCHEMA().node_id for node_class in host.pack("nodes").NODES}
    for node in nodes_of(json.loads(path.read_text())):
        properties = node["properties"]
        if node["type"] in ours:
            assert (properties["cnr_id"], properties["ver"]) == (name, version), node["type"]
        files = [
            v for v in node.get("widgets_values", []) if str(v).endswith((".safetensors", ".pth", ".bin", ".ckpt"))
        ]
        if node["type"] in host.nodes.NODE_CLASS_MAPPINGS:
            assert [model["name"] for model in properties.get("models", [])] == files, node["type"]
        for model in properties.get("models", []):
            assert model["directory"] == (MODELS.get(model["name"]) or [EMBEDDED.get(model["name"])])[0]
            assert model["name"] in EMBEDDED or model["url"].startswith("https://")
    for file, folder in EMBEDDED.items():
        sub = "annotators" if folder == "videolcm_annotators" else "."
        assert (ROOT / "models" / sub / file).is_file()


@each_template
def test_only_core_nodes_and_ours(host, template):
    for node in template.api().values():
        module = host.nodes.NODE_CLASS_MAPPINGS[node["class_type"]].__module__
        assert module == "nodes" or module.startswith(host.name) or "comfy_extras" in module


@each_template
def test_links_join_equal_types(template):
    page = template.page()
    nodes = {node["id"]: node for node in page["nodes"]}
    for link, source, output, target, slot, kind in page["links"]:
        assert nodes[source]["outputs"][output]["type"] == kind
        assert kind in nodes[target]["inputs"][slot]["type"].split(",")
        assert nodes[target]["inputs"][slot]["link"] == link
        assert link in nodes[source]["outputs"][output]["links"]


def test_chosen_values_are_offered(host):
    """Combo values in the embedded workflows exist in the nodes' lists."""
    for template in TEMPLATES:
        if template.name in NEED_FILES:
            continue
        for node in template.api().values():
            for field, kind, options, _ in make_workflows.inputs_of(host.nodes.NODE_CLASS_MAPPINGS[node["class_type"]]):
                if kind == "COMBO" and field in node["inputs"] and "options" in options:
                    assert node["inputs"][field] in options["options"], (template.name, field)


def test_there_is_a_blueprint_for_each_way_to_steer():
    assert {path.stem for path in BLUEPRINTS} == {
        "Text to Video (VideoLCM)",
        "Depth to Video (VideoLCM)",
        "Image to Video (VideoLCM, first frame)",
        "Video Inpainting (VideoLCM)",
        "Motion to Video (VideoLCM)",
        "Text to Video (AnimateLCM, SD 1.5)",
    }


@each_template
def test_api_files_have_their_ids_and_nothing_for_the_page_alone(template):
    prompt = json.loads((FOLDER / "api" / f"{template.name}.json").read_text())
    assert prompt["2"]["class_type"] == "CLIPTextEncode" and prompt["8"]["class_type"] == "SaveVideo"
    assert "Sampler" in prompt["4"]["class_type"] or prompt["4"]["class_type"] == "SamplerCustom"
    assert "PreviewImage" not in {node["class_type"] for node in prompt.values()}
