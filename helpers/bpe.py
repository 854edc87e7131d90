"""Byte pair encoding from scratch: 256 bytes, then the pair that stands side by side most often, again and again.

A text is split into words by a pattern, a word is a row of bytes, and each merge replaces one pair of neighbours by a
new token. ``learn`` finds the merges, ``BPE`` encodes and decodes with them. Ids, merges and encodings are those of the
``tokenizers`` library on the same words: it numbers the bytes that can be printed first, and so do we.

Source of the method: Sennrich, Haddow and Birch 2016 (arXiv 1508.07909); over bytes: GPT-2. Built in lesson
`tokenizer`.
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

# How a text becomes words: contractions; letters with the one sign before them; one digit; signs; line ends; blanks.
# Source: pre_tokenizer.pattern of the published tokenizer.json of Qwen3.
LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The same with vowel signs and accents (\p{M}) as parts of a word. Source: PRETOKENIZE_REGEX of Qwen3.5's tokenizer in
# transformers 5.23.
LETTERS_AND_MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
BYTES = tuple(bytes([b]) for b in sorted(range(256), key=lambda b: (b not in PRINTABLE, b)))  # token id -> its byte

Pair = tuple[int, int]
_NEVER = (float("inf"), 0)
_ID = {byte[0]: number for number, byte in enumerate(BYTES)}
# GPT-2's letter for each byte: its own where it can be printed, else one from U+0100 on, in order.
_LETTER = {byte: chr(byte) if byte in PRINTABLE else chr(68 + number) for byte, number in _ID.items()}
_BYTE = {letter: byte for byte, letter in _LETTER.items()}


@dataclass(frozen=True)
class BPE:
    """``tokens[id]`` is the bytes of a token; ``merges`` stand in the order in which they were learned."""

    tokens: tuple[bytes, ...]
    merges: tuple[Pair, ...]
    pattern: str = LETTERS

    @cached_property
    def ranks(self) -> dict[Pair, tuple[int, int]]:
        """Pair -> (its place among the merges, the token that it becomes)."""
        ids = {token: number for number, token in enumerate(self.tokens)}
        return {pair: (rank, ids[b"".join(self.pieces(pair))]) for rank, pair in enumerate(self.merges)}

    @cached_property
    def byte_ids(self) -> list[int]:
        """Byte -> the token that is this byte."""
        ids = {token: number for number, token in enumerate(self.tokens)}
        return [ids[bytes([byte])] for byte in range(256)]

    def encode(self, text: str) -> list[int]:
        """Token ids of any text; ``decode`` gives it back. Raises ValueError for half of a surrogate pair."""
        return [token for word in split(text, self.pattern) for token in self.encode_word(word)]

    def encode_word(self, word: str) -> list[int]:
        """The bytes of one word, merged: of all pairs that stand in it, always the one that was learned first."""
        ids = [self.byte_ids[byte] for byte in word.encode()]
        while len(ids) > 1:
            pair = min(pairwise(ids), key=lambda pair: self.ranks.get(pair, _NEVER))
            if pair not in self.ranks:
                break
            ids = merge(ids, pair, self.ranks[pair][1])
        return ids

    def count(self, words: Mapping[str, int]) -> int:
        """Tokens of a text whose words are counted already (``count_words``)."""
        return sum(times * len(self.encode_word(word)) for word, times in words.items())

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each token. Raises ValueError for ids that are not there."""
        ids = list(ids)
        if wrong := [token for token in ids if not 0 <= token < len(self.tokens)]:
            raise ValueError(f"there is no token {wrong[0]}; ids from 0 to {len(self.tokens) - 1} are there")
        return [self.tokens[token] for token in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.pieces(ids)).decode(errors="replace")

    def first(self, merges: int) -> "BPE":
        """The tokenizer that ``learn`` would have given, had it stopped after so many merges."""
        if not 0 <= merges <= len(self.merges):
            raise ValueError(f"{merges} merges are asked for; 0 to {len(self.merges)} are there")
        return BPE(self.tokens[: len(BYTES) + merges], self.merges[:merges], self.pattern)


