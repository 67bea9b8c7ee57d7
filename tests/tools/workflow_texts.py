"""The prompts and notes of the shipped workflows."""

PROMPT = "a snowman spins around on grass"
TEACHER_PROMPT = "a horse moves to the side on sand"
CUSTOM_PROMPT = "a cactus jumps up and down on snow"
TEACHER_CFG = 3.0

# The words that the authors' inference appends to every prompt (their `positive_prompt`).
AUTHORS_PROMPT = (
    "A dog runs along the beach at sunset, "
    "cinematic, High Contrast, highly detailed, Unreal Engine 5, no blur, 4k render"
)

TEXT_TO_VIDEO_NOTE = """## Text to video in 4 steps

Press **Run**. Nothing has to be downloaded: *videolcm-mini* comes with this pack and draws 16 frames of 64x64
pixels in a few seconds, on a CPU too.

It is a small model of a small world. Its prompts name **an object, a motion and a place**, for example:

- a snowman spins around on grass
- a horse moves to the side on sand

The full list is in *models/README.md* of the pack. Words it does not know are ignored.

**Settings**: 4 steps, cfg 1. The model was distilled for these; 1 step is a sketch, 8 adds a little. The seed
alone decides the video, the same on every machine.
"""

TEACHER_NOTE = """## The teacher: 50 steps with guidance

*videolcm-mini-teacher* is the model that *videolcm-mini* was distilled from. It needs 50 steps, and each runs
the network on the prompt and on the negative prompt: 25 times the work of 4 steps without guidance.

*VideoLCM Scheduler* in mode *ddim* gives the authors' timesteps 981, 961, ..., 1; with *euler* this is their
DDIM sampler.

Template *03. Compare steps* shows both at one prompt and seed.
"""

CUSTOM_NOTE = """## Custom sampling

The parts of *VideoLCM Sampler* in the open: noise, guider, sampler and sigmas go into core's
*SamplerCustomAdvanced*. For the same prompt and seed the video is that of template *01. Text to video*.

- **VideoLCM Scheduler**, mode *lcm*: the timesteps 999, 759, 499, 259 for 4 steps of the 50-step grid.
  *strength* below 1 keeps part of a given video.
- **Sampler VideoLCM**: core's lcm sampler with its step noise drawn on the CPU.

Core's *KSampler* with sampler *lcm*, scheduler *simple* and cfg 1 does the same.
"""

WORDS_NOTE = """## Prompt words

Press **Run**. *VideoLCM Prompt Words* puts **an object, a motion and a place** together, out of the words that
*videolcm-mini* knows: ten objects, three motions, four places. Its text goes into the prompt.

**Shuffle**: each word has a control. With *randomize* every run draws another word, *increment* goes through the
list, *fixed* keeps the word. The seed has one too: fix it to see what a word alone changes.

One in five combinations was never seen in training, such as *a snowman moves to the side on grass*: they work as
well.
"""

COMPARE_LABELS = "1 step\n2 steps\n4 steps\n8 steps\nteacher: 50 steps, guided"

COMPARE_NOTE = """## Compare steps

Press **Run**, about a minute on a CPU. **One seed, one prompt**: the student in 1, 2, 4 and 8 steps, and its
teacher in 50 steps with guidance, which is 100 network calls. *Compare Videos* puts them side by side.

1 step is a sketch, 4 come within 5 % of the teacher (FVD), 8 add little. That is what distillation is for.
"""

AUTHORS_NOTE = """## Text to video with the weights of VideoLCM's authors

These files are not part of the pack. The authors publish the first two on ModelScope in the repository
*iic/tf-t2v*; their terms are research and non-commercial use.

| file | size | folder |
|---|---|---|
| videolcm_t2v_non_ema_544000.pth | 5.3 GiB | models/diffusion_models (or models/videolcm) |
| open_clip_pytorch_model.bin (OpenCLIP ViT-H-14) | 3.9 GB | models/text_encoders |
| a VAE of Stable Diffusion, such as vae-ft-mse-840000-ema-pruned.safetensors | 335 MB | models/vae |

Instead of the last two, *Load Checkpoint* with Stable Diffusion 2.1 (v2-1_512-ema-pruned) gives the same text
encoder (CLIP) and the VAE that the authors used.

Press R after copying the files, then choose them in the loaders. 16 frames of 448x256, 4 steps, cfg 1. The
words after the first comma of the prompt are the authors' own addition to every prompt.
"""

