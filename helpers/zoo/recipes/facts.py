"""The models that learn facts by heart: what experts are worth, and what a drafter guesses.

A fact is a line such as ``de|FR=Frankreich``, out of CLDR: names of countries, months and days in fifty languages.
A mixture of experts stands beside two dense models: one with as many parameters as a token uses of it, and one with as
many as it has in all, trained for as many floating-point operations.
"""

from dataclasses import replace

from helpers.measure import training_flops_per_token
from helpers.models.configs import deepseek_v3
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.models.qwen3_5 import Qwen3_5
from helpers.training.losses import answers, answers_evenly, drafts
from helpers.training.train import Settings
from helpers.zoo.evidence.facts import of_facts
from helpers.zoo.fact_data import LENGTH, LOCALES, ROWS, VOCABULARY, fact_tokenizer, facts, stream
from helpers.zoo.recipe import Recipe, Stage
from helpers.zoo.recipes.tasks import TINY_QWEN3_5

STEPS = 1000


def stage(name: str, steps: int = STEPS, lr: float = 4e-3, **other) -> Stage:
    """So many steps on the facts."""
    said = f"{len(facts()):,} facts of CLDR in {len(LOCALES)} languages; {steps} steps of {ROWS} x {LENGTH} tokens"
    return Stage(name, Settings(steps, lr=lr, warm_up=50, final=0.05), stream, said, **other)


V3 = deepseek_v3.Config(
    vocab_size=VOCABULARY,
    width=96,
    num_blocks=3,
    num_dense_blocks=1,
    num_heads=4,
    query_rank=64,
    latent_width=48,
    nope_dim=16,
    rotary_dim=16,
    value_dim=24,
    mlp_width=192,
    num_experts=12,
    experts_per_token=2,
    expert_width=48,
    num_shared=1,
    rope_theta=1e2,
    tied=True,
    context=256,
    num_drafters=1,
)


def is_drafter(name: str) -> bool:
    """Whether a weight belongs to the block that guesses ahead."""
    return name.startswith("drafters.")


def not_a_drafter(name: str) -> bool:
    """Whether a weight belongs to the model itself."""
    return not is_drafter(name)


TINY_DEEPSEEK_V3 = Recipe(
    name="tiny-deepseek-v3",
    model=DeepSeekV3,
    config=V3,
    tokenizer=fact_tokenizer,
    stages=(
        stage("facts", loss=answers, trains=not_a_drafter, balance=1e-3),
        stage("drafter", 300, loss=drafts, trains=is_drafter, balance=1e-3),
    ),
    evidence=of_facts,
    std=0.08,
    beside=("tiny-dense-active", "tiny-dense-total"),
)

# The same model without experts. As wide as what a token uses: one wide layer and two of three narrow experts.
ACTIVE = replace(V3, num_dense_blocks=3, mlp_width=(192 + 2 * 3 * 48) // 3, num_drafters=0)
# As wide as all of it: one wide layer, and two of thirteen narrow experts.
TOTAL = replace(V3, num_dense_blocks=3, mlp_width=(192 + 2 * 13 * 48) // 3, num_drafters=0)


EQUAL_STEPS = 614  # what ``equal_steps()`` counts; a test counts again


def steps_for(config: deepseek_v3.Config, flops: float) -> int:
    """How many steps of this model take so many floating-point operations."""
    return round(flops / (ROWS * LENGTH * training_flops_per_token(DeepSeekV3(config), LENGTH)))


def equal_steps() -> int:
    """The steps in which the large dense model does as much work as the mixture in all of its own."""
    mixture = replace(V3, num_drafters=0)
    return steps_for(TOTAL, STEPS * ROWS * LENGTH * training_flops_per_token(DeepSeekV3(mixture), LENGTH))


TINY_DENSE_ACTIVE = replace(
    TINY_DEEPSEEK_V3, name="tiny-dense-active", config=ACTIVE, stages=(stage("facts", loss=answers),), beside=()
)
TINY_DENSE_TOTAL = replace(
    TINY_DENSE_ACTIVE, name="tiny-dense-total", config=TOTAL, stages=(stage("facts", EQUAL_STEPS, loss=answers),)
)

TINY_QWEN3_5_MOE = replace(
    TINY_DEEPSEEK_V3,
    name="tiny-qwen3_5-moe",
    model=Qwen3_5,
    config=replace(
        TINY_QWEN3_5.config,
        vocab_size=VOCABULARY,
        width=48,
        mlp_width=0,
        num_experts=8,
        experts_per_token=2,
        expert_width=16,
        shared_width=16,
        context=256,
    ),
    stages=(stage("facts", loss=answers_evenly),),
    beside=(),
)
