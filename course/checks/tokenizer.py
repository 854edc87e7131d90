"""Checks of lesson `tokenizer`: bytes of UTF-8, encoding, shares of training, a stream."""

import random
from itertools import pairwise

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal
from helpers.bpe import BYTES, learn

__all__ = ["encode", "predict", "reveal", "shares", "stream", "utf8"]


# The warm-up: how long is a text in UTF-8?


class _Text(str):
    """A text that does not encode itself."""

    def encode(self, *_args, **_kwargs):
        raise Wrong("count from the code points, ord(sign): encode() is what you are rebuilding")


def _check_utf8(answer):
    texts = [
        "",
        "a",
        "é語a",
        "\x7f",
        "\x80",
        "é",
        "\u07ff",
        "\u0800",
        "语",
        "\uffff",
        "\U00010000",
        "👩",
        "Zürich, 東京, ለንደን",
    ]
    for text in texts:
        got, right = returned(answer, _Text(text)), len(text.encode())
        if got == right:
            continue
        if got == len(text) > 1:
            raise Wrong(f"that counts code points, and {text!r} has signs of more than one byte")
        if text in ("\x80", "\u0800", "\U00010000"):
            raise Wrong(f"U+{ord(text):04X} is the first code point that needs {right} bytes: is your < a <=?")
        if text in ("\x7f", "\u07ff", "\uffff"):
            raise Wrong(f"U+{ord(text):04X} is the last code point that fits {right} byte(s): is your <= a <?")
        if text == "👩":
            raise Wrong("from U+10000 on a sign takes four bytes, emoji for instance")
        raise Wrong(f"{text!r} takes {right} bytes, not {got!r}")
    return "one to four bytes, and every border between them"


# Core: encode by what was learned first.


def _random_vocabulary(draw: random.Random) -> dict:
    words = {"".join(draw.choice("abc") for _ in range(draw.randint(2, 7))): draw.randint(1, 9) for _ in range(12)}
    bpe = learn(words, len(BYTES) + draw.choice([0, 2, 5, 12]))
    return {pair: new for pair, (_, new) in bpe.ranks.items()}


def _by_rank(ids: list, merges: dict, choose) -> list:
    """Encode one pair at a time; ``choose`` takes one of the places whose pair is known."""
    ids = list(ids)
    while places := [place for place in range(len(ids) - 1) if (ids[place], ids[place + 1]) in merges]:
        place = choose(places, lambda place: merges[ids[place], ids[place + 1]])
        ids[place : place + 2] = [merges[ids[place], ids[place + 1]]]
    return ids


def _check_encode(answer):
    draw = random.Random(4)
    for _ in range(60):
        merges = _random_vocabulary(draw)
        letters = [BYTES.index(draw.choice([b"a", b"b", b"c"])) for _ in range(draw.choice([0, 1, 2, 5, 12, 31]))]
        got = returned(answer, list(letters), dict(merges))
        if not isinstance(got, (list, tuple)):
            raise Wrong(f"a list of token ids is expected, and this is a {type(got).__name__}")
        _compare_encodings(list(got), letters, merges)
    return "60 random vocabularies: always what was learned first"


def _compare_encodings(got: list, letters: list, merges: dict) -> None:
    right = _by_rank(letters, merges, lambda places, new: min(places, key=new))
    if got == right:
        return
    if got == letters:
        raise Wrong("nothing was merged: a pair of neighbours that stands in merges becomes merges[pair]")
    if any(pair in merges for pair in pairwise(got)):
        raise Wrong("a pair that can be merged is left: go on until no pair of neighbours stands in merges")
    if got == _by_rank(letters, merges, lambda places, new: max(places, key=new)):
        raise Wrong("that merges what was learned last; the pair with the smallest new id was learned first")
    if got == _by_rank(letters, merges, lambda places, new: places[0]):
        raise Wrong("that merges the leftmost pair that it knows; the pair that was learned first goes first")
    raise Wrong(f"for {letters} the tokens are {right}, not {got}; the merges are {merges}")


# Core: shares of the training text.


def _check_shares(answer):
    sizes = {"en": 9000, "de": 900, "yo": 90, "vai": 10}
    for alpha in (1, 0.5, 0.3, 0):
        _compare_shares(returned(answer, dict(sizes), alpha), sizes, alpha)
    for alpha in (0, 0.5):
        got = returned(answer, {"en": 4, "xx": 0, "yo": 1}, alpha)
        if got.get("xx") != 0:
            raise Wrong("a language without any text cannot fill a share: 0 ** 0 is 1 in Python, so leave it at 0")
        _compare_shares(got, {"en": 4, "xx": 0, "yo": 1}, alpha)
    return f"at alpha 0.5 a language with 0.1 % of the text gets {_right_shares(sizes, 0.5)['vai']:.1%}"