# By the workflow's name without its prefix. Prompts differ from what the clips show: the clip gives the structure, the
# prompt everything else.
CONDITION_TITLES = {
    "first_frame_to_video": "04. First frame to video",
    "depth_to_video": "05. Depth to video",
    "sketch_to_video": "06. Sketch to video",
    "motion_transfer": "07. Motion transfer",
    "inpainting": "08. Inpainting",
    "depth_sketch_first_frame": "09. Depth, sketch and first frame together",
    "long_depth_video": "10. Longer video (48 frames)",
    "depth_from_real_footage": "14. Depth of real footage (weights of the authors)",
}
"""Titles of the cards; two digits, so that their alphabetical order is that of the course."""

CONDITION_PROMPTS = {
    "depth_to_video": "a cactus moves to the side on sand",
    "sketch_to_video": "a teddy bear moves to the side on grass",
    "first_frame_to_video": "a chicken jumps up and down on sand",
    "inpainting": "a fire hydrant jumps up and down on sand",
    "depth_sketch_first_frame": "a snowman moves to the side on grass",
    "motion_transfer": "a snowman moves to the side on snow",
    "long_depth_video": "a horse spins around on sand",
}

OWN_CLIP = """**Your own clip**: put core's *Load Video* in the place of *Load VideoLCM Example*. *Prepare Condition
Frames* cuts any video to the model's length, rate and size."""
SMALL_WORLD = """*videolcm-mini-vcomposer* comes with this pack and runs on a CPU too. It knows a small world: **an
object, a motion and a place**, such as *a horse jumps up and down on sand* (the full list is in *models/README.md*
of the pack)."""

