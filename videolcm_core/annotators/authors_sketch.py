"""The authors' sketches: PiDiNet's edges, cleaned by sketch simplification (``..._vcomposer_entrance.py``, 425-430)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..networks.annotators.pidinet import PiDiNet
from ..networks.annotators.sketch_simplification import MULTIPLE, SketchSimplification
from .frames import CHUNK, OnFrames, in_chunks


@torch.no_grad()
def authors_sketch(
    frames: Tensor,
    edges: PiDiNet,
    cleaner: SketchSimplification | None,
    device: torch.device | None = None,
    done: OnFrames | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Lines of a clip.

    Args:
        frames: ``[F, H, W, 3]`` in [0, 1].
        edges: Draws them.
        cleaner: Simplifies them; None leaves the edges as they are.
        device: Where the networks compute.
        done: Told after each chunk how many frames are done.
        chunk: Frames in one call.

    Returns:
        ``[F, 1, H, W]`` in [0, 1], bright on black.
    """

    def draw(pixels: Tensor) -> Tensor:
        edge = edges(pixels)
        # The cleaner knows drawings: dark lines on white paper.
        return edge if cleaner is None else 1 - clean(1 - edge, cleaner)

    return in_chunks(frames, draw, device, done, chunk)


def clean(drawing: Tensor, cleaner: SketchSimplification) -> Tensor:
    """Simplify a drawing ``[N, 1, H, W]`` of any size: its border is repeated up to multiples of 8, then cut off."""
    height, width = drawing.shape[-2:]
    padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
    return cleaner(F.pad(drawing, padding, mode="replicate"))[..., :height, :width]
