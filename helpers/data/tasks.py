"""Tasks with known answers, made of invented words: what a model remembers of a text can be counted.

All tasks speak one small language. `` dame dipi;`` tells that *dame* has the value *dipi*, `` ? dame`` asks for it, and
words that belong to no pair are noise. A task is a function of a random generator and a difficulty; it gives an
``Example``: a context, and questions with their one right answer. The words mean nothing, so that nothing can be
answered from anywhere but the context.
"""

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import nn

from helpers.shapes import Bool, Int, Tensor

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SYLLABLES = tuple(c + v for c, v in itertools.product(CONSONANTS, VOWELS))
# Few enough to be learned in minutes: with twice as many a small model guesses twice as long before it looks.
WORDS = tuple(sorted(random.Random(7).sample([a + b for a in SYLLABLES for b in SYLLABLES], 128)))


@dataclass(frozen=True)
class Example:
    """A context and what is asked about it. Question and answer follow the context, one pair after the other."""

    task: str
    context: str
    asked: tuple[tuple[str, str], ...]  # (question, answer); an answer begins with a blank, as words do here

    @property
    def text(self) -> str:
        """All of it, answers included."""
        return self.context + "".join(question + answer for question, answer in self.asked)


def recall(rng: random.Random, pairs: int, questions: int = 8) -> Example:
    """Associative recall: many pairs and nothing else; some are asked. Source: Arora et al., "Zoology", 2023."""
    _at_most(pairs, len(WORDS), "pairs")
    told = [(key, rng.choice(WORDS)) for key in rng.sample(WORDS, pairs)]
    return Example("recall", _told(told), _asked(rng.sample(told, min(questions, pairs))))


def needle(rng: random.Random, words: int, needles: int = 4, depth: float | None = None) -> Example:
    """A few pairs among ``words`` words of noise. ``depth`` 0 puts them at the start, 1 at the end, None anywhere."""
    _at_most(needles, min(len(WORDS), words), "needles")
    told = [(key, rng.choice(WORDS)) for key in rng.sample(WORDS, needles)]
    first = None if depth is None else round(depth * (words - needles))
    places = rng.sample(range(words), needles) if first is None else range(first, first + needles)
    hidden = dict(zip(places, told, strict=True))
    others = [word for word in WORDS if word not in dict(told)]  # a key stands in the text once
    noise = (" " + rng.choice(others) for _ in range(words))
    context = "".join((";" + _told([hidden[n]]) if n in hidden else "") + word for n, word in enumerate(noise))
    return Example("needle", context, _asked(rng.sample(told, needles)))


def copy(rng: random.Random, words: int) -> Example:
    """Say how a list of different words went on, from one of them to its end."""
    _at_most(words, len(WORDS), "different words")
    said = [" " + word for word in rng.sample(WORDS, words)]
    start = rng.randrange(max(1, words - 2))
    return Example("copy", " :" + "".join(said), ((" |" + said[start], "".join(said[start + 1 :])),))


def hops(rng: random.Random, pairs: int, hops: int = 2, questions: int = 4) -> Example:
    """Look up the value of the value: one ``?`` a hop. The pairs are a chain, told in any order."""
    _at_most(pairs + 1, len(WORDS), "words in a chain")
    chain = rng.sample(WORDS, pairs + 1)
    told = rng.sample(list(itertools.pairwise(chain)), pairs)
    starts = rng.sample(range(pairs + 1 - hops), min(questions, pairs + 1 - hops))
    return Example("hops", _told(told), tuple((f"{' ?' * hops} {chain[n]}", f" {chain[n + hops]}") for n in starts))


def arithmetic(rng: random.Random, digits: int, questions: int = 4) -> Example:
    """Sums of two numbers of up to so many digits."""
    terms = [(rng.randrange(10**digits), rng.randrange(10**digits)) for _ in range(questions)]
    return Example("arithmetic", "", tuple((f" {a}+{b}=", f"{a + b};") for a, b in terms))


def tools(rng: random.Random, pairs: int, questions: int = 2) -> Example:
    """A trace of tool calls: the question names a word, the answer calls ``get`` with it, and uses what came back.

    The value stands in the tool's reply only, so that an answer without a call can only be guessed.
    """
    asked = []
    for key in rng.sample(WORDS, min(questions, pairs)):
        value = rng.choice(WORDS)
        asked += [(f" user {key} ?", f" get( {key} )"), (f" tool {value}", f" answer {value} .")]
    return Example("tools", "", tuple(asked))


def _told(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f" {key} {value};" for key, value in pairs)


