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
different largest values, and softmax and the like have two or three roundings where the model has one. Reduced
precision is far outside: a TF32 or bfloat16 product is off by 2^13 or 2^16 times UNIT.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

UNIT = 2.0**-24
"""Largest relative error of one float32 rounding."""
UNIT_64 = 2.0**-53
"""The same of float64."""
UNITS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: UNIT, torch.float64: UNIT_64}
"""The same of every precision."""
ROOM = 2.0
"""Times the effect of the model; see above."""

Compute = Callable[[], Any]

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
    topk tril triu trunc unfold unfold_copy unique_dim upsample_nearest1d upsample_nearest2d upsample_nearest3d
    where zero_ zeros zeros_like
    """.split()
)

_RANDOM = frozenset(
    """bernoulli bernoulli_ exponential_ multinomial native_dropout normal normal_ poisson rand rand_like randint
    randint_like randn randn_like random_ randperm uniform uniform_""".split()
)

# They are computed as ``x * scale + shift``, rounded at the size of ``x`` before the mean is gone.
_NORMS = ("native_group_norm", "native_layer_norm", "native_batch_norm", "group_norm", "layer_norm", "batch_norm")


@dataclass(frozen=True)
class _Kind:
    """What an operation does: its name, the arguments it writes, whether it only moves numbers, or draws them."""

    name: str
    written: tuple[tuple[int, str], ...]
    moves: bool
    draws: bool

    def changed(self, args: tuple, kwargs: dict) -> list[Tensor]:
        """Tensors that the operation writes."""
        return [
            value
            for index, name in self.written
            for value in _tensors(args[index] if index < len(args) else kwargs.get(name))
        ]


def _kind(func: Any) -> _Kind:
    schema = func._schema
    name = schema.name.partition("::")[2]
    written = [
        (i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
    ]
    is_view = not written and any(result.alias_info is not None for result in schema.returns)
    return _Kind(name, tuple(written), is_view or name in _EXACT, name in _RANDOM)


_KINDS: dict[Any, _Kind] = {}


class _Operations(TorchDispatchMode):
    """Shakes what every operation on wide numbers returns."""

    def __init__(self, seed: int | None, unit: float) -> None:
        super().__init__()
        self.rounds, self._unit = seed is not None, unit
        self._offsets = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed or 0)
        self._factors = torch.empty(0, dtype=torch.float64)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        kind = _KINDS.get(func) or _KINDS.setdefault(func, _kind(func))
        if not kind.written and not kind.draws and (kind.moves or not self.rounds):
            return func(*args, **kwargs)
        changed = [value for value in kind.changed(args, kwargs) if value.is_floating_point()]
        if kind.draws:
            return _draw(func, kind.name, changed, args, kwargs)
        if any(value.dtype == torch.float32 for value in changed) and _is_wide(_tensors((args, kwargs))):
            raise RuntimeError(f"{kind.name} would write float64 numbers into a float32 tensor; make it of their type.")
        if not self.rounds or kind.moves:
            return func(*args, **kwargs)
        taken = {value.untyped_storage().data_ptr() for value in _tensors((args, kwargs))}
        if kind.name in _NORMS:
            args = (args[0].clone(), *args[1:])
            self._shake(args[0], 1.0)
        results = func(*args, **kwargs)
        made = changed or [v for v in _tensors(results) if v.untyped_storage().data_ptr() not in taken]
        for index, value in enumerate(made):
            self._shake(value, _roundings(kind.name, args, index) if self._unit == UNIT else 1.0)
        return results

    def _shake(self, value: Tensor, roundings: float) -> None:
        if value.dtype == torch.float64 and value.numel():
            span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
            if len(self._factors) < 2 * span:
                drawn = torch.rand(max(4 * span, 2**16), generator=self._generator, dtype=torch.float64)
                self._factors = drawn.mul_(2.0 * self._unit).sub_(self._unit)
            start = self._offsets.randrange(len(self._factors) - span + 1)
            factors = self._factors.as_strided(value.shape, value.stride(), start)
            # What float32 can hold is not rounded: the 0 and 1 of pure noise, whole numbers before `floor`.
            if value.numel() < _SMALL:
                factors = factors * (value != value.float())
            value.addcmul_(value, factors, value=roundings)


def _roundings(name: str, args: tuple, index: int) -> float:
    """How many independent roundings of its size a result has."""
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
    if name in _NORMS:  # mean, variance and their sums, scale, shift, product: about nine, of either sign
        return 3.0
    if name in ("upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"):
        return _coordinates(args[0].shape[2:], args[1])
    if name == "native_group_norm_backward" and index:
        return _in_a_row(args[0].numel() // args[0].shape[1])
    if name == "native_layer_norm_backward" and index:
        return _in_a_row(args[0].numel() // args[0].shape[-1])
    if "scaled_dot_product" in name:
        return _in_a_row(args[1].shape[-1] + args[1].shape[-2])
    return 1.0


def _coordinates(given: torch.Size, size: Any) -> float:
    """Of an interpolation: where the scale is no power of two, positions are rounded at the size of the largest."""
    pairs = zip(given, size or given, strict=True)
    return max(1.0 if math.log2(a / b).is_integer() else float(a) for a, b in pairs)


def _in_a_row(terms: int) -> float:
    """Of a sum of ``terms`` products of either sign.

    Partial sums grow like ``sqrt(k)``, and each is rounded: together ``sqrt(terms^2 / 2)`` against a result of
    ``sqrt(terms)``. Sums in lanes or blocks are better; convolutions add up in a row, one output channel a lane.
    """
    return max(1.0, (terms / 2.0) ** 0.5)


class _Calls(TorchFunctionMode):
    """Widens what is given to PyTorch's functions; tables alone are left as they are, and are not shaken."""

    def __init__(self, operations: _Operations, tables: bool) -> None:
        super().__init__()
        self._operations, self._tables = operations, tables
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._modes: dict[Any, bool] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function."""
        kwargs = kwargs or {}
        passes = self._modes.get(func)
        if passes is None:
            passes = self._modes[func] = _IN_PLACE.match(getattr(func, "__name__", "")) is not None
        if passes:
            return func(*args, **kwargs)
        numbers = [value for value in _tensors((args, kwargs)) if value.is_floating_point()]
        if self._tables or any(not hasattr(value, _TABLE) for value in numbers):
            if _is_narrow(numbers, args, kwargs):
                args, kwargs = _mapped(self._widen, args), _mapped(self._widen, kwargs)
            func = torch.Tensor.double if func is torch.Tensor.float else func
            results = func(*args, **kwargs)
            return _mapped(_widen, results) if self._tables else results
        rounds, self._operations.rounds = self._operations.rounds, False
        try:
            results = func(*args, **kwargs)
        finally:
            self._operations.rounds = rounds
        if func in _FACTORIES:  # to be filled in place, with wide numbers
            results = _mapped(_widen, results)
        for value in _tensors(results):
            setattr(value, _TABLE, True)
        return results

    def _widen(self, value: Any) -> Any:
        """Widen an argument; weights, once."""
        if not isinstance(value, nn.Parameter) or torch.is_grad_enabled() or value.numel() > _LARGE:
            return _widen(value)
        if id(value) not in self._kept:
            self._kept[id(value)] = (value, _widen(value))
        return self._kept[id(value)][1]


_TABLE = "_is_table"
_FACTORIES = (torch.zeros, torch.ones, torch.full, torch.empty)
# Exact 0 and 1 and whole numbers matter in schedules and times; among more numbers the look costs more than it tells.
_SMALL = 2**12
# Attributes, gradients by their tensors, and functions that change their first argument: its type stays.
_IN_PLACE = re.compile(r"__i|__set|__get__|requires_grad|grad$|backward$|\w*[a-z0-9]_$")
# Weights above this many numbers are widened at each use, so that networks of gigabytes fit.
_LARGE = 2**22


@contextmanager
def wide(seed: int | None = None, tables: bool = False, unit: float = UNIT) -> Iterator[None]:
    """Compute in float64 what is written in float32.

    Tensors made outside enter as they are; ``.float()`` and ``dtype=torch.float32`` of such numbers mean float64. What
    is made inside of integers and constants alone (features of timesteps, noise schedules, random numbers) is a table:
    an input like any other, with the numbers that float32 gives it. Lower precisions stay what they are.

    Args:
        seed: Of the shaking; None computes exactly.
        tables: Whether tables are computed in float64, and shaken, too: for tests of the tables themselves.
        unit: Largest error of one rounding. Lower precisions than float32 add up in float32, and round a sum once.
    """
    operations = _Operations(seed, unit)
    with operations, _Calls(operations, tables):
        yield


def _draw(func: Any, name: str, changed: list[Tensor], args: tuple, kwargs: dict) -> Any:
    """Random numbers of float32: those of float64 are others."""
    if any(value.dtype == torch.float64 for value in changed):
        raise RuntimeError(f"{name} draws in place, in float64 other numbers than in float32. Draw outside.")
    args, kwargs = _mapped(_narrow, (args, kwargs))
    return func(*args, **kwargs)


def _is_narrow(numbers: list[Tensor], args: tuple, kwargs: dict) -> bool:
    """Whether arguments have a float32 tensor, or ask for one."""
    return (
        any(value.dtype == torch.float32 for value in numbers)
        or any(value is torch.float32 for value in args)
        or kwargs.get("dtype") is torch.float32
    )


def _is_wide(values: list[Tensor]) -> bool:
    return any(value.dtype == torch.float64 and value.ndim for value in values)


def _tensors(tree: Any) -> list[Tensor]:
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
            found += _tensors(item)
    return found


def _mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """The same nested arguments with every leaf changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, list | tuple) and not hasattr(tree, "_fields") and not isinstance(tree, torch.Size):
        return type(tree)([_mapped(change, item) for item in tree])
    if isinstance(tree, dict):
        return {key: _mapped(change, item) for key, item in tree.items()}
    return change(tree)


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value


