"""The same recipes for a GPU: tens of millions of parameters. They are not shipped; their cards are.

What changes is the size and how long is trained; data, stages and evidence are those of the tiny models.
"""

from dataclasses import replace

from helpers.models.configs import glm5, qwen3_5
from helpers.training.indexers.dsa import dense_loss, is_indexer, sparse_loss, warm_up_loss
from helpers.training.losses import answers, drafts
from helpers.zoo.recipe import Recipe
from helpers.zoo.recipes import facts as fact_models
from helpers.zoo.recipes import tasks as task_models
from helpers.zoo.recipes.tasks import LONGEST, SHORT, not_an_indexer, stage

LENGTHS = {32: 1500, SHORT: 1000, 128: 1000, 256: 1000, LONGEST: 3000}
SMALLER = 0.03  # deviation of the first weights: the wider a layer, the smaller
RATE = 1e-3

LATENT = {  # latent attention and experts: DeepSeek-V3's and GLM-5's alike
    "width": 512,
    "num_blocks": 8,
    "num_heads": 8,
    "query_rank": 256,
    "latent_width": 128,
    "nope_dim": 48,
    "value_dim": 64,
    "mlp_width": 1536,
    "num_experts": 16,
    "expert_width": 256,
}

FULL_GLM5 = replace(
    task_models.TINY_GLM5,
    name="full-glm5",
    config=replace(
        task_models.GLM5_SIZES,
        **LATENT,
        index_heads=8,
        index_dim=64,
        indexers=(glm5.FULL,) * 8,
    ),
    stages=(
        stage("dense", LENGTHS, 1, RATE, loss=dense_loss, trains=not_an_indexer, balance=1e-3),
        stage("indexer warm-up", {LONGEST: 1000}, 2, RATE, loss=warm_up_loss, trains=is_indexer),
        stage("sparse", {LONGEST: 2000}, 3, RATE / 4, loss=sparse_loss, balance=1e-3),
    ),
    std=SMALLER,
)

FULL_QWEN3_5 = replace(
    task_models.TINY_QWEN3_5,
    name="full-qwen3_5",
    config=replace(
        task_models.TINY_QWEN3_5.config,
        width=512,
        num_blocks=12,
        layer_kinds=((qwen3_5.DELTA,) * 3 + (qwen3_5.ATTENTION,)) * 3,
        num_heads=8,
        num_kv_heads=2,
        head_dim=64,
        delta_key_heads=8,
        delta_value_heads=8,
        delta_key_dim=64,
        delta_value_dim=64,
        mlp_width=1536,
        sections=(4, 2, 2),
    ),
    stages=(stage("tasks", LENGTHS, 1, RATE, loss=answers),),
    std=SMALLER,
    beside=(),
)

FULL_DEEPSEEK_V3 = replace(
    fact_models.TINY_DEEPSEEK_V3,
    name="full-deepseek-v3",
    config=replace(
        fact_models.V3,
        **LATENT,
    ),
    stages=(
        fact_models.stage("facts", 3000, RATE, loss=answers, trains=fact_models.not_a_drafter, balance=1e-3),
        fact_models.stage("drafter", 1000, RATE, loss=drafts, trains=fact_models.is_drafter, balance=1e-3),
    ),
    std=SMALLER,
    beside=(),
)

FULL: tuple[Recipe, ...] = (FULL_GLM5, FULL_QWEN3_5, FULL_DEEPSEEK_V3)