def split(text: str, pattern: str = LETTERS) -> list[str]:
    """The words of a text; joined, they are the text. Raises ValueError for what is no Unicode text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"this text has half of a surrogate pair at {error.start}, which UTF-8 cannot say") from None
    return [word for word, _ in _splitter(pattern).pre_tokenize_str(text)]


@cache
def _splitter(pattern: str) -> pre_tokenizers.Split:
    """Kept: to compile the pattern takes longer than to split a line."""
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def merge(ids: Sequence[int], pair: Pair, new: int) -> list[int]:
    """``ids`` with ``new`` in the place of every ``pair``, from left to right. Built in lesson `tokenizer`."""
    merged: list[int] = []
    for token in ids:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new
        else:
            merged.append(token)
    return merged


def count_words(texts: Iterable[str], pattern: str = LETTERS) -> Counter:
    """How often each word stands in the texts."""
    return Counter(word for text in texts for word in split(text, pattern))


def learn(words: Mapping[str, int], vocab_size: int, pattern: str = LETTERS) -> BPE:
    """The merges that give ``vocab_size`` tokens, from words and how often each stands in the text.

    Counts of pairs are kept and corrected, never taken anew: a merge touches the words that hold its pair. Among equals
    the pair of the smallest ids goes first. Fewer tokens where every word has become one. Raises ValueError for sizes
    below 256 and for counts below 0. Built in lesson `tokenizer`.
    """
    if vocab_size < len(BYTES):
        raise ValueError(f"vocab_size is {vocab_size}; {len(BYTES)} (every byte) or more is allowed")
    if wrong := [f"{word!r}: {times}" for word, times in words.items() if times < 0]:
        raise ValueError(f"a word stands 0 times or more in a text, and this is given: {wrong[0]}")
    pairs, tokens, merges = _Pairs(words), list(BYTES), []
    while len(tokens) < vocab_size and (pair := pairs.most_frequent()):
        pairs.merge(pair, len(tokens))
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        merges.append(pair)
    return BPE(tuple(tokens), tuple(merges), pattern)


class _Pairs:
    """How often each pair stands in the words, and in which; the most frequent on top of a heap."""

    def __init__(self, words: Mapping[str, int]):
        self.words = [[_ID[byte] for byte in word.encode()] for word in words]
        self.times = list(words.values())
        self.count: Counter = Counter()
        self.where: dict[Pair, set[int]] = defaultdict(set)
        for number, ids in enumerate(self.words):
            self._add(number, ids)
        self.heap = [(-count, pair) for pair, count in self.count.items()]
        heapq.heapify(self.heap)

    def most_frequent(self) -> Pair | None:
        """The pair with the highest count. An entry whose count has fallen since goes back with the true one."""
        while self.heap:
            count, pair = heapq.heappop(self.heap)
            if -count == self.count[pair] > 0:
                return pair
            if self.count[pair] > 0:
                heapq.heappush(self.heap, (-self.count[pair], pair))
        return None

    def merge(self, pair: Pair, new: int) -> None:
        """Every ``pair`` becomes ``new``. Only pairs with ``new`` in them are more than before: they join the heap."""
        fresh: set[Pair] = set()
        for number in self.where.pop(pair):
            for old in pairwise(self.words[number]):
                self.count[old] -= self.times[number]
            ids = self.words[number] = merge(self.words[number], pair, new)
            self._add(number, ids)
            fresh.update(found for found in pairwise(ids) if new in found)
        for found in fresh:
            heapq.heappush(self.heap, (-self.count[found], found))

    def _add(self, number: int, ids: list[int]) -> None:
        for pair in pairwise(ids):
            self.count[pair] += self.times[number]
            self.where[pair].add(number)


def pre_tokenizer(pattern: str = LETTERS) -> pre_tokenizers.Sequence:
    """``split`` in the ``tokenizers`` library, which then writes each byte as a letter."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def to_tokenizers(bpe: BPE) -> Tokenizer:
    """The same merges in the ``tokenizers`` library."""
    letters = ["".join(_LETTER[byte] for byte in token) for token in bpe.tokens]
    vocab = {token: number for number, token in enumerate(letters)}
    merges = [(letters[left], letters[right]) for left, right in bpe.merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizer(bpe.pattern)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def from_tokenizers(tokenizer: Tokenizer) -> BPE:
    """Tokens, merges and pattern of a byte-level BPE of the ``tokenizers`` library, a published one for instance.

    Text is taken as it stands: normal forms (Qwen's asks for NFC) and special tokens are the caller's. Raises
    ValueError for any other kind of tokenizer.
    """
    stored = json.loads(tokenizer.to_str())
    model, steps = stored["model"], (stored["pre_tokenizer"] or {}).get("pretokenizers", [])
    if model["type"] != "BPE" or [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        found = [step["type"] for step in steps]
        raise ValueError(f"a BPE after Split and ByteLevel is asked for, and this is a {model['type']} after {found}")
    vocab = model["vocab"] | {added["content"]: added["id"] for added in stored["added_tokens"]}
    tokens = [b""] * (1 + max(vocab.values()))
    for letters, number in vocab.items():
        tokens[number] = bytes(_BYTE[letter] for letter in letters) if letters in model["vocab"] else letters.encode()
    merges = tuple((vocab[left], vocab[right]) for left, right in model["merges"])
    return BPE(tuple(tokens), merges, steps[0]["pattern"]["Regex"])
