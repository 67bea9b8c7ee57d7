"""The workflows in which a clip, a sketch, a picture or a mask steers the video."""

from __future__ import annotations

from dataclasses import dataclass

from text_workflows import video_output
from workflow_graph import TOP, Graph, Link, Node
from workflow_texts import CONDITION_NOTES, CONDITION_PROMPTS, REAL_FOOTAGE_PROMPT

TEDDY = "a_teddy_bear_moves_to_the_side_on_a_checkered_floor.mp4"
CHICKEN = "a_chicken_jumps_up_and_down_on_sand.mp4"
SNOWMAN = "a_snowman_moves_to_the_side_on_grass.mp4"
LONG_HORSE = "a_horse_spins_around_on_grass_48_frames.mp4"
FRAMES, SIDE = 16, 64
WIDE = 320
NOTE_TOP = 800


@dataclass
class Parts:
    """What every workflow of the embedded compositional model begins with."""

    graph: Graph
    load: Node
    example: Node
    prepare: Node
    prompt: Node
    latent: Node

    @property
    def frames(self) -> Link:
        """The prepared clip."""
        return self.prepare, 0

    @property
    def positive(self) -> Link:
        """The encoded prompt."""
        return self.prompt, 0

    def preview(self, images: Link, column: int, y: int, title: str, height: int = 330) -> None:
        """Show a condition."""
        self.graph.add("PreviewImage", column, y, (WIDE, height), title, images=images)

    def apply(self, condition: str, frames: Link, positive: Link, column: int, y: int) -> Link:
        """Add a condition to the prompt."""
        node = self.graph.add(
            "VideoLCMApplyCondition",
            column,
            y,
            (WIDE, 240),
            f"Follow the {condition}",
            positive=positive,
            condition=condition,
            frames=frames,
        )
        return node, 0

    def finish(self, positive: Link, column: int, steps: int = 4, model: Link | None = None) -> Graph:
        """Sample, decode and save."""
        sampler = self.graph.add(
            "VideoLCMSampler",
            column,
            TOP,
            (WIDE, 290),
            model=model or (self.load, 0),
            positive=positive,
            latent=(self.latent, 0),
            seed=1,
            steps=steps,
            cfg=1.0,
            strength=1.0,
            noise_device="cpu",
        )
        video_output(self.graph, (sampler, 0), (self.load, 2), column + 1, (256, 256))
        return self.graph


def begin(name: str, clip: str, frames: int = FRAMES, used: int | None = None, prompt_column: int = 3) -> Parts:
    """Model, clip, prompt and latent.

    Args:
        name: of the workflow, without the prefix.
        clip: file of the example.
        frames: of the video.
        used: frames of the clip, if not as many as the video's.
        prompt_column: where the prompt stands.
    """
    graph = Graph(f"videolcm_{name}", CONDITION_NOTES[name], NOTE_TOP, 340)
    load = graph.add("VideoLCMCheckpointLoader", 0, TOP, (WIDE, 100), ckpt_name="videolcm-mini-vcomposer.safetensors")
    example = graph.add("VideoLCMExampleClip", 0, TOP + 190, (WIDE, 110), clip=clip)
    prepare = graph.add(
        "VideoLCMPrepareFrames",
        1,
        TOP,
        (WIDE, 270),
        source=(example, 0),
        frames=used or frames,
        start=0,
        sample_fps=8.0,
        width=SIDE,
        height=SIDE,
    )
    prompt = graph.add(
        "CLIPTextEncode", prompt_column, TOP, (WIDE, 140), "Prompt", clip=(load, 1), text=CONDITION_PROMPTS[name]
    )
    latent = graph.add("VideoLCMEmptyLatent", 0, TOP + 380, (WIDE, 110), width=SIDE, height=SIDE, frames=frames)
    parts = Parts(graph, load, example, prepare, prompt, latent)
    parts.preview(parts.frames, 1, TOP + 350, "The clip" if used is None else "The first frame")
    return parts


def depth_of(parts: Parts, y: int) -> Link:
    """The embedded depth network."""
    node = parts.graph.add(
        "VideoLCMDepthEstimator", 2, y, (WIDE, 110), source=parts.frames, model_name="videolcm-mini-depth.safetensors"
    )
    return node, 0


def sketch_of(parts: Parts, y: int) -> Link:
    """Edges by OpenCV."""
    return parts.graph.add("VideoLCMSketchExtractor", 2, y, (WIDE, 180), source=parts.frames, method="canny"), 0


def depth_to_video() -> Graph:
    parts = begin("depth_to_video", SNOWMAN)
    depth = depth_of(parts, TOP)
    parts.preview(depth, 2, TOP + 200, "Depth: near is bright")
    return parts.finish(parts.apply("depth", depth, parts.positive, 3, TOP + 200), 4)


def sketch_to_video() -> Graph:
    parts = begin("sketch_to_video", TEDDY)
    sketch = sketch_of(parts, TOP)
    parts.preview(sketch, 2, TOP + 260, "Sketch: bright lines on black")
    return parts.finish(parts.apply("sketch", sketch, parts.positive, 3, TOP + 200), 4)


def first_frame_to_video() -> Graph:
    parts = begin("first_frame_to_video", CHICKEN, used=1, prompt_column=2)
    return parts.finish(parts.apply("first frame", parts.frames, parts.positive, 2, TOP + 200), 3)


