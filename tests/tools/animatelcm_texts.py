"""Prompts and notes of the workflows on Stable Diffusion 1.5: which files they need, how large, from where."""

PROMPTS = {
    "text_to_video": "a sailing boat crosses the open sea at sunset, waves, best quality, detailed",
    "depth": "a snowman made of chocolate walks through a meadow of flowers, best quality, detailed",
    "image_to_video": "a chicken jumps up and down on sand, rendering, soft light",
    "long_video": "a red fox runs through a snowy forest, morning light, best quality, detailed",
    "mcm": "a lighthouse on a cliff, waves break on the rocks, clouds drift, best quality",
}
NEGATIVE_PROMPT = "worst quality, low quality, blurry, deformed, watermark, text"


def _row(file: str, size: str, folder: str, repository: str) -> str:
    return f"| {file} | {size} | models/{folder} | [{repository}](https://huggingface.co/{repository}) |"


def _animatelcm(kind: str, size: str, repository: str) -> tuple[str, str]:
    return (
        _row(f"AnimateLCM_sd15_{kind}.ckpt", size, "animatediff_models", repository),
        _row(f"AnimateLCM_sd15_{kind}_lora.safetensors", "135 MB", "loras", repository),
    )


CHECKPOINT = _row(
    "any SD 1.5 checkpoint, such as v1-5-pruned-emaonly-fp16.safetensors",
    "2.13 GB",
    "checkpoints",
    "Comfy-Org/stable-diffusion-v1-5-archive",
)
T2V = _animatelcm("t2v", "1.81 GB", "wangfuyun/AnimateLCM")
I2V = _animatelcm("i2v", "2.12 GB", "wangfuyun/AnimateLCM-I2V")
DEPTH = _row("control_v11f1p_sd15_depth.pth", "1.45 GB", "controlnet", "lllyasviel/ControlNet-v1-1")
MCM = (
    _row("mm_sd_v15_v2.ckpt", "1.82 GB", "animatediff_models", "guoyww/animatediff"),
    _row(
        "animatediff-webvid, the folder: adapter_model.safetensors with adapter_config.json",
        "434 MB",
        "loras",
        "yhzhai/mcm",
    ),
)


def _files(*rows: str) -> str:
    table = "\n".join(("| file | size | folder | from |", "|---|---|---|---|", CHECKPOINT, *rows))
    return f"""**These files must be there first.** They are not part of the pack, and no small ones ship yet that would
do in their place. Press R after copying them.

{table}"""


NOTES = {
    "text_to_video": f"""## AnimateLCM: text to video with any SD 1.5 checkpoint

{_files(*T2V)}

16 frames of 512 x 512 in **4 steps** (6 to 8 are a little better), cfg **1.5** with a negative prompt (1 takes
half the time), LoRA at **0.8**. Another checkpoint gives another look: choose it in *Load Checkpoint*.

*sampling* auto is as AnimateLCM's authors; *animatediff-evolved* as that pack's *lcm*. Its files are found where
they lie; its nodes beside these: *docs/animatediff_evolved.md* of the pack.
""",
    "depth": f"""## AnimateLCM with a depth ControlNet

{_files(*T2V, DEPTH)}

The clip gives space and motion, the prompt everything else. *Apply ControlNet* is core's, with one depth image
for each frame. *VideoLCM Depth* knows rendered clips; for real footage see template 14, or use any depth in which
near is bright.

**Try**: *strength* 0.5 to 1; *end_percent* 0.7 lets the last step go free; *Load Video* in the place of the example.
""",
    "image_to_video": f"""## AnimateLCM: image to video

{_files(*I2V)}

The image goes through the file's own encoder into the UNet. **Your own image**: core's *Load Image* in the place
of *Prepare Condition Frames*; it is cut to the video's shape. Choose a checkpoint that can draw it, and a prompt
that says what is seen.

4 steps (2 to 4), **cfg 1**, LoRA 0.8. *motion_scale* is AnimateDiff-Evolved's *ref_drift* (0 there). *Match Colours*
gives the video the image's colours, as the authors do (it needs OpenCV).
""",
    "long_video": f"""## AnimateLCM: 48 frames by context windows

{_files(*T2V)}

Core's *Context Windows (Manual)* after *Apply Motion Module*: *dim* 0, *context_length* 16, *context_overlap* 4,
*causal_window_fix* **off** (it puts a frame before each window that was never trained). More overlap drifts less
and takes longer. ControlNets follow the windows: each gets the hints of its own frames.

**Longer**: another number in *frames* of *Empty VideoLCM Latent*; memory hardly grows, time does.
""",
    "mcm": f"""## MCM: AnimateDiff v2 in 4 steps

{_files(*MCM)}

Motion Consistency Model (arXiv 2406.06890). Its LoRA changes the UNet **and** the motion modules, so it stands
**after** *Apply Motion Module*; *sampling* mcm-animatediff, cfg 1, 1 to 8 steps. It was trained with the group
norm's statistics over all frames: where *group_norm* is auto, the LoRA sets that.

*animatediff-laion* is the same with better images. On Windows choose the LoRA again: its folder has a backslash there.
""",
}
