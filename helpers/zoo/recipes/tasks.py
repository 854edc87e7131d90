"""The models that learn tasks with known answers: what a mechanism lets a model remember of its own text.

All four read the same mixture, short texts first. They differ in how they look back: latent attention over everything,
over what an indexer chose, a memory of constant size, or a window beside compressed entries.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from tokenizers import Tokenizer

from helpers.data import tasks
from helpers.data.tasks import Example, Phase, TaskBatches
from helpers.functions import exchange
from helpers.layers.delta import additive_rule
from helpers.models.configs import deepseek_v4, glm5, qwen3_5
from helpers.models.deepseek_v4 import DeepSeekV4
from helpers.models.glm5 import GLM5
from helpers.models.qwen3_5 import Qwen3_5
from helpers.training.indexers.csa import all_entries_loss, chosen_entries_loss, entry_warm_up_loss
from helpers.training.indexers.dsa import dense_loss, is_indexer, sparse_loss, warm_up_loss
from helpers.training.losses import answers
from helpers.training.train import Settings
from helpers.zoo.evidence.tasks import of_tasks
from helpers.zoo.induction_init import keys_of_the_token_before, look_back, look_back_in_the_window
from helpers.zoo.recipe import Recipe, Stage
from helpers.zoo.tokenizer import train_tokenizer

VOCABULARY = 542  # 256 bytes, the syllables with and without a blank before them, 128 words, and the signs
LONGEST = 512  # tokens of a row at the end of training
K = 32  # tokens that sparse attention reads
TOKENS_PER_STEP = 2048  # rows get fewer as they get longer


def _pairs(left: int) -> int:
    """As many pairs as fit into so many tokens when each is asked: three tokens to tell one, three to ask it."""
    return max(2, min(left // 6, 128))


def _recall(rng: random.Random, left: int) -> Example:
    pairs = rng.randint(2, _pairs(left))
    return tasks.recall(rng, pairs, questions=pairs)


def _needle(rng: random.Random, left: int) -> Example:
    needles = 1 if left < 64 else 4
    return tasks.needle(rng, rng.randint(needles + 1, max(needles + 2, left - 8 * needles)), needles)


def _copy(rng: random.Random, left: int) -> Example:
    return tasks.copy(rng, rng.randint(4, max(4, min(left // 2 - 2, 128))))


def _hops(rng: random.Random, left: int) -> Example:
    return tasks.hops(rng, rng.randint(3, min(24, max(3, left // 6))))


def _tools(rng: random.Random, left: int) -> Example:
    return tasks.tools(rng, pairs=2)


def _arithmetic(rng: random.Random, left: int) -> Example:
    return tasks.arithmetic(rng, rng.randint(1, 2))


Mixture = dict[Callable[[random.Random, int], Example], float]  # a task -> its share of the examples

# First only what can be learned by looking for what once followed a word: in a mixture of everything a small model
# takes several times as long to find out how that is done.
BEGIN: Mixture = {_recall: 0.5, _copy: 0.5}
MIXTURE: Mixture = {_recall: 0.35, _needle: 0.2, _copy: 0.3, _hops: 0.05, _tools: 0.05, _arithmetic: 0.05}
SHORT = 64  # rows of up to so many tokens are filled from BEGIN, longer ones from MIXTURE


def drawn_from(mixture: Mixture) -> Callable[[random.Random, int], Example]:
    """Examples for rows: each is given how many tokens are left to fill."""

    def draw(rng: random.Random, left: int) -> Example:
        (task,) = rng.choices([*mixture], [*mixture.values()])
        return task(rng, left)

    return draw


def task_tokenizer() -> Tokenizer:
    """A tokenizer in which every word and every sign of the tasks is one token."""
    words = [f" {word}" for word in tasks.WORDS]
    signs = [" ? ;", " :", " |", ";", " user get( ) tool answer . + ="]
    return train_tokenizer(words * 3 + signs * 9, VOCABULARY)


def phases(steps_by_length: dict[int, int]) -> tuple[Phase, ...]:
    """Stretches of rows of each length, every step of equally many tokens."""
    return tuple(
        Phase(steps, TOKENS_PER_STEP // length, length, drawn_from(BEGIN if length <= SHORT else MIXTURE))
        for length, steps in steps_by_length.items()
    )


def not_an_indexer(name: str) -> bool:
    """Whether a weight is trained while everything is read."""
    return not is_indexer(name)


def stage(name: str, lengths: dict[int, int], seed: int, lr: float, **other) -> Stage:
    """A stage on the tasks: as many steps as its phases have."""

    def stream(tokenizer: Tokenizer) -> TaskBatches:
        return TaskBatches(tokenizer, phases(lengths), seed)

    settings = Settings(sum(lengths.values()), lr=lr, warm_up=50, final=0.1)
    return Stage(name, settings, stream, _said(lengths), **other)


def _said(lengths: dict[int, int]) -> str:
    """What the rows of a stage are filled with, for the card."""
    shares = ", ".join(f"{share:.0%} {task.__name__.strip('_')}" for task, share in MIXTURE.items())
    rows = ", ".join(
        f"{steps} steps of {TOKENS_PER_STEP // length} x {length} tokens" for length, steps in lengths.items()
    )
    begin = f"; rows of up to {SHORT} tokens are recall and copy only" if min(lengths) <= SHORT else ""
    return f"{shares}{begin}; {rows} tokens"


LENGTHS = {32: 600, SHORT: 300, 128: 300, 256: 300, LONGEST: 400}
GLM5_SIZES = glm5.Config(
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
    index_heads=4,
    index_dim=32,
    index_k=K,
    mlp_width=192,
    num_experts=8,
    experts_per_token=2,
    expert_width=32,
    num_shared=1,
    indexers=(glm5.FULL,) * 3,
    rope_theta=1e2,  # a few hundred positions to tell apart, not a hundred thousand
    tied=True,
    context=LONGEST,
)
DENSE = stage("dense", LENGTHS, 1, 4e-3, loss=dense_loss, trains=not_an_indexer, balance=1e-3)
WARM_UP = stage("indexer warm-up", {LONGEST: 250}, 2, 4e-3, loss=warm_up_loss, trains=is_indexer)
SPARSE = stage("sparse", {LONGEST: 250}, 3, 1e-3, loss=sparse_loss, balance=1e-3)

TINY_GLM5 = Recipe(
    name="tiny-glm5",
    model=GLM5,
    config=GLM5_SIZES,
    tokenizer=task_tokenizer,
    stages=(DENSE, WARM_UP, SPARSE),
    evidence=of_tasks,
    std=0.08,
    prepare=look_back,
)
# The dense twin: where the other reads what is chosen, as many steps of reading everything.
TINY_GLM5_DENSE = replace(
    TINY_GLM5,
    name="tiny-glm5-dense",
    config=replace(GLM5_SIZES, index_k=LONGEST),
    stages=(
        replace(DENSE, made_by="tiny-glm5"),
        stage("dense, on", {LONGEST: 250}, 3, 1e-3, loss=dense_loss, trains=not_an_indexer, balance=1e-3),
    ),
    beside=("tiny-glm5",),
    evidence=of_tasks,
)

TINY_QWEN3_5 = Recipe(
    name="tiny-qwen3_5",
    model=Qwen3_5,
    config=qwen3_5.Config(
        vocab_size=VOCABULARY,
        width=96,
        num_blocks=4,
        layer_kinds=(qwen3_5.DELTA,) * 3 + (qwen3_5.ATTENTION,),
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        delta_key_heads=4,
        delta_value_heads=4,
        delta_key_dim=16,
        delta_value_dim=16,
        conv_width=4,
        mlp_width=192,
        rope_theta=1e3,
        sections=(2, 1, 1),
        tied=True,
        context=LONGEST,
    ),
    tokenizer=task_tokenizer,
    stages=(stage("tasks", LENGTHS, 1, 4e-3, loss=answers),),
    evidence=of_tasks,
    std=0.08,
    prepare=keys_of_the_token_before,
)


def adding_qwen3_5(config: qwen3_5.Config) -> Qwen3_5:
    """Qwen3.5 whose memory only adds: an ablation, which no other library reads."""
    model = Qwen3_5(config)
    for block in model.blocks:
        if block.delta:
            exchange(block.delta, {"one_token": additive_rule, "many_tokens": additive_rule})
    return model


QWEN3_5_ADDING = replace(TINY_QWEN3_5, name="qwen3_5-adding", model=adding_qwen3_5)
TINY_QWEN3_5 = replace(TINY_QWEN3_5, beside=("qwen3_5-adding",))

FEWER = {32: 600, SHORT: 300, 128: 200, 256: 150, LONGEST: 200}  # a step takes twice as long as another model's
TINY_DEEPSEEK_V4 = Recipe(
    name="tiny-deepseek-v4",
    model=DeepSeekV4,
    config=deepseek_v4.Config(
        vocab_size=VOCABULARY,
        width=96,
        num_blocks=4,
        layer_kinds=(
            deepseek_v4.WINDOW,
            deepseek_v4.WINDOW,
            deepseek_v4.SPARSE,
            deepseek_v4.HEAVY,
        ),
        router_kinds=(deepseek_v4.HASHED, *(deepseek_v4.LEARNED,) * 3),
        num_heads=4,
        head_dim=64,
        rotary_dim=16,
        query_rank=64,
        output_groups=2,
        output_rank=32,
        window=32,
        index_heads=4,
        index_dim=64,
        index_k=8,
        num_experts=8,
        experts_per_token=2,
        expert_width=24,
        num_streams=2,
        sparse_ratio=4,
        heavy_ratio=16,
        sinkhorn_rounds=5,
        rope_theta=1e1,  # thirty-two positions to tell apart
        entry_theta=1e3,
        tied=True,
        context=LONGEST,
    ),
    tokenizer=task_tokenizer,
    stages=(
        stage("all entries", FEWER, 1, 4e-3, loss=all_entries_loss, trains=not_an_indexer, balance=1e-3),
        stage("indexer warm-up", {LONGEST: 150}, 2, 4e-3, loss=entry_warm_up_loss, trains=is_indexer),
        stage("sparse", {LONGEST: 150}, 3, 1e-3, loss=chosen_entries_loss, balance=1e-3),
    ),
    evidence=of_tasks,
    std=0.08,
    prepare=look_back_in_the_window,
)