CONDITION_NOTES = {
    "depth_to_video": f"""## Depth to video

Press **Run**. The clip shows a snowman that crosses a meadow. Its depth, frame by frame, drives the video: the
prompt asks for **a cactus on sand**, the depth says where it is and how it moves.

**Try**: another place or object in the prompt; another clip; *strength* 0.5. **1 or 2 steps** are enough for depth.

**VideoLCM Depth** uses a small network trained on rendered scenes like this one. For real footage see
template *14. Depth of real footage*. A depth map from elsewhere fits too: near is bright; if yours is dark where
it is near, switch on *invert*.

{OWN_CLIP}

{SMALL_WORLD}
""",
    "sketch_to_video": f"""## Sketch to video

Press **Run**. The outlines of the clip are drawn frame by frame, and the video is painted into them: the lines
come from the clip, colours and place from the prompt.

**Try**: *pencil* in *VideoLCM Sketch* for softer lines, other thresholds for more or fewer of them; **1 or 2
steps** in the sampler. With *single sketch* in *Apply VideoLCM Condition* one drawing steers all frames.

Sketches are **bright lines on black**. If yours is dark on white, switch on *invert*.

{OWN_CLIP}

{SMALL_WORLD}
""",
    "first_frame_to_video": f"""## First frame to video

Press **Run**. The video takes one image, here the first frame of a clip, and goes on as the prompt says. Look,
colours and place come from the image, the motion from the prompt. Where the object stands in the first frame is
kept loosely by the embedded model: chain depth or motion to fix it.

**Try**: another clip, whose first frame is then the start, with a prompt to match; another seed.

**Your own image**: put core's *Load Image* in the place of *Load VideoLCM Example*.

{SMALL_WORLD} An image from outside this world
gives a video that only resembles it.
""",
    "inpainting": f"""## Inpainting

Press **Run**. The mask follows the chicken of the clip. The model sees all that is outside and paints anew what
is inside, as the prompt says: another object in the same place, with the same motion.

**Mask**: white is painted, black is kept. One mask stands for all frames, or give one for each. *Grow Mask* makes
the hole larger, so that nothing of the old outline is left and the new object has room.

The kept part goes through the model too and comes back a little softer. To have it unchanged, paste the result
into the original with core's *ImageCompositeMasked*.

{OWN_CLIP} Draw a mask in core's *Load Image (as Mask)*, or take it from a segmentation node.

{SMALL_WORLD}
""",
    "depth_sketch_first_frame": f"""## Depth, sketch and first frame together

Press **Run**. Three conditions of one clip are chained: **depth** gives the space, the **sketch** the outlines,
the **first frame** the colours. Together they nearly rebuild the clip; the prompt has little left to decide.

**Try**: set one *strength* to 0 and see what it had given (core's *Bypass*, Ctrl+B, does the same). Any number
of conditions can be chained, in any order: their sum is the same.

Core's *ConditioningSetTimestepRange* after a condition limits it to a part of the steps.

{OWN_CLIP}

{SMALL_WORLD}
""",
    "motion_transfer": f"""## Motion transfer

Press **Run**. Only the motion of the clip is used: for each pixel, how far it moved since the frame before. The
prompt gives another object, which moves the same way.

In the preview **grey is at rest**, red is a movement to the right, green downwards; less than grey is left and up.

**VideoLCM Motion** measures dense optical flow. *codec vectors* gives one vector for each block instead, what the
authors' models know; with *fill* the embedded model understands them too.

{OWN_CLIP}

{SMALL_WORLD}
""",
    "long_depth_video": f"""## A longer video by context windows

Press **Run**. 48 frames from a model that was trained on 16: core's *Context Windows (Manual)* runs the model on
overlapping windows of 16 frames and blends them in every step. The depth of the clip keeps the windows together.

**Settings that matter**: *dim* 0 (frames are the first dimension of these latents), *context_length* 16,
*causal_window_fix* off. *freenoise* and the overlap of 8 make neighbouring windows agree; colours can still
drift, since only the depth is shared.

**Longer**: the same number in *frames* of *Empty VideoLCM Latent* and of *Prepare Condition Frames*. Beyond the
clip's end its last frame is held.

{OWN_CLIP}

{SMALL_WORLD}
""",
    "depth_from_real_footage": """## Depth of real footage, with the weights of VideoLCM's authors

None of these files is part of the pack. The authors publish the first two on ModelScope in the repository
*iic/tf-t2v*; their terms are research and non-commercial use.

| file | folder |
|---|---|
| videolcm_vcomposer_non_ema_914000.pth | models/diffusion_models (or models/videolcm) |
| open_clip_pytorch_model.bin (OpenCLIP ViT-H-14) | models/text_encoders |
| a VAE of Stable Diffusion, such as vae-ft-mse-840000-ema-pruned.safetensors | models/vae |
| depth_anything_3_metric_large.safetensors (*Comfy-Org/Depth-Anything-3*) | models/geometry_estimation |
| your_video.mp4, a clip of two seconds or more | input (or *choose file to upload*) |

Core's **Depth Anything 3** nodes need ComfyUI 0.30 or newer. Press R after copying the files, then choose them.

**One scale for all frames**: the *v2_style* and *min_max* depth images of core are stretched for each frame on
its own, and the video would flicker. Here the depth stays in metres (*raw*, for which the Metric model is needed)
and *Adjust Brightness* makes 10 m white: 0.1 = 1 / 10 m. Use 1 / the distance of what lies furthest back in your
clip. *Invert* then makes near bright, as the model expects.

16 frames of 448x256, 4 steps, cfg 1. Instead of Depth Anything, *VideoLCM Depth* reads the authors' own
midas_v3_dpt_large.pth.
""",
}

REAL_FOOTAGE_PROMPT = (
    "A watercolour painting of a street in the rain, "
    "cinematic, High Contrast, highly detailed, Unreal Engine 5, no blur, 4k render"
)
