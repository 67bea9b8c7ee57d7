"""The workflows that need a prompt only."""

from __future__ import annotations

from typing import Any

from workflow_graph import Graph, Link, Node
from workflow_texts import (
    AUTHORS_NOTE,
    AUTHORS_PROMPT,
    COMPARE_LABELS,
    COMPARE_NOTE,
    CUSTOM_NOTE,
    CUSTOM_PROMPT,
    PROMPT,
    TEACHER_CFG,
    TEACHER_NOTE,
    TEACHER_PROMPT,
    TEXT_TO_VIDEO_NOTE,
    WORDS_NOTE,
)

SIDE, FRAMES = 64, 16
STUDENT, TEACHER = "videolcm-mini.safetensors", "videolcm-mini-teacher.safetensors"


def sampler_of(
    graph: Graph, column: int, model: Link, positive: Link, latent: Link, title: str | None = None, **settings: Any
) -> Node:
    """VideoLCM Sampler with the settings that the models were made for."""
    height = settings.pop("height", None)
    settings = {"seed": 1, "steps": 4, "cfg": 1.0, "strength": 1.0, "noise_device": "cpu"} | settings
    return graph.add(
        "VideoLCMSampler",
        "Result",
        column,
        title,
        height,
        model=model,
        positive=positive,
        latent=latent,
        **settings,
    )


def latent_of(
    graph: Graph, group: str, column: int, width: int = SIDE, height: int = SIDE, frames: int = FRAMES
) -> Link:
    """An empty video."""
    return graph.add("VideoLCMEmptyLatent", group, column, width=width, height=height, frames=frames), 0


def decode_of(graph: Graph, column: int, samples: Link, vae: Link, title: str | None = None) -> Link:
    """Frames of a latent."""
    return graph.add("VAEDecode", "Result", column, title, samples=samples, vae=vae), 0


def save_of(graph: Graph, column: int, images: Link, height: int | None = None) -> None:
    """Save a video at the 8 frames a second that the models were trained on."""
    video = graph.add("CreateVideo", "Result", column, images=images, fps=8.0, bit_depth=8)
    graph.add(
        "SaveVideo",
        "Result",
        column,
        None,
        height,
        video=(video, 0),
        filename_prefix="video/VideoLCM",
        format="auto",
        codec="auto",
    )


def enlarged(graph: Graph, column: int, images: Link, side: int = 256) -> Link:
    """Frames of the small models, large enough to look at."""
    node = graph.add(
        "ImageScale",
        "Result",
        column,
        "Enlarge to look at",
        image=images,
        upscale_method="bicubic",
        width=side,
        height=side,
        crop="disabled",
    )
    return node, 0


def authors_loaders(graph: Graph, file: str) -> tuple[Link, Link, Link]:
    """MODEL, CLIP and VAE of the authors' files."""
    load = graph.add("VideoLCMModelLoader", "Model", 0, model_name=file, weight_dtype="default", sampling="videolcm")
    clip = graph.add(
        "CLIPLoader",
        "Model",
        0,
        clip_name="open_clip_pytorch_model.bin",
        type="stable_diffusion",
        device="default",
    )
    vae = graph.add("VAELoader", "Model", 0, vae_name="vae-ft-mse-840000-ema-pruned.safetensors")
    return (load, 0), (clip, 0), (vae, 0)


def text_to_video() -> Graph:
    graph = Graph("videolcm_text_to_video", "01. Text to video (4 steps)", TEXT_TO_VIDEO_NOTE, (0, 2, 360))
    load = graph.add("VideoLCMCheckpointLoader", "Model", 0, ckpt_name=STUDENT)
    prompt = graph.add("CLIPTextEncode", "Steer", 1, "Prompt", 130, clip=(load, 1), text=PROMPT)
    latent = latent_of(graph, "Steer", 1)
    sampler = sampler_of(graph, 2, (load, 0), (prompt, 0), latent)
    images = decode_of(graph, 2, (sampler, 0), (load, 2))
    save_of(graph, 3, enlarged(graph, 3, images))
    return graph


def prompt_words() -> Graph:
    graph = Graph("videolcm_prompt_words", "02. Prompt words (pick or shuffle)", WORDS_NOTE, (0, 2, 340))
    load = graph.add("VideoLCMCheckpointLoader", "Model", 0, ckpt_name=STUDENT)
    words = graph.add("VideoLCMPromptWords", "Steer", 1, object="a snowman", motion="spins around", place="on grass")
    prompt = graph.add("CLIPTextEncode", "Steer", 1, "Prompt", clip=(load, 1), text=(words, 0))
    latent = latent_of(graph, "Model", 0)
    sampler = sampler_of(graph, 2, (load, 0), (prompt, 0), latent)
    images = decode_of(graph, 2, (sampler, 0), (load, 2))
    save_of(graph, 3, enlarged(graph, 3, images))
    return graph


