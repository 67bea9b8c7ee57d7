"""A workflow as nodes and links, written for the page and for /prompt.

The order of inputs, outputs and widgets comes from the nodes themselves, in the host's code.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

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
    note_top: int = 780
    note_height: int = 320
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
            chosen = next(o for o in options["options"] if o["key"] == value_of(node, name, options))
            for section in chosen["inputs"].values():
                widgets += [(f"{name}.{n}", s[0], s[1] if len(s) > 1 else {}) for n, s in section.items()]
    return widgets


def value_of(node: Node, name: str, options: dict[str, Any]) -> Any:
    """A widget's value: the one given, or else the node's own default."""
    if name not in node.inputs and "default" not in options:
        raise ValueError(f"{node.type}: {name} has no default; give it a value")
    return node.inputs.get(name, options.get("default"))


def api_format(graph: Graph, classes: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """What the page would send to /prompt."""
    prompt = {}
    for node in graph.nodes:
        inputs = {}
        for name, _, options in widgets_of(node, classes[node.type]):
            inputs[name] = value_of(node, name, options)
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
    nodes = [page_node(node, classes, links, order) for order, node in enumerate(graph.nodes)]
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


def page_node(node: Node, classes: dict[str, Any], links: list[list[Any]], order: int) -> dict[str, Any]:
    node_class = classes[node.type]
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
            # The type of what comes out: an input may take several, such as IMAGE and VIDEO.
            made = classes[source.type].RETURN_TYPES[output]
            links.append([len(links) + 1, source.id, output, node.id, len(sockets), made])
            socket["link"] = len(links)
        sockets.append(socket)
    for name, kind, options in widgets_of(node, node_class):
        sockets.append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
        values.append(value_of(node, name, options))
        if options.get("control_after_generate"):
            values.append("randomize")
        if options.get("video_upload"):
            values.append("image")  # the page's button for uploading
    page: dict[str, Any] = {
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
    return page if node.title is None else {**page, "title": node.title}


def outputs_of(node_class: Any) -> list[dict[str, Any]]:
    types, names = node_class.RETURN_TYPES, getattr(node_class, "RETURN_NAMES", None) or node_class.RETURN_TYPES
    return [{"name": n, "type": t, "links": None} for n, t in zip(names, types, strict=True)]


def note_node(graph: Graph, id: int) -> dict[str, Any]:
    return {
        "id": id,
        "type": "MarkdownNote",
        "pos": [60, graph.note_top],
        "size": [720, graph.note_height],
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
