"""Recipes: all numbers of a run as data; one file a method, found by its name."""

from .base import Recipe
from .overrides import add_recipe_arguments, find_recipes, resolve_recipe

__all__ = ["Recipe", "add_recipe_arguments", "find_recipes", "resolve_recipe"]
