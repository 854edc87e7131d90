"""Speculative decoding: a draft guesses the next tokens, the model reads them all in one pass and keeps a beginning.

A pass over five tokens costs a large model little more than one over one: the weights are read once. So a guess that
comes true saves a pass. What makes it worth having is that the result is **exact**: a drafted token x stays with chance
min(1, p(x) / q(x)), where q is what it was drawn from and p what the model says; where it goes, the next token is drawn
from what p has more than q, the residual. Together the token is distributed as p, whatever q was:

    q(x) min(1, p(x) / q(x))  +  chance to refuse * residual(x)  =  min(p, q) + max(p - q, 0)  =  p(x)

At temperature 0 p is certain of one token, and the same lines give the same tokens as ``helpers.generate``.
Source: Leviathan et al., 2023 (arXiv 2211.17192), algorithm 1 and appendix A.1; Chen et al., 2023 (arXiv 2302.01318).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional

from helpers.decoding.drafts import Guess, Texts
from helpers.decoding.prompts import Batch, Prompt, read_prompt, vocabulary
from helpers.decoding.request import Interrupted, Request
from helpers.decoding.sampling import Whole, are_finite, sample_from
from helpers.decoding.stopping import Ends
from helpers.shapes import Bool, Float, Int, Tensor


def residual(p: Float[Tensor, "*B vocab"], q: Float[Tensor, "*B vocab"]) -> Float[Tensor, "*B vocab"]:
    """What p has more than q, made to sum to 1; p itself where q is 0 everywhere, or p.

    Source: Leviathan et al., 2023, equation 2. Built in lesson `speculative`.
    """
    more = (p - q).clamp_min(0)
    total = more.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, more / total.clamp_min(torch.finfo(p.dtype).tiny), p)


def accept(
    drafted: Int[Tensor, "B k"],
    draft_probs: Float[Tensor, "B k vocab"],
    target_probs: Float[Tensor, "B k_and_1 vocab"],
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """How many drafted tokens of each row stay, and the model's own token behind them.

    ``target_probs`` has one place more, behind the last drafted token, where nothing was guessed: q is 0 there, and
    the residual is p. Source: Leviathan et al., 2023, algorithm 1. Built in lesson `speculative`.
    """
    drafted_by = lambda probs: probs.gather(-1, drafted[..., None]).squeeze(-1)  # noqa: E731
    luck = torch.rand(drafted.shape, generator=generator, device=drafted.device)
    stays = luck * drafted_by(draft_probs) < drafted_by(target_probs[:, :-1])
    count = stays.long().cumprod(dim=1).sum(dim=1)  # the first refusal ends it: what follows was guessed on top of it
    row = torch.arange(len(drafted), device=drafted.device)
    p, q = target_probs[row, count], functional.pad(draft_probs, (0, 0, 0, 1))[row, count]
    return count, sample_from(residual(p, q), generator)


@runtime_checkable
class Draft(Protocol):
    """What guesses: ``helpers.decoding.drafts`` has three. One with ``read`` replaces the model's own call."""

    k: int

    def begin(self) -> None: ...

    def guess(self, texts: Texts, k: int, temperature: float, generator: torch.Generator | None) -> Guess: ...


@dataclass(frozen=True)
class Speculated:
    """The text, and what it took. What was guessed or written behind the end of a row is in no figure."""

    token_ids: Int[Tensor, "B T_and_new"]
    passes: int  # calls of the model, the prompt's among them; generate makes one per new token
    rounds: list[tuple[int, int]]  # drafted and accepted, for each row that was not yet done in each round
    lengths: tuple[int, ...] = ()  # tokens that each row has written, its end among them

    @property
    def drafted(self) -> int:
        """Tokens that were guessed."""
        return sum(drafted for drafted, _ in self.rounds)

    @property
    def accepted(self) -> int:
        """Guesses that stayed."""
        return sum(accepted for _, accepted in self.rounds)


@torch.no_grad()
def speculate(
    model: nn.Module,
    token_ids: Prompt,
    draft: Draft,
    max_new_tokens: Whole = 8,
    temperature: float = 0.0,
    seed: Whole | None = None,
    *,
    mask: Prompt | None = None,
    images: Mapping[str, Tensor] | None = None,
    **options,
) -> Speculated:
    """``helpers.generate.generate`` in fewer passes: its tokens at temperature 0, its distribution above.

    Arguments are ``generate``'s; ``options`` are the other fields of ``Request``. A filter cuts the model's
    distribution before guesses are judged by it, so that what is written is exact there too. Equal up to rounding, that
    is: a pass over several tokens adds up in another order, and where two tokens are nearly as likely that may decide.
    In a batch each row goes at its own pace. A guess that is no token of the model is dropped, with those behind it.
    Raises ValueError and ``Interrupted`` as ``generate`` does, and for a draft with another vocabulary. Built in lesson
    `speculative`.
    """
    request = Request(max_new_tokens, temperature, seed, **options)
    prompt = read_prompt(model, token_ids, mask, images)
    ids = prompt.token_ids
    text = Text(prompt, request.ends(ids, vocabulary(model)), int(max_new_tokens))
    if not max_new_tokens:
        return Speculated(ids, 0, [], tuple(text.lengths))
    generator, cache = request.generator(ids.device), model.new_cache()
    call, passes = getattr(draft, "read", model), 1
    draft.begin()
    logits, finite = _judged(prompt.last(_pass(call, ids, cache=cache, **prompt.given)))
    cache.words_only = True
    newest = request.sample(logits, generator)
    text.add([[]] * len(ids), newest.tolist(), finite.long().tolist())
    while left := text.left:
        try:
            guess = _guess(draft, text.read, min(draft.k, left - 1), temperature, generator, logits.shape[-1])
            tokens = guess.tokens.to(ids)
            q = _drawn_from(guess, tokens, logits.shape[-1])
            cache.checkpoint()
            both = torch.cat([newest[:, None].to(ids), tokens], dim=1)
            logits, finite = _judged(_pass(call, both, cache=cache))
        except ValueError as error:
            raise text.interrupted(str(error)) from error
        stay, newest = accept(tokens, q, request.probabilities(logits), generator)
        cache.rollback(stay + 1)  # what was newest before this pass is no guess
        stayed = [row[:count] for row, count in zip(tokens.tolist(), stay.tolist(), strict=True)]
        text.add(stayed, newest.tolist(), finite.long().cumprod(dim=1).sum(dim=1).tolist(), tokens.shape[1])
        passes += 1
    return Speculated(text.joined(), passes, text.rounds, tuple(text.lengths))


