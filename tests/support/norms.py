"""What float32 rounding makes of norms and of softmax, where numbers share errors; see `precision`.

A softmax divides by a sum of ``n`` numbers of one sign added in a row: ``sqrt(n / 3)`` roundings, shared by a row.

A norm is ``x * scale + shift`` with ``scale = gamma / sqrt(variance + eps)`` and ``shift = beta - mean * scale``. Two
errors are shared by all numbers of a group, and so are not averaged away by what follows:

mean        of ``n`` numbers added in a row, each partial sum rounded: ``k * mean`` and ``sqrt(k) * deviation`` large
            after ``k`` numbers, together ``sqrt(n mean^2 / 3 + variance / 2)`` roundings
variance    the same of the squares: ``sqrt(n / 3)`` roundings of what is added up. Group norms add up ``x^2`` and
            take ``mean^2`` away, layer norms ``(x - mean)^2``. The root halves it.

Rows are the longest that a CPU's code has: the pixels of a channel where channels lie side by side. Each number has
roundings of its own on top: both products at the size of ``x * scale``, before the mean is gone (of a group of one
number nothing else is left), and at the size of the result those of `OF_A_RESULT`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NORMS = ("native_group_norm", "native_layer_norm", "group_norm", "layer_norm")
OF_PRODUCTS = math.sqrt(2)
# The addition of eps, halved by the root; the root, its reciprocal, the product with gamma, and two sums.
OF_A_RESULT = math.sqrt(1 / 4 + 5)
# The gradient of x, ``a dy + b x + c``: the coefficient a, two products, two sums.
OF_A_GRADIENT = math.sqrt(5)

SOFTMAX = ("_softmax", "softmax", "_log_softmax", "log_softmax")
# The difference to the largest, an exponential right to a last place (two roundings), the division.
OF_A_SOFTMAX = math.sqrt(1 + 2**2 + 1)


def shake_softmax(dim: int, result: Tensor, draw: Callable[[Tensor], Tensor]) -> None:
    """Add the error of the divisor, shared along a dimension."""
    result.mul_(1 + math.sqrt(result.shape[dim] / 3) * draw(result.narrow(dim, 0, 1)))


def shake_norm(func: Any, args: tuple, kwargs: dict, results: list[Tensor], draw: Callable[[Tensor], Tensor]) -> None:
    """Add the shared errors and those of the products to the results of a norm.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: The same.
        results: Output; of the native operations also means and inverse deviations.
        draw: Gives numbers of the shape of another, of one rounding.
    """
    given = {a.name: kwargs.get(a.name, a.default_value) for a in func._schema.arguments}
    given.update(zip(given, args, strict=False))
    x, weight = given["input"], given["weight"]
    groups = given.get("group", given.get("num_groups"))
    if groups is None:
        rows, terms = x.flatten(x.ndim - len(given["normalized_shape"])), math.prod(given["normalized_shape"])
    else:
        rows, terms = x.reshape(len(x), groups, -1), math.prod(x.shape[2:])
    variance, mean = torch.var_mean(rows, -1, unbiased=False, keepdim=True)
    inverse = (variance + given["eps"]).rsqrt()
    of_mean = (terms / 3 * mean.square() + variance / 2).sqrt()
    added = variance if groups is None else variance + mean.square()
    of_variance = terms / 3 * added.square()
    if groups is not None:
        of_variance = of_variance + mean**4 + 4 * mean.square() * of_mean.square()
    mean_error = draw(mean) * of_mean
    scale_error = draw(mean) * of_variance.sqrt() * inverse.square() / 2  # relative
    error = (rows * inverse) * (draw(rows) * OF_PRODUCTS + scale_error) - (mean * scale_error + mean_error) * inverse
    error = error.reshape(x.shape)
    if weight is not None:
        error = error * (weight if groups is None else weight.view(-1, *[1] * (x.ndim - 2)))
    results[0].add_(error)
    if len(results) == 3:
        results[1].add_(mean_error.view_as(results[1]))
        results[2].mul_(1 + scale_error.view_as(results[2]))
