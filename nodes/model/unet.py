"""The core's UNet behind ComfyUI's calling convention, with the hooks that graphs put into a UNet."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from ...videolcm_core.networks.layers import Step
from ...videolcm_core.networks.vgen.attention import SpatialTransformer, default_attention
from ...videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig
from .. import host
from .attention_patches import PATCHES, CallHooks

BLOCK_PATCHES: Final = frozenset(
    {
        "emb_patch",
        "input_block_patch",
        "input_block_patch_after_skip",
        "middle_block_after_patch",
        "output_block_patch",
    }
)
KNOWN_PATCHES: Final = BLOCK_PATCHES | PATCHES


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The host's attention; on the CPU the core's own, which is faster for short sequences."""
    if q.device.type == "cpu":
        return default_attention(q, k, v, heads, mask)
    return host.optimized_attention(q, k, v, heads, mask)


class HostUNet(UNet3D):
    """`UNet3D` on ComfyUI's layers: storage and compute precision, offloading and interrupts are the host's."""

    def __init__(
        self,
        core_config: UNetConfig,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any = None,
        **_: Any,
    ) -> None:
        """Arguments are entries of the host's ``unet_config``; those meant for its nodes are not used here."""
        super().__init__(core_config, operations=operations, attention=attention, device=device, dtype=dtype)
        self.dtype = dtype

    def attention_places(self) -> set[tuple[str, int]]:
        """Places of spatial attention, as patches name them: ("input", 1), ("middle", 0), ..."""
        places = {("middle", 0)}
        for name, blocks in (("input", self.input_blocks), ("output", self.output_blocks)):
            for number, block in enumerate(blocks):
                if any(isinstance(layer, SpatialTransformer) for layer in block.children()):
                    places.add((name, number))
        return places

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """One prediction, through the wrappers that a graph put around the diffusion model.

        Args:
            x: ``[V * F, C, h, w]`` (V videos, such as prompt and negative prompt) or ``[V, C, F, h, w]``;
                channels after the fourth are encoded conditions.
            timesteps: One for each entry of dimension 0.
            context: Text, ``[V, L, D]`` or one for each frame.
            control: Residuals of a ControlNet.
            transformer_options: The host's: patches, wrappers, what is batched together.
            **kwargs: For wrappers; not used here.
        """
        options = {} if transformer_options is None else transformer_options
        wrappers = host.get_all_wrappers(host.WrappersMP.DIFFUSION_MODEL, options)
        executor = host.WrapperExecutor.new_class_executor(self._predict, self, wrappers)
        return executor.execute(x, timesteps, context, control, options, **kwargs)

    def _predict(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        videos = x.shape[0] if x.ndim == 5 else len(options.get("cond_or_uncond") or [0])
        channels = self.config.in_channels
        # Patches know images only.
        frames = x.movedim(2, 1).flatten(0, 1) if x.ndim == 5 else x
        options["original_shape"], options["transformer_index"] = list(frames.shape), 0
        hooks = CallHooks(options, control, frames, timesteps)
        x, concat = x[:, :channels], x[:, channels:]
        return super().forward(
            x,
            timesteps,
            context,
            num_frames=None if x.ndim == 5 else x.shape[0] // videos,
            concat=concat if concat.shape[1] else None,
            hooks=hooks if hooks.wanted() else None,
        )

    def _blocks(self, h: Tensor, step: Step) -> Tensor:
        # The core's loop with the host's places for patches and ControlNet residuals, as in the host's UNet.
        hooks = step.hooks
        if not isinstance(hooks, CallHooks):
            return super()._blocks(h, step)
        control, options = hooks.control, hooks.options
        for patch in hooks.patches.get("emb_patch", ()):
            step = step._replace(emb=patch(step.emb, self.config.model_channels, options))
        skips: list[Tensor] = []
        for index, block in enumerate(self.input_blocks):
            options["block"] = ("input", index)
            h = host.apply_control(block(h, step), control, "input")
            h = _patch(hooks, "input_block_patch", h)
            skips.append(h)
            h = _patch(hooks, "input_block_patch_after_skip", h)
        h = self._middle(h, step, hooks)
        for index, block in enumerate(self.output_blocks):
            options["block"] = ("output", index)
            skip = host.apply_control(skips.pop(), control, "output")
            for patch in hooks.patches.get("output_block_patch", ()):
                h, skip = patch(h, skip, options)
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
            h = block(torch.cat([h, skip], dim=1), step, size)
        return self.out(h)

    def _middle(self, h: Tensor, step: Step, hooks: CallHooks) -> Tensor:
        hooks.options["block"] = ("middle", 0)
        for layer in self.middle_block:
            h = layer(h, step)
        h = host.apply_control(h, hooks.control, "middle")
        given = {"x": hooks.latent, "emb": step.emb, "context": step.context, "y": None, "timesteps": hooks.timesteps}
        for patch in hooks.patches.get("middle_block_after_patch", ()):
            h = patch({"h": h, **given, "transformer_options": hooks.options})["h"]
        return h


def _patch(hooks: CallHooks, name: str, h: Tensor) -> Tensor:
    for patch in hooks.patches.get(name, ()):
        h = patch(h, hooks.options)
    return h
