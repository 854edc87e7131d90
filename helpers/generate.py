"""Continue a text, one token at a time: read the prompt once, then only the newest token, with a cache for the rest."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from helpers.decoding.prompts import Batch, Prompt, read_prompt, vocabulary
from helpers.decoding.request import Interrupted, Request
from helpers.decoding.sampling import Whole, are_finite
from helpers.decoding.stopping import Decoder, Ends, Eos
from helpers.layers.kv_cache import Cache
from helpers.layers.ragged import looking_is_free
from helpers.shapes import Float, Int, Tensor


@torch.no_grad()
def generate(
    model: nn.Module,
    token_ids: Prompt,
    max_new_tokens: Whole = 8,
    temperature: float = 0.0,
    seed: Whole | None = None,
    stream: Callable[[Int[Tensor, " B"]], None] | None = None,
    eos: Eos = None,
    mask: Prompt | None = None,
    images: Mapping[str, Tensor] | None = None,
    *,
    top_k: Whole | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop: str | Iterable[str] | None = None,
    tokenizer: Decoder | None = None,
    pad: Whole | None = None,
) -> Int[Tensor, "B T_and_new"]:
    """Return ``token_ids`` with up to ``max_new_tokens`` more behind the last column of every row.

    ``token_ids`` are rows of token ids, B x T, in a tensor, an array or lists; one row alone; or what a tokenizer or a
    processor returns, with its mask and images in it. ``mask`` is True or 1 for real tokens, B x T: padded on either
    side, each row gets what it gets alone. ``images`` is what a model that sees takes with the prompt.
    ``temperature`` 0 takes the most likely token; above 0 it draws from softmax(logits / temperature), the same draws
    for the same ``seed`` and batch, and ``top_k``, ``top_p`` and ``min_p`` leave out unlikely tokens first
    (``helpers.decoding.sampling``). ``stream`` is called with the newest token of each row as soon as it is known.
    A row ends with a token of ``eos``, one id or several, or with the token that completes a string of ``stop`` in
    what it wrote, as ``tokenizer`` decodes it. Behind its end it is filled with ``pad`` (default: the first ``eos``,
    else the tokenizer's padding). When all rows have ended, so does the text.
    ``model(token_ids, cache)`` gives logits and ``model.new_cache()`` an empty cache. Built in lesson `open_a_model`.
    Raises ValueError for a request that cannot be met; ``Interrupted``, which keeps what was written, where the model
    refuses to go on or its logits are NaN or infinite, which is looked at for each token on the CPU and once, at the
    end, on a GPU.
    """
    request = Request(max_new_tokens, temperature, seed, top_k, top_p, min_p, eos, stop, tokenizer, pad)
    prompt, cache = read_prompt(model, token_ids, mask, images), model.new_cache()
    text = Text(prompt.token_ids, request.ends(prompt.token_ids, vocabulary(model)))
    generator = request.generator(prompt.token_ids.device)
    for _ in range(max_new_tokens):
        logits = text.judged(_next_logits(model, prompt, cache, text))
        newest = text.add(request.sample(logits, generator))
        if stream:
            stream(newest)
        if text.over:
            break
    text.check()
    return text.joined()


class Text:
    """Prompts and what is written behind them, column by column."""

    def __init__(self, token_ids: Int[Tensor, "B T"], ends: Ends):
        self.prompt, self.ends, self.written = token_ids, ends, []
        self.ended = torch.zeros(len(token_ids), dtype=torch.bool, device=token_ids.device)
        self._sound = ~self.ended  # rows whose logits have all been finite
        self._columns = torch.zeros_like(self._sound, dtype=torch.long)  # written while they were

    @property
    def over(self) -> bool:
        """Whether all rows have ended."""
        return bool(self.ends) and bool(self.ended.all())

    def judged(self, logits: Float[Tensor, "B vocab"]) -> Float[Tensor, "B vocab"]:
        """``logits``, with zeros for rows whose own are NaN or infinite, so that a draw does not fail.

        On the CPU such a row breaks off at once, unless it has ended; a GPU is not waited for, and ``check`` tells.
        """
        finite = are_finite(logits)
        if looking_is_free(finite) and finite.all():
            return logits
        self._sound = self._sound & (finite | self.ended)
        self._columns += self._sound
        if looking_is_free(finite):
            self.check(len(self.written))
        return logits.masked_fill(~finite[:, None], 0)

    def add(self, newest: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Write a token in each row that has not ended, and the filling in the others; return what was written."""
        if not self.ends:
            self.written.append(newest)
            return newest
        if self.ends.pad is not None:
            newest = newest.masked_fill(self.ended, self.ends.pad)
        self.written.append(newest)
        self.ended = self.ended | self.ends.reached_by(self.written)
        return newest

    def check(self, kept: int | None = None) -> None:
        """Raise ``Interrupted`` where a row was not drawn from finite logits; ``kept`` columns (default: those that all
        rows wrote before) go with it."""
        if self._sound.all():
            return
        rows = ", ".join(map(str, (~self._sound).nonzero().flatten().tolist()))
        why = f"the model's logits in row {rows} are NaN or infinite: no token can be chosen"
        raise self.interrupted(why, int(self._columns.min()) if kept is None else kept)

    def interrupted(self, why: str, kept: int | None = None) -> Interrupted:
        """The error that holds the first ``kept`` columns (default: all)."""
        text = self.joined(kept)
        return Interrupted(why, text, [text.shape[1] - self.prompt.shape[1]] * len(text))

    def joined(self, kept: int | None = None) -> Int[Tensor, "B T_and_new"]:
        """The prompts and what is written behind them."""
        columns = [column[:, None].to(self.prompt.dtype) for column in self.written[:kept]]
        return torch.cat([self.prompt, *columns], dim=1)


def _next_logits(model: nn.Module, prompt: Batch, cache: object, text: Text) -> Float[Tensor, "B vocab"]:
    """What the model says after the prompt, or after the newest token."""
    with torch.inference_mode():  # not even a note that no gradient is wanted; only the logits come out of it
        if not text.written:
            logits = prompt.last(model(prompt.token_ids, cache=cache, **prompt.given))
            if isinstance(cache, Cache):  # a model of one's own may have another
                cache.words_only = True
            return logits
        newest = text.written[-1][:, None].to(prompt.token_ids.dtype)
        try:
            return model(newest, cache=cache)[:, -1]
        except ValueError as error:
            raise text.interrupted(str(error)) from error
