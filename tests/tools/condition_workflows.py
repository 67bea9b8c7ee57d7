"""The workflows in which a clip, a sketch, an image or a mask steers the video."""

from __future__ import annotations

from dataclasses import dataclass

from text_workflows import authors_loaders, decode_of, enlarged, latent_of, sampler_of, save_of
from workflow_graph import Graph, Link, Node
from workflow_texts import CONDITION_NOTES, CONDITION_PROMPTS, CONDITION_TITLES, REAL_FOOTAGE_PROMPT

TEDDY = "a_teddy_bear_moves_to_the_side_on_a_checkered_floor.mp4"
CHICKEN = "a_chicken_jumps_up_and_down_on_sand.mp4"
SNOWMAN = "a_snowman_moves_to_the_side_on_grass.mp4"
LONG_HORSE = "a_horse_spins_around_on_grass_48_frames.mp4"
FRAMES, SIDE = 16, 64
NOTE = (0, 1, 560)  # below the model


@dataclass
class Parts:
    """What every workflow of the embedded compositional model begins with."""

    name: str
    graph: Graph
    load: Node
    example: Node
    prepare: Node
    frames_made: int

    @property
    def frames(self) -> Link:
        """The prepared clip."""
        return self.prepare, 0

    def preview(self, images: Link, title: str, height: int = 200) -> None:
        """Show a condition."""
        self.graph.add("PreviewImage", "Steer", 2, title, height, images=images)

    def prompt(self, column: int = 2) -> Link:
        """The encoded prompt."""
        node = self.graph.add(
            "CLIPTextEncode", "Steer", column, "Prompt", clip=(self.load, 1), text=CONDITION_PROMPTS[self.name]
        )
        return node, 0

    def apply(self, condition: str, frames: Link, positive: Link, column: int = 2) -> Link:
        """Add a condition to the prompt."""
        node = self.graph.add(
            "VideoLCMApplyCondition",
            "Steer",
            column,
            f"Follow the {condition}",
            positive=positive,
            condition=condition,
            frames=frames,
        )
        return node, 0

    def finish(self, positive: Link, model: Link | None = None, column: int = 3, save: int | None = None) -> Graph:
        """Sample, decode and save."""
        group = "Model" if model else "Result"
        latent = latent_of(self.graph, group, 0 if model else column, SIDE, SIDE, self.frames_made)
        sampler = sampler_of(self.graph, column, model or (self.load, 0), positive, latent)
        images = decode_of(self.graph, column, (sampler, 0), (self.load, 2))
        save_of(self.graph, column + 1, enlarged(self.graph, column + 1, images), save)
        return self.graph


def begin(
    name: str,
    clip: str,
    frames: int = FRAMES,
    used: int | None = None,
    note: tuple[int, int, int] = NOTE,
    width: int = 300,
) -> Parts:
    """Model and clip.

    Args:
        name: Of the workflow, without the prefix.
        clip: File of the example.
        frames: Of the video.
        used: Frames of the clip, if not as many as the video's.
        note: Its first column, number of columns and height.
        width: Of a column.
    """
    graph = Graph(f"videolcm_{name}", CONDITION_TITLES[name], CONDITION_NOTES[name], note, width)
    load = graph.add("VideoLCMCheckpointLoader", "Model", 0, ckpt_name="videolcm-mini-vcomposer.safetensors")
    example = graph.add("VideoLCMExampleClip", "Your clip", 1, clip=clip)
    prepare = graph.add(
        "VideoLCMPrepareFrames",
        "Your clip",
        1,
        source=(example, 0),
        frames=used or frames,
        start=0,
        sample_fps=8.0,
        width=SIDE,
        height=SIDE,
    )
    title = "The clip" if used is None else "The first frame"
    graph.add("PreviewImage", "Your clip", 1, title, 300, images=(prepare, 0))
    return Parts(name, graph, load, example, prepare, frames)


def depth_of_frames(graph: Graph, frames: Link) -> Link:
    """The embedded depth network."""
    node = graph.add("VideoLCMDepthEstimator", "Steer", 2, source=frames, model_name="videolcm-mini-depth.safetensors")
    return node, 0


def motion_of_frames(graph: Graph, frames: Link) -> Link:
    """Optical flow by OpenCV."""
    return graph.add("VideoLCMMotionExtractor", "Steer", 2, source=frames, method="optical flow"), 0


def sketch_of(parts: Parts) -> Link:
    """Edges by OpenCV."""
    return parts.graph.add("VideoLCMSketchExtractor", "Steer", 2, source=parts.frames, method="canny"), 0


def depth_to_video() -> Graph:
    parts = begin("depth_to_video", SNOWMAN)
    depth = depth_of_frames(parts.graph, parts.frames)
    parts.preview(depth, "Depth: near is bright")
    return parts.finish(parts.apply("depth", depth, parts.prompt()))


def sketch_to_video() -> Graph:
    parts = begin("sketch_to_video", TEDDY)
    sketch = sketch_of(parts)
    parts.preview(sketch, "Sketch: bright lines on black")
    return parts.finish(parts.apply("sketch", sketch, parts.prompt()))


