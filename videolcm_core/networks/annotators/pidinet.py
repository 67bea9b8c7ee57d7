"""PiDiNet (Su et al., ICCV 2021): edges by pixel difference convolutions.

A pixel difference convolution weights differences between neighbours instead of the pixels themselves. It is linear, so
each equals a plain convolution with other weights: the network here has plain convolutions only, and
`convert_differences` rewrites a file of the original ``carv4`` layout (``table5_pidinet.pth``) for it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)
_KINDS: Final = ("central", "angular", "radial", "plain")
"""``carv4``: the kinds of the first convolution and of the blocks, over and over."""
_BLOCKS: Final = (3, 4, 4, 4)
_DILATIONS: Final = (5, 7, 9, 11)
# Row-major indices into 3x3: each weight's neighbour, a step clockwise on the ring; the centre stays.
_RING: Final = (3, 0, 1, 6, 4, 2, 7, 8, 5)
# The eight directions of the ring (all but the upper left, centre included: the authors' order), in 5x5: far and near.
_FAR: Final = (0, 2, 4, 10, 14, 20, 22, 24)
_NEAR: Final = (6, 7, 8, 11, 13, 16, 17, 18)


@dataclass(frozen=True, kw_only=True)
class PiDiNetConfig:
    """Sizes.

    Attributes:
        width: Channels of the first level; 60 in the published file, then twice and four times as many.
        dilated: Channels after the dilated convolutions; 24 there.
        attended: Channels inside the spatial attention; 4 there.
    """

    width: int = 60
    dilated: int = 24
    attended: int = 4


def pidinet_config(state_dict: Mapping[str, Tensor]) -> PiDiNetConfig:
    """Sizes of the network that these weights are of.

    Raises:
        KeyError: With the key that is missing.
    """
    attention = state_dict["attentions.0.conv1.weight"]
    return PiDiNetConfig(
        width=state_dict["init_block.weight"].shape[0], dilated=attention.shape[1], attended=attention.shape[0]
    )


def block_names() -> list[str]:
    """Names of the blocks in order: block1_1 ... block4_4."""
    return [f"block{level}_{index}" for level, count in enumerate(_BLOCKS, 1) for index in range(1, count + 1)]


def convert_differences(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an original file as weights of plain convolutions; an already converted file stays as it is.

    Args:
        state_dict: Authors' keys, without ``module.``.
    """
    converted = dict(state_dict)
    radial = state_dict.get("block1_2.conv1.weight")
    if radial is not None and radial.shape[-1] == 5:
        return converted
    names = ["init_block.weight", *(f"{name}.conv1.weight" for name in block_names())]
    for index, name in enumerate(names):
        if name in state_dict:
            converted[name] = _plain_weights(_KINDS[index % len(_KINDS)], state_dict[name])
    return converted


def _plain_weights(kind: str, weight: Tensor) -> Tensor:
    """The plain convolution ``[O, I, k, k]`` that equals a pixel difference convolution ``[O, I, 3, 3]``."""
    flat = weight.flatten(2)
    if kind == "central":
        # sum w_i (x_i - x_centre)
        plain = flat.clone()
        plain[:, :, 4] -= flat.sum(2)
    elif kind == "angular":
        # sum w_i (x_i - x_next), around the ring
        plain = flat - flat[:, :, _RING]
    elif kind == "radial":
        # sum w_i (x_far - x_near), along eight rays
        plain = flat.new_zeros(*flat.shape[:2], 25)
        plain[:, :, _FAR] = flat[:, :, 1:]
        plain[:, :, _NEAR] = -flat[:, :, 1:]
    else:
        return weight
    return plain.unflatten(2, (5, 5) if kind == "radial" else (3, 3))


