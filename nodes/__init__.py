"""The ComfyUI side: schemas and short executes over `videolcm_core`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host
from .annotators import VideoLCMDepthEstimator, VideoLCMMotionExtractor, VideoLCMSketchExtractor
from .conditioning import VideoLCMApplyCondition, VideoLCMInpaintCondition, VideoLCMStyleCondition
from .example_clip import VideoLCMExampleClip
from .latent import VideoLCMEmptyLatent
from .loaders import VideoLCMCheckpointLoader, VideoLCMModelLoader
from .lora import VideoLCMLoraLoader
from .patch import VideoLCMSampling
from .prepare_frames import VideoLCMPrepareFrames
from .sampling import SamplerVideoLCM, VideoLCMSampler, VideoLCMScheduler

NODES: list[type[io.ComfyNode]] = [
    VideoLCMCheckpointLoader,
    VideoLCMModelLoader,
    VideoLCMLoraLoader,
    VideoLCMEmptyLatent,
    VideoLCMSampler,
    VideoLCMScheduler,
    SamplerVideoLCM,
    VideoLCMSampling,
    VideoLCMExampleClip,
    VideoLCMPrepareFrames,
    VideoLCMApplyCondition,
    VideoLCMInpaintCondition,
    VideoLCMStyleCondition,
    VideoLCMDepthEstimator,
    VideoLCMSketchExtractor,
    VideoLCMMotionExtractor,
]


class VideoLCMExtension(ComfyExtension):
    """What the host asks the pack for."""

    async def on_load(self) -> None:
        """Register the model folder before the schemas list its files."""
        host.register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes, in menu order."""
        return NODES
