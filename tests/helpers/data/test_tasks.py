"""Tasks: every answer follows from its text, the same seed gives the same text, and scoring counts whole answers."""

import random
import re

import pytest
import torch
from torch import nn

from helpers.data import tasks
from helpers.data.tasks import WORDS, Example, Phase, TaskBatches, marked, share_right, stack
from helpers.training.train import Stream
from helpers.zoo.recipes.tasks import task_tokenizer

TOKENIZER = task_tokenizer()
MADE = {
    "recall": lambda rng: tasks.recall(rng, 12),
    "needle": lambda rng: tasks.needle(rng, 40),
    "copy": lambda rng: tasks.copy(rng, 10),
    "hops": lambda rng: tasks.hops(rng, 9),
    "arithmetic": lambda rng: tasks.arithmetic(rng, 2),
    "tools": lambda rng: tasks.tools(rng, 3),
}


def told(context: str) -> dict[str, str]:
    """The pairs of a context: two words before a semicolon that follow one, or begin it."""
    return dict(re.findall(r"(?:^|;) (\w+) (\w+)(?=;)", context))


def solve(example: Example) -> list[str]:
    """The answers, found from the text alone by another way than the generator's."""
    pairs, answers = told(example.context), []
    for question, _ in example.asked:
        words = question.split()
        if example.task in ("recall", "needle"):
            answers.append(" " + pairs[words[-1]])
        elif example.task == "hops":
            word = words[-1]
            for _ in range(words.count("?")):
                word = pairs[word]
            answers.append(" " + word)
        elif example.task == "copy":
            said = example.context.split()[1:]
            answers.append("".join(" " + word for word in said[said.index(words[-1]) + 1 :]))
        elif example.task == "arithmetic":
            answers.append(f"{eval(question.strip(' ='))};")
        else:
            answers.append(f" get( {words[1]} )" if words[0] == "user" else f" answer {words[1]} .")
    return answers


@pytest.mark.parametrize("task", MADE)
@pytest.mark.parametrize("seed", range(20))
def test_every_answer_follows_from_the_text(task, seed):
    example = MADE[task](random.Random(seed))
    assert example.task == task
    assert [answer for _, answer in example.asked] == solve(example)


@pytest.mark.parametrize("task", MADE)
def test_a_seed_gives_one_text_and_another_seed_another(task):
    texts = [MADE[task](random.Random(seed)).text for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_needles_lie_at_their_depth(depth):
    context = tasks.needle(random.Random(0), 100, needles=4, depth=depth).context
    before = context[: context.index(";")].split()
    assert len(before) == round(depth * 96)


def test_a_key_stands_in_its_text_once():
    for seed in range(20):
        example = tasks.needle(random.Random(seed), 200)
        for question, _ in example.asked:
            assert example.context.split().count(question.split()[-1]) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tasks.recall(random.Random(0), 129), "129 pairs were asked for; 1 to 128 can be had"),
        (lambda: tasks.needle(random.Random(0), 3), "4 needles were asked for; 1 to 3 can be had"),
        (lambda: tasks.copy(random.Random(0), 0), "0 different words were asked for; 1 to 128 can be had"),
        (lambda: tasks.hops(random.Random(0), 128), "129 words in a chain were asked for; 1 to 128 can be had"),
    ],
)
def test_more_than_there_are_words_is_refused(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


def test_every_word_is_one_token():
    assert all(len(TOKENIZER.encode(f" {word}").ids) == 1 for word in WORDS)


BATCHES = TaskBatches(
    TOKENIZER,
    (Phase(2, 3, 24, lambda rng, left: tasks.recall(rng, 3)), Phase(3, 2, 48, lambda rng, left: tasks.copy(rng, 5))),
    seed=4,
)


def test_a_step_is_the_same_whenever_it_is_asked_for_and_has_the_shape_of_its_phase():
    assert isinstance(BATCHES, Stream)
    assert torch.equal(BATCHES[3].token_ids, BATCHES[3].token_ids)
    assert not torch.equal(BATCHES[3].token_ids, BATCHES[4].token_ids)
    assert [tuple(BATCHES[step].token_ids.shape) for step in (0, 1, 2, 4)] == [(3, 25), (3, 25), (2, 49), (2, 49)]
    with pytest.raises(ValueError, match="step 5 was asked for; the phases have 5"):
        BATCHES[5]


def test_other_examples_have_another_identity():
    other = TaskBatches(TOKENIZER, BATCHES.phases, seed=5)
    assert BATCHES.identity() == BATCHES.identity() != other.identity()


def test_answers_are_marked_and_nothing_else():
    example = tasks.recall(random.Random(0), 5)
    made = marked(example, TOKENIZER)
    answers = TOKENIZER.decode([token for token, is_answer in made if is_answer])
    assert answers == "".join(answer for _, answer in example.asked)
    rows = stack([made, made[:7]], len(made) - 1)
    assert rows.real.sum(dim=1).tolist() == [len(made), 7]
    assert rows.answer[1].sum() == 0


class Oracle(nn.Module):
    """Says the token that comes next, but a wrong one at ``wrong`` places of each row."""

    def __init__(self, rows, wrong=()):
        super().__init__()
        self.rows, self.wrong, self.weight = rows, wrong, nn.Parameter(torch.zeros(1))

    def forward(self, token_ids):
        nexts = self.rows[: len(token_ids), 1 : token_ids.shape[1] + 1].clone()
        nexts[:, [place - 1 for place in self.wrong]] += 1
        return nn.functional.one_hot(nexts, TOKENIZER.get_vocab_size() + 1).float()


def test_an_answer_counts_when_all_of_it_is_right():
    example = tasks.arithmetic(random.Random(3), 2, questions=2)
    made = marked(example, TOKENIZER)
    rows = stack([made], len(made) - 1).token_ids
    places = [n for n, (_, is_answer) in enumerate(made) if is_answer]
    assert share_right(Oracle(rows), TOKENIZER, [example]) == 1
    assert share_right(Oracle(rows, wrong=places[:1]), TOKENIZER, [example]) == 0.5
    assert share_right(Oracle(rows, wrong=places[:2]), TOKENIZER, [example]) == 0.5  # both of the first answer
    assert share_right(Oracle(rows, wrong=places), TOKENIZER, [example]) == 0
