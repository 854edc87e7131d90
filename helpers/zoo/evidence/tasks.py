"""What a model that learned the tasks can do, measured on examples that no training saw: the tables of its card."""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from tokenizers import Tokenizer
from torch import nn

from helpers.data import tasks
from helpers.data.tasks import Example, Rows, marked, share_right, stack
from helpers.models.deepseek_v4 import DeepSeekV4
from helpers.models.glm5 import GLM5
from helpers.training.indexers.budgets import at_random, dense_reads, mass_kept, newest, own_indexer, reading
from helpers.training.indexers.csa import reading_all_entries
from helpers.training.indexers.dsa import attending_densely
from helpers.training.losses import nats_of_answers
from helpers.zoo.card import table
from helpers.zoo.follow import Made

COUNT = 32  # examples a cell of a table
PAIRS = (4, 16, 32, 64, 96, 128)
LENGTHS = (32, 64, 128, 256, 448)  # words of noise
BUDGETS = (1, 2, 4, 8, 16, 32, 64)  # tokens to read
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
TASKS: dict[str, Callable[[random.Random], Example]] = {
    "recall, 16 pairs": lambda rng: tasks.recall(rng, 16),
    "4 needles in 128 words": lambda rng: tasks.needle(rng, 128),
    "copy 32 words": lambda rng: tasks.copy(rng, 32),
    "2 hops, 12 pairs": lambda rng: tasks.hops(rng, 12),
    "tool calls": lambda rng: tasks.tools(rng, 2),
    "sums of digits": lambda rng: tasks.arithmetic(rng, 1),
    "sums of two digits each": lambda rng: tasks.arithmetic(rng, 2),
}

Way = Callable[[], AbstractContextManager]  # of reading; a context within which a model reads so


def examples(make: Callable[[random.Random], Example], count: int = COUNT, seed: str = "held out") -> list[Example]:
    """Seeded examples that no training draws: its generators have another name."""
    return [make(random.Random(f"{seed}/{n}")) for n in range(count)]


def of_tasks(made: Made) -> dict:
    """Loss, and the share of right answers by task, by number of pairs, by length and by depth.

    Where the model chooses what it reads, beside it the same weights reading by other rules at the same budget.
    """
    model, tokenizer = made.model, made.tokenizer
    tables = {
        "tasks": right(model, tokenizer, "task", [*TASKS.items()]),
        "pairs": right(model, tokenizer, "pairs", [(n, lambda rng, n=n: tasks.recall(rng, n)) for n in PAIRS]),
        "lengths": right(
            model, tokenizer, "words of noise", [(n, lambda rng, n=n: tasks.needle(rng, n)) for n in LENGTHS]
        ),
        "depths": right(
            model, tokenizer, "depth", [(d, lambda rng, d=d: tasks.needle(rng, LENGTHS[-1], depth=d)) for d in DEPTHS]
        ),
    }
    if is_sparse(model):
        tables |= {"budgets": _by_budget(model, tokenizer), "mass": _mass(model, tokenizer, model.config.index_k)}
    found, recalled = tables["lengths"]["rows"][-1][1], tables["pairs"]["rows"][PAIRS.index(32)][1]
    can = f"finds {found:.0%} of 4 needles in {LENGTHS[-1]} words, recalls {recalled:.0%} of 32 pairs"
    sixteen = tokens_of(examples(TASKS["recall, 16 pairs"]), tokenizer)
    loss = {"value": nats_of_answers(model, sixteen), "what": "nats an answer, 16 pairs"}
    return {"can": can, "loss": loss, "tables": tables}


def is_sparse(model: nn.Module) -> bool:
    """Whether the model has DeepSeek sparse attention, and reads less than everything with it."""
    return isinstance(model, GLM5) and model.config.index_k < model.config.context


def ways(model: nn.Module) -> dict[str, Way]:
    """How a model can read: as it was trained to, and by other rules of as many tokens or entries."""
    if isinstance(model, DeepSeekV4):
        return {
            f"the {model.config.index_k} chosen entries": nullcontext,
            "all entries": lambda: reading_all_entries(model),
        }
    if not is_sparse(model):
        return {"right": nullcontext}
    k = model.config.index_k
    return {
        f"the {k} chosen": nullcontext,
        "all (dense)": lambda: attending_densely(model),
        f"the newest {k}": lambda: reading(model, newest, k),
        f"{k} at random": lambda: reading(model, at_random(0), k),
    }


def _by_budget(model: nn.Module, tokenizer: Tokenizer) -> dict:
    """The longest needles again, with other numbers of tokens to read than in training."""
    asked, rows = examples(lambda rng: tasks.needle(rng, LENGTHS[-1])), []
    rules = {"the indexer": own_indexer, "the newest": newest, "at random": at_random(0)}
    for k in BUDGETS:
        rows.append([k])
        for rule in rules.values():
            with reading(model, rule, k):
                rows[-1].append(share_right(model, tokenizer, asked))
    return table(["tokens read", *rules], rows, f"Shares of {COUNT * 4} needles found in {LENGTHS[-1]} words.")


def right(
    model: nn.Module,
    tokenizer: Tokenizer,
    what: str,
    rows: Sequence[tuple[object, Callable[[random.Random], Example]]],
) -> dict:
    """A table of shares of right answers: one row a difficulty, one column a way of reading."""
    measured, known = [], ways(model)
    for name, make in rows:
        asked, shares = examples(make), []
        for way in known.values():
            with way():
                shares.append(share_right(model, tokenizer, asked))
        measured.append([name, *shares])
    return table([what, *known], measured, f"Shares of right answers, {COUNT} texts per row.")


def tokens_of(asked: Sequence[Example], tokenizer: Tokenizer) -> Rows:
    """The texts as rows of tokens, one each, the shorter ones filled."""
    rows = [marked(example, tokenizer) for example in asked]
    return stack(rows, max(map(len, rows)) - 1)


def _mass(model: nn.Module, tokenizer: Tokenizer, k: int) -> dict:
    """How much of what dense attention takes lies on the tokens that each rule keeps."""
    made = tokens_of(examples(lambda rng: tasks.needle(rng, LENGTHS[-1]), 4), tokenizer)
    ids = made.token_ids[:, : made.real.sum(dim=1).min()]
    rules = {"the indexer": own_indexer, "the newest": newest, "at random": at_random(0)}
    measured = [
        [f"block {seen.block}", *(mass_kept(seen, rule, k) for rule in rules.values())]
        for seen in dense_reads(model, ids.to(next(model.parameters()).device))
    ]
    return table(["", *rules], measured, f"The share of dense attention that lies on {k} tokens.")