def inpainting() -> Graph:
    parts = begin("inpainting", CHICKEN)
    grown = parts.graph.add(
        "GrowMask", 2, TOP, (WIDE, 90), "A little larger", mask=(parts.example, 1), expand=5, tapered_corners=True
    )
    shown = parts.graph.add("MaskToImage", 2, TOP + 170, (WIDE, 40), mask=(grown, 0))
    parts.preview((shown, 0), 2, TOP + 280, "White is painted anew")
    hole = parts.graph.add(
        "VideoLCMInpaintCondition",
        3,
        TOP + 200,
        (WIDE, 160),
        "Keep what is outside the mask",
        positive=parts.positive,
        frames=parts.frames,
        mask=(grown, 0),
    )
    return parts.finish((hole, 0), 4)


def depth_sketch_first_frame() -> Graph:
    parts = begin("depth_sketch_first_frame", SNOWMAN)
    depth, sketch = depth_of(parts, TOP), sketch_of(parts, TOP + 540)
    parts.preview(depth, 2, TOP + 190, "Depth", 280)
    parts.preview(sketch, 2, TOP + 790, "Sketch", 280)
    positive = parts.apply("depth", depth, parts.positive, 3, TOP + 200)
    positive = parts.apply("sketch", sketch, positive, 3, TOP + 500)
    positive = parts.apply("first frame", parts.frames, positive, 3, TOP + 800)
    return parts.finish(positive, 4)


def motion_transfer() -> Graph:
    parts = begin("motion_transfer", TEDDY)
    motion = parts.graph.add("VideoLCMMotionExtractor", 2, TOP, (WIDE, 110), source=parts.frames, method="optical flow")
    parts.preview((motion, 0), 2, TOP + 200, "Motion: grey is at rest")
    return parts.finish(parts.apply("motion", (motion, 0), parts.positive, 3, TOP + 200), 4)


def long_depth_video() -> Graph:
    parts = begin("long_depth_video", LONG_HORSE, frames=48)
    depth = depth_of(parts, TOP)
    parts.preview(depth, 2, TOP + 200, "Depth of all 48 frames")
    windows = parts.graph.add(
        "ContextWindowsManual",
        3,
        TOP + 520,
        (WIDE, 340),
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
    positive = parts.apply("depth", depth, parts.positive, 3, TOP + 200)
    return parts.finish(positive, 4, model=(windows, 0))


def depth_from_real_footage() -> Graph:
    graph = Graph("videolcm_depth_from_real_footage", CONDITION_NOTES["depth_from_real_footage"], 930, 380)
    load = graph.add(
        "VideoLCMModelLoader",
        0,
        TOP,
        (340, 130),
        model_name="videolcm_vcomposer_non_ema_914000.pth",
        weight_dtype="default",
        sampling="videolcm",
    )
    clip = graph.add(
        "CLIPLoader",
        0,
        TOP + 190,
        (340, 110),
        clip_name="open_clip_pytorch_model.bin",
        type="stable_diffusion",
        device="default",
    )
    vae = graph.add("VAELoader", 0, TOP + 360, (340, 60), vae_name="vae-ft-mse-840000-ema-pruned.safetensors")
    footage = graph.add("LoadVideo", 0, TOP + 480, (340, 320), file="your_video.mp4")
    prepare = graph.add(
        "VideoLCMPrepareFrames",
        1,
        TOP,
        (WIDE, 270),
        source=(footage, 0),
        frames=16,
        start=0,
        sample_fps=8.0,
        width=448,
        height=256,
    )
    network = graph.add(
        "LoadDA3Model",
        1,
        TOP + 350,
        (WIDE, 90),
        model_name="depth_anything_3_metric_large.safetensors",
        weight_dtype="default",
    )
    geometry = graph.add(
        "DA3Inference",
        1,
        TOP + 510,
        (WIDE, 130),
        da3_model=(network, 0),
        image=(prepare, 0),
        resolution=504,
        resize_method="upper_bound_resize",
        mode="mono",
    )
    metres = graph.add(
        "DA3Render",
        2,
        TOP,
        (WIDE, 130),
        "Depth in metres",
        da3_geometry=(geometry, 0),
        output="depth",
        **{"output.normalization": "raw", "output.apply_sky_clip": False},
    )
    scaled = graph.add(
        "AdjustBrightness", 2, TOP + 200, (WIDE, 70), "0.1: white is 10 m", images=(metres, 0), factor=0.1
    )
    near = graph.add("ImageInvert", 2, TOP + 330, (WIDE, 40), "Near is bright", image=(scaled, 0))
    graph.add("PreviewImage", 2, TOP + 440, (WIDE, 330), "Depth of all frames, at one scale", images=(near, 0))
    prompt = graph.add("CLIPTextEncode", 3, TOP, (WIDE, 140), "Prompt", clip=(clip, 0), text=REAL_FOOTAGE_PROMPT)
    apply = graph.add(
        "VideoLCMApplyCondition",
        3,
        TOP + 200,
        (WIDE, 240),
        "Follow the depth",
        positive=(prompt, 0),
        condition="depth",
        frames=(near, 0),
    )
    latent = graph.add("VideoLCMEmptyLatent", 3, TOP + 500, (WIDE, 110), width=448, height=256, frames=16)
    sampler = graph.add(
        "VideoLCMSampler",
        4,
        TOP,
        (WIDE, 290),
        model=(load, 0),
        positive=(apply, 0),
        latent=(latent, 0),
        seed=1,
        steps=4,
        cfg=1.0,
        strength=1.0,
        noise_device="cpu",
    )
    video_output(graph, (sampler, 0), (vae, 0), 5, None)
    return graph


GRAPHS = (
    depth_to_video,
    sketch_to_video,
    first_frame_to_video,
    inpainting,
    depth_sketch_first_frame,
    motion_transfer,
    long_depth_video,
    depth_from_real_footage,
)
