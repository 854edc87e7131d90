"""What is asked of a model that writes, in one record; and the error that keeps what was written when it breaks off."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from helpers.decoding.sampling import Whole, check_sampling, is_whole, probabilities, sample
from helpers.decoding.stopping import Decoder, Ends, Eos
from helpers.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Request:
    """How a text goes on: how many tokens, how each is drawn, where a row ends. ``generate`` explains each field.

    Raises ValueError for a value that is not allowed; eos, stop and pad are judged by ``ends``, which knows the model.
    """

    max_new_tokens: Whole = 8
    temperature: float = 0.0
    seed: Whole | None = None
    top_k: Whole | None = None
    top_p: float | None = None
    min_p: float | None = None
    eos: Eos = None
    stop: str | Iterable[str] | None = None
    tokenizer: Decoder | None = None
    pad: Whole | None = None

    def __post_init__(self):
        if not is_whole(self.max_new_tokens) or self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens!r}; a whole number, 0 or more, is allowed")
        if self.seed is not None and not (is_whole(self.seed) and -(2**63) <= self.seed < 2**64):
            raise ValueError(f"seed is {self.seed!r}; a whole number of 64 bits is allowed, or None")
        check_sampling(self.temperature, self.top_k, self.top_p, self.min_p)

    def generator(self, device: torch.device) -> torch.Generator | None:
        """What draws come from; None, which is torch's own generator, without a seed."""
        return None if self.seed is None else torch.Generator(device).manual_seed(int(self.seed))

    def sample(self, logits: Float[Tensor, "B vocab"], generator: torch.Generator | None) -> Int[Tensor, " B"]:
        """The next token of each row."""
        return sample(logits, self.temperature, generator, self.top_k, self.top_p, self.min_p)

    def probabilities(self, logits: Float[Tensor, "*B vocab"]) -> Float[Tensor, "*B vocab"]:
        """What the next token is drawn from."""
        return probabilities(logits, self.temperature, self.top_k, self.top_p, self.min_p)

    def ends(self, token_ids: Int[Tensor, "B T"], vocab_size: int | None) -> Ends:
        """Where the rows behind these prompts end. ValueError for ids outside the vocabulary and as ``Ends`` says."""
        return Ends(self.eos, self.stop, self.tokenizer, self.pad, vocab_size, len(token_ids), token_ids.device)


class Interrupted(ValueError):
    """Writing broke off; ``token_ids`` are the prompts and what was written until then, ``lengths`` tokens per row."""

    def __init__(self, why: str, token_ids: Int[Tensor, "B T_and_new"], lengths: list[int]):
        super().__init__(f"{why} (kept in token_ids: {max(lengths)} tokens written before)")
        self.token_ids, self.lengths = token_ids, lengths
