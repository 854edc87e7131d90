"""Checks of lesson `what_came_next`: what a layer keeps, complete entries, Sinkhorn, the price of an index."""

import torch

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal
from helpers.compare import randn

__all__ = ["doubly_stochastic", "kept", "predict", "readable", "reveal", "takes_over"]


def _whole_number(got) -> int:
    if isinstance(got, bool) or not isinstance(got, (int, torch.Tensor)) or int(got) != got:
        raise Wrong(f"a whole number is expected, and this is {got!r}")
    return int(got)


# The warm-up: what a layer keeps.


def _check_kept(answer):
    for tokens, window, ratio, width, index in [
        (1_000_000, 128, 4, 512, 128),
        (1_000_064, 128, 128, 512, 0),
        (1003, 128, 4, 512, 128),
        (50, 128, 4, 512, 128),
        (3, 8, 4, 16, 5),
    ]:
        got, entries = _whole_number(returned(answer, tokens, window, ratio, width, index)), tokens // ratio
        near = min(tokens, window - 1)
        right = near * width + entries * (width + index)
        if got == right:
            continue
        mistakes = {
            near * width + -(-tokens // ratio) * (width + index): "the last group is not complete: it is no entry yet",
            near * width + entries * width: "the index keys are missing: one for each entry",
            entries * (width + index): "the window is missing: the newest tokens are kept as they are",
            min(tokens, window) * width + entries * (width + index): "a window of `window` tokens counts the query's "
            "own, which need not be kept before it comes: window - 1",
            (window - 1) * width + entries * (width + index): "a short text does not fill the window",
            near * width + tokens * (width + index): "that is one entry a token; there is one for `ratio` tokens",
            near * (width + index) + entries * (width + index): "index keys belong to entries; the window has none",
        }
        where = f"{tokens:,} tokens, window {window}, one entry for {ratio}"
        raise Wrong(mistakes.get(got, f"{where}: {right:,} numbers, not {got:,}"))
    return "DeepSeek-V4-Flash's two kinds of layers, and three short texts"


# Core: when an entry may be read.


def _check_readable(answer):
    for ratio, entries in [(4, 5), (1, 6), (8, 3), (128, 2), (3, 7)]:
        for position in range(min(entries * ratio + 2, 3 * ratio + 2)):
            _compare_readable(answer, position, ratio, entries)
    return "five ratios, every position around their borders"


def _compare_readable(answer, position: int, ratio: int, entries: int) -> None:
    got = returned(answer, position, ratio, entries)
    got = got.tolist() if isinstance(got, torch.Tensor) else got
    if not isinstance(got, (list, tuple)) or len(got) != entries:
        raise Wrong(f"{entries} answers are expected, one per entry, True or False; this is {got!r}")
    got, places = [bool(one) for one in got], range(entries)
    right = [(n + 1) * ratio - 1 <= position for n in places]
    if got == right:
        return
    where = f"position {position}, one entry for {ratio} tokens"
    if got == [(n + 1) * ratio <= position + 2 for n in places]:
        raise Wrong(f"a leak of one token: at {where} the last token of the entry is the next one")
    if got == [n * ratio <= position for n in places] and ratio > 1:
        raise Wrong(f"a leak: at {where} you read an entry that has begun; it also holds tokens that are still to come")
    if got == [(n + 1) * ratio - 1 < position for n in places]:
        raise Wrong(f"one token late: at {where} the entry is complete with the query's own token")
    if all(got):
        raise Wrong(f"a leak: at {where} every entry is read, those of the future too")
    raise Wrong(f"{where}: {right} is right, not {got}")


# Core: Sinkhorn.


def _check_doubly_stochastic(answer):
    for n, seed in [(2, 0), (4, 1), (4, 2), (7, 3)]:
        given = randn(n, n, seed=seed).exp().double()
        got = returned(answer, given.clone())
        if not isinstance(got, torch.Tensor) or got.shape != given.shape:
            raise Wrong(f"a matrix of {n} x {n} is expected, and this is {getattr(got, 'shape', got)!r}")
        _judge_sums(got.double(), given)
        if not torch.allclose(_crossed(got.double()), _crossed(given), rtol=1e-3):
            raise Wrong(
                "doubly stochastic, and not made from the given matrix: rows and columns may be divided by numbers, "
                "nothing else"
            )
    return "four matrices: rows and columns sum to one, and only divisions were used"


def _judge_sums(got: torch.Tensor, given: torch.Tensor) -> None:
    if (got <= 0).any():
        raise Wrong("a number is zero or negative: positive numbers that are divided by positive ones stay positive")
    rows, columns = ((got.sum(dim=dim) - 1).abs().max().item() for dim in (1, 0))
    if max(rows, columns) <= 1e-3:
        return
    one_round = given / given.sum(dim=0)
    one_round = one_round / one_round.sum(dim=1, keepdim=True)
    if torch.allclose(got, one_round, atol=1e-6):
        raise Wrong(f"one round is not enough: after it the columns are off by {columns:.2g}; repeat")
    if rows <= 1e-3:
        raise Wrong(
            f"rows sum to one, columns do not (off by {columns:.2g}): divide by the columns' sums too, and repeat"
        )
    if columns <= 1e-3:
        raise Wrong(f"columns sum to one, rows do not (off by {rows:.2g}): divide by the rows' sums too, and repeat")
    raise Wrong(f"rows are off by {rows:.2g} and columns by {columns:.2g}")


def _crossed(matrix: torch.Tensor) -> torch.Tensor:
    """What dividing rows and columns cannot change: a_ij a_00 / (a_i0 a_0j)."""
    return matrix * matrix[0, 0] / (matrix[:, :1] * matrix[:1, :])


# The stretch: where the index takes over.

_FLASH = (64, 512, 64, 128, 4, 512, 128)


def _check_takes_over(answer):
    for case in [_FLASH, (128, 512, 64, 128, 4, 1024, 128), (8, 64, 16, 32, 4, 16, 16), (4, 32, 2, 16, 8, 10, 32)]:
        heads, width, index_heads, index_width, ratio, k, window = case
        got = _whole_number(returned(answer, *case))
        pair, score = 4 * heads * width, 2 * index_heads * (index_width + 1)
        right = _first(pair * (window + k), score, ratio)
        if got == right:
            continue
        mistakes = {
            _first(pair * k, score, ratio): "the window is missing: its tokens are read beside the chosen entries",
            _first(pair * (window + k), score, 1): "that is counted in tokens: an index key stands for `ratio` of them",
            right // ratio: "that is the number of entries; a context is counted in tokens",
            _first(
                pair // 2 * (window + k), score, ratio
            ): "half of the attention: a score and a share of the mixture, 2 FLOP each",
            right - ratio: "one entry too early: there both cost the same, or the index less",
            right - 1: "the entry is not complete yet at that length",
            _first(pair * (window + k), score // index_heads, ratio): "every index head scores every key",
            _first(pair // heads * (window + k), score, ratio): "every head reads what was chosen",
        }
        raise Wrong(mistakes.get(got, f"for {case}: {right:,} tokens, not {got:,}"))
    return f"DeepSeek-V4-Flash: from {_first(4 * 64 * 512 * 640, 2 * 64 * 129, 4):,} tokens on choosing costs more"


def _first(attention: int, score: int, ratio: int) -> int:
    """The shortest text whose entries, each scored, cost more than ``attention``."""
    return (attention // score + 1) * ratio


kept = Exercise(
    "kept",
    lesson="what_came_next",
    check=_check_kept,
    hints=[
        "Three parts: the newest tokens (at most window - 1, one vector each), the entries, the index keys.",
        "A group that is not complete is no entry yet: tokens // ratio.",
    ],
    minutes=4,
    difficulty=1,
)
readable = Exercise(
    "readable",
    lesson="what_came_next",
    check=_check_readable,
    hints=[
        "Write down which tokens entry n is made of. Which of them comes last?",
        "Entry n ends with token (n + 1) * ratio - 1, and a query sees its own token.",
    ],
    minutes=6,
    difficulty=2,
)
doubly_stochastic = Exercise(
    "doubly_stochastic",
    lesson="what_came_next",
    check=_check_doubly_stochastic,
    hints=[
        "Divide each column by its sum, then each row by its sum. What happened to the columns? Repeat.",
        "matrix.sum(dim=0, keepdim=True) are the sums of the columns; fifty rounds are plenty here.",
    ],
    minutes=7,
    difficulty=2,
)
takes_over = Exercise(
    "takes_over",
    lesson="what_came_next",
    check=_check_takes_over,
    hints=[
        "Behind k entries the attention costs 4 * heads * width * (window + k), whatever the context.",
        "An entry costs the index 2 * index_heads * (index_width + 1). How many entries cost more than that attention?",
        "The smallest whole number above a / b is a // b + 1; each entry takes `ratio` tokens.",
    ],
    minutes=9,
    difficulty=3,
)
