"""The MODEL: VideoLCM's UNet as ComfyUI's `BaseModel`.

Frames are the batch: latents ``[F, 4, h, w]`` are one video. ``[B, 4, F, h, w]`` gives the same numbers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...videolcm_core.files.marker import MARKER_KEY, to_marker
from ...videolcm_core.networks.layers import append_tokens
from .. import host
from ..conditions.pixels import CONDITIONS_KEY, Condition, encode_conditions
from ..conditions.style import STYLE_KEY, style_tokens
from ..loaders.settings import CheckpointSettings
from .control_windows import attach_control_windows
from .guard import attach_guard
from .model_sampling import VideoLCMModelSampling, options_of
from .unet import HostUNet

log = logging.getLogger(__name__)

MODEL_TYPES = {"v": host.ModelType.V_PREDICTION, "eps": host.ModelType.EPS, "x_0": host.ModelType.IMG_TO_IMG}


class ContextPerVideo(host.CONDCrossAttn):
    """Text ``[1, L, D]`` kept once per video instead of repeated for every frame.

    The network computes keys and values of the text once; a conditioning batch ``[F, L, D]`` stays one
    prompt per frame, as for the host's other models.
    """

    def process_cond(self, batch_size: int, **kwargs: Any) -> ContextPerVideo:
        """Leave a single prompt alone, else do as the host does."""
        if self.cond.shape[0] == 1:
            return self._copy_with(self.cond)
        return super().process_cond(batch_size, **kwargs)

    def _copy_with(self, cond: Tensor) -> ContextPerVideo:
        return self.__class__(cond)


class VideoLCMModel(host.BaseModel):
    """What ComfyUI's samplers, patchers and savers hold."""

    def __init__(self, model_config: VideoLCMConfig, device: torch.device | None = None) -> None:
        """Build the network of ``model_config`` without weights."""
        settings = model_config.settings
        super().__init__(model_config, MODEL_TYPES[settings.sampling.prediction], device=device, unet_model=HostUNet)
        self.model_sampling = VideoLCMModelSampling(settings.sampling)
        self._encoded: dict[Any, Tensor] | None = None

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Turn what the graph hands in into inputs of the network, once for each sampling run.

        The text is checked and kept once per video, style images become tokens after it, pixel conditions become
        channels beside the latent.

        Raises:
            ValueError: If the latents, the text or a condition do not fit this network.
        """
        out = super().extra_conds(**kwargs)
        noise, context = kwargs["noise"], kwargs.get("cross_attn")
        self._check_latent(noise)
        if context is not None:
            self._check_context(context, noise)
            # A ControlNet takes frames for images and wants the text once for each, without the style.
            kind = ContextPerVideo if noise.ndim == 4 and "control" not in kwargs else host.CONDCrossAttn
            if styles := kwargs.get(STYLE_KEY):
                if "control" in kwargs:
                    out.setdefault("crossattn_controlnet", host.CONDCrossAttn(context))
                tokens = style_tokens(self.diffusion_model, styles, kwargs["device"], self.get_dtype_inference())
                context = append_tokens(context, tokens.to(context))
            out["c_crossattn"] = kind(context)
        if conditions := kwargs.get(CONDITIONS_KEY):
            encoded = self._encode(tuple(conditions), noise, kwargs["device"])
            given = out.get("c_concat")
            out["c_concat"] = host.CONDNoiseShape(encoded if given is None else encoded + given.cond.to(encoded))
        return out

    def _encode(self, conditions: tuple[Condition, ...], noise: Tensor, device: Any) -> Tensor:
        """Conditions as channels in the layout of the latents.

        Positive and negative prompt, and every area, come with the same conditions: a run encodes them once.
        """
        key = (conditions, tuple(noise.shape))
        if self._encoded is not None and key in self._encoded:
            return self._encoded[key]
        frames, size = noise.shape[2 if noise.ndim == 5 else 0], (noise.shape[-2], noise.shape[-1])
        encoded = encode_conditions(self.diffusion_model, conditions, frames, size, device, self.get_dtype_inference())
        if noise.ndim == 5:
            encoded = encoded.movedim(0, 1)[None]
        if self._encoded is not None:
            self._encoded[key] = encoded
        return encoded

    @contextmanager
    def one_run(self) -> Iterator[None]:
        """Within it, conditions already encoded are remembered."""
        self._encoded = {}
        try:
            yield
        finally:
            self._encoded = None

    def _check_latent(self, noise: Tensor) -> None:
        channels = self.model_config.settings.unet.in_channels
        if noise.ndim not in (4, 5) or noise.shape[1] != channels:
            raise ValueError(
                f"The latent has shape {list(noise.shape)}; this VideoLCM model takes [frames, {channels}, height / 8, "
                f"width / 8]. Use Empty VideoLCM Latent, or VAE Encode with the VAE of this model."
            )

    def _check_context(self, context: Tensor, noise: Tensor) -> None:
        width = self.model_config.settings.unet.context_dim
        if context.shape[-1] != width:
            raise ValueError(
                f"The prompt was encoded {context.shape[-1]} wide; this VideoLCM model takes {width}. {_advice(width)}"
            )
        videos = noise.shape[0] if noise.ndim == 5 else 1
        if context.shape[0] not in (1, videos, noise.shape[0]) and noise.shape[0] > 1:
            host.tell(
                f"{context.shape[0]} prompts for {noise.shape[0]} frames: the prompts are repeated or cut to one per "
                "frame."
            )

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As the host does, plus the settings: its savers keep no metadata of their own.

        The sampling is that of the MODEL being saved, which a node may have replaced: the host has put its patches in
        place before it asks.
        """
        state_dict = super().state_dict_for_saving(*args, **kwargs)
        settings: CheckpointSettings = self.model_config.settings
        sampling = options_of(self.model_sampling, settings.sampling)
        state_dict[MARKER_KEY] = to_marker(settings.metadata(sampling))
        return state_dict


