"""Where the nodes of a workflow stand: columns from left to right, coloured groups, links that never run behind nodes.

A graph names a group and a column for each node. Nodes of a column stand below each other, links go to a later column
or down their own; a link down its own column runs beside it and through the gap above its target, on reroutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

LEFT, TOP = 60, 40
GUTTER, GAP = 44, 36  # between columns, between nodes of a column
TITLE = 30  # of a node; its position is the corner below
GROUP_TITLE, PAD, GROUP_GAP = 38, 10, 24
# The width that opening a workflow fits into 1600 x 1000 at a scale of 0.65 or more, and the height.
LARGEST = (1840, 1140)
GROUPS = {"Model": "#3f789e", "Your clip": "#a1752f", "Steer": "#5f8a4a", "Result": "#7a5aa6"}
"""Groups in the order of their numbers, with their colours."""

# What each node needs in the page's two renderers, measured there; tests/browser asserts that nothing overlaps. Loaders
# of files that do not come with the pack have room for the mark of a missing one.
HEIGHTS = {
    "AdjustBrightness": 86,
    "BasicGuider": 54,
    "CLIPLoader": 146,
    "CLIPTextEncode": 110,
    "CheckpointLoaderSimple": 134,
    "ContextWindowsManual": 410,
    "ControlNetApplyAdvanced": 206,
    "ControlNetLoader": 94,
    "CreateVideo": 110,
    "DA3Inference": 138,
    "DA3Render": 118,
    "GrowMask": 86,
    "ImageInvert": 34,
    "ImageScale": 146,
    "KSamplerSelect": 62,
    "LoadDA3Model": 122,
    "LoadVideo": 340,
    "MaskToImage": 34,
    "PreviewImage": 200,
    "PrimitiveInt": 86,
    "RandomNoise": 82,
    "SamplerCustom": 420,
    "SamplerCustomAdvanced": 320,
    "SamplerVideoLCM": 110,
    "SaveVideo": 400,
    "VAEDecode": 54,
    "VAELoader": 94,
    "VideoLCMApplyCondition": 206,
    "VideoLCMCheckpointLoader": 206,
    "VideoLCMCompare": 330,
    "VideoLCMDepthEstimator": 110,
    "VideoLCMEmptyLatent": 142,
    "VideoLCMExampleClip": 126,
    "VideoLCMFirstFrame": 250,
    "VideoLCMInpaintCondition": 170,
    "VideoLCMLoraLoader": 142,
    "VideoLCMMatchColours": 166,
    "VideoLCMModelLoader": 222,
    "VideoLCMMotionApply": 170,
    "VideoLCMMotionExtractor": 110,
    "VideoLCMMotionLoader": 122,
    "VideoLCMPrepareFrames": 270,
    "VideoLCMPromptWords": 260,
    "VideoLCMSampler": 420,  # with room for the preview while it samples
    "VideoLCMScheduler": 170,
    "VideoLCMSketchExtractor": 178,
}


@dataclass
class Layout:
    """Corners of the nodes, boxes ``(x, y, width, height)`` of the groups and the note, and reroutes of links."""

    corners: dict[int, tuple[int, int]] = field(default_factory=dict)
    groups: list[tuple[str, tuple[int, int, int, int]]] = field(default_factory=list)
    note: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of all."""
        boxes = [box for _, box in self.groups] + [self.note]
        right, bottom = (max(box[i] + box[i + 2] for box in boxes) for i in (0, 1))
        return right - min(box[0] for box in boxes), bottom - min(box[1] for box in boxes)


def column_x(column: int, width: int) -> int:
    """Left side of a column."""
    return LEFT + column * (width + GUTTER)


def arrange(
    nodes: Sequence[Any], width: int, note: tuple[int, int, int], title: Callable[[str], str] = lambda name: name
) -> Layout:
    """Place nodes with ``id``, ``group``, ``column`` and ``height``.

    Args:
        nodes: In the order of their columns, from the top.
        width: Of a column.
        note: First column, number of columns and height of the note, which stands below the groups there.
        title: Gives the title of a group.

    Raises:
        ValueError: If the whole is larger than what opens at a readable scale.
    """
    layout = Layout()
    bottoms = [TOP] * (max([node.column for node in nodes] + [note[0] + note[1] - 1]) + 1)
    for group in sorted({node.group for node in nodes}, key=list(GROUPS).index):
        members = [node for node in nodes if node.group == group]
        columns = range(min(n.column for n in members), max(n.column for n in members) + 1)
        top = max(bottoms[column] for column in columns)
        bottom = top
        for column in columns:
            y = top + GROUP_TITLE + PAD
            for node in (n for n in members if n.column == column):
                layout.corners[node.id] = (column_x(column, width), y + TITLE)
                y += TITLE + node.height + GAP
            bottom = max(bottom, y - GAP + PAD)
        left = column_x(columns[0], width) - PAD
        right = column_x(columns[-1], width) + width + PAD
        layout.groups.append((group, (left, top, right - left, bottom - top)))
        for column in columns:
            bottoms[column] = bottom + GROUP_GAP
    first, span, height = note
    top = max(bottoms[first : first + span]) + TITLE
    layout.note = (column_x(first, width), top, span * (width + GUTTER) - GUTTER, height)
    if layout.size[0] > LARGEST[0] or layout.size[1] > LARGEST[1]:
        raise ValueError(f"the workflow is {layout.size}; allowed: {LARGEST}. Use other columns or lower nodes.")
    return layout


def detour(source: tuple[int, int], target: tuple[int, int], width: int) -> list[tuple[int, int]]:
    """Points of a link between nodes at these corners: none to a later column, else around and above the target.

    Raises:
        ValueError: If the link would run backwards or up.
    """
    if target[0] > source[0]:
        return []
    if target[0] < source[0] or target[1] < source[1]:
        raise ValueError(
            f"a link from {source} to {target} runs backwards; allowed: to a later column, or down its own"
        )
    y = target[1] - TITLE - GAP // 2
    return [(source[0] + width + GUTTER // 3, y), (source[0] - GUTTER // 3, y)]
