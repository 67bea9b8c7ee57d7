"""Modes of PyTorch that compute float32 code in float64, and shake what every operation returns; see `precision`."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from norms import NORMS, OF_PRODUCTS, SOFTMAX, shake_norm, shake_softmax
from roundings import BATCH_NORMS, Kind, count, kind_of, tensors_of, transform_size
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

UNIT = 2.0**-24
"""Largest relative error of one float32 rounding."""
UNIT_64 = 2.0**-53
"""The same of float64."""
UNITS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: UNIT, torch.float64: UNIT_64}
"""The same of every precision."""

COARSE = 2.0**6
"""Times float32's rounding, that a long computation is shaken by; see `coarse`."""

_KINDS: dict[Any, Kind] = {}


class _Operations(TorchDispatchMode):
    """Shakes what every operation on numbers of one type returns."""

    def __init__(self, seed: int | None, unit: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.rounds, self._unit, self._dtype = seed is not None, unit, dtype
        self._whole = unit in (UNIT, COARSE * UNIT)  # lower precisions have their norms and sums in float32
        self._offsets = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed or 0)
        self._factors = torch.empty(0, dtype=dtype)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; the wrapper that keeps compilers out costs as much as a small operation."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        kind = _KINDS.get(func) or _KINDS.setdefault(func, kind_of(func))
        if not kind.written and not kind.draws and (kind.moves or not self.rounds):
            return func(*args, **kwargs)
        changed = [value for value in kind.changed(args, kwargs) if value.is_floating_point()]
        if self._dtype == torch.float64 and kind.draws:
            return _draw(func, kind.name, changed, args, kwargs)
        if _is_narrow(changed, (), {}) and self._dtype == torch.float64 and _is_wide(tensors_of((args, kwargs))):
            raise RuntimeError(f"{kind.name} would write float64 numbers into a float32 tensor; make it of their type.")
        if not self.rounds or kind.moves or kind.draws:
            return func(*args, **kwargs)
        taken = {value.untyped_storage().data_ptr() for value in tensors_of((args, kwargs))}
        if self._whole and kind.name in BATCH_NORMS:
            args = (args[0].clone(), *args[1:])
            self._shake(args[0], OF_PRODUCTS)
        results = func(*args, **kwargs)
        made = changed or [v for v in tensors_of(results) if v.untyped_storage().data_ptr() not in taken]
        if self._whole and kind.name in NORMS and args[0].dtype in (self._dtype, torch.float64):
            shake_norm(func, args, kwargs, made, self._drawn)
        if self._whole and kind.name in SOFTMAX and made[0].dtype in (self._dtype, torch.float64) and made[0].ndim:
            shake_softmax(args[1], made[0], self._drawn)
        for index, value in enumerate(made):
            # Errors of an interpolation's weights are multiplied by neighbours, which the result may be smaller than.
            size = func(args[0].abs(), *args[1:], **kwargs) if kind.interpolates else None
            size = transform_size(value, args[1]) if kind.transforms else size
            self._shake(value, count(kind.name, args, index, value) if self._whole else 1.0, size)
        return results

    def _shake(self, value: Tensor, roundings: float, size: Tensor | None = None) -> None:
        """Add roundings of the size of a value, or of other numbers; real and imaginary parts have their own."""
        value = torch.view_as_real(value) if value.is_complex() else value
        if value.dtype in (self._dtype, torch.float64) and value.numel():
            factors = self._drawn(value)
            # What float32 can hold is not rounded: the 0 and 1 of pure noise, whole numbers before `floor`.
            size = value if size is None else size
            if size.numel() < _SMALL and self._dtype == torch.float64:
                factors = factors * (size != size.float())
            value.addcmul_(size, factors, value=roundings)

    def _drawn(self, value: Tensor) -> Tensor:
        """Relative errors of one rounding each, in the shape and order of a value."""
        span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
        if len(self._factors) < 2 * span:
            drawn = torch.rand(max(4 * span, 2**16), generator=self._generator, dtype=self._dtype)
            self._factors = drawn.mul_(2.0 * self._unit).sub_(self._unit)
        start = self._offsets.randrange(len(self._factors) - span + 1)
        return self._factors.as_strided(value.shape, value.stride(), start)


class _Calls(TorchFunctionMode):
    """Widens what is given to PyTorch's functions; tables alone are left as they are, and are not shaken."""

    def __init__(self, operations: _Operations, tables: bool, widens: bool = True) -> None:
        super().__init__()
        self._operations, self._tables, self._widens = operations, tables, widens
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
        numbers = [v for v in tensors_of((args, kwargs)) if v.is_floating_point() or v.is_complex()]
        if self._tables or any(not hasattr(value, _TABLE) for value in numbers):
            if not self._widens:
                return func(*args, **kwargs)
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
        if self._widens and func in _FACTORIES:  # to be filled in place, with wide numbers
            results = _mapped(_widen, results)
        for value in tensors_of(results):
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


@contextmanager
def coarse(seed: int) -> Iterator[None]:
    """Compute as it is, shaken by roundings `COARSE` times as large as float32's; tables are left alone.

    What our code computes in float64 is shaken as well: other code of the same mathematics may have it in float32.

    Rounding acts linearly, so a `COARSE`-th of what this makes of a result is the effect of float32 rounding. The
    rounding of the CPU at hand adds a `COARSE`-th to that, in quadrature. It takes half the time of float64.
    """
    operations = _Operations(seed, COARSE * UNIT, torch.float32)
    with operations, _Calls(operations, tables=False, widens=False):
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


def is_table(value: Tensor) -> bool:
    """Whether a result was made of integers and constants alone."""
    return hasattr(value, _TABLE)
