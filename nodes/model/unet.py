"""The core's UNet behind ComfyUI's calling convention, with the hooks that graphs put into a UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ...videolcm_core.networks.layers import Step
from ...videolcm_core.networks.vgen.attention import default_attention
from ...videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig
from .. import host

BLOCK_PATCHES: Final = frozenset({"input_block_patch", "input_block_patch_after_skip", "output_block_patch"})


class Hooks(NamedTuple):
    """What a graph attached to one call of the network."""

    patches: Mapping[str, list[Any]]
    control: Any
    options: dict[str, Any]


NO_HOOKS: Final = Hooks({}, None, {})


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
        self._hooks = NO_HOOKS

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
        x, concat = x[:, :channels], x[:, channels:]
        self._hooks = Hooks(options.get("patches", {}), control, options)
        try:
            return super().forward(
                x,
                timesteps,
                context,
                num_frames=None if x.ndim == 5 else x.shape[0] // videos,
                concat=concat if concat.shape[1] else None,
            )
        finally:
            self._hooks = NO_HOOKS

    def _blocks(self, h: Tensor, step: Step) -> Tensor:
        # The core's loop with the host's places for patches and ControlNet residuals, as in the host's UNet.
        patches, control, options = self._hooks
        if not patches and control is None:
            return super()._blocks(h, step)
        skips: list[Tensor] = []
        for index, block in enumerate(self.input_blocks):
            options["block"] = ("input", index)
            h = host.apply_control(block(h, step), control, "input")
            h = _patch(patches, "input_block_patch", h, options)
            skips.append(h)
            h = _patch(patches, "input_block_patch_after_skip", h, options)
        options["block"] = ("middle", 0)
        for layer in self.middle_block:
            h = layer(h, step)
        h = host.apply_control(h, control, "middle")
        for index, block in enumerate(self.output_blocks):
            options["block"] = ("output", index)
            skip = host.apply_control(skips.pop(), control, "output")
            for patch in patches.get("output_block_patch", ()):
                h, skip = patch(h, skip, options)
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
            h = block(torch.cat([h, skip], dim=1), step, size)
        return self.out(h)


def _patch(patches: Mapping[str, list[Any]], name: str, h: Tensor, options: dict[str, Any]) -> Tensor:
    for patch in patches.get(name, ()):
        h = patch(h, options)
    return h
