"""Write `workflows/*.json` (for the page) and `workflows/api/*.json` (for /prompt) from one description.

Run `.venv/bin/python tests/tools/make_workflows.py`; a test fails while the files differ from what this writes.
The order of inputs, outputs and widgets comes from the nodes themselves, in the host's code.
"""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
sys.path.insert(0, str(ROOT / "tests" / "tools"))

from workflow_texts import (  # noqa: E402
    AUTHORS_NOTE,
    AUTHORS_PROMPT,
    CUSTOM_NOTE,
    PROMPT,
    TEACHER_CFG,
    TEACHER_NOTE,
    TEXT_TO_VIDEO_NOTE,
)

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
NAMESPACE = uuid.UUID("7c9b3b0e-0f0a-4c7e-9d38-5a1f4b0c2d11")
COLUMN, TOP = 390, 60
Link = tuple["Node", int]


@dataclass(eq=False)
class Node:
    """A node of a graph: ``inputs`` are widget values or ``(node, output)``."""

    type: str
    inputs: dict[str, Any]
    column: int
    y: int
    size: tuple[int, int]
    title: str | None = None
    id: int = 0


@dataclass
class Graph:
    """A workflow under construction."""

    name: str
    note: str
    nodes: list[Node] = field(default_factory=list)

    def add(
        self,
        node_type: str,
        column: int,
        y: int,
        size: tuple[int, int],
        node_title: str | None = None,
        /,
        **inputs: Any,
    ) -> Node:
        node = Node(node_type, inputs, column, y, size, node_title, len(self.nodes) + 1)
        self.nodes.append(node)
        return node


def video_output(graph: Graph, samples: Link, vae: Link, column: int, scale: tuple[int, int] | None) -> None:
    """Decode, enlarge if asked, and save at the 8 frames a second the models were trained on."""
    decode = graph.add("VAEDecode", column, TOP, (210, 60), samples=samples, vae=vae)
    images: Link = (decode, 0)
    if scale is not None:
        enlarge = graph.add(
            "ImageScale", column, TOP + 120, (300, 140), "Enlarge to look at",
            image=images, upscale_method="bicubic", width=scale[0], height=scale[1], crop="disabled",
        )  # fmt: skip
        images = (enlarge, 0)
    video = graph.add("CreateVideo", column, TOP + 330, (300, 110), images=images, fps=8.0, bit_depth=8)
    graph.add(
        "SaveVideo", column + 1, TOP, (380, 420),
        video=(video, 0), filename_prefix="video/VideoLCM", format="auto", codec="auto",
    )  # fmt: skip


def text_to_video() -> Graph:
    graph = Graph("videolcm_text_to_video", TEXT_TO_VIDEO_NOTE)
    load = graph.add("VideoLCMCheckpointLoader", 0, TOP, (320, 100), ckpt_name="videolcm-mini.safetensors")
    prompt = graph.add("CLIPTextEncode", 1, TOP, (320, 140), "Prompt", clip=(load, 1), text=PROMPT)
    latent = graph.add("VideoLCMEmptyLatent", 1, TOP + 200, (320, 110), width=64, height=64, frames=16)
    sampler = graph.add(
        "VideoLCMSampler", 2, TOP, (320, 290), model=(load, 0), positive=(prompt, 0), latent=(latent, 0),
        seed=1, steps=4, cfg=1.0, strength=1.0, noise_device="cpu",
    )  # fmt: skip
    video_output(graph, (sampler, 0), (load, 2), 3, (256, 256))
    return graph


def teacher_50_steps() -> Graph:
    graph = Graph("videolcm_teacher_50_steps", TEACHER_NOTE)
    load = graph.add("VideoLCMCheckpointLoader", 0, TOP, (320, 100), ckpt_name="videolcm-mini-teacher.safetensors")
    prompt = graph.add("CLIPTextEncode", 1, TOP, (320, 120), "Prompt", clip=(load, 1), text=PROMPT)
    negative = graph.add("CLIPTextEncode", 1, TOP + 170, (320, 100), "Negative prompt", clip=(load, 1), text="")
    latent = graph.add("VideoLCMEmptyLatent", 1, TOP + 320, (320, 110), width=64, height=64, frames=16)
    kind = graph.add("KSamplerSelect", 0, TOP + 170, (320, 60), sampler_name="euler")
    sigmas = graph.add("VideoLCMScheduler", 0, TOP + 290, (320, 110), model=(load, 0), steps=50, mode="ddim")
    sampler = graph.add(
        "SamplerCustom", 2, TOP, (320, 280), model=(load, 0), positive=(prompt, 0), negative=(negative, 0),
        sampler=(kind, 0), sigmas=(sigmas, 0), latent_image=(latent, 0), add_noise=True, noise_seed=1, cfg=TEACHER_CFG,
    )  # fmt: skip
    video_output(graph, (sampler, 0), (load, 2), 3, (256, 256))
    return graph


