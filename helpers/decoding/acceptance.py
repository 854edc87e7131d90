"""What a drafter's guesses are worth: how many the model agrees with, tokens of a pass, and how much faster that is.

Only agreement with the model's most likely token is judged here; drawing by chance is
``helpers.decoding.speculative``'s. Built in lesson `mtp`.
"""

from collections.abc import Sequence

import torch

from helpers.decoding.drafts import MTP
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.shapes import Bool, Int, Tensor


@torch.no_grad()
def acceptance_by_depth(
    model: DeepSeekV3, token_ids: Int[Tensor, "B T"], depth: int, counted: Bool[Tensor, "B T"] | None = None
) -> list[float]:
    """The share of first, second, ... guesses that the model agrees with, among those whose earlier ones it took.

    The text is given. Behind every token but the first the drafter guesses ``depth`` tokens; right are those that the
    model would write itself. ``counted`` is True where the place of the first guess counts (default: everywhere). The
    share of a depth that was never reached is NaN. Built in lesson `mtp`.
    """
    counted = torch.ones_like(token_ids, dtype=torch.bool) if counted is None else counted
    cache, draft, reached = model.new_cache(), MTP(model, depth), torch.zeros(depth + 1)
    draft.read(token_ids[:, :1], cache)
    for t in range(1, token_ids.shape[1] - 1):
        guesses = draft.guess(token_ids[:, : t + 1].tolist(), depth).tokens
        cache.checkpoint()
        said = draft.read(torch.cat([token_ids[:, t : t + 1], guesses], dim=1), cache)[:, :-1].argmax(dim=-1)
        cache.rollback(torch.ones_like(cache.lengths))  # the token that was given, and no guess
        taken = torch.cat([torch.ones_like(said[:, :1]), (guesses == said).int().cumprod(dim=1)], dim=1)
        reached += taken[counted[:, t + 1]].sum(dim=0).cpu()
    return (reached[1:] / reached[:-1]).tolist()


def tokens_per_pass(chances: Sequence[float]) -> float:
    """Tokens that one pass of the model gives: its own, and each guess if it and all before it are right.

    ``chances`` are those of ``acceptance_by_depth``. With p for all n of them: (1 - p^(n + 1)) / (1 - p).
    Source: Leviathan, Kalman and Matias, "Fast Inference from Transformers via Speculative Decoding", 2023, equation 1.
    Built in lesson `mtp`.
    """
    tokens, all_right = 1.0, 1.0
    for chance in chances:
        all_right *= chance
        tokens += all_right
    return tokens


def speed_up(chances: Sequence[float], wide_pass: float, draft: float) -> float:
    """How many times as fast as one token per pass; below 1 drafting is a loss.

    ``wide_pass`` is the cost of a pass over the newest token and all guesses, ``draft`` that of one guess, both in
    passes over a single token. Built in lesson `mtp`.
    """
    return tokens_per_pass(chances) / (wide_pass + len(chances) * draft)
