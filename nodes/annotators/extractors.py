"""Nodes that read depth, lines and motion off existing clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from comfy_api.latest import io
from torch import Tensor

from ...videolcm_core.annotators.authors_sketch import authors_sketch
from ...videolcm_core.annotators.depth import midas_depth, mini_depth
from ...videolcm_core.annotators.motion import dense_motion
from ...videolcm_core.annotators.sketch import canny_edges, pencil_sketch
from ...videolcm_core.files.annotator_files import MIDAS, MINI_DEPTH, PIDINET, SKETCH_SIMPLIFICATION, Annotator
from ...videolcm_core.media.condition_values import DEPTH_SCALE, motion_to_image
from .. import host
from ..conditions.frames import frames_of
from ..schema import combo, make, schema
from .codec_motion import codec_motion
from .files import DEPTH_NETWORKS, FOLDER, Loaded, depth_files

CATEGORY: Final = "VideoLCM/annotators"
SKETCH_METHODS: Final = ("canny", "pencil", "pidinet", "pidinet + simplify")
MOTION_METHODS: Final = ("optical flow", "codec vectors")
LONGEST_STRIP: Final = 32
_CHUNK: Final = 8
_DEPTH_BY: Final[dict[Annotator, Callable[..., Tensor]]] = {MIDAS: midas_depth, MINI_DEPTH: mini_depth}


def _source() -> Any:
    return make(
        io.MultiType,
        "source",
        types=[io.Image, io.Video],
        tooltip="The clip, IMAGE or VIDEO. Cut it and set its rate and size with Prepare Condition Frames first.",
    )


def _frames(source: Any) -> tuple[Tensor, float | None]:
    """Frames in [0, 1] and their rate.

    Raises:
        ValueError: If they cannot be read, or are a strip: what brings the short side to a network's size makes the
            other one endless.
    """
    host.forget_notes()
    frames, fps = frames_of(source)
    height, width = frames.shape[1:3]
    if max(height, width) > LONGEST_STRIP * min(height, width):
        raise ValueError(
            f"The frames are {width}x{height}; allowed: one side at most {LONGEST_STRIP} times the other. Cut them "
            f"with Prepare Condition Frames."
        )
    low, high = frames.aminmax()
    return frames if low >= 0 and high <= 1 else frames.clamp(0.0, 1.0), fps


def _output(image: Tensor) -> io.NodeOutput:
    return io.NodeOutput(image.to(device=host.intermediate_device(), dtype=host.intermediate_dtype()))


class VideoLCMDepthEstimator(io.ComfyNode):
    """Depth of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMDepthEstimator",
            display_name="VideoLCM Depth",
            category=CATEGORY,
            description="Depth of a clip for the depth condition: near is bright, one scale for all frames. The small "
            "network that comes with this pack knows rendered scenes like those of videolcm-mini; for real footage use "
            "MiDaS or core's Depth Anything 3 nodes.",
            search_aliases=["depth map", "midas", "depth estimation", "depth preprocessor", "depth to video"],
            inputs=[
                _source(),
                combo(
                    "model_name",
                    depth_files(),
                    MINI_DEPTH.file,
                    tooltip=f"{MINI_DEPTH.file} comes with the pack; it was trained on rendered scenes like those of "
                    f"videolcm-mini and is not for real footage. {MIDAS.file} (1.4 GB) is the authors' network: put it "
                    f"into models/{FOLDER}. For real footage without it, use core's Depth Anything 3 nodes.",
                ),
                make(
                    io.Boolean,
                    "normalize",
                    default=False,
                    advanced=True,
                    tooltip="Stretch the depth of the whole clip to black ... white. Off: white is the value 2 of the "
                    "authors' scale, which Apply VideoLCM Condition takes as it is. Never done frame by frame, which "
                    "would flicker.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="Grey, near is bright; for Apply VideoLCM Condition (depth) with invert off. Very near "
                    "things may be brighter than white.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name: str, normalize: bool, source: Any = None) -> Any:
        """Run again when the file has changed."""
        return host.file_fingerprint(model_name, FOLDER), normalize

    @classmethod
    def execute(cls, source: Any, model_name: str, normalize: bool) -> io.NodeOutput:
        """Estimate."""
        frames, _ = _frames(source)
        loaded = Loaded({model_name: DEPTH_NETWORKS}, frames)
        depth = loaded.run(_DEPTH_BY[loaded.kinds[0]], *loaded.networks)
        return _output(_depth_picture(depth, normalize))


def _depth_picture(depth: Tensor, normalize: bool) -> Tensor:
    """Depth ``[F, 1, H, W]`` as grey images ``[F, H, W, 3]``."""
    image = depth / DEPTH_SCALE
    nearest, farthest = image.max(), image.min()
    if nearest - farthest < 1e-4:
        host.tell("The depth is the same everywhere; the network saw nothing it knows. Check the clip.")
    elif normalize:
        image = (image - farthest) / (nearest - farthest)
    return image.movedim(1, -1).repeat(1, 1, 1, 3)


class VideoLCMSketchExtractor(io.ComfyNode):
    """Lines of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMSketchExtractor",
            display_name="VideoLCM Sketch",
            category=CATEGORY,
            description="Line drawing of a clip for the sketch conditions: bright lines on black. Canny and pencil "
            "need no file; PiDiNet with simplification is what the authors' models were trained on.",
            search_aliases=["edges", "canny", "line art", "pidinet", "scribble", "sketch preprocessor"],
            inputs=[
                _source(),
                combo(
                    "method",
                    SKETCH_METHODS,
                    "canny",
                    tooltip="canny: thin edges; with pencil, what videolcm-mini was trained on. pencil: soft lines and "
                    f"shading. pidinet: learned edges, needs {PIDINET.file} (3 MB). pidinet + simplify: the authors' "
                    f"sketches, needs {SKETCH_SIMPLIFICATION.file} (180 MB) too. Files belong in models/{FOLDER}.",
                ),
                make(
                    io.Int,
                    "low_threshold",
                    default=60,
                    min=0,
                    max=1020,
                    advanced=True,
                    tooltip="canny: edges at least this steep (0 to 1020) are drawn where they continue a steeper one. "
                    "Lower: longer lines.",
                ),
                make(
                    io.Int,
                    "high_threshold",
                    default=160,
                    min=0,
                    max=1020,
                    advanced=True,
                    tooltip="canny: edges at least this steep are drawn. Lower: more lines. Not below low_threshold.",
                ),
                make(
                    io.Float,
                    "blur",
                    default=1.0,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    advanced=True,
                    tooltip="canny: pixels of blur before, which keeps texture out of the lines; 0 is none. Enlarge it "
                    "with the frames: 1 suits 64-pixel clips.",
                ),
                make(
                    io.Float,
                    "line_width",
                    default=0.02,
                    min=0.001,
                    max=0.2,
                    step=0.001,
                    advanced=True,
                    tooltip="pencil: width of the lines, as a share of the frame's shorter side.",
                ),
                make(
                    io.Float,
                    "contrast",
                    default=1.6,
                    min=0.1,
                    max=10.0,
                    step=0.1,
                    advanced=True,
                    tooltip="pencil: factor on the lines' brightness.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="Bright lines on black; for Apply VideoLCM Condition (sketch, single sketch) with invert "
                    "off.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, method: str, source: Any = None, **settings: Any) -> Any:
        """Run again when a file that is used has changed."""
        return method, [host.file_fingerprint(name, FOLDER) for name in _sketch_files(method)], sorted(settings.items())

    @classmethod
    def execute(
        cls,
        source: Any,
        method: str,
        low_threshold: int,
        high_threshold: int,
        blur: float,
        line_width: float,
        contrast: float,
    ) -> io.NodeOutput:
        """Draw."""
        frames, _ = _frames(source)
        if method == "canny":
            lines = _each_chunk(frames, lambda part: canny_edges(part, low_threshold, high_threshold, blur))
        elif method == "pencil":
            lines = _each_chunk(frames, lambda part: pencil_sketch(part, line_width, contrast))
        else:
            lines = _authors_lines(frames, method)
        if lines.max() < 0.05:
            host.tell(f"No lines were found ({method}); the sketch is black. Lower the thresholds, or check the clip.")
        return _output(lines[..., None].repeat(1, 1, 1, 3))


def _sketch_files(method: str) -> dict[str, tuple]:
    """The files that a method needs, and what each must hold."""
    kinds = {"pidinet": (PIDINET,), "pidinet + simplify": (PIDINET, SKETCH_SIMPLIFICATION)}.get(method, ())
    return {kind.file: (kind,) for kind in kinds}


def _authors_lines(frames: Tensor, method: str) -> Tensor:
    loaded = Loaded(_sketch_files(method), frames)
    edges, cleaner = (*loaded.networks, None)[:2]
    return loaded.run(authors_sketch, edges, cleaner)[:, 0]


def _each_chunk(frames: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Draw a few frames at a time, with progress and interrupts."""
    done, drawn = host.frame_progress(len(frames)), []
    for start in range(0, len(frames), _CHUNK):
        drawn.append(draw(frames[start : start + _CHUNK]))
        done(min(start + _CHUNK, len(frames)))
    return torch.cat(drawn)


class VideoLCMMotionExtractor(io.ComfyNode):
    """Motion of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMMotionExtractor",
            display_name="VideoLCM Motion",
            category=CATEGORY,
            description="Motion of a clip for the motion condition: how far what is at each pixel has moved since the "
            "frame before. Red is x, green is y, mid grey is rest, white is 32 pixels.",
            search_aliases=["optical flow", "motion vectors", "motion transfer", "camera motion", "flow"],
            inputs=[
                _source(),
                combo(
                    "method",
                    MOTION_METHODS,
                    "optical flow",
                    tooltip="optical flow: a vector for every pixel, which is what videolcm-mini was trained on. codec "
                    "vectors: one for every 16x16 block, from an MPEG-4 encoder, which is what the authors' networks "
                    "were trained on.",
                ),
                make(
                    io.Boolean,
                    "fill",
                    default=False,
                    advanced=True,
                    tooltip="codec vectors: spread each vector over its block. Off: at the block's centre only, zero "
                    "around it, as the authors' networks know it. Turn it on for videolcm-mini, or to see something.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="Motion as an image, for Apply VideoLCM Condition (motion). The first frame is at rest.",
                )
            ],
        )

    @classmethod
    def execute(cls, source: Any, method: str, fill: bool) -> io.NodeOutput:
        """Measure."""
        frames, fps = _frames(source)
        if len(frames) == 1:
            host.tell("The clip has one frame, so nothing moves in it. Use a clip of 2 frames or more.")
        done = host.frame_progress(len(frames))
        if method == MOTION_METHODS[1]:
            motion = codec_motion(frames, fps or 8.0, fill, done)
        else:
            motion = dense_motion(frames, done)
        return _output(motion_to_image(motion))
