"""Checks of lesson `speculative`: the residual, what stays, a bias, the best k, a window, a full chip."""

import random

import torch
from torch import Tensor

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal
from helpers.compare import randn
from helpers.decoding.speculative import residual as residual_by_helper

__all__ = ["batch", "best", "biased", "predict", "residual", "reveal", "stay", "window"]

HAND = torch.tensor([0.50, 0.30, 0.15, 0.05]), torch.tensor([0.10, 0.60, 0.10, 0.20])  # the lesson's p and q


def _pairs(most: int) -> list[tuple[Tensor, Tensor]]:
    """The lesson's p and q, and random ones; the last pair has nothing in common."""
    sizes = [(words, seed) for seed, words in enumerate((2, 3, 7, 50)[:most])]
    drawn = [tuple((2 * randn(words, seed=seed + 10 * n)).softmax(-1) for n in range(2)) for words, seed in sizes]
    return [HAND, *drawn, (torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0]))]


def _distribution(got, like: Tensor) -> Tensor:
    if not isinstance(got, Tensor):
        raise Wrong(f"a tensor is expected, and this is a {type(got).__name__}")
    if got.shape != like.shape:
        raise Wrong(f"a chance for each of {len(like)} words is expected, and the shape is {tuple(got.shape)}")
    if (got < 0).any():
        raise Wrong("a chance is negative: where q is larger than p nothing is left, and that is 0")
    return got


def _named(got: Tensor, right: Tensor, mistakes: list[tuple[Tensor, str]], otherwise: str) -> None:
    if torch.allclose(got, right, atol=1e-5):
        return
    for wrong, message in mistakes:
        if torch.allclose(got, wrong, atol=1e-5):
            raise Wrong(message)
    raise Wrong(
        f"{otherwise}: {[round(x, 3) for x in right.tolist()[:4]]}, not {[round(x, 3) for x in got.tolist()[:4]]}"
    )


# The warm-up: the residual.


def _check_residual(answer):
    for p, q in _pairs(4):
        right, apart, liked = residual_by_helper(p, q), (p - q).abs(), torch.where(p > q, p, 0.0)
        mistakes = [
            ((p - q).clamp(min=0), "it does not sum to 1: divide by its sum"),
            (p, "this is p: what q has already given would be given twice"),
            (liked / liked.sum(), "these words are the missing ones, but q has given a part of each: p - q, not p"),
            (residual_by_helper(q, p), "this is what q has more than p; the words that are missing are p's"),
            (apart / apart.sum(), "where q is larger than p nothing is missing: 0, not the distance"),
            ((p - q).softmax(-1), "a softmax leaves something for every word; cut at 0 and divide by the sum"),
        ]
        _named(_distribution(returned(answer, p.clone(), q.clone()), p), right, mistakes, "for the first words")
    return "five pairs, one with nothing in common"


# Core: how many stay.


def _check_stay(answer):
    draw = random.Random(18)
    drafts = [_draft(draw, case) for case in range(40)]
    got = [_whole(returned(answer, *(part.clone() for part in draft))) for draft in drafts]
    _compare(got, drafts, lambda *draft: _until_refused(_stays(*draft)), STAY, _said)
    return "40 drafts of one to five guesses"


def _draft(draw: random.Random, case: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    k, words = draw.choice([1, 2, 3, 5]), draw.choice([2, 4, 9])
    p, q = (1.5 * randn(k + 1, words, seed=case)).softmax(-1), randn(k, words, seed=90 + case).softmax(-1)
    return randn(k, words, seed=200 + case).argmax(-1), q, p, torch.tensor([draw.random() for _ in range(k)])


def _said(drafted: Tensor, q: Tensor, p: Tensor, luck: Tensor) -> str:
    """What decides over each guess."""
    ratio, luck = [[round(x, 2) for x in part.tolist()] for part in (_of(drafted, p) / _of(drafted, q), luck)]
    return f"luck {luck} against p / q {ratio}"


def _of(drafted: Tensor, chances: Tensor) -> Tensor:
    return chances[torch.arange(len(drafted)), drafted]


def _stays(drafted: Tensor, q: Tensor, p: Tensor, luck: Tensor) -> Tensor:
    return luck * _of(drafted, q) < _of(drafted, p)


def _until_refused(good: Tensor) -> int:
    return int(good.long().cumprod(0).sum())


STAY = [
    (
        lambda *d: int(_stays(*d).sum()),
        "guesses behind the first refusal count here; they stand on a word that is gone",
    ),
    (
        lambda *d: _until_refused(_stays(*d)) + 1,
        "the model's own token behind them is counted; only guesses are asked for",
    ),
    (
        lambda d, q, p, luck: _until_refused(_of(d, p) >= _of(d, q)),
        "a guess that q likes more than p does not always go: luck decides",
    ),
    (
        lambda d, q, p, luck: _until_refused(luck < _of(d, p)),
        "luck is compared with p alone; the chance to stay is p / q",
    ),
    (
        lambda d, q, p, luck: _until_refused(luck * _of(d, q) < _of(d, p[1:])),
        "this is p one place too far: guess n is decided by row n of p, and the last row has no guess",
    ),
    (lambda d, q, p, luck: _until_refused(luck * _of(d, p) < _of(d, q)), "p and q have changed places: it is p / q"),
    (lambda *d: _until_refused(~_stays(*d)), "these are the refused ones"),
]


def _whole(got) -> float:
    """A number, whatever holds it."""
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, (int, float)):
        raise Wrong(f"a whole number is expected, and this is a {type(got).__name__}")
    return got


