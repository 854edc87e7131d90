"""What every way of decoding asks of a request, and the error that keeps what was written when it breaks off."""

import torch

from helpers.decoding.sampling import Whole, is_whole
from helpers.shapes import Int, Tensor


class Interrupted(ValueError):
    """Writing broke off; ``token_ids`` are the prompts and what was written until then, ``lengths`` tokens per row."""

    def __init__(self, why: str, token_ids: Int[Tensor, "B T_and_new"], lengths: list[int]):
        super().__init__(f"{why} (kept in token_ids: {max(lengths)} tokens written before)")
        self.token_ids, self.lengths = token_ids, lengths


def seeded(seed: Whole | None, token_ids: Int[Tensor, "B T"]) -> torch.Generator | None:
    """A generator on the device of the tokens; None, which is torch's own, without a seed."""
    return None if seed is None else torch.Generator(token_ids.device).manual_seed(int(seed))


def check_request(max_new_tokens: Whole, seed: Whole | None) -> None:
    """ValueError for a count of tokens or a seed that is none."""
    if not is_whole(max_new_tokens) or max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}; a whole number, 0 or more, is allowed")
    if seed is not None and not (is_whole(seed) and -(2**63) <= seed < 2**64):
        raise ValueError(f"seed is {seed!r}; a whole number of 64 bits is allowed, or None")