def _right_shares(sizes: dict, alpha: float) -> dict:
    powers = {name: size**alpha if size else 0 for name, size in sizes.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def _near(got: dict, right: dict) -> bool:
    return all(abs(got[name] - right[name]) < 1e-9 for name in right)


def _compare_shares(got, sizes: dict, alpha: float) -> None:
    if not isinstance(got, dict) or set(got) != set(sizes):
        raise Wrong("a dict with a share for every language is expected")
    right, total = _right_shares(sizes, alpha), sum(sizes.values())
    if _near(got, right):
        return
    if _near(got, {name: size**alpha for name, size in sizes.items()}):
        raise Wrong("those are the powers; divide by their sum, so that the shares make 1")
    if _near(got, {name: (size / total) ** alpha for name, size in sizes.items()}):
        raise Wrong("the powers of shares no longer sum to 1: divide by their sum once more")
    if _near(got, {name: size / total for name, size in sizes.items()}):
        raise Wrong(f"those are the shares as found; alpha = {alpha} is not used")
    if alpha and _near(got, _right_shares(sizes, 1 / alpha)):
        raise Wrong("that sharpens: the power is alpha, not 1 / alpha, and large languages must lose")
    raise Wrong(f"for alpha = {alpha} the shares are {right}, not {got}")


# The stretch: a stream of tokens.


def _cut(text: str, draw: random.Random) -> list:
    data, pieces = text.encode(), []
    while data:
        size = draw.choice([1, 1, 2, 3, 5])
        pieces, data = [*pieces, data[:size]], data[size:]
    return pieces


def _right_stream(pieces: list) -> list:
    whole = [len(b"".join(pieces[:number]).decode(errors="ignore")) for number in range(len(pieces) + 1)]
    text = b"".join(pieces).decode()
    return [text[begin:end] for begin, end in pairwise(whole)]


def _check_stream(answer):
    draw = random.Random(7)
    for text in ["", "plain", "naïve", "Ωμέγα", "ማክሰኞ እሑድ", "日本語のテスト", "a👩b👩‍👧c"]:
        for _ in range(6):
            pieces = _cut(text, draw)
            _compare_streams(returned(answer, list(pieces)), pieces, text)
    return "every character as soon as its last byte has come"


def _compare_streams(got, pieces: list, text: str) -> None:
    if isinstance(got, str) or not isinstance(got, (list, tuple)):
        raise Wrong("a list with one text for each piece is expected")
    if not all(isinstance(shown, str) for shown in got):
        raise Wrong("each entry is a text (str), empty where no character is complete")
    if "\ufffd" in "".join(got):
        raise Wrong("U+FFFD is shown: a piece may end inside a character, so its first bytes must wait for the rest")
    if len(got) != len(pieces):
        raise Wrong(f"{len(pieces)} pieces came, so {len(pieces)} texts are expected, '' among them; not {len(got)}")
    if "".join(got) != text:
        raise Wrong(
            f"together the texts must be {text!r}, and they are {''.join(got)!r}: bytes were dropped or doubled"
        )
    if list(got) != _right_stream(pieces):
        raise Wrong("right in the end, and late: a character is shown with the piece that brings its last byte")


utf8 = Exercise(
    "utf8",
    lesson="tokenizer",
    check=_check_utf8,
    hints=[
        "ord(sign) is the code point. Up to 0x7F it takes one byte, up to 0x7FF two, up to 0xFFFF three, above four.",
        "1 + (p > 0x7F) + (p > 0x7FF) + (p > 0xFFFF), summed over the text.",
    ],
    minutes=4,
    difficulty=1,
)
encode = Exercise(
    "encode",
    lesson="tokenizer",
    check=_check_encode,
    hints=[
        "New ids grow as merges are learned: among the pairs that stand in the word, take the one with the smallest.",
        "known = [pair for pair in pairwise(ids) if pair in merges]: stop when empty, else merge the first learned.",
    ],
    minutes=9,
    difficulty=2,
)
shares = Exercise(
    "shares",
    lesson="tokenizer",
    check=_check_shares,
    hints=[
        "Raise every size to the power alpha, then divide by the sum of these powers.",
        "Size 0 must stay 0: 0 ** 0 is 1, which would promise text to a language that has none.",
    ],
    minutes=7,
    difficulty=2,
)
stream = Exercise(
    "stream",
    lesson="tokenizer",
    check=_check_stream,
    hints=[
        "Keep the bytes that have come and were not shown. Add each new piece to them, then see what can be shown.",
        "held.decode(errors='ignore') leaves an unfinished last character out; cut as many bytes off as were shown.",
    ],
    minutes=10,
    difficulty=3,
)
