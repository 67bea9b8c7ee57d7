"""A workflow as nodes and links, written for the page and for /prompt.

The order of inputs, outputs and widgets comes from the nodes themselves, in the host's code.
"""

from __future__ import annotations

import itertools
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow_layout import GROUPS, HEIGHTS, arrange, detour
from workflow_models import models_of

ROOT = Path(__file__).resolve().parents[2]
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
NAMESPACE = uuid.UUID("7c9b3b0e-0f0a-4c7e-9d38-5a1f4b0c2d11")
# What the page offers to install where a node is missing: the pack's name in the registry.
PACK_ID, PACK_VERSION = (
    re.search(rf'^{key} = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]
    for key in ("name", "version")
)
Link = tuple["Node", int]
API_IDS = {"prompt": "2", "sampler": "4", "save": "8"}
"""The same in every file of workflows/api, so that a script for one runs the others (docs/api.md)."""
SAMPLERS = ("VideoLCMSampler", "SamplerCustomAdvanced", "SamplerCustom")
NEGATIVE = "Negative prompt"


@dataclass(eq=False)
class Node:
    """A node of a graph: ``inputs`` are widget values or ``(node, output)``."""

    type: str
    inputs: dict[str, Any]
    group: str
    column: int
    height: int
    title: str | None = None
    id: int = 0


@dataclass
class Graph:
    """A workflow under construction.

    Attributes:
        name: Of the API file and of links to the template; never changed, people have saved it.
        title: Of the card among the templates, and so of the page's file.
        note: Markdown of the note.
        note_box: Its first column, number of columns and height.
        width: Of a column.
    """

    name: str
    title: str
    note: str
    note_box: tuple[int, int, int]
    width: int = 300
    nodes: list[Node] = field(default_factory=list)

    def add(
        self,
        node_type: str,
        group: str,
        column: int,
        node_title: str | None = None,
        node_height: int | None = None,
        /,
        **inputs: Any,
    ) -> Node:
        """A node at the lower end of a column of a group."""
        height = node_height or HEIGHTS[node_type]
        node = Node(node_type, inputs, group, column, height, node_title, len(self.nodes) + 1)
        self.nodes.append(node)
        return node


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
        if kind not in WIDGET_TYPES:
            continue
        widgets.append((name, kind, options))
        if kind == "COMFY_DYNAMICCOMBO_V3":
            chosen = next(o for o in options["options"] if o["key"] == value_of(node, name, options))
            for section in chosen["inputs"].values():
                widgets += [(f"{name}.{n}", s[0], s[1] if len(s) > 1 else {}) for n, s in section.items()]
    return widgets


def value_of(node: Node, name: str, options: dict[str, Any]) -> Any:
    """A widget's value: the one given, or else the node's own default."""
    given = node.inputs.get(name)
    if isinstance(given, tuple):  # a link takes the widget's place; what it shows is of no effect
        given = options.get("default", "")
    if given is None and "default" not in options:
        raise ValueError(f"{node.type}: {name} has no default; give it a value")
    return options["default"] if given is None else given


def api_format(graph: Graph, classes: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """What the page would send to /prompt, without what only the page shows, and with the ids that scripts count on."""
    prompt = {}
    ids = api_ids(graph)
    for node in (node for node in graph.nodes if node in ids):
        inputs = {}
        for name, _, options in widgets_of(node, classes[node.type]):
            inputs[name] = value_of(node, name, options)
        for name, value in node.inputs.items():
            if isinstance(value, tuple):
                inputs[name] = [ids[value[0]], value[1]]
        unknown = set(node.inputs) - set(inputs)
        if unknown:
            raise ValueError(f"{graph.name}: {node.type} has no inputs {sorted(unknown)}")
        title = node.title or names.get(node.type, node.type)
        prompt[ids[node]] = {"inputs": inputs, "class_type": node.type, "_meta": {"title": title}}
    return prompt


def api_ids(graph: Graph) -> dict[Node, str]:
    """Ids of a graph's nodes in the API file: the roles of `API_IDS`, and the other numbers for all else in order.

    Raises:
        ValueError: If the graph lacks a role.
    """
    save = next((node for node in graph.nodes if node.type == "SaveVideo"), None)
    needed = {save} if save else set()
    for node in reversed(graph.nodes):  # a node comes after those that it takes from
        if node in needed:
            needed |= {value[0] for value in node.inputs.values() if isinstance(value, tuple)}
    nodes = [node for node in graph.nodes if node in needed]
    sampler = next((node for node in nodes if node.type in SAMPLERS), None)
    texts = [node for node in nodes if node.type == "CLIPTextEncode" and node.title != NEGATIVE]
    roles = {
        "prompt": next(iter(texts), None),
        "sampler": sampler,
        "save": save,
    }
    ids: dict[Node, str] = {}
    for role, chosen in roles.items():
        if chosen is None:
            raise ValueError(f"{graph.name}: no node for the role {role}")
        ids[chosen] = API_IDS[role]
    free = (str(number) for number in itertools.count(1) if str(number) not in API_IDS.values())
    return ids | dict(zip((node for node in nodes if node not in ids), free, strict=False))


def group_title(graph: Graph, group: str) -> str:
    """A group's name with its number among the graph's groups."""
    there = [name for name in GROUPS if any(node.group == name for node in graph.nodes)]
    return f"{there.index(group) + 1} {group}"


def page_format(graph: Graph, classes: dict[str, Any]) -> dict[str, Any]:
    """What the page saves."""
    layout = arrange(graph.nodes, graph.width, graph.note_box)
    links: list[list[Any]] = []
    nodes = [page_node(node, classes, links, order) for order, node in enumerate(graph.nodes)]
    for node in nodes:
        node["pos"], node["size"] = list(layout.corners[node["id"]]), [graph.width, node.pop("height")]
        connect(node, links)
    nodes.append(note_node(graph, len(nodes) + 1, layout.note))
    reroutes, extensions = reroutes_of(links, layout.corners, graph.width)
    return {
        "id": str(uuid.uuid5(NAMESPACE, graph.name)),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [
            {
                "id": index,
                "title": group_title(graph, name),
                "bounding": list(box),
                "color": GROUPS[name],
                "font_size": 24,
                "flags": {},
            }
            for index, (name, box) in enumerate(layout.groups, 1)
        ],
        "config": {},
        "extra": {"reroutes": reroutes, "linkExtensions": extensions} if reroutes else {},
        "version": 0.4,
    }


def connect(node: dict[str, Any], links: list[list[Any]]) -> None:
    """Give a node's outputs the ids of their links."""
    for slot, output in enumerate(node["outputs"]):
        output["links"] = [link[0] for link in links if link[1:3] == [node["id"], slot]] or None


def reroutes_of(
    links: list[list[Any]], corners: dict[int, tuple[int, int]], width: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Reroutes of the links that need a detour, and which link ends at which reroute."""
    reroutes: list[dict[str, Any]] = []
    extensions = []
    for link, source, _, target, *_ in links:
        points = detour(corners[source], corners[target], width)
        for index, point in enumerate(points):
            parent = {"parentId": len(reroutes)} if index else {}
            reroutes.append({"id": len(reroutes) + 1, **parent, "pos": list(point), "linkIds": [link]})
        if points:
            extensions.append({"id": link, "parentId": len(reroutes)})
    return reroutes, extensions


def page_node(node: Node, classes: dict[str, Any], links: list[list[Any]], order: int) -> dict[str, Any]:
    """A node without its place; its links are added to ``links``."""
    node_class = classes[node.type]
    sockets: list[dict[str, Any]] = []
    values: list[Any] = []

    def join(name: str, socket: dict[str, Any]) -> None:
        source, output = node.inputs[name]
        # The type of what comes out: an input may take several, such as IMAGE and VIDEO.
        made = classes[source.type].RETURN_TYPES[output]
        links.append([len(links) + 1, source.id, output, node.id, len(sockets), made])
        socket["link"] = len(links)

    for name, kind, _, optional in inputs_of(node_class):
        if kind in WIDGET_TYPES:
            continue
        socket: dict[str, Any] = {"name": name, "type": kind, "link": None}
        if optional:
            socket["shape"] = 7
        if name in node.inputs:
            join(name, socket)
        sockets.append(socket)
    for name, kind, options in widgets_of(node, node_class):
        socket = {"name": name, "type": kind, "widget": {"name": name}, "link": None}
        if isinstance(node.inputs.get(name), tuple):
            join(name, socket)
        sockets.append(socket)
        values += [value_of(node, name, options), *companions(kind, options)]
    ours = node.type.startswith(("VideoLCM", "SamplerVideoLCM"))
    properties: dict[str, Any] = {"Node name for S&R": node.type}
    properties |= {"cnr_id": PACK_ID, "ver": PACK_VERSION} if ours else {"cnr_id": "comfy-core"}
    properties |= {"models": models} if (models := models_of(values)) else {}
    page: dict[str, Any] = {
        "id": node.id,
        "type": node.type,
        "pos": [],
        "size": [],
        "height": node.height,
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": sockets,
        "outputs": outputs_of(node_class),
        "properties": properties,
        "widgets_values": values,
    }
    return page if node.title is None else {**page, "title": node.title}


def companions(kind: str, options: dict[str, Any]) -> list[Any]:
    """Values of the widgets that the page puts after a widget."""
    values: list[Any] = []
    if options.get("control_after_generate"):
        values.append("randomize")
        if kind == "COMBO":
            values.append("")  # a filter of what is drawn
    if options.get("video_upload"):
        values.append("image")  # the page's button for uploading
    return values


def outputs_of(node_class: Any) -> list[dict[str, Any]]:
    """A node's outputs, without links."""
    types, names = node_class.RETURN_TYPES, getattr(node_class, "RETURN_NAMES", None) or node_class.RETURN_TYPES
    return [{"name": n, "type": t, "links": None} for n, t in zip(names, types, strict=True)]


def note_node(graph: Graph, id: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """The note that says what the workflow does."""
    return {
        "id": id,
        "type": "MarkdownNote",
        "pos": list(box[:2]),
        "size": list(box[2:]),
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
