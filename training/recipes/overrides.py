"""Every field of a recipe on the command line."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from typing import Any

from .recipe import CHOICES, Recipe
from .videolcm import RECIPES


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: true, false")
    return text.lower() == "true"


_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": _truth}


def add_recipe_arguments(parser: argparse.ArgumentParser, default: str = "mini") -> None:
    """Add ``--recipe`` and an option for each of its fields; fields not given keep the recipe's value."""
    parser.add_argument("--recipe", choices=sorted(RECIPES), default=default, help=f"default: {default}")
    group = parser.add_argument_group("recipe", "each replaces one value of the recipe; see training/recipes/recipe.py")
    for field in fields(Recipe):
        if field.name != "name":
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=_TYPES[str(field.type)],
                choices=CHOICES.get(field.name),
                default=argparse.SUPPRESS,
                metavar=None if field.name in CHOICES else str(field.type).upper(),
            )


def resolve_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe named in the options with the fields given there.

    Raises:
        ValueError: a value is not allowed.
    """
    known = {field.name for field in fields(Recipe)} - {"name"}
    return replace(RECIPES[options.recipe](), **{k: v for k, v in vars(options).items() if k in known})
