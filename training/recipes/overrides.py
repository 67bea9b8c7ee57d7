"""Every field of a recipe on the command line."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from .base import Recipe


def find_recipes(method: str) -> Mapping[str, Callable[[], Recipe]]:
    """The recipes of a method by name: ``RECIPES`` of the file that is called like it.

    Raises:
        ValueError: the method has no recipes.
    """
    try:
        return importlib.import_module(f"{__package__}.{method}").RECIPES
    except ModuleNotFoundError as error:
        raise ValueError(f"there are no recipes of {method!r}: training/recipes has no such file.") from error


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: true, false")
    return text.lower() == "true"


_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": _truth}


def add_recipe_arguments(parser: argparse.ArgumentParser, method: str = "videolcm", default: str = "mini") -> None:
    """Add ``--recipe`` and an option for each of its fields; fields not given keep the recipe's value."""
    recipes = find_recipes(method)
    parser.add_argument("--recipe", choices=sorted(recipes), default=default, help=f"default: {default}")
    group = parser.add_argument_group("recipe", f"each replaces one value; see training/recipes/{method}.py")
    recipe = recipes[default]()
    choices = recipe.choices | {"release": recipe.releases}
    for field in fields(recipe):
        if field.name != "name":
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=_TYPES[str(field.type)],
                choices=choices.get(field.name),
                default=argparse.SUPPRESS,
                metavar=None if field.name in choices else str(field.type).upper(),
            )


def resolve_recipe(options: argparse.Namespace, method: str = "videolcm") -> Any:
    """The recipe named in the options with the fields given there.

    Raises:
        ValueError: a value is not allowed.
    """
    recipe = find_recipes(method)[options.recipe]()
    known = {field.name for field in fields(recipe)} - {"name"}
    return replace(recipe, **{k: v for k, v in vars(options).items() if k in known})
