"""The workflows that need a prompt only."""

from __future__ import annotations

from workflow_graph import TOP, Graph, Link
from workflow_texts import (
    AUTHORS_NOTE,
    AUTHORS_PROMPT,
    CUSTOM_NOTE,
    PROMPT,
    TEACHER_CFG,
    TEACHER_NOTE,
    TEXT_TO_VIDEO_NOTE,
)


def video_output(graph: Graph, samples: Link, vae: Link, column: int, scale: tuple[int, int] | None) -> None:
    """Decode, enlarge if asked, and save at the 8 frames a second the models were trained on."""
    decode = graph.add("VAEDecode", column, TOP, (210, 60), samples=samples, vae=vae)
    images: Link = (decode, 0)
    if scale is not None:
        enlarge = graph.add(
            "ImageScale",
            column,
            TOP + 120,
            (300, 140),
            "Enlarge to look at",
            image=images,
            upscale_method="bicubic",
            width=scale[0],
            height=scale[1],
            crop="disabled",
        )
        images = (enlarge, 0)
    video = graph.add("CreateVideo", column, TOP + 330, (300, 110), images=images, fps=8.0, bit_depth=8)
    graph.add(
        "SaveVideo",
        column + 1,
        TOP,
        (380, 420),
        video=(video, 0),
        filename_prefix="video/VideoLCM",
        format="auto",
        codec="auto",
    )


def text_to_video() -> Graph:
    graph = Graph("videolcm_text_to_video", TEXT_TO_VIDEO_NOTE)
    load = graph.add("VideoLCMCheckpointLoader", 0, TOP, (320, 100), ckpt_name="videolcm-mini.safetensors")
    prompt = graph.add("CLIPTextEncode", 1, TOP, (320, 140), "Prompt", clip=(load, 1), text=PROMPT)
    latent = graph.add("VideoLCMEmptyLatent", 1, TOP + 200, (320, 110), width=64, height=64, frames=16)
    sampler = graph.add(
        "VideoLCMSampler",
        2,
        TOP,
        (320, 290),
        model=(load, 0),
        positive=(prompt, 0),
        latent=(latent, 0),
        seed=1,
        steps=4,
        cfg=1.0,
        strength=1.0,
        noise_device="cpu",
    )
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
        "SamplerCustom",
        2,
        TOP,
        (320, 280),
        model=(load, 0),
        positive=(prompt, 0),
        negative=(negative, 0),
        sampler=(kind, 0),
        sigmas=(sigmas, 0),
        latent_image=(latent, 0),
        add_noise=True,
        noise_seed=1,
        cfg=TEACHER_CFG,
    )
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
        "VideoLCMScheduler",
        0,
        TOP + 500,
        (320, 160),
        model=(load, 0),
        steps=4,
        mode="lcm",
        **{"mode.original_steps": 50, "mode.strength": 1.0},
    )
    sampler = graph.add(
        "SamplerCustomAdvanced",
        2,
        TOP,
        (320, 130),
        noise=(noise, 0),
        guider=(guider, 0),
        sampler=(kind, 0),
        sigmas=(sigmas, 0),
        latent_image=(latent, 0),
    )
    video_output(graph, (sampler, 0), (load, 2), 3, (256, 256))
    return graph


def authors_weights() -> Graph:
    graph = Graph("videolcm_text_to_video_authors_weights", AUTHORS_NOTE)
    load = graph.add(
        "VideoLCMModelLoader",
        0,
        TOP,
        (340, 130),
        model_name="videolcm_t2v_non_ema_544000.pth",
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
    prompt = graph.add("CLIPTextEncode", 1, TOP, (320, 160), "Prompt", clip=(clip, 0), text=AUTHORS_PROMPT)
    latent = graph.add("VideoLCMEmptyLatent", 1, TOP + 220, (320, 110), width=448, height=256, frames=16)
    sampler = graph.add(
        "VideoLCMSampler",
        2,
        TOP,
        (320, 290),
        model=(load, 0),
        positive=(prompt, 0),
        latent=(latent, 0),
        seed=1,
        steps=4,
        cfg=1.0,
        strength=1.0,
        noise_device="cpu",
    )
    video_output(graph, (sampler, 0), (vae, 0), 3, None)
    return graph


GRAPHS = (text_to_video, teacher_50_steps, custom_sampling, authors_weights)