def _asked(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((f" ? {key}", f" {value}") for key, value in pairs)


def _at_most(given: int, most: int, what: str) -> None:
    if not 1 <= given <= most:
        raise ValueError(f"{given} {what} were asked for; 1 to {most} can be had")


@dataclass(frozen=True)
class Phase:
    """A stretch of a training: so many steps of ``batch`` rows of ``length`` tokens, each filled by ``draw``."""

    steps: int
    batch: int
    length: int
    draw: Callable[[random.Random, int], Example]  # (generator, tokens that are left in the row) -> an example


class Rows(NamedTuple):
    """Rows of token ids, and which of them are what."""

    token_ids: Int[Tensor, "B T_and_1"]
    answer: Bool[Tensor, "B T_and_1"]  # part of an answer: known from the context
    real: Bool[Tensor, "B T_and_1"]  # not behind the end of a row


@dataclass(frozen=True)
class TaskBatches:
    """Rows of examples, made when they are asked for. ``batches[step]`` depends on the step and the fields only.

    Short texts come first (a curriculum): on long ones alone, a small model learns nothing for a long time.
    """

    tokenizer: Tokenizer
    phases: tuple[Phase, ...]
    seed: int

    def __getitem__(self, step: int) -> Rows:
        """The rows of one step; ValueError behind the last phase."""
        rng, first = random.Random(f"{self.seed}/{step}"), 0
        for phase in self.phases:
            if step < first + phase.steps:
                return stack([self._row(rng, phase) for _ in range(phase.batch)], phase.length)
            first += phase.steps
        raise ValueError(f"step {step} was asked for; the phases have {first}")

    def _row(self, rng: random.Random, phase: Phase) -> list[tuple[int, bool]]:
        """Examples until the row is full; what does not fit any more is cut off."""
        row: list[tuple[int, bool]] = []
        while len(row) < phase.length - 8:
            row += marked(phase.draw(rng, phase.length - len(row)), self.tokenizer)
        return row[: phase.length + 1]

    def identity(self) -> dict:
        """What tells these batches from others, for a checkpoint to remember."""
        last = sum(phase.steps for phase in self.phases) - 1
        ends = b"".join(self[step].token_ids.numpy().tobytes() for step in (0, last))
        phases = [(phase.steps, phase.batch, phase.length) for phase in self.phases]
        return {"phases": phases, "seed": self.seed, "rows": hashlib.sha256(ends).hexdigest()[:16]}


def marked(example: Example, tokenizer: Tokenizer) -> list[tuple[int, bool]]:
    """The tokens of an example, begun by the end of the one before; True for those of an answer."""
    pieces = [(example.context, False), *((text, n == 1) for pair in example.asked for n, text in enumerate(pair))]
    start = tokenizer.token_to_id("<|endoftext|>")
    return [(start, False), *((t, answer) for text, answer in pieces for t in tokenizer.encode(text).ids)]


def stack(rows: Sequence[Sequence[tuple[int, bool]]], length: int) -> Rows:
    """Rows of ``length`` + 1 columns, the shorter ones filled at their end."""
    filled = torch.zeros(3, len(rows), length + 1, dtype=torch.long)
    for n, row in enumerate(rows):
        tokens, answers = zip(*row, strict=True)
        filled[:, n, : len(row)] = torch.tensor([tokens, answers, [True] * len(row)])
    return Rows(filled[0], filled[1].bool(), filled[2].bool())


def share_right(model: nn.Module, tokenizer: Tokenizer, examples: Sequence[Example], batch: int = 16) -> float:
    """The share of all questions whose answer the model gives, every token of it its most likely one.

    Earlier questions of an example stand in the text with their right answers.
    """
    right: list[bool] = []
    for n in range(0, len(examples), batch):
        for example, hits in zip(*_answered(model, tokenizer, examples[n : n + batch]), strict=True):
            lengths = [len(tokenizer.encode(answer).ids) for _, answer in example.asked]
            right += [bool(part.all()) for part in hits.split(lengths)]
    return sum(right) / len(right)


@torch.no_grad()
def _answered(
    model: nn.Module, tokenizer: Tokenizer, examples: Sequence[Example]
) -> tuple[Sequence[Example], list[Bool[Tensor, " answers"]]]:
    """The examples, and for each whether each token of its answers is the most likely one."""
    rows = [marked(example, tokenizer) for example in examples]
    made = stack(rows, max(map(len, rows)) - 1)
    ids = made.token_ids.to(next(model.parameters()).device)
    same = (model(ids[:, :-1]).argmax(dim=-1) == ids[:, 1:]).cpu()
    return examples, [row[answer] for row, answer in zip(same, made.answer[:, 1:], strict=True)]
