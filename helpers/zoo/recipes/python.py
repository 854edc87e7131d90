"""The model that learned Python: a plain decoder, the first checkpoint that a learner opens."""

from tokenizers import Tokenizer

from helpers.data import Batches, batches, python_corpus
from helpers.models.configs import qwen3
from helpers.models.qwen3 import Qwen3
from helpers.training.train import Settings
from helpers.zoo.evidence.python import LENGTH, of_python
from helpers.zoo.recipe import Recipe, Stage
from helpers.zoo.tokenizer import token_row, train_tokenizer

CONFIG = qwen3.Config(
    vocab_size=2048,
    width=128,
    num_blocks=6,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_width=320,
    rope_theta=1e4,  # 1e6 in the published models, for their long contexts
    tied=True,
    context=512,
)


def python_tokenizer() -> Tokenizer:
    """Merges learned from the files that the model is trained on."""
    return train_tokenizer(python_corpus().train.values(), CONFIG.vocab_size)


def python_stream(tokenizer: Tokenizer) -> Batches:
    """Eight windows a step: a small batch learns more in minutes than a large one."""
    return batches(token_row(python_corpus().train.values(), tokenizer), 8, LENGTH, seed=0)


TINY_QWEN3 = Recipe(
    name="tiny-qwen3",
    model=Qwen3,
    config=CONFIG,
    tokenizer=python_tokenizer,
    stages=(
        Stage(
            "text",
            Settings(steps=2500, lr=3e-3, warm_up=100),
            python_stream,
            f"Python's standard library, 8 x {LENGTH} tokens per step",
        ),
    ),
    evidence=of_python,
    threads=2,
)
