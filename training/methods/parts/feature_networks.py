"""Frozen networks of single images, layer by layer; all take images normalised as ImageNet's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...engine.caches import fingerprint
from ...metrics.inception_network import FidInception
from ...metrics.lpips import Lpips
from .discriminator_input import IMAGENET_MEAN, IMAGENET_STD

DINO_BLOCKS: Final = (2, 5, 8, 11)
"""Whose outputs are taken, counted from 0."""
ALEXNET_WIDTHS: Final = (64, 192, 384, 256, 256)
VGG16_CONVOLUTIONS: Final = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths, level by level; images are halved between the levels."""
VGG16_LAYERS: Final = {"3_3": 256, "4_3": 512, "5_3": 512}
"""Whose activations are taken. The first two levels are left out: their positions would be most of all logits."""
INCEPTION_LAYERS: Final = {"Conv2d_4a_3x3": 192, "Mixed_5d": 288, "Mixed_6e": 768}
"""Whose outputs are taken, with their widths; a head on the last one's 2048 would be larger than the network."""


class Features(nn.Module, ABC):
    """A frozen network of single images.

    Attributes:
        name: in the table of `features`.
        widths: of the features, by the layer's name.
    """

    name: ClassVar[str]
    widths: Mapping[str, int]

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Look.

        Args:
            images: ``[N, 3, H, W]``, normalised as ImageNet's.

        Returns:
            ``[N, L, width]`` by the layer's name, positions row by row.
        """

    def identity(self) -> dict[str, str]:
        """What a run must share that goes on with these features: the network's name, a hash of its weights."""
        return {"features": f"{self.name} {fingerprint(self)}"}


def rows(activation: Tensor) -> Tensor:
    """``[N, width, h, w]`` to ``[N, h * w, width]``."""
    return activation.flatten(2).transpose(1, 2)


class AlexNetFeatures(Features):
    """The activations of AlexNet's convolutions, as LPIPS has them; a few layers, for small images.

    Args:
        network: with AlexNet's convolutions.
    """

    name = "alexnet"

    def __init__(self, network: Lpips) -> None:
        super().__init__()
        self.convolutions = network.convolutions
        self.widths = {str(index): width for index, width in enumerate(ALEXNET_WIDTHS) if index}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See `Features`. The first layer is left out: its positions are many and see edges only."""
        found, x = {}, images
        for index, convolution in enumerate(self.convolutions):
            x = functional.relu(convolution(functional.max_pool2d(x, 3, 2) if index in (1, 2) else x))
            found[str(index)] = rows(x)
        return {name: found[name] for name in self.widths}


class Vgg16Features(Features):
    """Activations of VGG16 (arXiv 1409.1556, configuration D), the last ones of its levels, as LPIPS has them.

    Args:
        layers: those taken, by level and place in it, with their widths.
    """

    name = "vgg16"

    def __init__(self, layers: Mapping[str, int] = VGG16_LAYERS) -> None:
        super().__init__()
        self.widths, self.convolutions, inputs = dict(layers), nn.ModuleDict(), 3
        for level, level_widths in enumerate(VGG16_CONVOLUTIONS, 1):
            for place, width in enumerate(level_widths, 1):
                self.convolutions[f"{level}_{place}"] = nn.Conv2d(inputs, width, 3, padding=1)
                inputs = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See `Features`."""
        found, x = {}, images
        for name, convolution in self.convolutions.items():
            starts_level = name.endswith("_1") and name != "1_1"
            x = functional.relu(convolution(functional.max_pool2d(x, 2) if starts_level else x))
            if name in self.widths:
                found[name] = rows(x)
        return found


class InceptionFeatures(Features):
    """Outputs of inner layers of FID's Inception, at the images' own size.

    Args:
        network: with its weights.
        layers: those taken, with their widths.
    """

    name = "inception"
    mean: Tensor
    spread: Tensor

    def __init__(self, network: FidInception, layers: Mapping[str, int] = INCEPTION_LAYERS) -> None:
        super().__init__()
        self.network, self.widths = network, dict(layers)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See `Features`. The network itself was trained on ``(pixel - 128) / 128``."""
        found, pixels = {}, (images * self.spread + self.mean) * 255.0
        for name, output in self.network.layers((pixels - 128.0) / 128.0):
            if name in self.widths:
                found[name] = rows(output)
            if len(found) == len(self.widths):
                break
        return found


class DinoFeatures(Features):
    """Outputs of DINOv2's blocks after the final norm, without the class token (arXiv 2304.07193).

    Args:
        network: transformers' ``Dinov2Model``.
        blocks: whose outputs are taken.
    """

    name = "dinov2_s14"

    def __init__(self, network: Any, blocks: tuple[int, ...] = DINO_BLOCKS) -> None:
        super().__init__()
        self.network, self.blocks = network, blocks
        self.widths = dict.fromkeys(map(str, blocks), int(network.config.hidden_size))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See `Features`; sides are multiples of the patch's, 14."""
        states = self.network(pixel_values=images, output_hidden_states=True).hidden_states
        return {str(block): self.network.layernorm(states[block + 1])[:, 1:] for block in self.blocks}
