"""Continue a text, one token at a time: read the prompt once, then only the newest token, with a cache for the rest."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from helpers.shapes import Bool, Float, Int, Tensor


@torch.no_grad()
def generate(
    model: nn.Module,
    token_ids: Int[Tensor, "B T"],
    max_new_tokens: int = 8,
    temperature: float = 0.0,
    seed: int | None = None,
    stream: Callable[[Int[Tensor, "B"]], None] | None = None,
    eos: int | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    images: dict[str, Tensor] | None = None,
) -> Int[Tensor, "B T_and_new"]:
    """Return ``token_ids`` with up to ``max_new_tokens`` more.

    ``temperature`` 0 takes the most likely token; above 0 it draws from softmax(logits / temperature), the same draws
    for the same ``seed``. ``stream`` is called with the newest token of each row as soon as it is known. A row that
    has produced ``eos`` is filled with ``eos``, and the end comes early when all rows have. ``mask`` is True for the
    real tokens of a batch that is padded on the left, so that new tokens follow the prompts. ``images`` is what a model
    that sees takes with the prompt.
    ``model(token_ids, cache)`` gives logits and ``model.new_cache()`` an empty cache. Built in lesson 03.
    """
    check_request(token_ids, max_new_tokens, temperature)
    generator = None if seed is None else torch.Generator(token_ids.device).manual_seed(seed)
    cache = model.new_cache()
    ended = torch.zeros(len(token_ids), dtype=torch.bool, device=token_ids.device)
    unread, read = token_ids, [token_ids]
    given = {"mask": mask, "images": images}  # both belong to the prompt
    given = {name: value for name, value in given.items() if value is not None}
    for _ in range(max_new_tokens):
        with torch.inference_mode():  # not even a note that no gradient is wanted; only the logits come out of it
            logits = model(unread, cache=cache, **given)
        newest, given = choose(logits[:, -1], temperature, generator), {}
        if eos is not None:
            newest = newest.masked_fill(ended, eos)
            ended |= newest == eos
        unread = newest[:, None].to(token_ids.dtype)
        read.append(unread)
        if stream:
            stream(newest)
        if eos is not None and ended.all():
            break
    return torch.cat(read, dim=1)


def choose(
    logits: Float[Tensor, "B vocab"], temperature: float, generator: torch.Generator | None = None
) -> Int[Tensor, "B"]:
    """One token a row: the most likely one at temperature 0, else a draw from softmax(logits / temperature)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    return drawn(chances(logits, temperature), generator)


def chances(logits: Float[Tensor, "*B vocab"], temperature: float) -> Float[Tensor, "*B vocab"]:
    """What ``choose`` draws from; at temperature 0 the most likely token is certain."""
    if temperature == 0:
        return functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    return (logits.float() / temperature).softmax(dim=-1)


def drawn(chances: Float[Tensor, "B vocab"], generator: torch.Generator | None = None) -> Int[Tensor, "B"]:
    """One token a row."""
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


def check_request(token_ids: Tensor, max_new_tokens: int, temperature: float) -> None:
    """ValueError for what nothing can continue: no token, fewer than 0 new ones, a temperature below 0."""
    if token_ids.dim() != 2 or token_ids.numel() == 0:
        raise ValueError(f"token_ids has the shape {tuple(token_ids.shape)}; (batch, at least one token) is needed")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; 0 or more is allowed")
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}; 0 (the most likely token) or more is allowed")