def _advice(width: int) -> str:
    if width == 1024:
        return "Load the text encoder of the authors' models (OpenCLIP ViT-H) with Load CLIP, type stable_diffusion."
    return "Use the CLIP output of Load VideoLCM Checkpoint, from the same file as the model."


class VideoLCMConfig(host.BaseConfig):
    """The host's description of a model, made from a checkpoint's settings."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}
    latent_format = host.SD15LatentFormat
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]

    def __init__(self, settings: CheckpointSettings) -> None:
        """Take everything from the settings read from the file."""
        # No "num_res_blocks" here: with it the host's LoRA loader takes this for a Stable Diffusion UNet.
        super().__init__(
            {
                "core_config": settings.unet,
                "model_channels": settings.unet.model_channels,
                "in_channels": settings.unet.in_channels,
                "context_dim": settings.unet.context_dim,
            }
        )
        self.settings = settings
        self.memory_usage_factor = settings.unet.model_channels / 320
        self.latent_format = make_latent_format(settings)

    def inpaint_model(self) -> bool:
        """The condition channels are not Stable Diffusion's inpainting ones."""
        return False

    def get_model(self, state_dict: Any, prefix: str = "", device: torch.device | None = None) -> VideoLCMModel:
        """Build the model, without weights."""
        return VideoLCMModel(self, device=device)


def make_latent_format(settings: CheckpointSettings) -> Any:
    """Stable Diffusion's latent format, with the preview colours of the checkpoint's own VAE if it has one."""
    latent_format = host.SD15LatentFormat()
    if settings.file.latent_rgb_factors is not None:
        latent_format.latent_rgb_factors = [list(row) for row in settings.file.latent_rgb_factors]
        latent_format.latent_rgb_factors_bias = list(settings.file.latent_rgb_bias or (0.0, 0.0, 0.0))
        # Stable Diffusion's tiny decoder would show this VAE's latents in wrong colours.
        latent_format.taesd_decoder_name = None
    return latent_format


def build_model(
    settings: CheckpointSettings,
    state_dict: dict[str, Tensor],
    dtype: torch.dtype | None = None,
    disable_dynamic: bool = False,
) -> Any:
    """A MODEL with its weights.

    Args:
        settings: Of the checkpoint.
        state_dict: The network's tensors, in the authors' key names.
        dtype: Storage precision, None for the host's choice.
        disable_dynamic: See `host.make_patcher`.
    """
    config = VideoLCMConfig(settings)
    weights = next(t.dtype for t in state_dict.values() if t.is_floating_point())
    host.set_inference_dtypes(config, dtype, host.calculate_parameters(state_dict), weights)
    patcher = host.make_patcher(config.get_model(state_dict), state_dict, disable_dynamic)
    attach_guard(patcher)
    attach_control_windows(patcher)
    patcher.add_wrapper_with_key(host.WrappersMP.OUTER_SAMPLE, CONDITIONS_KEY, _sample_once)
    log.info("VideoLCM model: %s", json.dumps(settings.summary()))
    return patcher


def _sample_once(executor: Any, *args: Any, **kwargs: Any) -> Any:
    host.forget_notes()
    with executor.class_obj.model_patcher.model.one_run():
        return executor(*args, **kwargs)
