"""From logits to the next token: temperature, then the filters top-k, top-p and min-p, then one draw.

A filter gives the logits of the tokens that may not be drawn the value minus infinity. The order is that of
transformers, and so are the rules for equal logits: top-k keeps every token as likely as the k-th, min-p every token
at its bound. No filter removes the most likely token, so that at temperature 0 they change nothing.
"""

import math
import numbers

import numpy
import torch
from torch.nn import functional

from helpers.shapes import Bool, Float, Int, Tensor

Whole = int | numpy.integer
DIVIDES_SAFELY = (1e-4, 1e30)  # temperatures by which float32 logits can be divided without leaving float32's range


def sample(
    logits: Float[Tensor, "B vocab"],
    temperature: float,
    generator: torch.Generator | None = None,
    top_k: Whole | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Int[Tensor, " B"]:
    """One token per row: the most likely one at temperature 0, else a draw from ``probabilities``."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    return sample_from(probabilities(logits, temperature, top_k, top_p, min_p), generator)


def probabilities(
    logits: Float[Tensor, "*B vocab"],
    temperature: float,
    top_k: Whole | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Float[Tensor, "*B vocab"]:
    """The probabilities that ``sample`` draws from; at temperature 0 the most likely token is certain.

    None leaves a filter out. So do 0 for ``top_k`` and ``min_p``, and 1 for ``top_p``.
    """
    if temperature == 0:
        return functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    scores = divided(logits, temperature)
    if top_k:
        scores = keep_top_k(scores, top_k)
    if top_p is not None and top_p < 1:
        scores = keep_top_p(scores, top_p)
    if min_p:
        scores = keep_min_p(scores, min_p)
    return scores.softmax(dim=-1)


def sample_from(probs: Float[Tensor, "B vocab"], generator: torch.Generator | None = None) -> Int[Tensor, " B"]:
    """One token per row."""
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


def divided(logits: Float[Tensor, "*B vocab"], temperature: float) -> Float[Tensor, "*B vocab"]:
    """Logits over the temperature, in float32. Where that would overflow, the highest logit is moved to 0 first, which
    changes no probability."""
    if DIVIDES_SAFELY[0] <= temperature <= DIVIDES_SAFELY[1]:
        return logits.float() / temperature
    below = logits.double() - logits.double().amax(dim=-1, keepdim=True)
    return (below / temperature).float()


def keep_top_k(scores: Float[Tensor, "*B vocab"], k: Whole) -> Float[Tensor, "*B vocab"]:
    """The ``k`` most likely tokens, and those as likely as the last of them; all where there are no more than ``k``.

    Source: Fan, Lewis and Dauphin, "Hierarchical Neural Story Generation", 2018; transformers' ``TopKLogitsWarper``.
    """
    lowest = scores.topk(min(int(k), scores.shape[-1]), dim=-1).values[..., -1:]
    return scores.masked_fill(scores < lowest, -math.inf)


def keep_top_p(scores: Float[Tensor, "*B vocab"], p: float) -> Float[Tensor, "*B vocab"]:
    """The fewest most likely tokens whose probabilities sum to ``p`` or more; at 0 the most likely token alone.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020; transformers' ``TopPLogitsWarper``.
    """
    ascending, order = scores.sort(dim=-1)
    unlikely = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    unlikely[..., -1] = False
    return scores.masked_fill(unlikely.scatter(-1, order, unlikely), -math.inf)


def keep_min_p(scores: Float[Tensor, "*B vocab"], p: float) -> Float[Tensor, "*B vocab"]:
    """The tokens that are at least ``p`` times as likely as the most likely one; at 1 only those as likely as it.

    Source: Nguyen et al., "Min-p Sampling", 2024 (arXiv 2407.01082); transformers' ``MinPLogitsWarper``.
    """
    probs = scores.softmax(dim=-1)
    return scores.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), -math.inf)


def are_finite(logits: Float[Tensor, "*B vocab"]) -> Bool[Tensor, "*B"]:
    """Where a token can be drawn: no logit is NaN or infinity, though some may be minus infinity."""
    highest = logits.amax(dim=-1)  # NaN if one is
    return highest - highest == 0  # NaN for infinity too; ``isfinite`` asks for five operations


def check_sampling(temperature: float, top_k: Whole | None, top_p: float | None, min_p: float | None) -> None:
    """ValueError for a temperature that is negative or not finite, or a filter out of its range."""
    if not _is_number(temperature) or not 0 <= temperature < math.inf:
        raise ValueError(
            f"temperature is {temperature!r}; 0 (the most likely token) or a finite number above is allowed"
        )
    if top_k is not None and (not is_whole(top_k) or top_k < 0):
        raise ValueError(f"top_k is {top_k!r}; a whole number of tokens is allowed, or 0 or None for all")
    for name, share in (("top_p", top_p), ("min_p", min_p)):
        if share is not None and not (_is_number(share) and 0 <= share <= 1):
            raise ValueError(f"{name} is {share!r}; a probability from 0 to 1 is allowed, or None")


def is_whole(value: object) -> bool:
    """Whether it is a whole number, Python's or NumPy's; True and False are not meant as one."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
