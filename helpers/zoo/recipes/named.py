"""How each model of the zoo is made: every recipe, by name."""

from helpers.zoo.recipe import Recipe
from helpers.zoo.recipes.facts import TINY_DEEPSEEK_V3, TINY_DENSE_ACTIVE, TINY_DENSE_TOTAL, TINY_QWEN3_5_MOE
from helpers.zoo.recipes.full_scale import FULL
from helpers.zoo.recipes.python import TINY_QWEN3
from helpers.zoo.recipes.seeing import TINY_KIMI_K25
from helpers.zoo.recipes.tasks import QWEN3_5_ADDING, TINY_DEEPSEEK_V4, TINY_GLM5, TINY_GLM5_DENSE, TINY_QWEN3_5

MADE = (
    TINY_QWEN3,
    TINY_GLM5,
    TINY_GLM5_DENSE,
    TINY_QWEN3_5,
    QWEN3_5_ADDING,
    TINY_DEEPSEEK_V4,
    TINY_DEEPSEEK_V3,
    TINY_DENSE_ACTIVE,
    TINY_DENSE_TOTAL,
    TINY_QWEN3_5_MOE,
    TINY_KIMI_K25,
    *FULL,
)
RECIPES = {recipe.name: recipe for recipe in MADE}


def recipe(name: str) -> Recipe:
    """The recipe of that name; ValueError naming those that exist."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there is {', '.join(RECIPES)}")
    return RECIPES[name]
