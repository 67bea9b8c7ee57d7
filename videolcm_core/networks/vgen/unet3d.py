"""The video UNet of VideoLCM, TF-T2V, VideoComposer and ModelScope text-to-video (VGen family)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..fused import group_norm_class
from ..layers import (
    Hooks,
    Operations,
    Step,
    append_tokens,
    repeat_to,
    sinusoidal_embedding,
    to_frames,
    to_video,
    zero_init,
)
from .attention import Attention, SpatialTransformer, TemporalTransformer, default_attention
from .blocks import Block, Downsample, ResBlock, TemporalConvBlock, Upsample
from .conditions import CONDITION_CHANNELS, build_encoders, encode_condition, module_names
from .config import CONDITIONS, UNetConfig

__all__ = ["CONDITIONS", "HISTOGRAM_DIM", "TemporalConvBlock", "UNet3D", "UNetConfig"]

HISTOGRAM_DIM = 156


class UNet3D(nn.Module):
    """Denoiser of video latents, conditioned on time, text and optional images, sketches, depth, motion, masks."""

    def __init__(
        self,
        config: UNetConfig,
        operations: Operations = nn,
        attention: Attention = default_attention,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build with the authors' key names and zero initialisation.

        Args:
            config: Shape of the network.
            operations: Layer classes; ``torch.nn`` or the host's.
            attention: Attention kernel.
            device: Of the parameters.
            dtype: Of the parameters.
        """
        super().__init__()
        self.config = config
        kw = {"device": device, "dtype": dtype}
        dim, emb_dim = config.model_channels, config.model_channels * 4
        self.time_embed = nn.Sequential(
            operations.Linear(dim, emb_dim, **kw), nn.SiLU(), operations.Linear(emb_dim, emb_dim, **kw)
        )
        self._add_condition_modules(operations, attention, kw)
        self._add_blocks(operations, attention, kw)
        self.out = nn.Sequential(
            group_norm_class(operations.GroupNorm)(32, dim, **kw),
            nn.SiLU(),
            zero_init(operations.Conv2d(dim, config.out_channels, 3, padding=1, **kw), bias=False),
        )

    def _add_condition_modules(self, operations: Operations, attention: Attention, kw: dict) -> None:
        config = self.config
        width, emb_dim = config.context_dim, config.model_channels * 4
        if "image" in config.conditions:
            self.pre_image_condition = nn.Sequential(
                operations.Linear(width, width, **kw),
                nn.SiLU(),
                operations.Linear(width, width * config.num_image_tokens, **kw),
            )
        encoders = build_encoders(config.conditions, config.concat_channels, operations, attention, **kw)
        for name, module in encoders.items():
            self.add_module(name, module)
        if "histogram" in config.conditions:
            self.hist_context_embedding = nn.Sequential(
                operations.Linear(HISTOGRAM_DIM, emb_dim, **kw), nn.SiLU(), operations.Linear(emb_dim, width, **kw)
            )
        if config.use_fps:
            self.fps_embedding = nn.Sequential(
                operations.Linear(config.model_channels, emb_dim, **kw),
                nn.SiLU(),
                zero_init(operations.Linear(emb_dim, emb_dim, **kw)),
            )

    def _add_blocks(self, operations: Operations, attention: Attention, kw: dict) -> None:
        config = self.config
        dim, emb_dim = config.model_channels, config.model_channels * 4
        widths = [dim * mult for mult in config.channel_mult]

        def res(in_channels: int, out_channels: int) -> ResBlock:
            return ResBlock(in_channels, out_channels, emb_dim, config.dropout, operations, **kw)

        def attentions(channels: int) -> list[nn.Module]:
            heads = channels // config.head_dim
            common = (heads, config.head_dim)
            return [
                SpatialTransformer(channels, *common, config.context_dim, operations, attention, **kw),
                TemporalTransformer(channels, *common, operations, attention, **kw),
            ]

        def stage(level: int, in_channels: int) -> list[nn.Module]:
            layers: list[nn.Module] = [res(in_channels, widths[level])]
            return layers + (attentions(widths[level]) if 2.0**-level in config.attention_scales else [])

        stem = operations.Conv2d(config.in_channels + config.concat_channels, dim, 3, padding=1, **kw)
        first = TemporalTransformer(dim, config.num_heads, config.head_dim, operations, attention, **kw)
        down: list[nn.Module] = [Block([stem, first])]
        skips, channels, last = [dim], dim, len(widths) - 1
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                down.append(Block(stage(level, channels)))
                channels = width
                skips.append(width)
            if level != last:
                down.append(Downsample(width, operations, **kw))
                skips.append(width)
        self.input_blocks = nn.ModuleList(down)
        self.middle_block = nn.ModuleList([res(channels, channels), *attentions(channels), res(channels, channels)])
        up: list[nn.Module] = []
        for level in range(last, -1, -1):
            for index in range(config.num_res_blocks + 1):
                layers = stage(level, channels + skips.pop())
                channels = widths[level]
                if level and index == config.num_res_blocks:
                    layers.append(Upsample(channels, operations, **kw))
                up.append(Block(layers))
        self.output_blocks = nn.ModuleList(up)

    def encode_conditions(
        self, size_hw: tuple[int, int], num_frames: int | None = None, **conditions: Tensor | None
    ) -> Tensor | None:
        """Encode pixel conditions and sum them.

        Args:
            size_hw: Height and width of the latents.
            num_frames: F where conditions are ``[B*F, C, H, W]``; None takes them as one video.
            **conditions: ``[B, C, F, H, W]`` or ``[B*F, C, H, W]`` by name; pixel sizes may differ. None is absent.

        Returns:
            ``[B, concat_channels, F, h, w]``, or None without conditions.

        Raises:
            ValueError: If this network has no encoder for a condition.
        """
        total: Tensor | None = None
        for name, pixels in conditions.items():
            if pixels is None:
                continue
            if name not in CONDITION_CHANNELS or name not in self.config.conditions:
                raise ValueError(
                    f"this network has no encoder for condition {name!r}; it has: "
                    f"{', '.join(sorted(self.config.conditions)) or 'none'}. Use a checkpoint trained with it."
                )
            frames = pixels.shape[2] if pixels.ndim == 5 else num_frames or pixels.shape[0]
            pixels = to_frames(pixels) if pixels.ndim == 5 else pixels
            encoder, after = (getattr(self, part) for part in module_names(name))
            encoded = to_video(encode_condition(encoder, after, pixels, frames, size_hw), frames)
            total = encoded if total is None else total + encoded
        return total

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        *,
        num_frames: int | None = None,
        image: Tensor | None = None,
        histogram: Tensor | None = None,
        fps: Tensor | None = None,
        concat: Tensor | None = None,
        depth: Tensor | None = None,
        motion: Tensor | None = None,
        masked: Tensor | None = None,
        sketch: Tensor | None = None,
        single_sketch: Tensor | None = None,
        local_image: Tensor | None = None,
        canny: Tensor | None = None,
        temporal: bool = True,
        recompute: bool = False,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Predict (v, eps or x_0, as trained) from noised latents.

        Args:
            x: ``[B, C, F, H, W]``, or frames as the batch ``[B*F, C, H, W]``.
            t: Timesteps, scalar, ``[B]`` or ``[B*F]``.
            context: Text tokens ``[B, L, D]``, or per frame ``[B*F, L, D]``. None is a zero token.
            num_frames: F for 4-D ``x``; None takes all of it as one video.
            image: Image embedding ``[B, 1, D]``.
            histogram: Colour histogram per frame ``[B, F, 156]``.
            fps: Frames per second ``[B]``; ignored unless the network was built with it, as in the authors' code.
            concat: Conditions already encoded, in the layout of ``x`` with ``concat_channels`` channels.
            depth: Inverse depth in [0, 10], 1 channel; each condition is ``[B, c, F, h, w]`` or ``[B*F, c, h, w]``.
            motion: Motion vectors in pixels, 2 channels.
            masked: RGB in [-1, 1] with holes at 0, then visibility in {0, 1}; 4 channels.
            sketch: Lines in [0, 1], 1 channel.
            single_sketch: Sketch of the first frame on every frame, 1 channel.
            local_image: The first frame in [0, 1] on every frame, 3 channels.
            canny: Edges in [0, 1], 1 channel.
            temporal: False passes around all layers along time; see `Step`.
            recompute: Compute activations again in the backward pass; see `Step`.
            hooks: What the caller puts between the layers; see `Hooks`.

        Returns:
            The layout and size of ``x`` with ``out_channels`` channels.

        Raises:
            ValueError: If ``x`` does not divide into videos, or a condition has no encoder.
        """
        is_video = x.ndim == 5
        frames = x.shape[2] if is_video else num_frames or x.shape[0]
        if not is_video and x.shape[0] % frames:
            raise ValueError(f"x has {x.shape[0]} frames; it must be a multiple of num_frames ({frames}).")
        pixels = {
            "depth": depth,
            "motion": motion,
            "masked": masked,
            "sketch": sketch,
            "single_sketch": single_sketch,
            "local_image": local_image,
            "canny": canny,
        }
        encoded = self.encode_conditions((x.shape[-2], x.shape[-1]), frames, **pixels)
        h = to_frames(x) if is_video else x.contiguous(memory_format=torch.channels_last)
        h = self._with_concat(h, concat, encoded, frames)
        emb, videos = self._embedding(t, fps, h), h.shape[0] // frames
        step = Step(emb, self._context(context, image, histogram, videos, h), frames, temporal, recompute, hooks)
        h = self._blocks(h, step)
        return to_video(h, frames) if is_video else h

    def _with_concat(self, h: Tensor, concat: Tensor | None, encoded: Tensor | None, frames: int) -> Tensor:
        if not self.config.concat_channels:
            if concat is not None:
                raise ValueError("this network has no concat channels, so `concat` must be None.")
            return h
        total = None if concat is None else (to_frames(concat) if concat.ndim == 5 else concat)
        if encoded is not None:
            total = to_frames(encoded) if total is None else total + to_frames(encoded)
        if total is None:
            total = h.new_zeros(h.shape[0], self.config.concat_channels, *h.shape[2:])
        if total.shape[0] == frames != h.shape[0]:
            total = total.repeat(h.shape[0] // frames, 1, 1, 1)
        return torch.cat([h, total.to(h.dtype)], dim=1).contiguous(memory_format=torch.channels_last)

    def _embedding(self, t: Tensor, fps: Tensor | None, h: Tensor) -> Tensor:
        dim = self.config.model_channels
        emb = self.time_embed(sinusoidal_embedding(t.reshape(-1), dim).to(h.dtype))
        if self.config.use_fps and fps is not None:
            rate = self.fps_embedding(sinusoidal_embedding(fps.reshape(-1), dim).to(h.dtype))
            batch = max(len(emb), len(rate))
            emb = repeat_to(emb, batch) + repeat_to(rate, batch)
        return emb

    def _context(
        self, context: Tensor | None, image: Tensor | None, histogram: Tensor | None, videos: int, h: Tensor
    ) -> Tensor:
        if context is None:
            context = h.new_zeros(videos, 1, self.config.context_dim)
        if context.shape[0] == 1:
            context = context.expand(videos, -1, -1)
        width = self.config.context_dim
        for name, value in (("image", image), ("histogram", histogram)):
            if value is not None and name not in self.config.conditions:
                raise ValueError(f"this network takes no {name!r} condition. Use a checkpoint trained with it.")
        if image is not None:
            context = append_tokens(context, self.pre_image_condition(image).reshape(image.shape[0], -1, width))
        if histogram is not None:
            context = append_tokens(context, self.hist_context_embedding(histogram).reshape(-1, 1, width))
        return context

    def _blocks(self, h: Tensor, step: Step) -> Tensor:
        skips = []
        for block in self.input_blocks:
            h = block(h, step)
            skips.append(h)
        for layer in self.middle_block:
            h = layer(h, step)
        for block in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
            h = block(h, step, size)
        return self.out(h)