def _compare(got: list, cases: list[tuple], right, mistakes: list[tuple], given) -> None:
    """All cases against the right answers, and against those of each known mistake; ``given`` says a case in words."""
    wanted = [right(*case) for case in cases]
    if got == wanted:
        return
    for mistake, message in mistakes:
        if got == [mistake(*case) for case in cases]:
            raise Wrong(message)
    n = next(n for n, (mine, theirs) in enumerate(zip(got, wanted, strict=True)) if mine != theirs)
    raise Wrong(f"{given(*cases[n])}: {_short(wanted[n])} is right, and this says {_short(got[n])}")


def _short(answer):
    """The numbers of an answer with two digits, for a sentence."""
    return [_short(part) for part in answer] if isinstance(answer, list) else round(answer, 2)


# Core: what the bug writes.


def _check_biased(answer):
    for p, q in _pairs(4):
        kept = torch.minimum(p, q)
        right = kept + (1 - kept.sum()) * p
        mistakes = [
            (p, "that is what the right rule writes; after a refusal the bug draws from p, not from the residual"),
            (q, "that is what comes out if every guess is accepted"),
            (kept, "this is what stays; the refused draws are missing, and it does not sum to 1"),
            (kept / kept.sum(), "refused guesses are drawn again from p; they do not vanish"),
            (kept + p, "p is drawn after a refusal only: times the chance that a guess is refused"),
            (kept.sum() * p + (1 - kept.sum()) * q, "what stays is min(p, q) word by word, not a share of p"),
            ((p + q) / 2, "not an average: ask what stays, and what is drawn for what does not"),
        ]
        got = _distribution(returned(answer, p.clone(), q.clone()), p)
        _named(got, right, mistakes, "for the first words the bug writes")
    writes = what_comes_out(*HAND)
    return f"of the lesson's words it writes {writes[1]:.1%} sofas where {HAND[0][1]:.0%} are right"


def what_comes_out(p: Tensor, q: Tensor) -> Tensor:
    """What the bug writes."""
    kept = torch.minimum(p, q)
    return kept + (1 - kept.sum()) * p


# Core: the best number of guesses.


def _tokens(stay: float, k: int) -> float:
    return sum(stay**n for n in range(k + 1))


def _best(tokens=_tokens, guessing=1, reading=1, first=0):
    """The right answer, and the known mistakes by what they leave out."""

    def answer(stay: float, guess: float, read: float, most: int) -> int:
        return max(
            range(first, most + 1), key=lambda k: tokens(stay, k) / (1 + k * (guessing * guess + reading * read))
        )

    return answer


BEST = [
    (_best(guessing=0, reading=0), "more guesses give more tokens; count what they cost"),
    (_best(first=1), "0 guesses count too: some drafts are better left alone"),
    (_best(reading=0), "the read cost is missing"),
    (_best(guessing=0), "the cost of guessing is missing"),
    (
        _best(lambda stay, k: _tokens(stay, k) - 1),
        "the model's own token is missing: a pass gives one even where no guess stays",
    ),
    (
        _best(lambda stay, k: 1 + k * stay),
        "a guess behind a refused one gives nothing: 1 + a + a^2 + ..., not 1 + k a",
    ),
]
DRAFTS = [(0.8, 0.05, 0.02, 12), (0.6, 0.8, 0.05, 8), (0.95, 0.02, 0.0, 20), (0.7, 0.1, 0.0, 10), (0.9, 0.0, 0.3, 9)]
DRAFTS += [(0.5, 0.0, 0.5, 6), (1.0, 0.1, 0.1, 7), (0.0, 0.0, 0.0, 4)]


def _check_best(answer):
    got = [_whole(returned(answer, *draft)) for draft in DRAFTS]
    _compare(got, DRAFTS, _best(), BEST, lambda *draft: f"stay, guess_cost, read_cost, most = {draft}")
    return "eight drafts, two that are better left alone"


# Stretch: a window goes back.


def _check_window(answer):
    sizes = [(3, 4, 1), (3, 4, 4), (3, 4, 0), (5, 2, 1), (1, 3, 2), (4, 1, 0), (2, 6, 5)]
    cases = [
        (randn(count, 2, seed=n), randn(read, 2, seed=50 + n), kept) for n, (count, read, kept) in enumerate(sizes)
    ]
    got = []
    for held, read, kept in cases:
        own = returned(answer, held.clone(), read.clone(), kept)
        if not isinstance(own, Tensor) or own.shape != held.shape:
            shape = list(own.shape) if isinstance(own, Tensor) else type(own).__name__
            case = f"{len(held)} held, {len(read)} read, {kept} stay"
            raise Wrong(f"{case}: a window of {list(held.shape)} is expected, and this is {shape}")
        got.append(own.tolist())
    _compare(
        got,
        cases,
        _window(lambda kept: kept),
        WINDOW,
        lambda held, read, kept: f"{len(held)} held, {len(read)} read, {kept} stay",
    )
    return "seven windows, none and all of the guesses among them"