@dataclass
class Row:
    """What one row has written, up to its end."""

    ends: Ends
    limit: int
    tokens: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def left(self) -> int:
        """Tokens that it may still write."""
        return 0 if self.done else self.limit - len(self.tokens)

    def add(self, tokens: list[int]) -> int:
        """Write until the row ends, and tell how many of the tokens that took."""
        before = len(self.tokens)
        for token in tokens[: self.left]:
            self.tokens.append(token)
            self.done = len(self.tokens) == self.limit or self.ends.reached(self.tokens)
            if self.done:
                break
        return len(self.tokens) - before


class Text:
    """Prompts and what is written behind them, each row at its own pace, and what the guesses were worth."""

    def __init__(self, prompt: Batch, ends: Ends, limit: int):
        self.prompt, self.ends = prompt.token_ids, ends
        self.rows = [Row(ends, limit) for _ in self.prompt]
        self.read = prompt.rows  # by the model, and its newest token: also behind the end of a row
        self.rounds: list[tuple[int, int]] = []

    @property
    def left(self) -> int:
        """Tokens that the row with most to go may still write; 0 where all are done."""
        return max(row.left for row in self.rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row has written."""
        return [len(row.tokens) for row in self.rows]

    def add(self, stayed: list[list[int]], newest: list[int], sound: list[int], drafted: int = 0) -> None:
        """In each row the guesses that stayed, of ``drafted``, and the model's own token behind them.

        The first ``sound`` of them were judged by finite logits. ``Interrupted`` where a row that has not ended has
        none to go on with; what stands before that is kept.
        """
        for row, read, own, token, good in zip(self.rows, self.read, stayed, newest, sound, strict=True):
            read += [*own, token]
            room = row.left
            kept = row.add([*own, token][:good])
            if room and drafted:  # where its end is a guess, those behind it are not counted
                self.rounds.append((kept, kept) if kept <= len(own) else (min(drafted, room), len(own)))
        broken = [n for n, row in enumerate(self.rows) if not row.done and sound[n] <= len(stayed[n])]
        if broken:
            rows = ", ".join(map(str, broken))
            raise self.interrupted(f"the model's logits in row {rows} are NaN or infinite: no token can be chosen")

    def interrupted(self, why: str) -> Interrupted:
        """The error that holds what was written."""
        return Interrupted(why, self.joined(), self.lengths)

    def joined(self) -> Int[Tensor, "B T_and_new"]:
        """The prompts and what was written, each row filled from its end on."""
        longest, pad = max(self.lengths), self.ends.pad or 0
        rows = [row.tokens + [pad] * (longest - len(row.tokens)) for row in self.rows]
        return torch.cat([self.prompt, self.prompt.new_tensor(rows).view(len(rows), longest)], dim=1)


def certain(tokens: Int[Tensor, "B k"], vocab_size: int) -> Float[Tensor, "B k vocab"]:
    """The chances of tokens that were not drawn. Built in lesson `speculative`."""
    return functional.one_hot(tokens.long(), vocab_size).float()


def _guess(
    draft: Draft, texts: Texts, k: int, temperature: float, generator: torch.Generator | None, vocab_size: int
) -> Guess:
    """Up to ``k`` guesses per row, without those from the first one on that the model has no token for."""
    if not k:
        return Guess(torch.zeros(len(texts), 0, dtype=torch.long))
    tokens, drawn_from = draft.guess(texts, k, temperature, generator)
    known = ((tokens >= 0) & (tokens < vocab_size)).all(dim=0)[:k]
    usable = int(known.long().cumprod(dim=0).sum())
    return Guess(tokens[:, :usable], None if drawn_from is None else drawn_from[:, :usable])


def _drawn_from(guess: Guess, tokens: Int[Tensor, "B k"], vocab_size: int) -> Float[Tensor, "B k vocab"]:
    """What the tokens were drawn from. ValueError for a draft with another vocabulary."""
    if guess.probs is None:
        return certain(tokens, vocab_size)
    if (theirs := guess.probs.shape[-1]) != vocab_size:
        raise ValueError(f"the draft knows {theirs} tokens and the model {vocab_size}: both need the same tokenizer")
    return guess.probs


def _pass(call: Callable, token_ids: Int[Tensor, "B T"], **given) -> Float[Tensor, "B T vocab"]:
    with torch.inference_mode():
        return call(token_ids, **given)


def _judged(logits: Float[Tensor, "*B vocab"]) -> tuple[Float[Tensor, "*B vocab"], Bool[Tensor, "*B"]]:
    """Logits, with zeros where no token could be drawn from them, and where one can."""
    finite = are_finite(logits)
    return logits.masked_fill(~finite[..., None], 0), finite
