"""Speculative decoding: a draft guesses the next tokens, the model reads them all in one pass and keeps a beginning.

A pass over five tokens costs a large model little more than one over one: the weights are read once. So a guess that
comes true saves a pass. What makes it worth having is that the result is **exact**: a drafted token x stays with chance
min(1, p(x) / q(x)), where q is what it was drawn from and p what the model says; where it goes, the next token is drawn
from what p has more than q, the residual. Together the token is distributed as p, whatever q was:

    q(x) min(1, p(x) / q(x))  +  chance to refuse * residual(x)  =  min(p, q) + max(p - q, 0)  =  p(x)

At temperature 0 p is certain of one token, and the same lines give the same tokens as ``helpers.generate``.
Source: Leviathan et al., 2023 (arXiv 2211.17192), algorithm 1 and appendix A.1; Chen et al., 2023 (arXiv 2302.01318).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional

from helpers.drafts import Guess, Texts
from helpers.generate import chances, check_request, choose, drawn
from helpers.layers.cache import Cache
from helpers.shapes import Bool, Float, Int, Tensor


def residual(p: Float[Tensor, "*B vocab"], q: Float[Tensor, "*B vocab"]) -> Float[Tensor, "*B vocab"]:
    """What p has more than q, made to sum to 1; p itself where q is 0 everywhere, or p.

    Source: Leviathan et al., 2023, equation 2. Built in lesson 18.
    """
    more = (p - q).clamp_min(0)
    total = more.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, more / total.clamp_min(torch.finfo(p.dtype).tiny), p)


def accept(
    drafted: Int[Tensor, "B k"],
    draft_chances: Float[Tensor, "B k vocab"],
    target_chances: Float[Tensor, "B k_and_1 vocab"],
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:
    """How many drafted tokens of each row stay, and the model's own token behind them.

    ``target_chances`` has one place more, behind the last drafted token, where nothing was guessed: q is 0 there, and
    the residual is p. Source: Leviathan et al., 2023, algorithm 1. Built in lesson 18.
    """
    drafted_by = lambda chances: chances.gather(-1, drafted[..., None]).squeeze(-1)  # noqa: E731
    luck = torch.rand(drafted.shape, generator=generator, device=drafted.device)
    stays = luck * drafted_by(draft_chances) < drafted_by(target_chances[:, :-1])
    count = stays.long().cumprod(dim=1).sum(dim=1)  # the first refusal ends it: what follows was guessed on top of it
    row = torch.arange(len(drafted), device=drafted.device)
    p, q = target_chances[row, count], functional.pad(draft_chances, (0, 0, 0, 1))[row, count]
    return count, drawn(residual(p, q), generator)


@runtime_checkable
class Draft(Protocol):
    """What guesses: ``helpers.drafts`` has three. One with a method ``read`` stands in for the model's own call."""

    k: int

    def begin(self) -> None: ...

    def guess(self, texts: Texts, k: int, temperature: float, generator: torch.Generator | None) -> Guess: ...


