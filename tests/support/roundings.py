"""Which operations round, and how often: the counts of the rounding model of `precision`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from norms import NORMS, OF_A_GRADIENT, OF_A_RESULT, OF_A_SOFTMAX, SOFTMAX
from torch import Tensor

# Operations that move, choose or make numbers without rounding them.
_EXACT = frozenset(
    """
    _pin_memory _to_copy _unsafe_view abs abs_ alias amax amin arange argmax argmin as_strided cat ceil ceil_
    clamp clamp_ clamp_max clamp_min clone constant_pad_nd contiguous copy copy_ detach embedding empty empty_like
    empty_strided expand eye fill fill_ flip floor floor_ full full_like gather index index_fill index_put
    index_put_ index_select lift_fresh masked_fill masked_fill_ masked_select max max_pool2d
    max_pool2d_with_indices max_pool3d_with_indices maximum min minimum neg neg_ new_empty new_empty_strided
    new_full new_ones new_zeros ones ones_like pad pin_memory reflection_pad1d reflection_pad2d relu relu_ repeat
    repeat_interleave replication_pad2d replication_pad3d reshape resize_ roll round round_ scalar_tensor scatter
    select_backward sign slice_backward slice_scatter sort split_with_sizes_copy stack threshold_backward tile to
    topk tril tril_ triu triu_ trunc unfold unfold_copy unique_dim upsample_nearest1d upsample_nearest2d
    upsample_nearest3d where zero_ zeros zeros_like
    """.split()
)

_RANDOM = frozenset(
    """bernoulli bernoulli_ exponential_ multinomial native_dropout normal normal_ poisson rand rand_like randint
    randint_like randn randn_like random_ randperm uniform uniform_""".split()
)

BATCH_NORMS = ("native_batch_norm", "batch_norm")  # with a mean that does not depend on what is given
_TRANSFORMS = ("_fft_r2c", "_fft_c2r", "_fft_c2c")
_UPSAMPLING = re.compile("_?upsample_(linear1d|bilinear2d|bicubic2d|trilinear3d)(_aa)?$")


@dataclass(frozen=True)
class Kind:
    """What an operation does: its name, what it writes; whether it moves numbers, draws, interpolates, and so on."""

    name: str
    written: tuple[tuple[int, str], ...]
    moves: bool
    draws: bool
    interpolates: bool
    transforms: bool

    def changed(self, args: tuple, kwargs: dict) -> list[Tensor]:
        """Tensors that the operation writes."""
        return [
            value
            for index, name in self.written
            for value in tensors_of(args[index] if index < len(args) else kwargs.get(name))
        ]


def kind_of(func: Any) -> Kind:
    schema = func._schema
    name = schema.name.partition("::")[2]
    written = [
        (i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
    ]
    is_view = not written and any(result.alias_info is not None for result in schema.returns)
    moves, draws = is_view or name in _EXACT, name in _RANDOM
    kinds = bool(_UPSAMPLING.match(name)), name in _TRANSFORMS
    return Kind(name, tuple(written), moves, draws, *kinds)


def count(name: str, args: tuple, index: int, made: Tensor) -> float:
    """How many independent roundings of its size a result has.

    Args:
        name: Of the operation.
        args: Its arguments.
        index: Which of its results.
        made: That result.
    """
    if name == "convolution":
        weight, transposed = args[1], args[6]
        return _in_a_row(weight.numel() // weight.shape[1 if transposed else 0])
    if name in ("conv1d", "conv2d", "conv3d"):  # in inference mode operations come whole
        return _in_a_row(args[1].numel() // args[1].shape[0])
    if name == "convolution_backward":
        grad, weight = args[0], args[2]
        return _in_a_row(weight.numel() // weight.shape[1] if index == 0 else grad.numel() // grad.shape[1])
    if name in ("mm", "bmm", "linear", "matmul", "dot", "mv"):
        return _in_a_row(args[0].shape[-1])
    if name in ("addmm", "baddbmm", "addmv"):
        return _in_a_row(args[1].shape[-1])
    if name in NORMS:
        return OF_A_RESULT if not index else 1.0
    if name in BATCH_NORMS:
        return OF_A_RESULT
    if match := _UPSAMPLING.match(name):
        return _coordinates(args[0].shape[2:], made.shape[2:], args[2] is True, match[2] is not None)
    if name in ("native_group_norm_backward", "native_layer_norm_backward") and not index:
        return OF_A_GRADIENT
    if name == "native_group_norm_backward":
        return _in_a_row(args[0].numel() // args[0].shape[1])
    if name == "native_layer_norm_backward":
        return _in_a_row(args[0].numel() // args[0].shape[-1])
    if name in SOFTMAX:
        return OF_A_SOFTMAX
    if name in _TRANSFORMS:
        return _of_a_transform(args, made)
    if "scaled_dot_product" in name:  # two sums of products in a row, and a softmax between
        products, length = args[1].shape[-1] + args[1].shape[-2], args[1].shape[-2]
        return (products / 2 + length / 3 + OF_A_SOFTMAX**2) ** 0.5
    return 1.0


def _coordinates(given: torch.Size, made: torch.Size, corners: bool, antialiased: bool) -> float:
    """Of an interpolation, whose weights are as exact as the positions that they follow from.

    A position is ``scale * (i + 0.5) - 0.5``, or ``scale * i`` between the middles of the corners. Where the scale is a
    power of two it is exact, and the mean of neighbours is rounded once. Elsewhere the scale, the product and the
    difference are each rounded at the size of the position, up to the length ``a`` of the input, and a weight is off by
    as much. The filter of an antialiased reduction to ``b`` numbers is ``a / b`` wide: its weights change as much more
    slowly. Axes are independent.
    """
    total = 1.0
    for a, b in zip(given, made, strict=True):
        between = corners and b > 1
        scale = (a - 1) / (b - 1) if between else a / b
        if scale and not math.log2(scale).is_integer():
            total += (2.0 if between else 3.0) * (min(a, b) if antialiased else a) ** 2
    return total**0.5


def _of_a_transform(args: tuple, made: Tensor) -> float:
    """Of a Fourier transform of n numbers, in units of the results' root mean square; see `transform_size`.

    ``log2(n)`` stages follow one another, in each of which a product with a root of unity, itself rounded, and a sum
    are rounded: three roundings a stage, independent of each other.
    """
    sizes = [max(made.shape[axis], args[0].shape[axis]) for axis in args[1]]
    return max(1.0, (3.0 * math.log2(math.prod(sizes))) ** 0.5)


def transform_size(made: Tensor, axes: list[int]) -> Tensor:
    """What a Fourier transform's errors are as large as: all results share all terms, the largest ones too."""
    parts = torch.view_as_real(made).square().mean(-1) if made.is_complex() else made.square()
    size = parts.mean(tuple(axes), keepdim=True).sqrt().expand(parts.shape)
    return torch.stack([size, size], -1) if made.is_complex() else size


def _in_a_row(terms: int) -> float:
    """Of a sum of ``terms`` products of either sign.

    Partial sums grow like ``sqrt(k)``, and each is rounded: together ``sqrt(terms^2 / 2)`` against a result of
    ``sqrt(terms)``. Sums in lanes or blocks are better; convolutions add up in a row, one output channel a lane.
    """
    return max(1.0, (terms / 2.0) ** 0.5)


def tensors_of(tree: Any) -> list[Tensor]:
    """Tensors of nested arguments."""
    if isinstance(tree, Tensor):
        return [tree]
    kind = type(tree)
    if kind is dict:
        tree = tree.values()
    elif not issubclass(kind, list | tuple):
        return []
    found = []
    for item in tree:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, list | tuple | dict):
            found += tensors_of(item)
    return found
