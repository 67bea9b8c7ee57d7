"""The blueprints: a whole workflow as one node, which the page offers in its search and its node library."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import animatelcm_workflows
from condition_workflows import depth_of_frames, motion_of_frames
from text_workflows import STUDENT
from workflow_graph import NAMESPACE, Graph, Link, Node, inputs_of, page_format

COMPOSER = "videolcm-mini-vcomposer.safetensors"
INPUT, OUTPUT = -10, -20  # ids of a subgraph's own ends
# Outputs of Load VideoLCM Checkpoint.
MODEL, CLIP, VAE, WIDTH, HEIGHT, FRAMES, FPS = range(7)


@dataclass
class Exposed:
    """An input of the one node: what it sets inside, and its name outside."""

    node: Node
    input: str
    label: str


@dataclass
class Blueprint:
    """A graph whose nodes become the inside of one node."""

    graph: Graph
    description: str
    inputs: list[Exposed]
    output: Link
    sampler: Node

    @property
    def title(self) -> str:
        """Name of the node and of its file."""
        return self.graph.title


class Parts:
    """Model, prompt and what is exposed of them."""

    def __init__(self, title: str, checkpoint: str) -> None:
        self.graph = Graph(title, title, "", (0, 1, 0))
        self.load = self.graph.add("VideoLCMCheckpointLoader", "Model", 0, ckpt_name=checkpoint)
        self.prompt = self.graph.add("CLIPTextEncode", "Steer", 2, "Prompt", clip=(self.load, CLIP), text="")
        self.inputs: list[Exposed] = []

    def clip(self, text: str, frames: Link | int, start: int = 0) -> Link:
        """The user's clip, in the size, length and rate that the model's file names."""
        node = self.graph.add(
            "VideoLCMPrepareFrames",
            "Your clip",
            1,
            frames=frames,
            start=start,
            sample_fps=(self.load, FPS),
            width=(self.load, WIDTH),
            height=(self.load, HEIGHT),
        )
        self.inputs.append(Exposed(node, "source", text))
        return node, 0

    def apply(self, condition: str, frames: Link) -> Link:
        """Add a condition to the prompt."""
        node = self.graph.add(
            "VideoLCMApplyCondition", "Steer", 2, positive=(self.prompt, 0), condition=condition, frames=frames
        )
        self.strength = Exposed(node, "strength", "strength")
        return node, 0

    def finish(self, text: str, positive: Link, description: str, *more: Exposed) -> Blueprint:
        """Sample, decode and save."""
        graph, load = self.graph, self.load
        self.prompt.inputs["text"] = text
        latent = graph.add("VideoLCMEmptyLatent", "Result", 3, model=(load, MODEL))
        sampler = graph.add(
            "VideoLCMSampler", "Result", 3, model=(load, MODEL), positive=positive, latent=(latent, 0), seed=1
        )
        decode = graph.add("VAEDecode", "Result", 3, samples=(sampler, 0), vae=(load, VAE))
        video = graph.add("CreateVideo", "Result", 4, images=(decode, 0), fps=(load, FPS), bit_depth=8)
        save = graph.add(
            "SaveVideo",
            "Result",
            4,
            video=(video, 0),
            filename_prefix="video/VideoLCM",
            format="auto",
            codec="auto",
        )
        inputs = [
            *self.inputs,
            Exposed(self.prompt, "text", "prompt"),
            *more,
            Exposed(sampler, "steps", "steps"),
            Exposed(load, "ckpt_name", "checkpoint"),
            Exposed(save, "filename_prefix", "filename_prefix"),
        ]
        return Blueprint(graph, description, inputs, (video, 0), sampler)


def text_to_video() -> Blueprint:
    parts = Parts("Text to Video (VideoLCM)", STUDENT)
    return parts.finish(
        "a snowman spins around on grass", (parts.prompt, 0), "A prompt to a video in 4 steps, saved as a file (t2v)."
    )


def depth_to_video() -> Blueprint:
    parts = Parts("Depth to Video (VideoLCM)", COMPOSER)
    depth = depth_of_frames(parts.graph, parts.clip("video", (parts.load, FRAMES)))
    positive = parts.apply("depth", depth)
    description = "The depth of your clip and a prompt to a new video in 4 steps, saved as a file (v2v)."
    return parts.finish("a cactus moves to the side on sand", positive, description, parts.strength)


def first_frame_to_video() -> Blueprint:
    parts = Parts("Image to Video (VideoLCM, first frame)", COMPOSER)
    positive = parts.apply("first frame", parts.clip("image", 1))
    description = "An image starts to move as the prompt says, in 4 steps, saved as a file (image to video, i2v)."
    return parts.finish("a chicken jumps up and down on sand", positive, description, parts.strength)


def inpainting() -> Blueprint:
    parts = Parts("Video Inpainting (VideoLCM)", COMPOSER)
    frames = parts.clip("video", (parts.load, FRAMES))
    grow = parts.graph.add("GrowMask", "Steer", 2, "A little larger", expand=5, tapered_corners=True)
    hole = parts.graph.add(
        "VideoLCMInpaintCondition", "Steer", 2, positive=(parts.prompt, 0), frames=frames, mask=(grow, 0)
    )
    parts.inputs.append(Exposed(grow, "mask", "mask"))
    description = "Paints anew what the mask covers in your clip, in 4 steps, saved as a file. White is painted."
    return parts.finish(
        "a fire hydrant jumps up and down on sand", (hole, 0), description, Exposed(grow, "expand", "grow mask")
    )


def motion_to_video() -> Blueprint:
    parts = Parts("Motion to Video (VideoLCM)", COMPOSER)
    motion = motion_of_frames(parts.graph, parts.clip("video", (parts.load, FRAMES)))
    positive = parts.apply("motion", motion)
    description = "The motion of your clip for the things of a prompt, in 4 steps, saved as a file (v2v)."
    return parts.finish("a snowman moves to the side on snow", positive, description, parts.strength)


def animatelcm() -> Blueprint:
    """Template 15 as one node."""
    graph = animatelcm_workflows.text_to_video()
    graph.name = graph.title = "Text to Video (AnimateLCM, SD 1.5)"

    def node(kind: str) -> Node:
        return next(node for node in graph.nodes if node.type == kind)

    prompt, negative = (node for node in graph.nodes if node.type == "CLIPTextEncode")
    sampler, save = node("VideoLCMSampler"), node("SaveVideo")
    inputs = [
        Exposed(prompt, "text", "prompt"),
        Exposed(negative, "text", "negative prompt"),
        Exposed(sampler, "steps", "steps"),
        Exposed(sampler, "cfg", "cfg"),
        Exposed(node("CheckpointLoaderSimple"), "ckpt_name", "checkpoint"),
        Exposed(node("VideoLCMMotionLoader"), "motion_name", "motion module"),
        Exposed(node("VideoLCMLoraLoader"), "lora_name", "lora"),
        Exposed(save, "filename_prefix", "filename_prefix"),
    ]
    description = "Any SD 1.5 checkpoint moves in 4 steps, saved as a file (t2v). Needs AnimateLCM's two files."
    return Blueprint(graph, description, inputs, (node("CreateVideo"), 0), sampler)


BLUEPRINTS = (text_to_video, depth_to_video, first_frame_to_video, inpainting, motion_to_video, animatelcm)


def blueprint_format(blueprint: Blueprint, classes: dict[str, Any]) -> dict[str, Any]:
    """The file that the host lists and the page reads: one node and its inside."""
    page = page_format(blueprint.graph, classes)
    nodes = [node for node in page["nodes"] if node["type"] != "MarkdownNote"]
    by_id = {node["id"]: node for node in nodes}
    links = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
        for link in page["links"]
    ]
    for extension in page["extra"].get("linkExtensions", []):
        links[extension["id"] - 1]["parentId"] = extension["parentId"]
    ends, sockets, values = [], [], []
    for slot, exposed in enumerate(blueprint.inputs):
        inner = by_id[exposed.node.id]
        target = [socket["name"] for socket in inner["inputs"]].index(exposed.input)
        socket = inner["inputs"][target]
        links.append(link_of(len(links) + 1, INPUT, slot, exposed.node.id, target, socket["type"]))
        socket["link"] = len(links)
        ends.append(end_of(blueprint, exposed.label, socket["type"], len(links), slot))
        outside = {"name": exposed.label, "type": socket["type"], "link": None}
        if "widget" in socket:
            outside["widget"] = {"name": exposed.label}
            values.append(exposed.node.inputs.get(exposed.input, default_of(exposed, classes)))
        sockets.append(outside)
    node, output = blueprint.output
    links.append(link_of(len(links) + 1, node.id, output, OUTPUT, 0, "VIDEO"))
    made = by_id[node.id]["outputs"][output]
    made["links"] = [*(made["links"] or []), len(links)]
    subgraph = {
        "id": str(uuid.uuid5(NAMESPACE, f"inside {blueprint.title}")),
        "version": 1,
        "state": {"lastGroupId": 9, "lastNodeId": len(nodes), "lastLinkId": len(links), "lastRerouteId": 99},
        "revision": 0,
        "config": {},
        "name": blueprint.title,
        "inputNode": {"id": INPUT, "bounding": [-160, 60, 140, 40 + 20 * len(ends)]},
        "outputNode": {"id": OUTPUT, "bounding": [1780, 60, 120, 60]},
        "inputs": ends,
        "outputs": [end_of(blueprint, "VIDEO", "VIDEO", len(links), 0)],
        "widgets": [],
        "nodes": nodes,
        "groups": page["groups"],
        "links": links,
        "reroutes": page["extra"].get("reroutes", []),
        "extra": {},
        "category": "VideoLCM",
        "description": blueprint.description,
    }
    return {**page, **outer(blueprint, subgraph, sockets, values)}


def outer(
    blueprint: Blueprint, subgraph: dict[str, Any], sockets: list[dict[str, Any]], values: list[Any]
) -> dict[str, Any]:
    """The graph of the one node."""
    node = {
        "id": 1,
        "type": subgraph["id"],
        "pos": [60, 60],
        "size": [320, 120 + 30 * len(sockets)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": sockets,
        "outputs": [{"name": "VIDEO", "type": "VIDEO", "links": None}],
        "title": blueprint.title,
        "properties": {
            "proxyWidgets": [
                *(["-1", socket["name"]] for socket in sockets if "widget" in socket),
                # Not inputs: only so the seed keeps its control, which draws another after each run.
                [str(blueprint.sampler.id), "seed"],
                [str(blueprint.sampler.id), "control_after_generate"],
            ]
        },
        "widgets_values": values,
    }
    return {
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
        "extra": {"BlueprintDescription": blueprint.description},
    }


def link_of(id: int, origin: int, slot: int, target: int, target_slot: int, kind: str) -> dict[str, Any]:
    """A link inside a subgraph."""
    return {
        "id": id,
        "origin_id": origin,
        "origin_slot": slot,
        "target_id": target,
        "target_slot": target_slot,
        "type": kind,
    }


def end_of(blueprint: Blueprint, name: str, kind: str, link: int, slot: int) -> dict[str, Any]:
    """An input or output of a subgraph."""
    return {
        "id": str(uuid.uuid5(NAMESPACE, f"{blueprint.title} {kind} {name}")),
        "name": name,
        "type": kind,
        "linkIds": [link],
        "pos": [-20, 80 + 20 * slot],
    }


def default_of(exposed: Exposed, classes: dict[str, Any]) -> Any:
    """A node's own value of an input."""
    return next(
        options.get("default") for name, _, options, _ in inputs_of(classes[exposed.node.type]) if name == exposed.input
    )
