"""Where the model files of the workflows lie and come from: what the page offers where one is missing."""

from __future__ import annotations

from typing import Any

AUTHORS = "https://www.modelscope.cn/models/iic/tf-t2v"
HUB = "https://huggingface.co"
# File -> folder of `models`, and where to get it.
MODELS = {
    "videolcm_t2v_non_ema_544000.pth": ("diffusion_models", AUTHORS),
    "videolcm_vcomposer_non_ema_914000.pth": ("diffusion_models", AUTHORS),
    "open_clip_pytorch_model.bin": (
        "text_encoders",
        f"{HUB}/laion/CLIP-ViT-H-14-laion2B-s32B-b79K/resolve/main/open_clip_pytorch_model.bin",
    ),
    "vae-ft-mse-840000-ema-pruned.safetensors": (
        "vae",
        f"{HUB}/stabilityai/sd-vae-ft-mse-original/resolve/main/vae-ft-mse-840000-ema-pruned.safetensors",
    ),
    "depth_anything_3_metric_large.safetensors": (
        "geometry_estimation",
        f"{HUB}/Comfy-Org/Depth-Anything-3/resolve/main/geometry_estimation/depth_anything_3_metric_large.safetensors",
    ),
    "v1-5-pruned-emaonly-fp16.safetensors": (
        "checkpoints",
        f"{HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
    ),
    "AnimateLCM_sd15_t2v.ckpt": (
        "animatediff_models",
        f"{HUB}/wangfuyun/AnimateLCM/resolve/main/AnimateLCM_sd15_t2v.ckpt",
    ),
    "AnimateLCM_sd15_t2v_lora.safetensors": (
        "loras",
        f"{HUB}/wangfuyun/AnimateLCM/resolve/main/AnimateLCM_sd15_t2v_lora.safetensors",
    ),
    "AnimateLCM_sd15_i2v.ckpt": (
        "animatediff_models",
        f"{HUB}/wangfuyun/AnimateLCM-I2V/resolve/main/AnimateLCM_sd15_i2v.ckpt",
    ),
    "AnimateLCM_sd15_i2v_lora.safetensors": (
        "loras",
        f"{HUB}/wangfuyun/AnimateLCM-I2V/resolve/main/AnimateLCM_sd15_i2v_lora.safetensors",
    ),
    "mm_sd_v15_v2.ckpt": ("animatediff_models", f"{HUB}/guoyww/animatediff/resolve/main/mm_sd_v15_v2.ckpt"),
    "animatediff-webvid/adapter_model.safetensors": (
        "loras",
        f"{HUB}/yhzhai/mcm/resolve/main/animatediff-webvid/adapter_model.safetensors",
    ),
    "control_v11f1p_sd15_depth.pth": (
        "controlnet",
        f"{HUB}/lllyasviel/ControlNet-v1-1/resolve/main/control_v11f1p_sd15_depth.pth",
    ),
}
# These come with the pack: there is no other place to get them from.
EMBEDDED = {
    "videolcm-mini.safetensors": "videolcm",
    "videolcm-mini-teacher.safetensors": "videolcm",
    "videolcm-mini-vcomposer.safetensors": "videolcm",
    "videolcm-mini-depth.safetensors": "videolcm_annotators",
}


def models_of(values: list[Any]) -> list[dict[str, str]]:
    """What `properties.models` says about the files among a node's widget values."""
    found = []
    for value in values:
        if value in MODELS:
            directory, url = MODELS[value]
            found.append({"name": value, "url": url, "directory": directory})
        elif value in EMBEDDED:
            found.append({"name": value, "directory": EMBEDDED[value]})
    return found
