"""Checks of lesson `dsa`: where it pays, a causal choice, and tests that catch its bugs."""

import math
import random

import torch

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal
from helpers.layers.rope import angles, frequencies, rotate, rotate_neighbours

__all__ = ["agrees", "blocks", "causal", "pays", "predict", "reveal", "select"]

_INF = float("inf")


# The warm-up: from which context on it pays.


def _check_pays(answer):
    draw = random.Random(7)
    for _ in range(8):
        dense, index, k = draw.randint(50, 999), draw.randint(1, 49), draw.choice([16, 512, 2048])
        _compare_pays(_number(returned(answer, dense, index, k)), dense, index, k)
    for index in (100, 101):
        if (got := _number(returned(answer, 100, index, 16))) != math.inf:
            raise Wrong(f"an indexer that costs {index} where attention costs 100 never pays: math.inf, not {got:g}")
    glm5 = returned(answer, 2 * 64 * (512 + 64 + 512), 2 * 32 * 129, 2048)
    return f"GLM-5's decoding breaks even at {glm5:,.0f} tokens, by FLOP"


def _number(got) -> float:
    if isinstance(got, bool) or not isinstance(got, (int, float)):
        raise Wrong(f"a number of tokens is expected, and this is a {type(got).__name__}")
    return got


def _compare_pays(got: float, dense: int, index: int, k: int) -> None:
    right = k * dense / (dense - index)
    if math.isclose(got, right, rel_tol=1e-6):
        return
    mistakes = {
        k * dense / index: "that is where the indexer alone costs what k tokens of attention cost; dense must pay both",
        k * (dense + index) / dense: "the indexer scores every token of the context, and not only the k chosen ones",
        float(k): "at k tokens both read the same, and the sparse layer has paid for its indexer on top",
        k
        * dense
        / (dense + index): "the sign: the indexer's cost is added to the sparse side, so it comes off the dense",
    }
    for value, why in mistakes.items():
        if math.isclose(got, value, rel_tol=1e-6):
            raise Wrong(why)
    raise Wrong(f"dense {dense}, index {index} a token and k = {k}: they meet at {right:.1f} tokens, not {got:.1f}")


# Core: a causal choice, ties to the earlier position.


def _best(scores: torch.Tensor, k: int) -> list[list[int]]:
    rows = scores.tolist()
    return [sorted(sorted(range(t + 1), key=lambda s: (-row[s], s))[:k]) for t, row in enumerate(rows)]


def _score_cases():
    generator = torch.Generator().manual_seed(7)
    for length, k in [(6, 3), (5, 9), (1, 1), (33, 8), (12, 1)]:
        yield torch.randn(length, length, generator=generator), k  # nothing equal, half of it negative
        yield torch.randint(0, 3, (length, length), generator=generator).float(), k  # hardly anything but ties
        yield -torch.rand(length, length, generator=generator) - 1, k  # nothing above zero


def _check_select(answer):
    for scores, k in _score_cases():
        _compare_rows(_rows(returned(answer, scores.clone(), k), len(scores)), _best(scores, k), scores, k)
    return "15 tables of scores, with ties, with more budget than keys, with nothing above zero"


def _rows(got, length: int) -> list[list[int]]:
    if isinstance(got, torch.Tensor):
        got = got.tolist()
    if not isinstance(got, (list, tuple)) or len(got) != length:
        raise Wrong(f"one list of positions per query is expected, {length} of them, and this is {_brief(got)}")
    rows = [row.tolist() if isinstance(row, torch.Tensor) else row for row in got]
    for row in rows:
        if not isinstance(row, (list, tuple)) or not all(isinstance(s, int) and not isinstance(s, bool) for s in row):
            raise Wrong(f"a query's choice is a list of whole numbers, and one is {_brief(row)}")
    return [list(row) for row in rows]


def _brief(value) -> str:
    text = repr(value)
    return text if len(text) < 50 else text[:47] + "..."


def _compare_rows(got: list[list[int]], right: list[list[int]], scores: torch.Tensor, k: int) -> None:
    by_zero = scores.tril().topk(min(k, len(scores)), dim=-1).indices
    if got != right and [sorted(row) for row in got] == [sorted(row) for row in by_zero.tolist()]:
        raise Wrong("the future was barred by a zero, and zero beats every negative score: bar it by -inf")
    for t, (mine, best) in enumerate(zip(got, right, strict=True)):
        _compare_row(t, mine, best, scores[t], k)


