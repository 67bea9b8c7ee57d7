"""The ComfyUI side: schemas and short executes over `videolcm_core`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host
from .annotators.extractors import VideoLCMDepthEstimator, VideoLCMMotionExtractor, VideoLCMSketchExtractor
from .conditions.apply import VideoLCMApplyCondition, VideoLCMInpaintCondition, VideoLCMStyleCondition
from .conditions.example_clip import VideoLCMExampleClip
from .conditions.prepare_frames import VideoLCMPrepareFrames
from .loaders.checkpoints import VideoLCMCheckpointLoader, VideoLCMModelLoader
from .loaders.lora import VideoLCMLoraLoader
from .motion.apply_node import VideoLCMMotionApply
from .motion.first_frame_node import VideoLCMFirstFrame
from .motion.load_node import VideoLCMMotionLoader
from .sampling.latent import VideoLCMEmptyLatent
from .sampling.model_sampling_node import VideoLCMSampling
from .sampling.samplers import SamplerVideoLCM, VideoLCMSampler, VideoLCMScheduler
from .tools.compare import VideoLCMCompare
from .tools.match_colours import VideoLCMMatchColours
from .tools.prompt_words import VideoLCMPromptWords

NODES: list[type[io.ComfyNode]] = [
    VideoLCMCheckpointLoader,
    VideoLCMModelLoader,
    VideoLCMLoraLoader,
    VideoLCMMotionLoader,
    VideoLCMMotionApply,
    VideoLCMFirstFrame,
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
    VideoLCMPromptWords,
    VideoLCMCompare,
    VideoLCMMatchColours,
]


class VideoLCMExtension(ComfyExtension):
    """What the host asks the pack for."""

    async def on_load(self) -> None:
        """Register the model folder before the schemas list its files."""
        host.register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes, in menu order."""
        return NODES