def first_frame_to_video() -> Graph:
    parts = begin("first_frame_to_video", CHICKEN, used=1)
    return parts.finish(parts.apply("first frame", parts.frames, parts.prompt()))


def inpainting() -> Graph:
    parts = begin("inpainting", CHICKEN)
    grown = parts.graph.add(
        "GrowMask", "Steer", 2, "A little larger", mask=(parts.example, 1), expand=5, tapered_corners=True
    )
    shown = parts.graph.add("MaskToImage", "Steer", 2, mask=(grown, 0))
    parts.preview((shown, 0), "White is painted anew")
    hole = parts.graph.add(
        "VideoLCMInpaintCondition",
        "Steer",
        2,
        "Keep what is outside the mask",
        positive=parts.prompt(),
        frames=parts.frames,
        mask=(grown, 0),
    )
    # The prompt was asked for first, so the hole stands below it.
    return parts.finish((hole, 0))


def depth_sketch_first_frame() -> Graph:
    parts = begin("depth_sketch_first_frame", SNOWMAN, width=260)
    depth = depth_of_frames(parts.graph, parts.frames)
    parts.preview(depth, "Depth")
    sketch = sketch_of(parts)
    parts.preview(sketch, "Sketch")
    positive = parts.apply("depth", depth, parts.prompt(3), 3)
    positive = parts.apply("sketch", sketch, positive, 3)
    positive = parts.apply("first frame", parts.frames, positive, 3)
    return parts.finish(positive, column=4)


def motion_transfer() -> Graph:
    parts = begin("motion_transfer", TEDDY)
    motion = motion_of_frames(parts.graph, parts.frames)
    parts.preview(motion, "Motion: grey is at rest")
    return parts.finish(parts.apply("motion", motion, parts.prompt()))


def long_depth_video() -> Graph:
    parts = begin("long_depth_video", LONG_HORSE, frames=48, note=(3, 2, 270))
    windows = parts.graph.add(
        "ContextWindowsManual",
        "Model",
        0,
        "16 frames at a time",
        model=(parts.load, 0),
        context_length=16,
        context_overlap=8,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=0,
        freenoise=True,
        cond_retain_index_list="",
        split_conds_to_windows=False,
        latent_retain_index_list="",
        causal_window_fix=False,
    )
    depth = depth_of_frames(parts.graph, parts.frames)
    parts.preview(depth, "Depth of all 48 frames")
    return parts.finish(parts.apply("depth", depth, parts.prompt()), model=(windows, 0), save=290)


def metric_depth(graph: Graph, frames: Link) -> Link:
    """Depth of core's Depth Anything 3 at one scale for all frames, near is bright."""
    network = graph.add(
        "LoadDA3Model", "Steer", 2, model_name="depth_anything_3_metric_large.safetensors", weight_dtype="default"
    )
    geometry = graph.add(
        "DA3Inference",
        "Steer",
        2,
        da3_model=(network, 0),
        image=frames,
        resolution=504,
        resize_method="upper_bound_resize",
        mode="mono",
    )
    metres = graph.add(
        "DA3Render",
        "Steer",
        2,
        "Depth in metres",
        da3_geometry=(geometry, 0),
        output="depth",
        **{"output.normalization": "raw", "output.apply_sky_clip": False},
    )
    scaled = graph.add("AdjustBrightness", "Steer", 2, "0.1: white is 10 m", images=(metres, 0), factor=0.1)
    return graph.add("ImageInvert", "Steer", 2, "Near is bright", image=(scaled, 0)), 0


def depth_from_real_footage() -> Graph:
    name = "depth_from_real_footage"
    graph = Graph(f"videolcm_{name}", CONDITION_TITLES[name], CONDITION_NOTES[name], (4, 2, 370), 260)
    model, clip, vae = authors_loaders(graph, "videolcm_vcomposer_non_ema_914000.pth")
    latent = latent_of(graph, "Model", 0, 448, 256)
    footage = graph.add("LoadVideo", "Your clip", 1, file="your_video.mp4")
    prepare = graph.add(
        "VideoLCMPrepareFrames",
        "Your clip",
        1,
        source=(footage, 0),
        frames=16,
        start=0,
        sample_fps=8.0,
        width=448,
        height=256,
    )
    near = metric_depth(graph, (prepare, 0))
    graph.add("PreviewImage", "Steer", 3, "Depth, at one scale", images=near)
    prompt = graph.add("CLIPTextEncode", "Steer", 3, "Prompt", 160, clip=clip, text=REAL_FOOTAGE_PROMPT)
    apply = graph.add(
        "VideoLCMApplyCondition",
        "Steer",
        3,
        "Follow the depth",
        positive=(prompt, 0),
        condition="depth",
        frames=near,
    )
    sampler = sampler_of(graph, 4, model, (apply, 0), latent)
    save_of(graph, 5, decode_of(graph, 4, (sampler, 0), vae), 340)
    return graph


GRAPHS = (
    first_frame_to_video,
    depth_to_video,
    sketch_to_video,
    motion_transfer,
    inpainting,
    depth_sketch_first_frame,
    long_depth_video,
    depth_from_real_footage,
)
