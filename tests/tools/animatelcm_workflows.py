"""The workflows on Stable Diffusion 1.5: AnimateLCM and MCM-AnimateDiff, with core's own checkpoint loader."""

from __future__ import annotations

from dataclasses import dataclass

from animatelcm_texts import NEGATIVE_PROMPT, NOTES, PROMPTS
from text_workflows import decode_of, latent_of, sampler_of, save_of
from workflow_graph import NEGATIVE, Graph, Link, Node

SIDE, FRAMES, LONG = 512, 16, 48
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
T2V, T2V_LORA = "AnimateLCM_sd15_t2v.ckpt", "AnimateLCM_sd15_t2v_lora.safetensors"
I2V, I2V_LORA = "AnimateLCM_sd15_i2v.ckpt", "AnimateLCM_sd15_i2v_lora.safetensors"
ANIMATEDIFF, MCM_LORA = "mm_sd_v15_v2.ckpt", "animatediff-webvid/adapter_model.safetensors"
DEPTH = "control_v11f1p_sd15_depth.pth"
SNOWMAN, CHICKEN = "a_snowman_moves_to_the_side_on_grass.mp4", "a_chicken_jumps_up_and_down_on_sand.mp4"


@dataclass
class Parts:
    """A graph with its checkpoint and what samples: the MODEL with LoRA and motion."""

    name: str
    graph: Graph
    load: Node
    model: Link

    def prompt(self, column: int, negative: bool = False) -> Link:
        """An encoded prompt."""
        title, text = (NEGATIVE, NEGATIVE_PROMPT) if negative else ("Prompt", PROMPTS[self.name])
        return self.graph.add("CLIPTextEncode", "Steer", column, title, clip=(self.load, 1), text=text), 0

    def latent(self, group: str, column: int, frames: int = FRAMES) -> Link:
        """An empty video of Stable Diffusion 1.5's size."""
        return latent_of(self.graph, group, column, SIDE, SIDE, frames)

    def finish(self, column: int, positive: Link, latent: Link, negative: Link | None = None) -> Graph:
        """Sample, decode and save; guided where there is a negative prompt."""
        guided = {"negative": negative, "cfg": 1.5} if negative else {}
        sampler = sampler_of(self.graph, column, self.model, positive, latent, **guided)
        save_of(self.graph, column + 1, decode_of(self.graph, column, (sampler, 0), (self.load, 2)))
        return self.graph


def lora_of(graph: Graph, column: int, model: Link, file: str, strength: float) -> Link:
    """A LoRA on a MODEL."""
    settings = {"lora_name": file, "strength_model": strength}
    return graph.add("VideoLCMLoraLoader", "Model", column, model=model, **settings), 0


def motion_of(graph: Graph, column: int, model: Link, file: str, sampling: str = "auto") -> Link:
    """Motion modules on a MODEL."""
    load = graph.add("VideoLCMMotionLoader", "Model", column, motion_name=file)
    return graph.add("VideoLCMMotionApply", "Model", column, model=model, motion_module=(load, 0), sampling=sampling), 0


def begin(
    name: str, title: str, note: tuple[int, int, int], motion: str = T2V, lora: str = T2V_LORA, width: int = 300
) -> Parts:
    """Checkpoint and LoRA in the first column, motion modules in the second."""
    graph = Graph(f"videolcm_animatelcm_{name}", title, NOTES[name], note, width)
    load = graph.add("CheckpointLoaderSimple", "Model", 0, ckpt_name=CHECKPOINT)
    model = lora_of(graph, 0, (load, 0), lora, 0.8)
    return Parts(name, graph, load, motion_of(graph, 1, model, motion))


def text_to_video() -> Graph:
    parts = begin("text_to_video", "15. AnimateLCM text to video (any SD 1.5 checkpoint)", (0, 3, 300))
    positive, negative = parts.prompt(2), parts.prompt(2, negative=True)
    return parts.finish(3, positive, parts.latent("Steer", 2), negative)


def depth() -> Graph:
    parts = begin("depth", "16. AnimateLCM with ControlNet depth", (0, 2, 350))
    graph = parts.graph
    example = graph.add("VideoLCMExampleClip", "Your clip", 2, clip=SNOWMAN)
    read = graph.add("VideoLCMDepthEstimator", "Your clip", 2, source=(example, 0))
    network = graph.add("ControlNetLoader", "Model", 1, control_net_name=DEPTH)
    positive, negative = parts.prompt(2), parts.prompt(2, negative=True)
    applied = graph.add(
        "ControlNetApplyAdvanced",
        "Steer",
        2,
        "Follow the depth",
        positive=positive,
        negative=negative,
        control_net=(network, 0),
        image=(read, 0),
        strength=0.8,
    )
    return parts.finish(3, (applied, 0), parts.latent("Model", 0), (applied, 1))


def image_to_video() -> Graph:
    parts = begin("image_to_video", "17. AnimateLCM image to video", (0, 2, 370), I2V, I2V_LORA)
    graph, latent = parts.graph, parts.latent("Model", 0)
    example = graph.add("VideoLCMExampleClip", "Your clip", 2, clip=CHICKEN)
    image = graph.add(
        "VideoLCMPrepareFrames",
        "Your clip",
        2,
        source=(example, 0),
        frames=1,
        start=0,
        sample_fps=8.0,
        width=SIDE,
        height=SIDE,
    )
    positive = parts.prompt(2)
    first = graph.add(
        "VideoLCMFirstFrame", "Steer", 2, model=parts.model, image=(image, 0), vae=(parts.load, 2), latent=latent
    )
    sampler = sampler_of(graph, 3, (first, 0), positive, latent)
    frames = decode_of(graph, 3, (sampler, 0), (parts.load, 2))
    matched = graph.add("VideoLCMMatchColours", "Result", 4, images=frames, reference=(image, 0))
    save_of(graph, 4, (matched, 0))
    return graph


def long_video() -> Graph:
    parts = begin("long_video", "18. AnimateLCM longer video (48 frames)", (2, 3, 290))
    windows = parts.graph.add(
        "ContextWindowsManual",
        "Model",
        1,
        "16 frames at a time",
        model=parts.model,
        context_length=FRAMES,
        context_overlap=4,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=0,
        freenoise=False,
        cond_retain_index_list="",
        split_conds_to_windows=False,
        latent_retain_index_list="",
        causal_window_fix=False,
    )
    parts.model = (windows, 0)
    positive, negative = parts.prompt(2), parts.prompt(2, negative=True)
    return parts.finish(3, positive, parts.latent("Steer", 2, LONG), negative)


def mcm_animatediff() -> Graph:
    graph = Graph("videolcm_mcm_animatediff", "19. MCM-AnimateDiff text to video", NOTES["mcm"], (0, 3, 280))
    load = graph.add("CheckpointLoaderSimple", "Model", 0, ckpt_name=CHECKPOINT)
    moved = motion_of(graph, 1, (load, 0), ANIMATEDIFF, "mcm-animatediff")
    parts = Parts("mcm", graph, load, lora_of(graph, 1, moved, MCM_LORA, 1.0))
    return parts.finish(3, parts.prompt(2), parts.latent("Steer", 2))


GRAPHS = (text_to_video, depth, image_to_video, long_video, mcm_animatediff)
