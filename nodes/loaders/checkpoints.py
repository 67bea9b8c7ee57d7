"""Nodes that load models."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import host
from ..sampling.latent import trained_size
from ..schema import combo, schema
from .loading import WEIGHT_DTYPES, load_checkpoint, load_model
from .settings import SAMPLING_CHOICES

CATEGORY = "VideoLCM/loaders"
CHECKPOINT_FOLDERS = (host.MODEL_FOLDER, "checkpoints")
UNET_FOLDERS = ("diffusion_models", host.MODEL_FOLDER)
DEFAULT_CHECKPOINT = "videolcm-mini.safetensors"
SIZE_OUTPUTS = (
    io.Int.Output(display_name="width", tooltip="Pixels that it was trained on, for Empty VideoLCM Latent."),
    io.Int.Output(display_name="height", tooltip="Pixels that it was trained on, for Empty VideoLCM Latent."),
    io.Int.Output(display_name="frames", tooltip="Frames that it was trained on, for Empty VideoLCM Latent."),
    io.Float.Output(display_name="fps", tooltip="Frames per second that it was trained on, for Create Video."),
)


class VideoLCMCheckpointLoader(io.ComfyNode):
    """All-in-one file to MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        files = host.model_files(*CHECKPOINT_FOLDERS)
        return schema(
            node_id="VideoLCMCheckpointLoader",
            display_name="Load VideoLCM Checkpoint",
            category=CATEGORY,
            description="Loads the video model, the text encoder and the VAE from one file. The default is the small "
            "model that comes with this pack: nothing to download.",
            search_aliases=["videolcm", "text to video", "load checkpoint", "video model", "embedded model"],
            inputs=[
                combo(
                    "ckpt_name",
                    files,
                    DEFAULT_CHECKPOINT,
                    tooltip="An all-in-one VideoLCM file, from models/videolcm, models/checkpoints or this pack's own "
                    "models folder. videolcm-mini draws 64x64 videos of 16 frames in 4 steps; videolcm-mini-teacher is "
                    "the slow model it was distilled from (50 steps with guidance).",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The video model, for VideoLCM Sampler or any KSampler."),
                io.Clip.Output(display_name="CLIP", tooltip="Its text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="VAE", tooltip="Turns its latents into frames, with VAE Decode."),
                *SIZE_OUTPUTS,
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str) -> Any:
        """Load again when the file has changed."""
        return host.file_fingerprint(ckpt_name, *CHECKPOINT_FOLDERS)

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        """Load the three models."""
        model, clip, vae = load_checkpoint(host.model_path(ckpt_name, *CHECKPOINT_FOLDERS))
        return io.NodeOutput(model, clip, vae, *_size(model))


class VideoLCMModelLoader(io.ComfyNode):
    """UNet file to MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMModelLoader",
            display_name="Load VideoLCM Model",
            category=CATEGORY,
            description="Loads a video model file by the authors of VideoLCM, TF-T2V or ModelScope text-to-video, or "
            "one saved with Save Model. Text encoder and VAE come from Load CLIP (type stable_diffusion) and Load VAE.",
            search_aliases=["videolcm", "tf-t2v", "modelscope", "text to video", "unet loader", "diffusion model"],
            inputs=[
                combo(
                    "model_name",
                    host.model_files(*UNET_FOLDERS),
                    None,
                    tooltip="A file in models/diffusion_models or models/videolcm, for example "
                    "videolcm_t2v_non_ema_544000.pth (5.3 GiB). Width, depth and conditions are read from its tensors.",
                ),
                combo(
                    "weight_dtype",
                    list(WEIGHT_DTYPES),
                    "default",
                    advanced=True,
                    tooltip="How the weights are kept in memory. default: as the host judges for your device. fp8 "
                    "halves the memory of fp16 and costs quality.",
                ),
                combo(
                    "sampling",
                    list(SAMPLING_CHOICES),
                    "auto",
                    advanced=True,
                    tooltip="How the model was trained. auto: what the file says; else what its layers tell (eps for "
                    "ModelScope and the first VideoComposer, teacher for TF-T2V with image tokens, else videolcm), "
                    "with a line in the log. videolcm: v prediction, zero terminal SNR, 50-step grid. teacher: v "
                    "prediction, zero terminal SNR, all 1000 timesteps (TF-T2V). eps: noise prediction, 1000 timesteps "
                    "(ModelScope).",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="For VideoLCM Sampler or any KSampler."),
                *SIZE_OUTPUTS,
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name: str, weight_dtype: str, sampling: str) -> Any:
        """Load again when the file has changed."""
        return host.file_fingerprint(model_name, *UNET_FOLDERS), weight_dtype, sampling

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str, sampling: str) -> io.NodeOutput:
        """Load the model."""
        model = load_model(host.model_path(model_name, *UNET_FOLDERS), weight_dtype, sampling)
        return io.NodeOutput(model, *_size(model))


def _size(model: Any) -> tuple[int, int, int, float]:
    """What the model was trained on, for `SIZE_OUTPUTS`."""
    return *trained_size(model), float(model.model.model_config.settings.file.fps)