@dataclass(frozen=True)
class Speculated:
    """The text, and what it took."""

    token_ids: Int[Tensor, "B T_and_new"]
    passes: int  # calls of the model, the prompt's among them; generate makes one a new token
    rounds: list[tuple[int, int]]  # drafted and accepted, for each row that was not yet done in each round

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
    token_ids: Int[Tensor, "B T"],
    draft: Draft,
    max_new_tokens: int = 8,
    temperature: float = 0.0,
    seed: int | None = None,
    eos: int | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    images: dict[str, Tensor] | None = None,
) -> Speculated:
    """``helpers.generate.generate`` in fewer passes: its tokens at temperature 0, its distribution above.

    Arguments are ``generate``'s. Equal up to rounding, that is: a pass over several tokens adds up in another order,
    and where two tokens are nearly as likely that may decide. In a batch each row goes at its own pace. Under
    ``images`` a draft must not guess the placeholder of one: the model would ask for the image.
    Raises ValueError for a draft with another vocabulary. Built in lesson 18.
    """
    check_request(token_ids, max_new_tokens, temperature)
    if not max_new_tokens:
        return Speculated(token_ids, 0, [])
    generator = None if seed is None else torch.Generator(token_ids.device).manual_seed(seed)
    cache, call = model.new_cache(), getattr(draft, "read", model)
    given = {name: value for name, value in {"mask": mask, "images": images}.items() if value is not None}
    draft.begin()
    logits = _pass(call, token_ids, cache, **given)
    newest = choose(logits[:, -1], temperature, generator)
    prompts, written = _rows(token_ids, mask), [[token] for token in newest.tolist()]
    rounds, passes = [], 1
    while left := max(_left(row, max_new_tokens, eos) for row in written):
        texts = [prompt + row for prompt, row in zip(prompts, written, strict=True)]
        guess = _guess(draft, texts, min(draft.k, left - 1), temperature, generator)
        tokens = guess.tokens.to(token_ids)
        q = _drawn_from(guess, tokens, logits.shape[-1])
        cache.mark()
        logits = _pass(call, torch.cat([newest[:, None].to(token_ids), tokens], dim=1), cache)
        stay, newest = accept(tokens, q, chances(logits, temperature), generator)
        cache.keep(stay + 1)  # what was newest before this pass is no guess
        for row, own, count, token in zip(written, tokens.tolist(), stay.tolist(), newest.tolist(), strict=True):
            if _left(row, max_new_tokens, eos):
                rounds.append((len(own), count))
            row += [*own[:count], token]
        passes += 1
    return Speculated(_joined(token_ids, written, max_new_tokens, eos), passes, rounds)


def certain(tokens: Int[Tensor, "B k"], vocab_size: int) -> Float[Tensor, "B k vocab"]:
    """The chances of tokens that were not drawn. Built in lesson 18."""
    return functional.one_hot(tokens.long(), vocab_size).float()


def _guess(draft: Draft, texts: Texts, k: int, temperature: float, generator: torch.Generator | None) -> Guess:
    return draft.guess(texts, k, temperature, generator) if k else Guess(torch.zeros(len(texts), 0, dtype=torch.long))


def _drawn_from(guess: Guess, tokens: Int[Tensor, "B k"], vocab_size: int) -> Float[Tensor, "B k vocab"]:
    """What the tokens were drawn from. ValueError for a draft with another vocabulary."""
    if guess.chances is None:
        return certain(tokens, vocab_size)
    if (theirs := guess.chances.shape[-1]) != vocab_size:
        raise ValueError(f"the draft knows {theirs} tokens and the model {vocab_size}: both need the same tokenizer")
    return guess.chances


def _pass(call: Callable, token_ids: Int[Tensor, "B T"], cache: Cache, **given) -> Float[Tensor, "B T vocab"]:
    with torch.inference_mode():
        return call(token_ids, cache=cache, **given)


def _rows(token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None) -> list[list[int]]:
    """The real tokens of each row."""
    real = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
    return [row[own].tolist() for row, own in zip(token_ids, real, strict=True)]


def _left(written: list[int], max_new_tokens: int, eos: int | None) -> int:
    """Tokens that a row may still write."""
    return 0 if eos in written else max(0, max_new_tokens - len(written))


def _joined(
    token_ids: Int[Tensor, "B T"], written: list[list[int]], max_new_tokens: int, eos: int | None
) -> Int[Tensor, "B T_and_new"]:
    """The prompts and what was written, each row up to its end and filled with ``eos`` from there on."""
    rows = [row[:max_new_tokens] for row in written]
    rows = [row[: row.index(eos) + 1] if eos in row else row for row in rows]
    longest = max(map(len, rows))
    return torch.cat([token_ids, token_ids.new_tensor([row + [eos] * (longest - len(row)) for row in rows])], dim=1)
