"""MiDaS v3 DPT-Large (Ranftl et al., ICCV 2021): relative inverse depth of single images.

A vision transformer whose tokens are read at four depths, laid out as images of four sizes and fused from coarse to
fine. Key names are those of the authors' ``midas_v3_dpt_large.pth`` (their own, not the original release's).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..vgen.attention import Attention, default_attention

_NORM_EPS = 1e-5
# Of vision transformers: a file of many tiny tensors must not ask for a network that takes minutes to build.
_MOST_BLOCKS = 96
_MOST_PATCH = 64


@dataclass(frozen=True, kw_only=True)
class MidasConfig:
    """Sizes.

    Attributes:
        dim: Width of the tokens.
        num_layers: Transformer blocks; read after each quarter of them.
        num_heads: Attention heads.
        patch_size: Pixels of a token's side.
        grid: Tokens a side that the position embedding was trained with.
        mlp_dim: Width inside the transformer's feed-forward layers.
        neck_dims: Channels of the four images, fine to coarse.
        fusion_dim: Channels while they are fused.
        head_dims: Channels inside the head.
    """

    dim: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    patch_size: int = 16
    grid: int = 24
    mlp_dim: int = 4096
    neck_dims: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    fusion_dim: int = 256
    head_dims: tuple[int, int] = (128, 32)

    @property
    def multiple(self) -> int:
        """Heights and widths that the network takes are multiples of this: the coarsest image halves the tokens."""
        return 2 * self.patch_size


def midas_config(state_dict: Mapping[str, Tensor], num_heads: int | None = None) -> MidasConfig:
    """Sizes of the network that these weights are of.

    Args:
        state_dict: Authors' keys.
        num_heads: Shapes do not show it; None takes heads of 64 channels, as in every published one.

    Raises:
        KeyError: With the key that is missing.
        ValueError: If no such network can be.
    """

    def size(key: str, axis: int = 0) -> int:
        return state_dict[key].shape[axis]

    blocks = {match[1] for key in state_dict if (match := re.match(r"blocks\.(\d+)\.", key))}
    if not blocks or len(blocks) % 4:
        raise KeyError(f"blocks.{len(blocks)}")  # tokens are read after each quarter
    if len(blocks) > _MOST_BLOCKS or size("patch_embedding.weight", 2) > _MOST_PATCH:
        raise ValueError(f"{len(blocks)} blocks, patches of {size('patch_embedding.weight', 2)} pixels")
    dim = size("patch_embedding.weight")
    return MidasConfig(
        dim=dim,
        num_layers=len(blocks),
        num_heads=max(1, dim // 64) if num_heads is None else num_heads,
        patch_size=size("patch_embedding.weight", 2),
        grid=round((size("pos_embedding", 1) - 1) ** 0.5),
        mlp_dim=size("blocks.0.mlp.0.weight"),
        neck_dims=(size("conv1.0.weight"), size("conv2.0.weight"), size("conv3.0.weight"), size("conv4.0.weight")),
        fusion_dim=size("fusion1.conv_out.weight"),
        head_dims=(size("head.0.weight"), size("head.2.weight")),
    )


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, operations: Any, attention: Attention, **kw: Any) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.to_qkv = operations.Linear(dim, dim * 3, **kw)
        self.proj = operations.Linear(dim, dim, **kw)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        return self.proj(self.attention(q, k, v, self.heads))


class _TransformerBlock(nn.Module):
    def __init__(self, config: MidasConfig, operations: Any, attention: Attention, **kw: Any) -> None:
        super().__init__()
        dim, inner = config.dim, config.mlp_dim
        self.norm1 = operations.LayerNorm(dim, eps=_NORM_EPS, **kw)
        self.attn = _Attention(dim, config.num_heads, operations, attention, **kw)
        self.norm2 = operations.LayerNorm(dim, eps=_NORM_EPS, **kw)
        self.mlp = nn.Sequential(operations.Linear(dim, inner, **kw), nn.GELU(), operations.Linear(inner, dim, **kw))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Residual(nn.Module):
    """Two activated 3x3 convolutions around an identity skip."""

    def __init__(self, dim: int, operations: Any, **kw: Any) -> None:
        super().__init__()
        first, second = (operations.Conv2d(dim, dim, 3, padding=1, **kw) for _ in range(2))
        self.residual = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class _Fusion(nn.Module):
    """Add a finer image to the coarser one, then double the size."""

    def __init__(self, dim: int, operations: Any, **kw: Any) -> None:
        super().__init__()
        self.layer1, self.layer2 = _Residual(dim, operations, **kw), _Residual(dim, operations, **kw)
        self.conv_out = operations.Conv2d(dim, dim, 1, **kw)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        x = self.layer2(coarse if fine is None else coarse + self.layer1(fine))
        return self.conv_out(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


class Midas(nn.Module):
    """DPT depth network.

    Args:
        config: Sizes.
        operations: Layer classes.
        attention: Attention kernel.
        **kw: ``device`` and ``dtype`` of the parameters.
    """

    def __init__(
        self, config: MidasConfig, operations: Any = nn, attention: Attention = default_attention, **kw: Any
    ) -> None:
        super().__init__()
        self.config = config
        dim, fused = config.dim, config.fusion_dim
        self.patch_embedding = operations.Conv2d(3, dim, config.patch_size, stride=config.patch_size, **kw)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, dim, **kw))
        self.pos_embedding = nn.Parameter(torch.zeros(1, config.grid**2 + 1, dim, **kw))
        self.blocks = nn.ModuleList(
            _TransformerBlock(config, operations, attention, **kw) for _ in range(config.num_layers)
        )
        for index in range(1, 5):
            readout = nn.Sequential(operations.Linear(dim * 2, dim, **kw), nn.GELU())
            setattr(self, f"fc{index}", readout)
            setattr(self, f"conv{index}", _neck(index, config, operations, **kw))
            setattr(self, f"fusion{index}", _Fusion(fused, operations, **kw))
        wide, narrow = config.head_dims
        self.head = nn.Sequential(
            operations.Conv2d(fused, wide, 3, padding=1, **kw),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            operations.Conv2d(wide, narrow, 3, padding=1, **kw),
            nn.ReLU(),
            # Transposed in the authors' files, which shows in the order of the weight's axes only.
            operations.ConvTranspose2d(narrow, 1, 1, **kw),
            nn.ReLU(),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Relative inverse depth.

        Args:
            pixels: ``[N, 3, H, W]`` in [0, 1]; H and W multiples of ``config.multiple``.

        Returns:
            ``[N, 1, H, W]``, not negative, larger is nearer; about 0 to 40 for the published weights.
        """
        patches = self.patch_embedding((pixels - 0.5) / 0.5)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.cls_embedding.to(tokens).expand(len(tokens), -1, -1)
        x = torch.cat([first, tokens], dim=1) + self._positions(rows, columns).to(tokens)
        images: list[Tensor] = []
        quarter = self.config.num_layers // 4
        for index, block in enumerate(self.blocks, 1):
            x = block(x)
            if index % quarter == 0 and len(images) < 4:
                images.append(self._image(x, len(images) + 1, rows, columns))
        fused = self.fusion4(images[3])
        fused = self.fusion3(fused, images[2])
        fused = self.fusion2(fused, images[1])
        return self.head(self.fusion1(fused, images[0]))

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position embedding, stretched from its square grid to this image's: ``[1, 1 + rows * columns, D]``."""
        first, rest = self.pos_embedding[:, :1], self.pos_embedding[:, 1:]
        grid = rest.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))
        grid = F.interpolate(grid.float(), (rows, columns), mode="bilinear", align_corners=False)
        return torch.cat([first, grid.to(first.dtype).flatten(2).transpose(1, 2)], dim=1)

    def _image(self, x: Tensor, index: int, rows: int, columns: int) -> Tensor:
        """Tokens ``[N, 1 + rows * columns, D]`` as features of level ``index``; the class token is told to each."""
        first, tokens = x[:, :1].expand(-1, x.shape[1] - 1, -1), x[:, 1:]
        read = getattr(self, f"fc{index}")(torch.cat([tokens, first], dim=-1))
        return getattr(self, f"conv{index}")(read.transpose(1, 2).unflatten(2, (rows, columns)))


def _neck(index: int, config: MidasConfig, operations: Any, **kw: Any) -> nn.Sequential:
    """Tokens laid out as an image, to four times, twice, the same and half the size."""
    dim = config.neck_dims[index - 1]
    layers = [operations.Conv2d(config.dim, dim, 1, **kw)]
    if index in (1, 2):
        scale = 4 if index == 1 else 2
        layers.append(operations.ConvTranspose2d(dim, dim, scale, stride=scale, **kw))
    elif index == 4:
        layers.append(operations.Conv2d(dim, dim, 3, stride=2, padding=1, **kw))
    return nn.Sequential(*layers, operations.Conv2d(dim, config.fusion_dim, 3, padding=1, bias=False, **kw))
