"""Where a row of a generated text ends: at one of several tokens, or when a string stands in what it wrote."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch

from helpers.decoding.sampling import Whole, is_whole
from helpers.shapes import Bool, Int, Tensor

Eos = Whole | Iterable | None  # the id of a token that ends a row, or several
SILENT = 8  # tokens that may stand inside a stop string and add no text: an id that the tokenizer does not know


@runtime_checkable
class Decoder(Protocol):
    """A tokenizer of ``transformers`` or ``tokenizers``."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool) -> str: ...


class Ends:
    """The tokens and strings that end a row, and the token that fills it behind its end.

    Raises ValueError for ids that are not whole numbers of the vocabulary, for strings that are empty or come without
    a tokenizer, and where rows may end with a string and no token is there to fill them.
    """

    def __init__(
        self,
        eos: Eos = None,
        stop: str | Iterable[str] | None = None,
        tokenizer: Decoder | None = None,
        pad: Whole | None = None,
        vocab_size: int | None = None,
        rows: int = 1,
        device: torch.device | None = None,
    ):
        self.eos, self.stop, self._tokenizer = eos_ids(eos, vocab_size), stop_strings(stop, tokenizer), tokenizer
        self._eos = torch.tensor(self.eos, dtype=torch.long, device=device)
        self.pad = _filling(pad, self.eos, tokenizer, vocab_size)
        if self.pad is None and self.stop and rows > 1:
            raise ValueError("rows that end with a stop string are filled to one length: give pad, the id of a token")

    def __bool__(self) -> bool:
        return bool(self.eos or self.stop)

    def reached(self, written: list[int]) -> bool:
        """Whether a row that has written these tokens, and had not ended before the last of them, ends with it."""
        return written[-1] in self.eos or (bool(self.stop) and self._text_has_ended(written))

    def reached_by(self, written: list[Int[Tensor, " B"]]) -> Bool[Tensor, " B"]:
        """``reached`` for every row of a batch, of which ``written`` are the columns."""
        newest = written[-1]
        ended = torch.isin(newest, self._eos)
        if self.stop:
            rows = torch.stack(written[-self._window() :], dim=1).tolist()
            ended |= torch.tensor([self._text_has_ended(row) for row in rows], device=newest.device)
        return ended

    def _text_has_ended(self, written: list[int]) -> bool:
        text = self._tokenizer.decode(written[-self._window() :], skip_special_tokens=False)
        return any(string in text for string in self.stop)

    def _window(self) -> int:
        """Tokens at the end of a text among which a stop string that has just been completed stands: each that adds to
        the text adds a byte at least."""
        return max(len(string.encode()) for string in self.stop) + SILENT


def eos_ids(eos: Eos, vocab_size: int | None) -> tuple[int, ...]:
    """The ids as a tuple: of one, of several in a list, a set, an array or a tensor, of none."""
    given = eos.tolist() if hasattr(eos, "tolist") else eos
    if given is None:
        return ()
    several = isinstance(given, Iterable) and not isinstance(given, str)
    ids = [one.tolist() if hasattr(one, "tolist") else one for one in given] if several else [given]
    for one in ids:
        _check_id("eos", one, vocab_size)
    return tuple(int(one) for one in (sorted(ids) if isinstance(given, set | frozenset) else ids))


def _filling(pad: Whole | None, eos: tuple[int, ...], tokenizer: Decoder | None, vocab_size: int | None) -> int | None:
    """``pad``, else the first end, else what the tokenizer pads with, if the model has such a token."""
    if pad is not None:
        _check_id("pad", pad, vocab_size)
        return int(pad)
    if eos:
        return eos[0]
    own = getattr(tokenizer, "pad_token_id", None)
    return own if own is not None and (vocab_size is None or own < vocab_size) else None


def _check_id(name: str, token: object, vocab_size: int | None) -> None:
    if not is_whole(token):
        raise ValueError(f"{name} holds {token!r}; the id of a token is needed" + ", or several" * (name == "eos"))
    if token < 0 or (vocab_size is not None and token >= vocab_size):
        raise ValueError(f"{name} is {token}, which the model cannot write: its vocabulary has {vocab_size} tokens")


def stop_strings(stop: str | Iterable[str] | None, tokenizer: Decoder | None) -> tuple[str, ...]:
    """The strings as a tuple."""
    several = isinstance(stop, Iterable) and not isinstance(stop, str)
    strings = () if stop is None else tuple(stop) if several else (stop,)
    if wrong := [string for string in strings if not isinstance(string, str) or not string]:
        raise ValueError(f"stop holds {wrong[0]!r}; a string of one character or more is needed, or several")
    if strings and not hasattr(tokenizer, "decode"):
        given = "none" if tokenizer is None else f"a {type(tokenizer).__name__}"
        raise ValueError(f"stop is {strings[0]!r} and the tokenizer {given}: one that decodes tokens is needed")
    return strings
