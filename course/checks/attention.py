"""Checks of lesson `attention`: room for tokens, a piece's mask, a step, a move, a leak."""

import torch

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal
from helpers.compare import randn
from helpers.layers.attention import attend
from helpers.layers.rope import angles, frequencies, rotate, rotate_first, rotate_neighbours

__all__ = ["mask", "move", "newest", "predict", "probe", "reveal", "room"]


def _tensor(answer, shape: tuple, *args) -> torch.Tensor:
    """The answer as a tensor of that shape."""
    got = returned(answer, *args)
    if not isinstance(got, torch.Tensor):
        raise Wrong(f"a tensor is expected, and this is a {type(got).__name__}")
    if tuple(got.shape) != shape:
        raise Wrong(f"the shape must be {shape}, and it is {tuple(got.shape)}")
    return got


def _name_the_mistake(got: torch.Tensor, right: torch.Tensor, mistakes: dict, otherwise: str) -> None:
    """Raise Wrong with the sentence of the wrong tensor that ``got`` is; nothing where it is right."""
    if torch.allclose(got, right, atol=1e-4):
        return
    for sentence, wrong in mistakes.items():
        if torch.allclose(got, wrong, atol=1e-4):
            raise Wrong(sentence)
    raise Wrong(f"{otherwise}: the largest difference is {(got - right).abs().max():.2g}")


# The warm-up: tokens that fit.


