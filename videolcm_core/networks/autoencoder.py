"""A small convolutional autoencoder: 8x smaller latents with 4 channels, in the layout of the tiny autoencoder TAESD.

ComfyUI knows this layout (``taesd_encoder.*``, ``taesd_decoder.*``, ``vae_scale``, ``vae_shift``), so a file made here
is decoded by its own VAE nodes. Layer list checked against the host's ``comfy/taesd/taesd.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 64
LATENT_SCALE = 0.18215  # the scale factor of the Stable Diffusion 1.x latent format that the host applies


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


class _SoftClamp(nn.Module):
    """Squash latents into (-3, 3), so that an outlier cannot break the decoder."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _Block(nn.Module):
    """Three 3x3 convolutions around an identity skip.

    A ``bypassed`` block leaves its convolutions out: the same function while the last of them is zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bypassed = False
        self.conv = nn.Sequential(_conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x if self.bypassed else self.conv(x) + x)


def _encoder(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, WIDTH), _Block()]
    for _ in range(3):
        layers += [_conv(WIDTH, WIDTH, stride=2, bias=False), _Block(), _Block(), _Block()]
    return nn.Sequential(*layers, _conv(WIDTH, channels))


def _decoder(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [_SoftClamp(), _conv(channels, WIDTH), nn.ReLU()]
    for _ in range(3):
        layers += [_Block(), _Block(), _Block(), nn.Upsample(scale_factor=2), _conv(WIDTH, WIDTH, bias=False)]
    return nn.Sequential(*layers, _Block(), _conv(WIDTH, 3))


class TinyAutoencoder(nn.Module):
    """Deterministic autoencoder of single frames.

    Args:
        channels: latent channels.
    """

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.taesd_encoder = _encoder(channels)
        self.taesd_decoder = _decoder(channels)
        # The host divides latents by vae_scale and multiplies by its format's scale: equal, they cancel.
        self.register_buffer("vae_scale", torch.tensor(LATENT_SCALE))
        self.register_buffer("vae_shift", torch.tensor(0.0))

    def channels_last(self) -> TinyAutoencoder:
        """Lay the weights out for fast convolutions on a CPU.

        Returns:
            Itself.
        """
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _costly_blocks(self) -> list[Any]:
        return [self.taesd_encoder[1], self.taesd_encoder[5], self.taesd_decoder[15], self.taesd_decoder[18]]

    def start_light(self) -> None:
        """Make the blocks that cost most (full and half resolution) exact no-ops, to train the rest twice as fast."""
        for block in self._costly_blocks():
            block.bypassed = True
            nn.init.zeros_(block.conv[-1].weight)
            nn.init.zeros_(block.conv[-1].bias)

    def grow(self, grown: bool) -> None:
        """Take the costly blocks in (or leave them out): no change of the function at the moment of growing."""
        for block in self._costly_blocks():
            block.bypassed = not grown

    def grow_decoder(self) -> None:
        """Take in the decoder's costly blocks alone: the latents of the encoder stay what they are."""
        for block in self._costly_blocks()[2:]:
            block.bypassed = False

    def skip_idle_blocks(self) -> None:
        """Pass around the costly blocks if they were never grown: the same numbers in half the time."""
        for block in self._costly_blocks():
            block.bypassed = not block.conv[-1].weight.any() and not block.conv[-1].bias.any()

    def encode(self, pixels: Tensor) -> Tensor:
        """Frames to the latents that the diffusion model sees.

        Args:
            pixels: ``[B, 3, H, W]`` in [0, 1]; H and W multiples of 8.

        Returns:
            ``[B, channels, H/8, W/8]``, about unit variance.
        """
        return self.taesd_encoder(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to frames.

        Args:
            latents: ``[B, channels, h, w]``.

        Returns:
            ``[B, 3, 8h, 8w]``, about [0, 1] (not clamped).
        """
        return self.taesd_decoder(latents)