class _Block(nn.Module):
    """Depthwise (converted) difference convolution, 1x1 convolution, residual; the first of a level halves the size."""

    def __init__(self, kind: str, inputs: int, outputs: int, halve: bool, operations: Any, **kw: Any) -> None:
        super().__init__()
        size = 5 if kind == "radial" else 3
        self.halve = halve
        self.conv1 = operations.Conv2d(inputs, inputs, size, padding=size // 2, groups=inputs, bias=False, **kw)
        self.conv2 = operations.Conv2d(inputs, outputs, 1, bias=False, **kw)
        if halve:
            self.shortcut = operations.Conv2d(inputs, outputs, 1, **kw)

    def forward(self, x: Tensor) -> Tensor:
        if self.halve:
            x = F.max_pool2d(x, 2)
        return self.conv2(F.relu(self.conv1(x))) + (self.shortcut(x) if self.halve else x)


class _Dilations(nn.Module):
    """Four dilated convolutions of the same features, summed."""

    def __init__(self, inputs: int, outputs: int, operations: Any, **kw: Any) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(inputs, outputs, 1, **kw)
        for index, dilation in enumerate(_DILATIONS, 1):
            layer = operations.Conv2d(outputs, outputs, 3, padding=dilation, dilation=dilation, bias=False, **kw)
            setattr(self, f"conv2_{index}", layer)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(F.relu(x))
        return self.conv2_1(x) + self.conv2_2(x) + self.conv2_3(x) + self.conv2_4(x)


class _SpatialAttention(nn.Module):
    """One weight in (0, 1) for every pixel."""

    def __init__(self, inputs: int, inner: int, operations: Any, **kw: Any) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(inputs, inner, 1, **kw)
        self.conv2 = operations.Conv2d(inner, 1, 3, padding=1, bias=False, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv2(self.conv1(F.relu(x))))


class PiDiNet(nn.Module):
    """Edges from four levels of features.

    Args:
        config: Sizes.
        operations: Layer classes.
        **kw: ``device`` and ``dtype`` of the layers.
    """

    def __init__(self, config: PiDiNetConfig, operations: Any = nn, **kw: Any) -> None:
        super().__init__()
        width = config.width
        self.init_block = operations.Conv2d(3, width, 3, padding=1, bias=False, **kw)
        channels = width
        for index, name in enumerate(block_names(), 1):
            level = int(re.findall(r"\d+", name)[0])
            outputs, halve = width * min(4, 2 ** (level - 1)), level > 1 and name.endswith("_1")
            setattr(self, name, _Block(_KINDS[index % 4], channels, outputs, halve, operations, **kw))
            channels = outputs
        levels = [width, width * 2, width * 4, width * 4]
        self.dilations = nn.ModuleList(_Dilations(c, config.dilated, operations, **kw) for c in levels)
        self.attentions = nn.ModuleList(
            _SpatialAttention(config.dilated, config.attended, operations, **kw) for _ in levels
        )
        reductions = (operations.Conv2d(config.dilated, 1, 1, **kw) for _ in levels)
        self.conv_reduces = nn.ModuleList(nn.Sequential(OrderedDict(conv=layer)) for layer in reductions)
        self.classifier = operations.Conv2d(len(levels), 1, 1, **kw)

    def forward(self, pixels: Tensor) -> Tensor:
        """Edges of images.

        Args:
            pixels: ``[N, 3, H, W]`` in [0, 1], at least 8 pixels a side.

        Returns:
            ``[N, 1, H, W]`` in (0, 1), bright on black.
        """
        x = self.init_block(normalise(pixels))
        names, size = iter(block_names()), pixels.shape[-2:]
        maps = []
        for count, dilations, attention, reduce in zip(
            _BLOCKS, self.dilations, self.attentions, self.conv_reduces, strict=True
        ):
            for _ in range(count):
                x = getattr(self, next(names))(x)
            reduced = reduce(attention(dilations(x)))
            maps.append(F.interpolate(reduced, size, mode="bilinear", align_corners=False))
        return torch.sigmoid(self.classifier(torch.cat(maps, dim=1)))


def normalise(pixels: Tensor) -> Tensor:
    """Colours ``[N, 3, H, W]`` in [0, 1], with ImageNet's mean and deviation taken out."""
    mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return (pixels - mean) / deviation