def custom_sampling() -> Graph:
    graph = Graph("videolcm_custom_sampling", CUSTOM_NOTE)
    load = graph.add("VideoLCMCheckpointLoader", 0, TOP, (320, 100), ckpt_name="videolcm-mini.safetensors")
    prompt = graph.add("CLIPTextEncode", 1, TOP, (320, 120), "Prompt", clip=(load, 1), text=PROMPT)
    latent = graph.add("VideoLCMEmptyLatent", 1, TOP + 180, (320, 130), width=64, height=64, frames=16)
    guider = graph.add("BasicGuider", 1, TOP + 380, (320, 50), model=(load, 0), conditioning=(prompt, 0))
    noise = graph.add("RandomNoise", 0, TOP + 180, (320, 90), noise_seed=1)
    kind = graph.add("SamplerVideoLCM", 0, TOP + 330, (320, 110), noise_device="cpu", s_noise=1.0, noise_clip_std=0.0)
    sigmas = graph.add(
        "VideoLCMScheduler", 0, TOP + 500, (320, 160),
        model=(load, 0), steps=4, mode="lcm", **{"mode.original_steps": 50, "mode.strength": 1.0},
    )  # fmt: skip
    sampler = graph.add(
        "SamplerCustomAdvanced", 2, TOP, (320, 130), noise=(noise, 0), guider=(guider, 0), sampler=(kind, 0),
        sigmas=(sigmas, 0), latent_image=(latent, 0),
    )  # fmt: skip
    video_output(graph, (sampler, 0), (load, 2), 3, (256, 256))
    return graph


def authors_weights() -> Graph:
    graph = Graph("videolcm_text_to_video_authors_weights", AUTHORS_NOTE)
    load = graph.add(
        "VideoLCMModelLoader", 0, TOP, (340, 130),
        model_name="videolcm_t2v_non_ema_544000.pth", weight_dtype="default", sampling="videolcm",
    )  # fmt: skip
    clip = graph.add(
        "CLIPLoader", 0, TOP + 190, (340, 110), clip_name="open_clip_pytorch_model.bin", type="stable_diffusion",
        device="default",
    )  # fmt: skip
    vae = graph.add("VAELoader", 0, TOP + 360, (340, 60), vae_name="vae-ft-mse-840000-ema-pruned.safetensors")
    prompt = graph.add("CLIPTextEncode", 1, TOP, (320, 160), "Prompt", clip=(clip, 0), text=AUTHORS_PROMPT)
    latent = graph.add("VideoLCMEmptyLatent", 1, TOP + 220, (320, 110), width=448, height=256, frames=16)
    sampler = graph.add(
        "VideoLCMSampler", 2, TOP, (320, 290), model=(load, 0), positive=(prompt, 0), latent=(latent, 0),
        seed=1, steps=4, cfg=1.0, strength=1.0, noise_device="cpu",
    )  # fmt: skip
    video_output(graph, (sampler, 0), (vae, 0), 3, None)
    return graph


def inputs_of(node_class: Any) -> list[tuple[str, str, dict[str, Any], bool]]:
    """``(name, type, options, optional)`` of a node's inputs, as the page reads them."""
    types = node_class.INPUT_TYPES()
    found = []
    for section in ("required", "optional"):
        for name, spec in types.get(section, {}).items():
            kind = "COMBO" if isinstance(spec[0], (list, tuple)) else spec[0]
            found.append((name, kind, spec[1] if len(spec) > 1 else {}, section == "optional"))
    return found


