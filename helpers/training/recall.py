"""How much of what it has read a model says by heart: facts asked one by one, greedy, right or wrong to the letter."""

import random
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import nn

from helpers.data import tasks
from helpers.data.languages import Fact, ask
from helpers.generate import generate
from helpers.layers.delta import DeltaState
from helpers.layers.kv_cache import Cache, KeyValues
from helpers.layers.ragged import padded
from helpers.shapes import Tensor

BEFORE = "\n"  # a line end stands before nearly every question that the model has read


def share_recalled(model: nn.Module, tokenizer: Tokenizer, facts: Sequence[Fact], batch: int = 64) -> float:
    """The share of ``facts`` that ``recalled`` finds; 0 to 1. Raises ValueError where there are none to ask."""
    if not facts:
        raise ValueError("there are no facts to ask for; at least one is needed")
    return sum(recalled(model, tokenizer, facts, batch)) / len(facts)


def recalled(model: nn.Module, tokenizer: Tokenizer, facts: Sequence[Fact], batch: int = 64) -> list[bool]:
    """For each fact: does the model, given ``de|FR``, go on with ``=Frankreich`` and a line end, and nothing else?

    It takes the most likely token each time. ``model`` is anything that ``generate`` takes, on any device; questions of
    equal length go through it together. The tokenizer is one of ``tokenizers`` (the zoo's ``tokenizer.json``).
    """
    order = sorted(range(len(facts)), key=lambda place: len(tokenizer.encode(BEFORE + ask(facts[place])).ids))
    right = [False] * len(facts)
    for start in range(0, len(facts), batch):
        places = order[start : start + batch]
        for place, said in zip(places, _say(model, tokenizer, [facts[place] for place in places]), strict=True):
            right[place] = said.startswith(f"={facts[place].answer}\n")
    return right


def _say(model: nn.Module, tokenizer: Tokenizer, facts: Sequence[Fact]) -> list[str]:
    """What the model writes after each question: as many tokens as the longest right answer takes."""
    token_ids, mask = padded([tokenizer.encode(BEFORE + ask(fact)).ids for fact in facts])
    needed = max(len(tokenizer.encode(f"={fact.answer}\n").ids) for fact in facts)
    device = next(model.parameters()).device
    given = {} if mask.all() else {"mask": mask.to(device)}
    line_end = tokenizer.encode("\n").ids
    eos = line_end[0] if len(line_end) == 1 else None
    written = generate(model, token_ids.to(device), needed, eos=eos, **given)[:, token_ids.shape[1] :]
    return tokenizer.decode_batch(written.tolist())


@torch.no_grad()
def share_after_erasing(
    model: nn.Module,
    tokenizer: Tokenizer,
    pairs: int,
    forget: type[KeyValues] | type[DeltaState] | None = None,
    texts: int = 32,
) -> float:
    """The share of ``texts`` in which a pair out of ``pairs`` is found, though one kind of cache is erased before.

    The model reads the pairs; all that entries of the kind ``forget`` hold becomes zero (None: nothing is erased); then
    it is asked for one key. Right is the first token of the value as the most likely one. Built in lesson `deltanet`.
    """
    told = [tasks.recall(random.Random(seed), pairs, questions=1) for seed in range(texts)]
    start, device = tokenizer.token_to_id("<|endoftext|>"), next(model.parameters()).device
    context = padded([[start, *tokenizer.encode(example.context).ids] for example in told])
    question = padded([tokenizer.encode(example.asked[0][0]).ids for example in told])
    cache = model.new_cache()
    model(context[0].to(device), cache, context[1].to(device))
    erase(cache, forget)
    said = model(question[0].to(device), cache, question[1].to(device))[:, -1].argmax(dim=-1).tolist()
    right = [tokenizer.encode(example.asked[0][1]).ids[0] for example in told]
    return sum(a == b for a, b in zip(said, right, strict=True)) / texts


@torch.no_grad()
def share_found(
    model: nn.Module, tokenizer: Tokenizer, examples: Sequence[tasks.Example], cache: Cache
) -> tuple[float, int]:
    """The share of questions whose answer is found in ``cache``, an empty one, and its bytes once it holds the texts.

    All contexts are read at once; then questions are asked one after the other, each with the right answers to those
    before it in the text, so that what they need is read from the cache. Right is the first token of the answer as the
    most likely one. ValueError where examples do not ask equally many questions. Built in lesson `quantise_moe`.
    """
    if len({len(example.asked) for example in examples}) != 1:
        raise ValueError("examples ask different numbers of questions; they are asked together, one by one")
    start, device = tokenizer.token_to_id("<|endoftext|>"), next(model.parameters()).device

    def read(texts: Sequence[str], begin: Sequence[int] = ()) -> Tensor:
        ids, mask = padded([[*begin, *tokenizer.encode(text).ids] for text in texts])
        given = {} if mask.all() else {"mask": mask.to(device)}
        return model(ids.to(device), cache, **given)[:, -1].argmax(dim=-1).cpu()

    read([example.context for example in examples], [start])
    size, right = cache.bytes(), []
    for pairs in zip(*(example.asked for example in examples), strict=True):
        said = read([question for question, _ in pairs])
        right.append(said == torch.tensor([tokenizer.encode(answer).ids[0] for _, answer in pairs]))
        read([answer for _, answer in pairs])
    return torch.stack(right).float().mean().item(), size


def erase(cache: Cache, kind: type[KeyValues] | type[DeltaState] | None) -> None:
    """Zeros, in place, for all keys and values or all memory matrices; places and the convolutions' inputs stay."""
    for entry in cache.blocks:
        if isinstance(entry, KeyValues) and kind is KeyValues and entry.keys.length:
            entry.keys.held.zero_()
            entry.values.held.zero_()
        if isinstance(entry, DeltaState) and kind is DeltaState and entry.memory is not None:
            entry.memory.zero_()
