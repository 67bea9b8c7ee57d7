"""Recipes: all numbers of a distillation as data; a run is a recipe, a teacher and clips."""

from .overrides import add_recipe_arguments, resolve_recipe
from .recipe import Recipe
from .videolcm import NEGATIVE_PROMPT, RECIPES, authors, mini, paper

__all__ = ["NEGATIVE_PROMPT", "RECIPES", "Recipe", "add_recipe_arguments", "authors", "mini", "paper", "resolve_recipe"]