def _window(start):
    def answer(held: Tensor, read: Tensor, kept: int) -> list:
        return torch.cat([held, read])[start(kept) :][: len(held)].tolist()

    return answer


WINDOW = [
    (lambda held, read, kept: torch.cat([held, read])[-len(held) :].tolist(), "the refused guesses are still in it"),
    (lambda held, read, kept: held.tolist(), "the vectors that stay are missing: the window moves on by `kept`"),
    (_window(lambda kept: max(kept - 1, 0)), "one too few stay"),
    (lambda held, read, kept: torch.cat([held, read[: kept + 1]])[-len(held) :].tolist(), "one too many stay"),
]


# Stretch: the largest batch.


def _batch(newest=1, draft=lambda share, plain: share * plain, own=1):
    """The right answer, and the known mistakes by what they leave out."""

    def answer(stay: float, k: int, share: float, ridge: float, most: int) -> int:
        tokens = _tokens(stay, k) - 1 + own

        def faster(rows: int) -> bool:
            plain = max(1, rows / ridge)
            return tokens / (max(1, rows * (k + newest) / ridge) + draft(share, plain)) > 1 / plain

        return max((rows for rows in range(1, most + 1) if faster(rows)), default=0)

    return answer


BATCH = [
    (_batch(newest=0), "a pass reads k + 1 tokens per row: the newest one and the guesses"),
    (_batch(draft=lambda share, plain: 0), "the draft costs something too"),
    (
        lambda stay, k, share, ridge, most: max((b for b in range(1, most + 1) if b * (k + 1) <= ridge), default=0),
        "guessing may still win where a pass has begun to cost more: compare speeds",
    ),
    (_batch(own=0), "the model's own token is missing"),
    (lambda *case: case[-1], "with enough rows every pass is full, and a refused guess is lost work"),
]
SERVERS = [(0.7, 4, 0.02, 295, 2000), (0.9, 1, 0.02, 295, 2000), (0.5, 8, 0.1, 100, 500), (0.3, 4, 0.9, 50, 200)]
SERVERS += [(0.95, 3, 0.0, 40, 30), (0.8, 2, 0.3, 64, 400), (0.99, 2, 0.04, 10, 30), (0.96, 1, 0.1, 16, 60)]


def _check_batch(answer):
    got = [_whole(returned(answer, *server)) for server in SERVERS]
    _compare(got, SERVERS, _batch(), BATCH, lambda *server: f"stay, k, draft_share, ridge, most = {server}")
    return "eight servers, one that should never guess and one that always may"


residual = Exercise(
    "residual",
    lesson="speculative",
    check=_check_residual,
    hints=["What is missing is p - q, where that is above 0.", "(p - q).clamp(min=0), divided by its own sum."],
    minutes=5,
    difficulty=1,
)
stay = Exercise(
    "stay",
    lesson="speculative",
    check=_check_stay,
    hints=[
        "Guess n stays if luck[n] * q[n, drafted[n]] < p[n, drafted[n]].",
        "The first refusal ends it: a cumulative product of 1 and 0 is 1 up to there; its sum is the count.",
    ],
    minutes=8,
    difficulty=2,
)
biased = Exercise(
    "biased",
    lesson="speculative",
    check=_check_biased,
    hints=[
        "Two ways to be written: drafted and kept, with chance min(p, q); or drawn after a refusal.",
        "A guess is refused with chance 1 - min(p, q).sum(); then p is drawn from.",
    ],
    minutes=8,
    difficulty=2,
)
best = Exercise(
    "best",
    lesson="speculative",
    check=_check_best,
    hints=[
        "Tokens of a pass with k guesses: sum(stay**n for n in range(k + 1)).",
        "They cost 1 + k * (guess_cost + read_cost) passes. Compare the quotient for every k from 0 on.",
    ],
    minutes=8,
    difficulty=2,
)
window = Exercise(
    "window",
    lesson="speculative",
    check=_check_window,
    hints=[
        "Write what the window would have seen: `held`, and then the first `kept` of `read`.",
        "Of those count + kept vectors it holds the last `count`: all from place `kept` on.",
    ],
    minutes=10,
    difficulty=2,
)
batch = Exercise(
    "batch",
    lesson="speculative",
    check=_check_batch,
    hints=[
        "Plain: one token a row in max(1, batch / ridge). With guesses: `tokens` a row in a longer time.",
        "That time is max(1, batch * (k + 1) / ridge) + draft_share * max(1, batch / ridge).",
        "Try every batch from 1 to `most`, and take the largest that is faster.",
    ],
    minutes=12,
    difficulty=3,
)