def widgets_of(node: Node, node_class: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """A node's widgets in the page's order; a dynamic combo brings those of the chosen option."""
    widgets: list[tuple[str, str, dict[str, Any]]] = []
    for name, kind, options, _ in inputs_of(node_class):
        if kind not in WIDGET_TYPES or isinstance(node.inputs.get(name), tuple):
            continue
        widgets.append((name, kind, options))
        if kind == "COMFY_DYNAMICCOMBO_V3":
            chosen = next(o for o in options["options"] if o["key"] == node.inputs[name])
            for section in chosen["inputs"].values():
                widgets += [(f"{name}.{n}", s[0], s[1] if len(s) > 1 else {}) for n, s in section.items()]
    return widgets


def api_format(graph: Graph, classes: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """What the page would send to /prompt."""
    prompt = {}
    for node in graph.nodes:
        inputs = {}
        for name, _, _ in widgets_of(node, classes[node.type]):
            inputs[name] = node.inputs[name]
        for name, value in node.inputs.items():
            if isinstance(value, tuple):
                inputs[name] = [str(value[0].id), value[1]]
        unknown = set(node.inputs) - set(inputs)
        if unknown:
            raise ValueError(f"{graph.name}: {node.type} has no inputs {sorted(unknown)}")
        title = node.title or names.get(node.type, node.type)
        prompt[str(node.id)] = {"inputs": inputs, "class_type": node.type, "_meta": {"title": title}}
    return prompt


def page_format(graph: Graph, classes: dict[str, Any]) -> dict[str, Any]:
    """What the page saves."""
    links: list[list[Any]] = []
    nodes = [page_node(node, graph, classes[node.type], links, order) for order, node in enumerate(graph.nodes)]
    for node in nodes:
        for slot, output in enumerate(node["outputs"]):
            output["links"] = [link[0] for link in links if link[1:3] == [node["id"], slot]] or None
    nodes.append(note_node(graph, len(nodes) + 1))
    return {
        "id": str(uuid.uuid5(NAMESPACE, graph.name)),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def page_node(node: Node, graph: Graph, node_class: Any, links: list[list[Any]], order: int) -> dict[str, Any]:
    sockets: list[dict[str, Any]] = []
    values: list[Any] = []
    for name, kind, _, optional in inputs_of(node_class):
        if kind in WIDGET_TYPES:
            continue
        socket: dict[str, Any] = {"name": name, "type": kind, "link": None}
        if optional:
            socket["shape"] = 7
        if name in node.inputs:
            source, output = node.inputs[name]
            links.append([len(links) + 1, source.id, output, node.id, len(sockets), kind])
            socket["link"] = len(links)
        sockets.append(socket)
    for name, kind, options in widgets_of(node, node_class):
        sockets.append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
        values.append(node.inputs[name])
        if options.get("control_after_generate"):
            values.append("randomize")
    made: dict[str, Any] = {
        "id": node.id,
        "type": node.type,
        "pos": [60 + node.column * COLUMN, node.y],
        "size": list(node.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": sockets,
        "outputs": outputs_of(node_class),
        "properties": {"Node name for S&R": node.type},
        "widgets_values": values,
    }
    return made if node.title is None else {**made, "title": node.title}


def outputs_of(node_class: Any) -> list[dict[str, Any]]:
    types, names = node_class.RETURN_TYPES, getattr(node_class, "RETURN_NAMES", None) or node_class.RETURN_TYPES
    return [{"name": n, "type": t, "links": None} for n, t in zip(names, types, strict=True)]


def note_node(graph: Graph, id: int) -> dict[str, Any]:
    return {
        "id": id,
        "type": "MarkdownNote",
        "pos": [60, 780],
        "size": [720, 320],
        "flags": {},
        "order": id - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "About this workflow",
        "properties": {},
        "widgets_values": [graph.note],
        "color": "#432",
        "bgcolor": "#653",
    }


GRAPHS = (text_to_video, teacher_50_steps, custom_sampling, authors_weights)


def render(classes: dict[str, Any], names: dict[str, str]) -> dict[str, str]:
    """Every file of `workflows/` -> its text.

    Args:
        classes: The host's NODE_CLASS_MAPPINGS, with the pack loaded.
        names: The host's NODE_DISPLAY_NAME_MAPPINGS.
    """
    files = {}
    for build in GRAPHS:
        graph = build()
        files[f"{graph.name}.json"] = json.dumps(page_format(graph, classes), indent=2, ensure_ascii=False) + "\n"
        files[f"api/{graph.name}.json"] = json.dumps(api_format(graph, classes, names), indent=2) + "\n"
    return files


def main() -> None:
    """Write the files, with the host's code in this process."""
    from in_process_host import load_host

    host_nodes = load_host(ROOT)
    for name, text in render(host_nodes.NODE_CLASS_MAPPINGS, host_nodes.NODE_DISPLAY_NAME_MAPPINGS).items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
