"""RAFT (arXiv 2003.12039), the optical flow that judges motion.

Weights: the file ``raft-things.pth`` of the package ``markdiffusion`` (5.26 M parameters, trained on rendered flying
things), checked by hash. Written from the paper: features at an eighth of the size, all pairs' correlations in four
levels, and a recurrent unit that looks them up around the present flow and corrects it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .weights import enlarged, read_tensors

SHA256_START = "fcfa4125d6418f4d"
SOURCE = "markdiffusion 1.0.2"
LEVELS, RADIUS, HIDDEN = 4, 4, 128
_LOOKED_UP = LEVELS * (2 * RADIUS + 1) ** 2
Norm = Callable[[int], nn.Module]


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norm1, self.norm2 = norm(outputs), norm(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), norm(outputs)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = functional.relu(self.norm2(self.conv2(y)))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Encoder(nn.Module):
    """An image to 256 channels at an eighth of its size."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 7, 2, 3), norm(64)
        self.layer1 = nn.Sequential(_Residual(64, 64, 1, norm), _Residual(64, 64, 1, norm))
        self.layer2 = nn.Sequential(_Residual(64, 96, 2, norm), _Residual(96, 96, 1, norm))
        self.layer3 = nn.Sequential(_Residual(96, 128, 2, norm), _Residual(128, 128, 1, norm))
        self.conv2 = nn.Conv2d(128, 256, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class _MotionEncoder(nn.Module):
    """Correlations and flow to 128 channels, of which the last two are the flow itself."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1, self.convc2 = nn.Conv2d(_LOOKED_UP, 256, 1), nn.Conv2d(256, 192, 3, padding=1)
        self.convf1, self.convf2 = nn.Conv2d(2, 128, 7, padding=3), nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(256, 126, 3, padding=1)

    def forward(self, flow: Tensor, correlations: Tensor) -> Tensor:
        c = functional.relu(self.convc2(functional.relu(self.convc1(correlations))))
        f = functional.relu(self.convf2(functional.relu(self.convf1(flow))))
        return torch.cat([functional.relu(self.conv(torch.cat([c, f], 1))), flow], 1)


class _SeparableGru(nn.Module):
    """A gated unit along the rows, then one along the columns (paper, appendix: 1x5 and 5x1 convolutions)."""

    def __init__(self) -> None:
        super().__init__()
        for index, kernel in ((1, (1, 5)), (2, (5, 1))):
            padding = (kernel[0] // 2, kernel[1] // 2)
            for gate in "zrq":
                self.add_module(f"conv{gate}{index}", nn.Conv2d(HIDDEN + 256, HIDDEN, kernel, padding=padding))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        for index in (1, 2):
            update, reset, candidate = (getattr(self, f"conv{gate}{index}") for gate in "zrq")
            both = torch.cat([h, x], 1)
            z, r = torch.sigmoid(update(both)), torch.sigmoid(reset(both))
            h = (1 - z) * h + z * torch.tanh(candidate(torch.cat([r * h, x], 1)))
        return h


class _FlowHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv2(functional.relu(self.conv1(h)))


class _Update(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru, self.flow_head = _MotionEncoder(), _SeparableGru(), _FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 64 * 9, 1))


def correlation_pyramid(first: Tensor, second: Tensor) -> list[Tensor]:
    """Products of every pixel of one map with every pixel of the other, the other one halved level by level.

    Args:
        first: ``[N, C, h, w]``.
        second: the same shape.

    Returns:
        Four times ``[N * h * w, 1, h / 2^level, w / 2^level]``.
    """
    products = torch.einsum("nchw,ncij->nhwij", first, second) / first.shape[1] ** 0.5
    levels = [products.flatten(0, 2).unsqueeze(1)]
    for _ in range(LEVELS - 1):
        levels.append(functional.avg_pool2d(levels[-1], 2))
    return levels


def look_up(pyramid: list[Tensor], positions: Tensor) -> Tensor:
    """Correlations around positions, bilinear, zero outside the map.

    Args:
        pyramid: from `correlation_pyramid`.
        positions: ``[N, 2, h, w]``, x and y in pixels of the full map, to which each pixel has moved.

    Returns:
        ``[N, 4 * 81, h, w]``; within a level the offset in x varies slowest, as the weights expect.
    """
    count, _, height, width = positions.shape
    centre = positions.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=positions.dtype, device=positions.device)
    window = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), -1)
    found = []
    for level, products in enumerate(pyramid):
        at = centre / 2**level + window
        # Pixel centres: right for a map of a single pixel too, where the other convention divides by zero.
        size = torch.tensor([products.shape[3], products.shape[2]], dtype=at.dtype, device=at.device)
        grid = (2 * at + 1) / size - 1
        found.append(functional.grid_sample(products, grid, align_corners=False).view(count, height, width, -1))
    return torch.cat(found, -1).permute(0, 3, 1, 2)


def upsample(flow: Tensor, weights: Tensor) -> Tensor:
    """Flow at eight times the size: each fine pixel is a mixture of the nine coarse ones around it.

    Args:
        flow: ``[N, 2, h, w]`` in coarse pixels.
        weights: ``[N, 9 * 64, h, w]`` logits of the mixture.

    Returns:
        ``[N, 2, 8 h, 8 w]`` in fine pixels.
    """
    count, _, height, width = flow.shape
    shares = weights.view(count, 1, 9, 8, 8, height, width).softmax(2)
    around = functional.unfold(8 * flow, 3, padding=1).view(count, 2, 9, 1, 1, height, width)
    return (shares * around).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(count, 2, 8 * height, 8 * width)


class Raft(nn.Module):
    """The network; keys as in the published file, without the prefix ``module.``."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet, self.cnet = _Encoder(nn.InstanceNorm2d), _Encoder(nn.BatchNorm2d)
        self.update_block = _Update()

    def forward(self, first: Tensor, second: Tensor, iterations: int = 12) -> Tensor:
        """Where each pixel of the first image is in the second.

        Args:
            first: ``[N, 3, H, W]`` in [0, 1], sides multiples of 8, at least 128.
            second: the same shape.
            iterations: corrections.

        Returns:
            ``[N, 2, H, W]``, pixels to the right and down.
        """
        first, second = first * 2 - 1, second * 2 - 1
        features = self.fnet(torch.cat([first, second]))
        pyramid = correlation_pyramid(*features.chunk(2))
        hidden, context = self.cnet(first).split(HIDDEN, 1)
        hidden, context = torch.tanh(hidden), functional.relu(context)
        height, width = hidden.shape[2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        start = torch.stack([x, y]).to(first).expand(len(first), -1, -1, -1)
        flow = torch.zeros_like(start)
        for _ in range(iterations):
            motion = self.update_block.encoder(flow, look_up(pyramid, start + flow))
            hidden = self.update_block.gru(hidden, torch.cat([context, motion], 1))
            flow = flow + self.update_block.flow_head(hidden)
        return upsample(flow, 0.25 * self.update_block.mask(hidden))


def load_raft(path: Path) -> Raft:
    """Read the network from ``raft-things.pth``.

    Raises:
        ValueError: the file is another one (its hash differs).
    """
    stored = {k.removeprefix("module."): v for k, v in read_tensors(path, SHA256_START, SOURCE).items()}
    # A shortcut's normalisation is stored twice, once as `norm3`.
    stored = {k: v for k, v in stored.items() if ".norm3." not in k}
    model = Raft()
    model.load_state_dict(stored)
    return model.train(False).requires_grad_(False)


@torch.no_grad()
def flow(model: Raft, first: Tensor, second: Tensor, iterations: int = 12, batch: int = 16) -> Tensor:
    """Optical flow of pairs of images; those with a side below 128 pixels are enlarged to 128 first.

    Args:
        model: from `load_raft`.
        first: ``[N, 3, H, W]`` in [0, 1].
        second: the same shape, the later images.
        iterations: corrections; 12 is the paper's choice for quick use.
        batch: pairs at a time.

    Returns:
        ``[N, 2, H, W]``: how far each pixel of ``first`` moves to the right and down, in pixels of the given size.

    Raises:
        ValueError: the shapes differ or are not those of images.
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3:
        raise ValueError(
            f"images have shapes {tuple(first.shape)} and {tuple(second.shape)}; needed: [N, 3, H, W] twice."
        )
    height, width = first.shape[2:]
    parts = []
    for a, b in zip(first.float().split(batch), second.float().split(batch), strict=True):
        found = model(enlarged(a), enlarged(b), iterations)
        scale = torch.tensor([width / found.shape[3], height / found.shape[2]]).to(found).view(2, 1, 1)
        if found.shape[2:] != first.shape[2:]:
            found = functional.interpolate(found, (height, width), mode="area")
        parts.append(found * scale)
    return torch.cat(parts)


def clip_motion(model: Raft, clips: Tensor, iterations: int = 12) -> Tensor:
    """Motion of clips as the motion condition has it: how far the content at a pixel came since the frame before.

    Args:
        model: from `load_raft`.
        clips: ``[N, F, 3, H, W]`` in [0, 1].
        iterations: corrections.

    Returns:
        ``[N, F, 2, H, W]`` in pixels to the right and down; 0 for a clip's first frame.
    """
    later, earlier = clips[:, 1:].flatten(0, 1), clips[:, :-1].flatten(0, 1)
    # Looked for from the later frame, so that the vectors lie where the content is now.
    moved = -flow(model, later, earlier, iterations).unflatten(0, (len(clips), -1))
    return torch.cat([torch.zeros_like(moved[:, :1]), moved], 1)