def _check_room(answer):
    for memory, weights, layers, kv_heads, width in [
        (24 * 10**9, 1_192_099_840, 28, 8, 128),
        (10**6 + 999, 10**5, 3, 2, 7),
        (5_000, 4_000, 1, 1, 5),
    ]:
        got, a_token = returned(answer, memory, weights, layers, kv_heads, width), 4 * layers * kv_heads * width
        right = (memory - weights) // a_token
        if got == right:
            continue
        mistakes = {
            memory // a_token: "the weights take their part of the memory first",
            (memory - weights) // (a_token // 2): "twice too many: keys and values are kept, 2 bytes per number",
            (memory - weights) // (a_token // 4): "four times too many: keys and values are kept, 2 bytes per number",
            -(-(memory - weights) // a_token): "one too many: a token that fits in part does not fit",
            (memory - weights) / a_token: "a part of a token is no token: give a whole number, rounded down",
            (memory - weights) // (a_token // layers): "that is room for one layer, and every layer keeps its own",
        }
        raise Wrong(mistakes.get(got, f"{right:,} tokens fit, not {got!r}"))
    fits = (24 * 10**9 - 1_192_099_840) // (4 * 28 * 8 * 128)
    return f"beside Qwen3-0.6B, {fits:,} tokens fit a card of 24 GB"


# Core: the mask of a piece.


def _check_mask(answer):
    for held, new in [(0, 4), (3, 1), (5, 3), (1, 6)]:
        got = _tensor(answer, (new, held + new), held, new)
        if got.dtype != torch.bool:
            raise Wrong(f"a mask is boolean, and this is {got.dtype}")
        full = torch.ones(new, held + new, dtype=torch.bool)
        right = full.tril(held)
        if torch.equal(got, right):
            continue
        where = f"with {held} held and {new} new"
        if torch.equal(got, ~right):
            raise Wrong("the other way round: True means that a token may look")
        if torch.equal(got, full):
            raise Wrong(f"{where}, the first new token sees those behind it: inside the piece it is causal too")
        if torch.equal(got, full.tril()):
            raise Wrong(f"{where}, the rows start at place 0: the first new token stands at place {held}")
        if torch.equal(got, full.tril(held - 1)):
            raise Wrong(f"{where}, a token does not see itself: off by one")
        if torch.equal(got, full.tril(held + 1)):
            raise Wrong(f"{where}, each token sees the one after it: off by one, and a leak")
        raise Wrong(f"{where}, row 0 must be {right[0].tolist()}, and is {got[0].tolist()}")
    return "four pieces, with and without a cache"


# Core: decode with shared keys.


def _check_newest(answer):
    for heads, groups, width, length in [(4, 2, 8, 5), (6, 3, 5, 7), (3, 1, 4, 3), (2, 2, 6, 4)]:
        query, key, value = (
            randn(length, n, width, seed=seed) for seed, n in enumerate((heads, groups, groups), start=heads)
        )
        kept: list = []
        for t in range(length):
            got = _tensor(answer, (heads, width), query[t].clone(), key[t], value[t], kept)
            _check_kept(kept, key, value, t)
            _compare_newest(got, query[t], key[: t + 1], value[: t + 1])
    return "four layers, token by token, equal to attention over everything"


def _check_kept(kept: list, key: torch.Tensor, value: torch.Tensor, t: int) -> None:
    if len(kept) == t:
        raise Wrong("the newest pair is not in `kept` afterwards: the next token must find it there")
    if len(kept) != t + 1:
        raise Wrong(f"after {t + 1} tokens {t + 1} pairs are kept, and `kept` has {len(kept)}")
    try:
        same = torch.equal(kept[t][0], key[t]) and torch.equal(kept[t][1], value[t])
    except (TypeError, IndexError):
        raise Wrong("`kept` is a list of (key, value) pairs") from None
    if not same:
        raise Wrong("keep key and value as they came, G heads each: that is what makes the cache small")


def _compare_newest(got, query, key, value) -> None:
    heads, groups, width = len(query), key.shape[1], query.shape[1]
    right = _found(query, key, value)
    in_turn = torch.arange(heads) % groups
    mistakes = {
        "head h reads key/value head h // (H / G): groups of neighbours, not heads in turn": _found(
            query, key[:, in_turn], value[:, in_turn]
        ),
        "the scores are not divided by the root of the width": _found(query * width**0.5, key, value),
        "divided by the width; it is the root of the width": _found(query / width**0.5, key, value),
    }
    if len(key) > 1:
        mistakes["the newest token does not see itself: keep its pair first, then look"] = _found(
            query, key[:-1], value[:-1]
        )
    _name_the_mistake(got, right, mistakes, f"with {heads} query heads, {groups} key/value heads, {len(key)} tokens")


def _found(query, key, value) -> torch.Tensor:
    everything = torch.ones(1, 1, len(key), dtype=torch.bool)
    return attend(query[None, None], key[None], value[None], everything)[0, 0]


# Core: move a key.


def _check_move(answer):
    for at, by, theta, part, width in [
        (3, 4, 1e4, 8, 32),
        (9, -2, 1e7, 6, 20),
        (100, 57, 1e4, 16, 16),
        (5, 0, 1e4, 4, 8),
    ]:
        fresh = randn(3, width, seed=at)
        key = _turned(fresh, at, theta, part)
        got = _tensor(answer, (3, width), key.clone(), by, theta, part)
        wide = rotate(key[None, None], *angles(torch.tensor([[by]]), frequencies(width, theta)))[0, 0]
        neighbours = torch.cat([_neighbours(key[:, :part], by, theta), key[:, part:]], dim=1)
        slow = frequencies(width, theta)[: part // 2]
        mistakes = {
            "the wrong way: a larger place is a turn by + angle, a negative `by` turns back": _turned(
                key, -by, theta, part
            ),
            f"all {width} coordinates are turned; only the first {part} carry the position": wide,
            "the frequencies are those of the whole head; the rotary part is a small head of its own": rotate_first(
                key[None, None], *angles(torch.tensor([[by]]), slow)
            )[0, 0],
            "pairs of neighbours (2i, 2i + 1) are turned; here the pairs are (i, i + part/2)": neighbours,
            "nothing moved": key,
        }
        _name_the_mistake(got, _turned(fresh, at + by, theta, part), mistakes, f"from place {at} to {at + by}")
    return "as if the key had been made at its new place"


def _turned(x: torch.Tensor, by: int, theta: float, part: int) -> torch.Tensor:
    return rotate_first(x[None, None], *angles(torch.tensor([[by]]), frequencies(part, theta)))[0, 0]


def _neighbours(x: torch.Tensor, by: int, theta: float) -> torch.Tensor:
    return rotate_neighbours(x[None, None], *angles(torch.tensor([[by]]), frequencies(x.shape[1], theta)))[0, 0]


# The stretch: find the leak.


def _attention(x: torch.Tensor, diagonal: int = 0) -> torch.Tensor:
    """Attention of x with itself; ``diagonal`` 1 sees one token too many."""
    barred = ~torch.ones(len(x), len(x), dtype=torch.bool).tril(diagonal)
    return (x @ x.T).masked_fill(barred, float("-inf")).softmax(dim=-1) @ x


def _one_leak(x: torch.Tensor, at: int, source: int, size: float = 1.0) -> torch.Tensor:
    """A running mean, in which one place also sees one later place."""
    mean = x.cumsum(dim=0) / torch.arange(1, len(x) + 1)[:, None]
    mean[at] = mean[at] + size * x[source]
    return mean


def _cases(length: int) -> list:
    return [
        (lambda x: 2 * x, True, "twice the input looks nowhere: it is causal"),
        (_attention, True, "causal attention: answers behind the changed place may move, those before it do not"),
        (lambda x: x.cumsum(dim=0).flip(0).flip(0), True, "a running sum is causal"),
        (lambda x: _attention(x, 1), False, "every token sees the next one"),
        (lambda x: x - x.mean(dim=0), False, "the mean is over all tokens, the later ones too"),
        (lambda x: _one_leak(x, 0, 1), False, "only the first token sees the second: try every place"),
        (lambda x: _one_leak(x, length - 2, length - 1), False, "only the last but one sees the last: try every place"),
        (lambda x: _one_leak(x, 1, length - 1), False, "one early token sees the last: change that too"),
        (lambda x: _one_leak(x, 2, 4, 1e-3), False, "a small leak is a leak: before the change, equal means equal"),
    ]


def _check_probe(answer):
    x = randn(8, 4, seed=1)
    for function, right, why in _cases(len(x)):
        given = x.clone()
        got = returned(answer, lambda y, f=function: f(y.clone()), given)
        if not torch.equal(given, x):
            raise Wrong("x itself was changed: work on x.clone()")
        if not isinstance(got, (bool, type(torch.tensor(True)))):
            raise Wrong(f"True or False is expected, and this is {got!r}")
        if bool(got) is not right:
            raise Wrong(why)
    return "three causal functions, six leaks"


room = Exercise(
    "room",
    lesson="attention",
    check=_check_room,
    hints=[
        "A token leaves a key and a value in each layer, for each key/value head.",
        "(memory - weights) // bytes of a token; a number in bf16 takes 2 bytes.",
    ],
    minutes=4,
    difficulty=1,
)
mask = Exercise(
    "mask",
    lesson="attention",
    check=_check_mask,
    hints=[
        "Row r is the token at place held + r. It may look at columns 0 to held + r.",
        "torch.arange(held + new) are the columns' places; compare them with the rows' places as a column, [:, None].",
    ],
    minutes=6,
    difficulty=2,
)
newest = Exercise(
    "newest",
    lesson="attention",
    check=_check_newest,
    hints=[
        "Append first, so that the token sees itself. Then stack the kept keys: [S, G, K].",
        "repeat_interleave(H // G, dim=1) gives every query head its key head, neighbours together.",
        "einsum('hk,shk->hs') makes the scores; divide by K ** 0.5, softmax over s, einsum('hs,shk->hk').",
    ],
    minutes=10,
    difficulty=2,
)
move = Exercise(
    "move",
    lesson="attention",
    check=_check_move,
    hints=[
        "Turns add up: a key that is turned for place p, turned by `by` more, is turned for place p + by.",
        "Cut the key into first = key[:, :part//2], second = key[:, part//2:part], and the rest, which stays.",
    ],
    minutes=8,
    difficulty=2,
)
probe = Exercise(
    "probe",
    lesson="attention",
    check=_check_probe,
    hints=[
        "Change a copy of x from some place on, and compare the answers before that place with torch.equal.",
        "One place is not enough: go through all places from 1 to T - 1, and give every later row other values.",
    ],
    minutes=10,
    difficulty=3,
)