def _compare_row(t: int, got: list[int], best: list[int], scores: torch.Tensor, k: int) -> None:
    if -1 in got:
        raise Wrong(f"query {t} sees {t + 1} keys: give those alone; here no -1 fills the rest")
    if late := [s for s in got if s > t]:
        raise Wrong(
            f"query {t} reads position {late[0]}, which comes after it: a leak (k is {k}, it sees {t + 1} keys)"
        )
    if len(got) != len(best) or len(set(got)) != len(got):
        raise Wrong(f"query {t} sees {t + 1} keys and may read {k}: {len(best)} of them, not {len(set(got))}")
    if sorted(scores[got].tolist()) != sorted(scores[best].tolist()):
        raise Wrong(f"query {t} has scores {scores[: t + 1].tolist()[:8]}: its best {len(best)} are {best}, not {got}")
    if sorted(got) != best:
        raise Wrong(f"among equal scores the earlier position goes first: query {t} reads {best}, not {sorted(got)}")
    if got != best:
        raise Wrong("right tokens in another order: give each list in order of position")


# Core: a probe for the future. The layers mix the tokens that they choose.


def _layer(reads):
    """A layer whose row t is the mean of the rows that ``reads(scores, t)`` lists."""

    def layer(x):
        rows = x[0]
        scores = rows @ rows.T
        return torch.stack([rows[reads(scores, t)].mean(dim=0) for t in range(len(rows))])[None]

    return layer


def _honest(k: int):
    return lambda scores, t: scores[t, : t + 1].topk(min(k, t + 1)).indices


def _short_rows(k: int):
    """The famous bug: rows that see fewer than k keys are filled up with what comes next."""
    return lambda scores, t: torch.arange(k) if t + 1 < k and k <= len(scores) else _honest(k)(scores, t)


def _one_row(row: int):
    def reads(scores, t):
        at = _honest(4)(scores, t)
        return torch.cat([at, torch.tensor([t + 1])]) if t == row and t + 1 < len(scores) else at

    return reads


def _by_the_future(scores, t):
    """Reads nothing late, but the last token decides what is read."""
    want = scores[t, : t + 1] * torch.sign(scores[-1, : t + 1])
    return want.topk(min(4, t + 1)).indices


_LAYERS = [
    (
        _honest(4),
        True,
        "this layer reads 4 earlier tokens at most and none later; a change later moves later rows only",
    ),
    (_honest(1), True, "this layer reads one earlier token and none later"),
    (_short_rows(6), False, "a layer that fills rows of fewer than 6 visible keys with later ones was called causal"),
    (_one_row(3), False, "a layer in which row 3 alone reads position 4 was called causal: try every position"),
    (_one_row(14), False, "a layer in which row 14 alone reads position 15 was called causal: try every position"),
    (_by_the_future, False, "a layer that lets the last token decide what the others read was called causal"),
]


def _check_causal(answer):
    for reads, right, why in _LAYERS:
        got = returned(answer, _layer(reads), 24, 8)
        if isinstance(got, torch.Tensor) and got.numel() == 1:
            got = bool(got)
        if not isinstance(got, bool):
            raise Wrong(f"True or False is expected, and this is {_brief(got)}")
        if got is not right:
            raise Wrong(why if right is False else f"an honest layer was called leaky: {why}")
    return "two honest layers and four leaks, each told apart"


# Core: a test that bites. Two implementations of an index choice.


def _chooser(turn, first: int = 0, turn_keys: bool = True, theta: float = 100.0):
    """An index choice by one head: rows turned by position, then the k best of each row's visible dot products."""

    def choose(x, k):
        positions = torch.arange(len(x))[None] + first
        rotary = angles(positions, frequencies(x.shape[1], theta))
        query = turn(x[None, :, None], *rotary)[0, :, 0]
        key = query if turn_keys else x
        mask = torch.zeros(len(x), len(x), dtype=torch.bool)
        for t, row in enumerate(query @ key.T):
            mask[t, row[: t + 1].topk(min(k, t + 1)).indices] = True
        return mask

    return choose


class _Watched:
    """A chooser that remembers what it was asked."""

    def __init__(self, choose):
        self.choose, self.asked = choose, []

    def __call__(self, x, k):
        if not isinstance(x, torch.Tensor) or x.dim() != 2 or x.shape[1] != 8 or not x.is_floating_point():
            raise Wrong("a choice takes activations of shape T x 8, in floating point, and k")
        if not isinstance(k, int) or k < 1:
            raise Wrong(f"k is a whole number of tokens, at least 1, and this is {_brief(k)}")
        self.asked.append((len(x), k))
        return self.choose(x, k)


_PAIRS = [
    ("the same code", _chooser(rotate), _chooser(rotate), True),
    ("half-split against interleaved", _chooser(rotate), _chooser(rotate_neighbours), False),
    ("positions from 0 against positions from 1", _chooser(rotate), _chooser(rotate, first=1), True),
    ("keys that are not turned", _chooser(rotate_neighbours), _chooser(rotate_neighbours, turn_keys=False), False),
    ("interleaved against half-split", _chooser(rotate_neighbours), _chooser(rotate), False),
]


