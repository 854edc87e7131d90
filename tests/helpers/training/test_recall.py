"""What a model says by heart: counted to the letter, whatever the batch, whatever the length of the question."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from helpers.data import ask, cldr_facts, fact_line
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3
from helpers.training.recall import padded, recalled, share_recalled
from helpers.training.train import initialise
from helpers.zoo.tokenizer import train_tokenizer

FACTS = cldr_facts(["weekday", "territory"], ["de", "sr_Latn"])[::24]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([fact_line(fact) + "\n" for fact in FACTS], 400)


class Parrot(nn.Module):
    """Says the rest of the lines that it knows, and zeros after anything else."""

    def __init__(self, tokenizer, lines):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.lines = [tokenizer.encode("\n" + line).ids for line in lines]
        self.vocab_size = tokenizer.get_vocab_size()

    def new_cache(self):
        return []

    def forward(self, token_ids, cache, mask=None):
        if not cache:
            mask = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
            cache.extend(row[real].tolist() for row, real in zip(token_ids, mask, strict=True))
        else:
            for row, newest in zip(cache, token_ids[:, 0].tolist(), strict=True):
                row.append(newest)
        return one_hot(torch.tensor([[self.follows(row)] for row in cache]), self.vocab_size).float()

    def follows(self, row):
        known = (line[len(row)] for line in self.lines if line[: len(row)] == row and len(line) > len(row))
        return next(known, 0)


def test_questions_of_several_lengths_are_among_them(tokenizer):
    assert len(FACTS) > 20
    assert len({len(tokenizer.encode("\n" + ask(fact)).ids) for fact in FACTS}) > 2


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_exactly_the_facts_that_the_model_knows_are_counted(tokenizer, batch):
    known = [number % 3 != 0 for number in range(len(FACTS))]
    model = Parrot(tokenizer, [fact_line(fact) + "\n" for fact, knows in zip(FACTS, known, strict=True) if knows])
    assert recalled(model, tokenizer, FACTS, batch) == known
    assert share_recalled(model, tokenizer, FACTS, batch) == sum(known) / len(known)


@pytest.mark.parametrize("wrong", ["={answer}s\n", "= {answer}\n", "{answer}\n", "={answer}", "={answer}|\n", "=\n"])
def test_an_answer_that_is_nearly_right_is_wrong(tokenizer, wrong):
    lines = [ask(fact) + wrong.format(answer=fact.answer) for fact in FACTS]
    assert share_recalled(Parrot(tokenizer, lines), tokenizer, FACTS) == 0


def test_a_trained_model_recalls_what_it_read_and_not_what_it_did_not(tokenizer):
    read, unread = FACTS[::2], FACTS[1::2]
    model = Qwen3(Config(tokenizer.get_vocab_size(), 48, 2, 2, 1, 24, 96))
    initialise(model, seed=0)
    rows, real = padded([tokenizer.encode("\n" + fact_line(fact) + "\n").ids for fact in read])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        logits = model(rows[:, :-1], mask=real[:, :-1])
        loss = cross_entropy(logits[real[:, 1:] & real[:, :-1]], rows[:, 1:][real[:, 1:] & real[:, :-1]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert share_recalled(model.eval(), tokenizer, read) > 0.9
    assert share_recalled(model, tokenizer, unread) < 0.3
    assert recalled(model, tokenizer, FACTS, batch=1) == recalled(model, tokenizer, FACTS, batch=64)


def test_rows_are_padded_on_the_left():
    token_ids, mask = padded([[5, 6, 7], [8]])
    assert token_ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]


def test_no_facts_are_no_share(tokenizer):
    with pytest.raises(ValueError, match="at least one is needed"):
        share_recalled(Parrot(tokenizer, []), tokenizer, [])