def teacher_sampler(
    graph: Graph, column: int, load: Node, positive: Node, latent: Link, seed: int | Link, height: int | None = None
) -> Link:
    """The teacher's 50 steps; its settings stand with the model and the prompt."""
    negative = graph.add("CLIPTextEncode", "Steer", 1, "Negative prompt", clip=(load, 1), text="")
    sigmas = graph.add("VideoLCMScheduler", "Model", 0, "50 steps", 130, model=(load, 0), steps=50, mode="ddim")
    kind = graph.add("KSamplerSelect", "Model", 0, sampler_name="euler")
    sampler = graph.add(
        "SamplerCustom",
        "Result",
        column,
        "Teacher",
        height,
        model=(load, 0),
        positive=(positive, 0),
        negative=(negative, 0),
        sampler=(kind, 0),
        sigmas=(sigmas, 0),
        latent_image=latent,
        add_noise=True,
        noise_seed=seed,
        cfg=TEACHER_CFG,
    )
    return sampler, 0


def compare_steps() -> Graph:
    graph = Graph(
        "videolcm_compare_steps", "03. Compare steps (1, 2, 4, 8, teacher 50)", COMPARE_NOTE, (1, 1, 290), width=260
    )
    student = graph.add("VideoLCMCheckpointLoader", "Model", 0, "Student", ckpt_name=STUDENT)
    teacher = graph.add("VideoLCMCheckpointLoader", "Model", 0, "Teacher", ckpt_name=TEACHER)
    seed = graph.add("PrimitiveInt", "Steer", 1, "One seed for all", value=1)
    prompt = graph.add("CLIPTextEncode", "Steer", 1, "Prompt", clip=(student, 1), text=PROMPT)
    # The two files have the same text encoder, as the student was made from the teacher.
    latent = latent_of(graph, "Steer", 1)
    made = []
    for steps, column in ((1, 2), (2, 2), (4, 2), (8, 3)):
        title = "1 step" if steps == 1 else f"{steps} steps"
        sampler = sampler_of(
            graph, column, (student, 0), (prompt, 0), latent, title, height=250, seed=(seed, 0), steps=steps
        )
        made.append((sampler, 0))
    made.append(teacher_sampler(graph, 3, teacher, prompt, latent, (seed, 0), 250))
    vae: Link = (student, 2)
    videos = {f"images_{i}": decode_of(graph, 4, samples, vae) for i, samples in enumerate(made, 1)}
    grid = graph.add("VideoLCMCompare", "Result", 5, **videos, labels=COMPARE_LABELS, columns=0, size=192)
    save_of(graph, 5, (grid, 0), 340)
    return graph


def teacher_50_steps() -> Graph:
    graph = Graph("videolcm_teacher_50_steps", "11. Teacher (50 steps)", TEACHER_NOTE, (1, 1, 400), width=320)
    load = graph.add("VideoLCMCheckpointLoader", "Model", 0, ckpt_name=TEACHER)
    prompt = graph.add("CLIPTextEncode", "Steer", 1, "Prompt", clip=(load, 1), text=TEACHER_PROMPT)
    latent = latent_of(graph, "Model", 0)
    samples = teacher_sampler(graph, 2, load, prompt, latent, 1)
    images = decode_of(graph, 2, samples, (load, 2))
    save_of(graph, 3, enlarged(graph, 3, images))
    return graph


def custom_sampling() -> Graph:
    graph = Graph("videolcm_custom_sampling", "12. Custom sampling", CUSTOM_NOTE, (1, 1, 380), width=340)
    load = graph.add("VideoLCMCheckpointLoader", "Model", 0, ckpt_name=STUDENT)
    sigmas = graph.add(
        "VideoLCMScheduler",
        "Model",
        0,
        model=(load, 0),
        steps=4,
        mode="lcm",
        **{"mode.original_steps": 50, "mode.strength": 1.0},
    )
    kind = graph.add("SamplerVideoLCM", "Model", 0, noise_device="cpu", s_noise=1.0, noise_clip_std=0.0)
    noise = graph.add("RandomNoise", "Model", 0, noise_seed=1)
    prompt = graph.add("CLIPTextEncode", "Steer", 1, "Prompt", clip=(load, 1), text=CUSTOM_PROMPT)
    guider = graph.add("BasicGuider", "Steer", 1, model=(load, 0), conditioning=(prompt, 0))
    latent = latent_of(graph, "Steer", 1)
    sampler = graph.add(
        "SamplerCustomAdvanced",
        "Result",
        2,
        noise=(noise, 0),
        guider=(guider, 0),
        sampler=(kind, 0),
        sigmas=(sigmas, 0),
        latent_image=latent,
    )
    images = decode_of(graph, 2, (sampler, 0), (load, 2))
    save_of(graph, 3, enlarged(graph, 3, images))
    return graph


def authors_weights() -> Graph:
    graph = Graph(
        "videolcm_text_to_video_authors_weights",
        "13. Text to video (weights of the authors)",
        AUTHORS_NOTE,
        (1, 2, 360),
        width=340,
    )
    model, clip, vae = authors_loaders(graph, "videolcm_t2v_non_ema_544000.pth")
    prompt = graph.add("CLIPTextEncode", "Steer", 1, "Prompt", 160, clip=clip, text=AUTHORS_PROMPT)
    latent = latent_of(graph, "Steer", 1, 448, 256)
    sampler = sampler_of(graph, 2, model, (prompt, 0), latent)
    save_of(graph, 3, decode_of(graph, 2, (sampler, 0), vae), 420)
    return graph


GRAPHS = (text_to_video, prompt_words, compare_steps, teacher_50_steps, custom_sampling, authors_weights)
