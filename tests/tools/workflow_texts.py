"""The prompts and notes of the shipped workflows."""

PROMPT = "a snowman spins around on grass"
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

Compare with *videolcm_text_to_video* at the same prompt.
"""

CUSTOM_NOTE = """## Custom sampling

The same video as *videolcm_text_to_video* for the same seed, with the parts in the open: noise, guider, sampler
and sigmas go into core's *SamplerCustomAdvanced*.

- **VideoLCM Scheduler**, mode *lcm*: the timesteps 999, 759, 499, 259 for 4 steps of the 50-step grid.
  *strength* below 1 keeps part of a given video.
- **Sampler VideoLCM**: core's lcm sampler with its step noise drawn on the CPU.

Core's *KSampler* with sampler *lcm*, scheduler *simple* and cfg 1 does the same.
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
