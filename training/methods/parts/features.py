"""Frozen feature networks that a projected discriminator looks through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...metrics.lpips import Lpips, load_lpips
from .dino_files import read_hub_dino

DINO_BLOCKS: Final = (2, 5, 8, 11)
"""Whose outputs are taken, counted from 0."""
ALEXNET_WIDTHS: Final = (64, 192, 384, 256, 256)


class Features(nn.Module, ABC):
    """A frozen network of single images.

    Attributes:
        widths: of the features, by the layer's name.
    """

    widths: Mapping[str, int]

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Look.

        Args:
            images: ``[N, 3, H, W]``, normalised as ImageNet's.

        Returns:
            ``[N, L, width]`` by the layer's name, positions row by row.
        """


class AlexNetFeatures(Features):
    """The activations of AlexNet's convolutions, as LPIPS has them; a few layers, for small images.

    Args:
        network: from `load_lpips`.
    """

    def __init__(self, network: Lpips) -> None:
        super().__init__()
        self.convolutions = network.convolutions
        self.widths = {str(index): width for index, width in enumerate(ALEXNET_WIDTHS) if index}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See `Features`. The first layer is left out: its positions are many and see edges only."""
        found, x = {}, images
        for index, convolution in enumerate(self.convolutions):
            x = functional.relu(convolution(functional.max_pool2d(x, 3, 2) if index in (1, 2) else x))
            found[str(index)] = x.flatten(2).transpose(1, 2)
        return {name: found[name] for name in self.widths}


class DinoFeatures(Features):
    """Outputs of DINOv2's blocks after the final norm, without the class token (arXiv 2304.07193).

    Args:
        network: transformers' ``Dinov2Model``.
        blocks: whose outputs are taken.
    """

    def __init__(self, network: Any, blocks: tuple[int, ...] = DINO_BLOCKS) -> None:
        super().__init__()
        self.network, self.blocks = network, blocks
        self.widths = dict.fromkeys(map(str, blocks), int(network.config.hidden_size))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See `Features`; sides are multiples of the patch's, 14."""
        states = self.network(pixel_values=images, output_hidden_states=True).hidden_states
        return {str(block): self.network.layernorm(states[block + 1])[:, 1:] for block in self.blocks}


def _alexnet(path: Path) -> Features:
    return AlexNetFeatures(load_lpips(path))


def _dino(path: Path) -> Features:
    if path.is_dir():
        from transformers import Dinov2Model

        network = Dinov2Model.from_pretrained(str(path), local_files_only=True)
    else:
        network = read_hub_dino(path)
    layers = int(network.config.num_hidden_layers)
    if layers <= DINO_BLOCKS[-1]:
        raise ValueError(
            f"{path} has {layers} blocks; allowed: 12 or more, as dinov2-small has. Give --features-file PATH."
        )
    return DinoFeatures(network)


FEATURES: Final[dict[str, Callable[[Path], Features]]] = {"alexnet": _alexnet, "dinov2_s14": _dino}
"""By name; the paper's is DINOv2 ViT-S/14."""


def load_features(name: str, file: str) -> Features:
    """A frozen feature network from the user's file.

    Args:
        name: of `FEATURES`.
        file: its weights.

    Raises:
        ValueError: the file is missing or another network's.
    """
    if not file or not Path(file).exists():
        raise ValueError(
            f"features_file is {file!r}, which is not there; allowed: the weights of {name}. Give --features-file PATH "
            "(scripts/fetch_metrics.sh gets AlexNet's), or --adversarial-weight 0."
        )
    network = FEATURES[name](Path(file))
    with torch.no_grad():
        return network.float().train(False).requires_grad_(False)
