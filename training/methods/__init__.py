"""Methods: one file a paper, found by its name."""

from __future__ import annotations

import importlib
import pkgutil

from .method import Inputs, Method

__all__ = ["Inputs", "Method", "find_method", "method_names"]

_NO_METHODS = {"method", "parts"}


def method_names() -> list[str]:
    """The methods that there are: the files of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NO_METHODS)


def find_method(name: str) -> type[Method]:
    """The method of a name: ``METHOD`` of the file that is called so.

    Raises:
        ValueError: there is no such file.
    """
    if name not in method_names():
        raise ValueError(f"method is {name!r}; allowed: {', '.join(method_names())}. Name one of these.")
    return importlib.import_module(f"{__name__}.{name}").METHOD
