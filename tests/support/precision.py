"""How far float32 may be from the truth: bounds that follow from the computation, not from the CPU that measured them.

A computation is a function without arguments that returns tensors. Here it is run in three ways:

plain   as it is, in float32
exact   the same lines with every float32 number held in float64 (`wide`)
shaken  in float64 too, with every result of a rounding operation multiplied by ``1 + UNIT * xi``, ``xi`` uniform in
        [-1, 1]: one float32 rounding of that size at that place

What the shaking makes of the result, the largest distance between shaken and exact, is the *effect* of float32
rounding on this computation. Whatever multiplies rounding (guidance, steps that follow one another, differences of
near values, divisions by small numbers) multiplies the effect alike, so it contains the condition of the problem.

How many roundings a result has follows from how it is computed. A sum of n products of either sign, added one after
another, is off by ``sqrt(n / 2)`` roundings of the result; that is what float32 convolutions on CPUs do (measured on
9 x 64 to 9 x 512 products: 0.7 of it, the 0.7 being the mean position of numbers between powers of two), and every
other order, in lanes or blocks, is better. So the effect is that of the worst order of additions any CPU has, and does
not depend on the one that runs the test.

A float32 result is held to the exact one within `ROOM` = 2 times the effect: two draws of the same error have
different largest values, and activations have two or three roundings where the model has one. Reduced precision is far
outside: a TF32 or bfloat16 product is off by 2^13 or 2^16 times UNIT.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from shaking import COARSE, UNIT, UNIT_64, coarse, is_table, wide
from shaking import UNITS as UNITS
from torch import Tensor

ROOM = 2.0
"""Times the effect of the model; see above."""

Compute = Callable[[], Any]


@dataclass(frozen=True)
class Exact:
    """What a computation gives without rounding, and what float32 rounding makes of it.

    Attributes:
        values: By name; a single tensor is called "".
        effects: Largest effect on any number of each value.
        norms: Norm of the effect on each value.
        unit: Largest error of one rounding.
    """

    values: dict[str, Tensor]
    effects: dict[str, float]
    norms: dict[str, float]
    unit: float = UNIT

    def bound(self, name: str = "") -> float:
        """Largest difference that float32 rounding explains, with that of storing the result."""
        value = self.values[name]
        return ROOM * self.effects[name] + self.unit * (value.abs().max().item() if value.numel() else 0.0)

    def of_another(self, values: dict[str, Tensor]) -> Exact:
        """Other exact values, in the same order, of a case that takes the same steps: rounding does as much to them."""
        effects, norms = (dict(zip(values, of.values(), strict=False)) for of in (self.effects, self.norms))
        return Exact(values, effects, norms, self.unit)


def named(result: Any) -> dict[str, Tensor]:
    """Tensors of a result by name."""
    if isinstance(result, Tensor):
        return {"": result.detach()}
    items = result.items() if isinstance(result, dict) else enumerate(result)
    return {str(key): value.detach() for key, value in items}


def exactly(compute: Compute, tables: bool = False) -> dict[str, Tensor]:
    """A computation's results without float32 rounding."""
    with wide(tables=tables):
        result = named(compute())
    if narrow := [name for name, value in result.items() if value.dtype == torch.float32 and not is_table(value)]:
        raise RuntimeError(f"results {narrow} stayed float32: nothing of the computation took part.")
    return result


def without_rounding(
    compute: Compute,
    copies: int | None = None,
    tables: bool = False,
    unit: float = UNIT,
    plain: dict[str, Tensor] | None = None,
) -> Exact:
    """Run a computation in float64, and shaken in float64.

    Args:
        compute: Returns a tensor, or tensors in a dict or list; must do the same at every call.
        copies: Shaken runs, each with a seed of its own. None is one, and eight where a result has fewer than 64
            numbers: the largest of few draws of an error may by chance be small.
        tables: See `wide`.
        unit: See `wide`.
        plain: What the computation gives as it is, of a long one: it is shaken in float32 then, see `coarse`.
    """
    values = exactly(compute, tables)
    if copies is None:
        copies = 8 if min(value.numel() for value in values.values()) < 64 else 1
    effects, norms = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0.0)
    for seed in range(copies):
        with coarse(seed) if plain else wide(seed, tables, unit):
            shaken = named(compute())
        center, scale = (plain, COARSE) if plain else (values, 1.0)
        for name, value in shaken.items():
            effects[name] = max(effects[name], distance(value, center[name]) / scale)
            if not math.isfinite(effects[name]):
                raise RuntimeError(f"shaken, {name!r} is not finite: the model breaks down, no bound follows from it.")
            norms[name] = max(norms[name], (value.double() - center[name].double()).norm().item() / scale)
    return Exact(values, effects, norms, unit)


def distance(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference; NaN counts as infinite."""
    if first.shape != second.shape:
        raise AssertionError(f"shape {list(first.shape)} instead of {list(second.shape)}")
    if not first.numel():
        return 0.0
    found = (first.double() - second.double()).abs().max().item()
    return found if found == found else float("inf")


def assert_within(found: Tensor, exact: Exact, name: str = "", what: str = "result") -> None:
    """Hold a float32 value to the exact one within what float32 rounding explains."""
    error, bound = distance(found, exact.values[name]), exact.bound(name)
    assert error <= bound, f"{what} {name} is off by {error:.2e}; float32 rounding explains {bound:.2e}"


def assert_rounded(compute: Compute, copies: int | None = None, tables: bool = False) -> Exact:
    """Hold a computation's float32 results to its exact ones."""
    found, exact = named(compute()), without_rounding(compute, copies, tables)
    for name, value in found.items():
        assert_within(value, exact, name)
    return exact


def assert_differ(compute: Compute, *others: Tensor) -> None:
    """Hold results to be of other mathematics: further from the exact one than float32 rounding explains."""
    exact = without_rounding(compute)
    for other in others:
        error, bound = distance(other, exact.values[""]), exact.bound()
        assert error > bound, f"they differ by {error:.2e} only; float32 rounding alone explains {bound:.2e}"


def assert_recorded(compute: Compute, recorded: Tensor, copies: int | None = None, tables: bool = False) -> Exact:
    """Hold a computation to a float32 value of the same mathematics by other code, and its own float32 to the truth."""
    found = named(compute())
    exact = without_rounding(compute, copies, tables, plain=None if tables else found)
    assert_within(found[""], exact)
    assert_within(recorded, exact, what="the recorded value")
    return exact


def assert_same(first: Compute, second: Compute, copies: int | None = None, tables: bool = False) -> Exact:
    """Hold two computations of the same mathematics to one another.

    In float64 they may differ by float64's rounding alone: the effect, in units of float64. In float32 each is held to
    the exact result.
    """
    exact = assert_rounded(first, copies, tables)
    others, found = exactly(second, tables), named(second())
    for name, value in exact.values.items():
        error, bound = distance(others[name], value), 2.0 * exact.bound(name) * UNIT_64 / UNIT  # of both
        assert error <= bound, f"in float64 {name} differs by {error:.2e}; rounding explains {bound:.2e}"
        assert_within(found[name], exact, name, "the other result")
    return exact
