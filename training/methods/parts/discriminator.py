"""A projected, text-conditioned discriminator of single frames: small heads on the features of a frozen network.

After StyleGAN-T (arXiv 2301.09515, section 3.2 and appendix) and ADD (arXiv 2311.17042), written from their
description; MCM has four heads on DINOv2's blocks. Numbers that the authors' version changes in every call are changed
here once a step, by the engine: what a frame is told does not depend on how the samples fall on processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

PROJECTION = 64
"""Of the projection that features and text meet in."""
KERNEL = 9
EPS = 1e-5
FIRST_ITERATIONS = 15
"""Power iterations before the first step, so that the first weights have a spectral norm near 1."""


class SpectralConv1d(nn.Module):
    """A convolution along tokens, whose weight is divided by its largest singular value (arXiv 1802.05957).

    The singular vectors are kept as parameters without gradient; `iterated` is a power iteration.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: odd; the tokens are padded as a circle.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__()
        self.padding = kernel // 2
        plain = nn.Conv1d(inputs, outputs, kernel)
        self.weight_orig, self.bias = nn.Parameter(plain.weight.detach()), plain.bias
        u, v = (functional.normalize(torch.randn(length), dim=0) for length in (outputs, inputs * kernel))
        self.weight_u, self.weight_v = nn.Parameter(u, requires_grad=False), nn.Parameter(v, requires_grad=False)
        for _ in range(FIRST_ITERATIONS):
            self.iterate()

    @torch.no_grad()
    def iterated(self) -> tuple[Tensor, Tensor]:
        """The left and right singular vector after one more power iteration."""
        matrix = self.weight_orig.detach().flatten(1)
        v = functional.normalize(matrix.T @ self.weight_u, dim=0, eps=1e-12)
        return functional.normalize(matrix @ v, dim=0, eps=1e-12), v

    @torch.no_grad()
    def iterate(self) -> None:
        """Take the vectors of one more power iteration."""
        u, v = self.iterated()
        self.weight_u.copy_(u)
        self.weight_v.copy_(v)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, L]`` to ``[N, outputs, L]``."""
        norm = torch.dot(self.weight_u, torch.mv(self.weight_orig.flatten(1), self.weight_v))
        x = functional.pad(x, (self.padding, self.padding), mode="circular") if self.padding else x
        return functional.conv1d(x, self.weight_orig / norm, self.bias)


class LocalNorm(nn.Module):
    """Batch normalisation within groups of neighbouring rows, without running statistics.

    Args:
        channels: of the tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, groups: int) -> Tensor:
        """Normalise ``[N, C, L]`` over each of ``groups`` equal parts of N and over L."""
        parts = x.unflatten(0, (groups, -1))
        centered = parts - parts.mean((1, 3), keepdim=True)
        normal = centered * torch.rsqrt(centered.square().mean((1, 3), keepdim=True) + EPS)
        return normal.flatten(0, 1) * self.weight[:, None] + self.bias[:, None]


class _Block(nn.Module):
    """Convolution, norm, activation."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.add_module("0", SpectralConv1d(channels, channels, kernel))
        self.add_module("1", LocalNorm(channels))

    def forward(self, x: Tensor, groups: int) -> Tensor:
        return functional.leaky_relu(self.get_submodule("1")(self.get_submodule("0")(x), groups), 0.2)


class _Residual(nn.Module):
    """The mean of a block and its input, at the variance of each."""

    def __init__(self, fn: _Block) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, groups: int) -> Tensor:
        return (self.fn(x, groups) + x) / math.sqrt(2.0)


class FrameHead(nn.Module):
    """Logits of the tokens of one layer's features.

    Args:
        width: of the features.
        text_width: of the text's vector.
        projection: of both.
        kernel: of the second convolution.
    """

    def __init__(self, width: int, text_width: int, projection: int = PROJECTION, kernel: int = KERNEL) -> None:
        super().__init__()
        self.main = nn.ModuleList([_Block(width, 1), _Residual(_Block(width, kernel))])
        self.cmapper = nn.Linear(text_width, projection)
        self.cls = SpectralConv1d(width, projection)

    def forward(self, features: Tensor, text: Tensor, groups: int) -> Tensor:
        """Features ``[N, L, width]`` and text ``[N, text_width]`` to logits ``[N, L]``."""
        x = features.transpose(1, 2)
        for layer in self.main:
            x = layer(x, groups)
        mapped = self.cmapper(text)
        return (self.cls(x) * mapped[:, :, None]).sum(1) / math.sqrt(mapped.shape[1])


class Discriminator(nn.Module):
    """A head for each layer of a feature network; computes in float32.

    Args:
        widths: of the features, by the layer's name.
        text_width: of the text's vector.
        projection: see `FrameHead`.
        kernel: see `FrameHead`.
    """

    def __init__(
        self, widths: Mapping[str, int], text_width: int, projection: int = PROJECTION, kernel: int = KERNEL
    ) -> None:
        super().__init__()
        heads = {name: FrameHead(width, text_width, projection, kernel) for name, width in widths.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(self, features: Mapping[str, Tensor], text: Tensor, groups: int = 1) -> Tensor:
        """Logits of all tokens of all layers.

        Args:
            features: ``[N, L, width]`` by the layer's name.
            text: ``[N, text_width]``.
            groups: N is of so many equal parts, each with statistics of its own.

        Returns:
            float32 ``[N, all tokens]``, above 0 for real frames.

        Raises:
            ValueError: N cannot be divided so.
        """
        if len(text) % groups:
            raise ValueError(f"{len(text)} frames cannot be divided into {groups} groups of equal size.")
        with torch.autocast(text.device.type, enabled=False):
            logits = [head(features[name].float(), text.float(), groups) for name, head in self.heads.items()]
        return torch.cat(logits, dim=1)

    def convolutions(self) -> dict[str, SpectralConv1d]:
        """Those with a spectral norm, by name."""
        return {name: m for name, m in self.named_modules() if isinstance(m, SpectralConv1d)}


class SingularVectors(nn.Module):
    """The singular vectors of a discriminator's weights, as a module that follows them: a power iteration a step.

    The parameters are the discriminator's own, not copies.
    """

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self._convolutions = list(discriminator.convolutions().values())
        self.vectors = nn.ParameterList(v for c in self._convolutions for v in (c.weight_u, c.weight_v))

    def iterated(self) -> dict[str, Tensor]:
        """What the parameters are after one more power iteration, by name."""
        found = [vector for convolution in self._convolutions for vector in convolution.iterated()]
        return {f"vectors.{index}": vector for index, vector in enumerate(found)}
