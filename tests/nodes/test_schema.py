"""Schemas: what the host and its page read about the nodes."""

import inspect
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IDS = (
    "VideoLCMCheckpointLoader",
    "VideoLCMModelLoader",
    "VideoLCMLoraLoader",
    "VideoLCMEmptyLatent",
    "VideoLCMSampler",
    "VideoLCMScheduler",
    "SamplerVideoLCM",
    "VideoLCMSampling",
    "VideoLCMExampleClip",
    "VideoLCMPrepareFrames",
    "VideoLCMApplyCondition",
    "VideoLCMInpaintCondition",
    "VideoLCMStyleCondition",
    "VideoLCMDepthEstimator",
    "VideoLCMSketchExtractor",
    "VideoLCMMotionExtractor",
    "VideoLCMPromptWords",
    "VideoLCMCompare",
    "VideoLCMMatchColours",
)


def node(host, node_id):
    return host.nodes.NODE_CLASS_MAPPINGS[node_id]


def test_every_node_is_registered(host):
    assert [cls.GET_SCHEMA().node_id for cls in host.pack("nodes").NODES] == list(IDS)


@pytest.mark.parametrize("node_id", IDS)
def test_schema_inputs_are_the_parameters_of_execute(host, node_id):
    cls = node(host, node_id)
    parameters = inspect.signature(cls.execute).parameters
    assert {i.id for i in cls.define_schema().inputs} == set(parameters)
    required = {name for name, p in parameters.items() if p.default is p.empty}
    assert {i.id for i in cls.define_schema().inputs if not i.optional} == required


@pytest.mark.parametrize("node_id", IDS)
def test_every_input_and_output_has_a_tooltip(host, node_id):
    schema = node(host, node_id).define_schema()
    assert schema.description and schema.search_aliases and schema.category.startswith("VideoLCM/")
    assert all(i.tooltip for i in schema.inputs)
    assert all(o.tooltip and o.display_name for o in schema.outputs)


@pytest.mark.parametrize("node_id", IDS)
@pytest.mark.parametrize("page", ["{}.md", "{}/zh.md"])
def test_help_page_names_every_input(host, node_id, page):
    text = (ROOT / "nodes" / "web" / "docs" / page.format(node_id)).read_text()
    for entry in node(host, node_id).define_schema().inputs:
        assert f"`{entry.id}`" in text


def test_one_word_for_images():
    files = [*(ROOT / "nodes" / "web" / "docs").rglob("*.md"), *(ROOT / "locales").rglob("*.json")]
    assert [path.name for path in files if "picture" in path.read_text().lower()] == []


@pytest.mark.parametrize("node_id", IDS)
def test_one_word_for_images_in_schemas(host, node_id):
    entry = node(host, node_id).define_schema()
    texts = [entry.description, *(i.tooltip for i in entry.inputs), *(o.tooltip for o in entry.outputs)]
    assert not any("picture" in text.lower() for text in texts)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_locale_has_every_node_and_input(host, language):
    entries = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())
    assert set(entries) == set(IDS)
    for node_id in IDS:
        schema, entry = node(host, node_id).define_schema(), entries[node_id]
        assert entry["display_name"] and entry["description"]
        assert {i.id for i in schema.inputs} <= set(entry["inputs"])
        assert len(entry["outputs"]) == len(schema.outputs)
        if language == "en":
            assert entry["display_name"] == schema.display_name


def test_older_hosts_get_the_schema_without_decorations(host, monkeypatch):
    ours = host.pack("nodes.schema")

    class OldSchema:
        def __init__(self, node_id, inputs):
            self.node_id = node_id

    monkeypatch.setattr(ours.io, "Schema", OldSchema)
    assert ours.schema(node_id="x", inputs=[], search_aliases=["y"]).node_id == "x"


def test_default_checkpoint_is_the_embedded_one(host):
    files = [i for i in node(host, "VideoLCMCheckpointLoader").define_schema().inputs if i.id == "ckpt_name"][0]
    assert files.default == "videolcm-mini.safetensors"
    path = host.pack("nodes.host").model_path(files.default, "videolcm")
    assert Path(path) == ROOT / "models" / files.default
