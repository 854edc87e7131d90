"""How each model of the zoo is made: every recipe, by name."""

from helpers.zoo.python_model import TINY_QWEN3
from helpers.zoo.recipe import Recipe
from helpers.zoo.task_models import QWEN3_5_ADDING, TINY_DEEPSEEK_V4, TINY_GLM5, TINY_GLM5_DENSE, TINY_QWEN3_5

RECIPES = {
    recipe.name: recipe
    for recipe in (TINY_QWEN3, TINY_GLM5, TINY_GLM5_DENSE, TINY_QWEN3_5, QWEN3_5_ADDING, TINY_DEEPSEEK_V4)
}


def recipe(name: str) -> Recipe:
    """The recipe of that name; ValueError naming those that exist."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there is {', '.join(RECIPES)}")
    return RECIPES[name]
