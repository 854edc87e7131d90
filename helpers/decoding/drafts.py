"""Drafts for speculative decoding: cheap guesses of the next tokens, and the chances that they were drawn with.

A draft is told that a text begins (``begin``) and then, round after round, guesses what follows it (``guess``). It may
be as wrong as it likes: what is written stays the model's (``helpers.decoding.speculative``), only sooner or later.

- **NGram**: where the last tokens stood before, what followed them then. No model; good for code, forms, summaries.
- **SmallModel**: another model with the same tokenizer writes ahead. Its cache goes back with the text.
- **MTP**: the model's own drafter, one block that reads what the model made of the text.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from helpers.decoding.sampling import probabilities, sample_from
from helpers.layers.kv_cache import Cache
from helpers.layers.ragged import padded
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.shapes import Bool, Float, Int, Tensor

Texts = Sequence[list[int]]  # the tokens of each row so far, without padding


class Guess(NamedTuple):
    """Tokens that may come next, and what each was drawn from; None where nothing was left to chance."""

    tokens: Int[Tensor, "B k"]
    probs: Float[Tensor, "B k vocab"] | None = None


class NGram:
    """Prompt lookup: find the text's last ``longest`` tokens further ahead, or fewer, and say what came after them.

    The newest place counts. Where even the last token is new, nothing is guessed; in a batch, where another row has
    found something, a row that has not repeats its last token. Source: Saxena, "Prompt Lookup Decoding", 2023.
    Built in lesson `speculative`.
    """

    def __init__(self, k: int = 4, longest: int = 3):
        self.k, self.longest = _positive(k), longest

    def begin(self) -> None:
        """Nothing: the text is all it knows."""

    def guess(self, texts: Texts, k: int, temperature: float = 0.0, generator: torch.Generator | None = None) -> Guess:
        """Up to ``k`` tokens per row, certain of them at every ``temperature``."""
        found = [followers(text, self.longest)[:k] for text in texts]
        wide = max(map(len, found))
        rows = [own + text[-1:] * (wide - len(own)) for own, text in zip(found, texts, strict=True)]
        return Guess(torch.tensor(rows, dtype=torch.long).view(len(rows), wide))


def followers(text: list[int], longest: int) -> list[int]:
    """What followed the newest earlier place of the text's last ``longest`` tokens, or of as many as can be found."""
    for n in range(min(longest, len(text) - 1), 0, -1):
        last = text[-n:]
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == last:
                return text[start + n :]
    return []


class SmallModel:
    """``model``, with the same vocabulary and far fewer operations per token, writes ``k`` tokens ahead.

    Above temperature 0 it draws, and says from what. Source: Leviathan et al., "Fast Inference from Transformers via
    Speculative Decoding", 2023 (arXiv 2211.17192). Built in lesson `speculative`.
    """

    def __init__(self, model: nn.Module, k: int = 4):
        self.model, self.k = model, _positive(k)
        self.begin()

    def begin(self) -> None:
        """Forget the text before."""
        self._cache: Cache = self.model.new_cache()
        self._cache.words_only = True  # images do not come here: a model that sees goes on without

    def guess(self, texts: Texts, k: int, temperature: float = 0.0, generator: torch.Generator | None = None) -> Guess:
        """Read what the text has become, then write ahead, one token a call."""
        cache, lengths = self._cache, torch.tensor([len(text) for text in texts])
        if cache.marked is not None:  # of what was guessed, what was accepted and read is in the text: all but its last
            cache.rollback(torch.minimum(lengths.to(cache.lengths) - 1, cache.lengths) - cache.marked)
        device = next(self.model.parameters()).device
        ids, mask = padded([text[read:] for text, read in zip(texts, _read(cache, texts), strict=True)])
        logits = self._call(ids.to(device), mask.to(device))
        cache.checkpoint()
        return _write_ahead(logits, k, temperature, generator, self._call)

    def _call(self, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B T vocab"]:
        with torch.inference_mode():
            return self.model(ids, cache=self._cache, mask=mask)


class MTP:
    """The drafter that DeepSeek-V3 was trained with: it reads the hidden state of token t and token t + 1.

    Trained for one token ahead (``k`` 1). Asked for more, it goes on from what it made itself. Its reading of its own
    guesses is thrown away, since the model's hidden states are there in the next round.
    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, sections 2.2 and 5.4.3. Built in lesson `speculative`.
    Raises ValueError for a model without a drafter.
    """

    def __init__(self, model: DeepSeekV3, k: int = 1):
        if not model.drafters:
            raise ValueError("this model has no drafter (num_nextn_predict_layers is 0)")
        self.model, self.k = model, _positive(k)
        self.begin()

    def begin(self) -> None:
        """Forget the text before."""
        self._cache: Cache = self.model.new_draft_cache()
        self._hidden: list[Tensor] = []  # of the last pass, a row each

    def read(
        self, token_ids: Int[Tensor, "B T"], cache: Cache, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T vocab"]:
        """In place of the model's own call: its logits, with the hidden states kept for ``guess``."""
        hidden = self.model.read(token_ids, cache, mask)
        real = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
        self._hidden = [row[own] for row, own in zip(hidden, real, strict=True)]
        return self.model.logits(hidden)

    def guess(self, texts: Texts, k: int, temperature: float = 0.0, generator: torch.Generator | None = None) -> Guess:
        """Read the hidden states of the tokens that stayed, each with the token after it; then go on alone."""
        cache = self._cache
        if cache.marked is not None:
            cache.rollback(torch.zeros_like(cache.marked))
        ids, mask = padded([text[read + 1 :] for text, read in zip(texts, _read(cache, texts), strict=True)])
        hidden = torch.zeros(*ids.shape, self._hidden[0].shape[-1]).to(self._hidden[0])
        for row, own, real in zip(hidden, self._hidden, mask, strict=True):
            row[real] = own[: real.sum()]
        made = self._ahead(hidden, ids.to(hidden.device), mask.to(hidden.device))
        cache.checkpoint()

        def go_on(tokens: Int[Tensor, "B 1"]) -> Float[Tensor, "B 1 vocab"]:
            nonlocal made
            made = self._ahead(made[:, -1:], tokens)
            return self.model.logits(made)

        return _write_ahead(self.model.logits(made), k, temperature, generator, go_on)

    def _ahead(
        self, hidden: Float[Tensor, "B T D"], ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        with torch.inference_mode():
            return self.model.ahead(hidden, ids, self._cache, mask)


def _read(cache: Cache, texts: Texts) -> list[int]:
    """Positions of each row that stand in the cache."""
    return [0] * len(texts) if cache.lengths is None else cache.lengths.tolist()


def _write_ahead(
    logits: Float[Tensor, "B T vocab"],
    k: int,
    temperature: float,
    generator: torch.Generator | None,
    go_on: Callable[[Int[Tensor, "B 1"]], Float[Tensor, "B 1 vocab"]],
) -> Guess:
    """``k`` tokens, each drawn from the last logits and, but for the last one, read."""
    tokens, drawn_from = [], []
    for n in range(k):
        if n:
            logits = go_on(tokens[-1][:, None])
        drawn_from.append(probabilities(logits[:, -1], temperature))
        tokens.append(sample_from(drawn_from[-1], generator))
    return Guess(torch.stack(tokens, dim=1), torch.stack(drawn_from, dim=1))


def _positive(k: int) -> int:
    if k < 1:
        raise ValueError(f"k is {k}; a draft guesses 1 token or more")
    return k