def _check_agrees(answer):
    for what, ours, theirs, right in _PAIRS:
        ours, theirs = _Watched(ours), _Watched(theirs)
        got = returned(answer, ours, theirs)
        if isinstance(got, torch.Tensor) and got.numel() == 1:
            got = bool(got)
        if not isinstance(got, bool):
            raise Wrong(f"True or False is expected, and this is {_brief(got)}")
        if got is not right:
            raise Wrong(_why_it_does_not_bite(what, ours.asked, theirs.asked, right))
    return "a wrong pairing, unturned keys and a harmless shift, told apart"


def _why_it_does_not_bite(what: str, ours: list, theirs: list, right: bool) -> str:
    if not ours or not theirs:
        return "one of the two was never asked: call both on the same activations"
    if right:
        return f"{what}: both choose the same tokens, and your test says that they differ (are the inputs the same?)"
    if all(k >= length for length, k in ours):
        length, k = ours[-1]
        return (
            f"with k = {k} and {length} tokens everything is chosen, so that no bug can show: take k below the length"
        )
    return f"{what}: other tokens are chosen, and your test says that they agree; compare every cell of both masks"


# The stretch: whole blocks.


def _best_blocks(scores: torch.Tensor, k: int, size: int) -> list[list[int]]:
    chosen = []
    for t, row in enumerate(scores.tolist()):
        starts = range(0, t + 1, size)
        best = sorted(starts, key=lambda b: (-max(row[b : min(b + size, t + 1)]), b))[: k // size]
        chosen.append([s for b in sorted(best) for s in range(b, min(b + size, t + 1))])
    return chosen


def _check_blocks(answer):
    generator = torch.Generator().manual_seed(9)
    for length, k, size in [(12, 4, 2), (13, 8, 4), (5, 8, 4), (16, 4, 4), (9, 3, 1), (30, 8, 4)]:
        for scores in (
            torch.randn(length, length, generator=generator),
            torch.randint(0, 4, (length, length), generator=generator).float(),
        ):
            got = _rows(returned(answer, scores.clone(), k, size), length)
            _compare_blocks(got, scores, k, size)
    return "12 tables, blocks of 1, 2 and 4"


def _compare_blocks(got: list[list[int]], scores: torch.Tensor, k: int, size: int) -> None:
    right = _best_blocks(scores, k, size)
    if got == right:
        return
    rows = enumerate(zip(got, right, strict=True))
    t, (mine, best) = next((t, pair) for t, pair in rows if pair[0] != pair[1])
    if late := [s for s in mine if s > t]:
        raise Wrong(f"query {t} reads position {late[0]}: the block it stands in has a part that comes later")
    if sorted(mine) == best:
        raise Wrong("right tokens in another order: give each list in order of position")
    whole = {s // size for s in mine}
    if set(mine) != {s for b in whole for s in range(b * size, min((b + 1) * size, t + 1))}:
        raise Wrong(f"query {t} reads {mine} with blocks of {size}: a block is read whole, as far as it is visible")
    if len(whole) > k // size:
        raise Wrong(f"{len(whole)} blocks of {size} were kept, and the budget of {k} tokens pays for {k // size}")
    raise Wrong(
        f"query {t}: the blocks of {size} at {sorted({s // size * size for s in best})} have the highest visible "
        f"scores (the earlier first where equal), not those at {sorted(b * size for b in whole)}"
    )


pays = Exercise(
    "pays",
    lesson="dsa",
    check=_check_pays,
    hints=[
        "With n tokens of context, dense costs dense * n; sparse costs index * n, and dense * k for what it reads.",
        "Set the two equal and solve for n. Where index >= dense no n does it: return math.inf.",
    ],
    minutes=4,
    difficulty=1,
)
select = Exercise(
    "select",
    lesson="dsa",
    check=_check_select,
    hints=[
        "Query t sees the positions 0 to t: sort those alone, and nothing later can come in.",
        "sorted(range(t + 1), key=lambda s: (-row[s], s)) puts the highest first and the earlier of equals first.",
    ],
    minutes=7,
    difficulty=2,
)
causal = Exercise(
    "causal",
    lesson="dsa",
    check=_check_causal,
    hints=[
        "Run the layer twice: on x, and on a copy that differs from some position on. What may change, and what not?",
        "Rows before the changed position must stay. Try every position from 1 to length - 1: a leak may be one row.",
    ],
    minutes=8,
    difficulty=2,
)
agrees = Exercise(
    "agrees",
    lesson="dsa",
    check=_check_agrees,
    hints=[
        "Draw one x of, say, 64 x 8 random numbers, and ask both for the same k.",
        "With k as large as the length everything is chosen and no bug shows. Take k = 4 and use torch.equal.",
    ],
    minutes=6,
    difficulty=2,
)
blocks = Exercise(
    "blocks",
    lesson="dsa",
    check=_check_blocks,
    hints=[
        "Blocks begin at 0, size, 2 * size, ... up to t. A block's score is the maximum over its visible positions.",
        "Keep the best k // size starts (earlier first where equal), then list start to min(start + size, t + 1).",
    ],
    minutes=9,
    difficulty=3,
)