def _narrow(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.float64:
        return value.float()
    return torch.float32 if value is torch.float64 else value


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
    if narrow := [
        name for name, value in result.items() if value.dtype == torch.float32 and not hasattr(value, _TABLE)
    ]:
        raise RuntimeError(f"results {narrow} stayed float32: nothing of the computation took part.")
    return result


def without_rounding(compute: Compute, copies: int | None = None, tables: bool = False, unit: float = UNIT) -> Exact:
    """Run a computation in float64, and shaken in float64.

    Args:
        compute: Returns a tensor, or tensors in a dict or list; must do the same at every call.
        copies: Shaken runs, each with a seed of its own. None is one, and eight where a result has fewer than 64
            numbers: the largest of few draws of an error may by chance be small.
        tables: See `wide`.
        unit: See `wide`.
    """
    values = exactly(compute, tables)
    if copies is None:
        copies = 8 if min(value.numel() for value in values.values()) < 64 else 1
    effects, norms = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0.0)
    for seed in range(copies):
        with wide(seed, tables, unit):
            shaken = named(compute())
        for name, value in shaken.items():
            effects[name] = max(effects[name], distance(value, values[name]))
            if not math.isfinite(effects[name]):
                raise RuntimeError(f"shaken, {name!r} is not finite: the model breaks down, no bound follows from it.")
            norms[name] = max(norms[name], (value.double() - values[name].double()).norm().item())
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


def assert_recorded(compute: Compute, recorded: Tensor, copies: int | None = None, tables: bool = False) -> Exact:
    """Hold a computation to a float32 value of the same mathematics by other code, and its own float32 to the truth."""
    exact = assert_rounded(compute, copies, tables)
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
