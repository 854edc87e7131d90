"""Known wrong answers of lesson `speculative`, each with a piece of the message that it must get."""

import torch


def _stay(good=lambda mine, theirs, luck: luck * theirs < mine, all_of_them=False, extra=0):
    def answer(drafted, q, p, luck):
        place = torch.arange(len(drafted))
        stays = good(p[place, drafted], q[place, drafted], luck).long()
        return int(stays.sum() if all_of_them else stays.cumprod(dim=0).sum()) + extra

    return answer


def _best(tokens=lambda stay, k: sum(stay**n for n in range(k + 1)), cost=lambda guess, read: guess + read, first=0):
    def answer(stay, guess_cost, read_cost, most):
        speed = lambda k: tokens(stay, k) / (1 + k * cost(guess_cost, read_cost))  # noqa: E731
        return max(range(first, most + 1), key=speed)

    return answer


def _batch(
    wide=lambda batch, k, ridge: max(1, batch * (k + 1) / ridge), draft=lambda share, plain: share * plain, own=1
):
    def answer(stay, k, draft_share, ridge, most):
        tokens, best = sum(stay**n for n in range(1, k + 1)) + own, 0
        for batch in range(1, most + 1):
            plain = max(1, batch / ridge)
            if tokens / (wide(batch, k, ridge) + draft(draft_share, plain)) > 1 / plain:
                best = batch
        return best

    return answer


WRONG = {
    "residual": [
        (lambda p, q: (p - q).clamp(min=0), "divide by its sum"),
        (lambda p, q: p, "given twice"),
        (lambda p, q: (q - p).clamp(min=0) / (q - p).clamp(min=0).sum(), "what q has more than p"),
        (lambda p, q: (p - q).abs() / (p - q).abs().sum(), "not the distance"),
        (lambda p, q: torch.where(p > q, p, 0.0) / torch.where(p > q, p, 0.0).sum(), "q has given a part of each"),
        (lambda p, q: p - q, "is negative"),
        (lambda p, q: (p - q).softmax(-1), "cut at 0"),
        (lambda p, q: 0.5, "a tensor is expected"),
    ],
    "stay": [
        (_stay(all_of_them=True), "behind the first refusal"),
        (_stay(extra=1), "own token behind them"),
        (_stay(lambda mine, theirs, luck: mine >= theirs), "luck decides"),
        (_stay(lambda mine, theirs, luck: luck < mine), "p alone"),
        (lambda drafted, q, p, luck: _stay()(drafted, q, p[1:], luck), "one place too far"),
        (_stay(lambda mine, theirs, luck: luck * mine < theirs), "changed places"),
        (_stay(lambda mine, theirs, luck: luck * theirs >= mine), "refused ones"),
        (lambda drafted, q, p, luck: "all", "a whole number"),
    ],
    "biased": [
        (lambda p, q: p, "right rule writes"),
        (lambda p, q: q, "every guess is accepted"),
        (lambda p, q: torch.minimum(p, q), "this is what stays"),
        (lambda p, q: torch.minimum(p, q) / torch.minimum(p, q).sum(), "they do not vanish"),
        (lambda p, q: torch.minimum(p, q) + p, "after a refusal only"),
        (lambda p, q: (p + q) / 2, "not an average"),
    ],
    "best": [
        (_best(cost=lambda guess, read: 0), "count what they cost"),
        (_best(first=1), "0 guesses count"),
        (_best(cost=lambda guess, read: guess), "the read cost"),
        (_best(cost=lambda guess, read: read), "the cost of guessing"),
        (_best(tokens=lambda stay, k: sum(stay**n for n in range(1, k + 1))), "own token is missing"),
        (_best(tokens=lambda stay, k: 1 + k * stay), "behind a refused one"),
    ],
    "window": [
        (lambda held, read, kept: torch.cat([held, read])[-len(held) :], "still in it"),
        (lambda held, read, kept: held, "moves on"),
        (lambda held, read, kept: torch.cat([held, read[:kept]]), "a window of"),
        (lambda held, read, kept: torch.cat([held, read[: kept + 1]])[-len(held) :], "one too many"),
        (lambda held, read, kept: torch.cat([held, read])[max(kept - 1, 0) :][: len(held)], "one too few"),
    ],
    "batch": [
        (_batch(wide=lambda batch, k, ridge: max(1, batch * k / ridge)), "k + 1 tokens per row"),
        (_batch(draft=lambda share, plain: 0), "costs something too"),
        (
            lambda stay, k, share, ridge, most: max((b for b in range(1, most + 1) if b * (k + 1) <= ridge), default=0),
            "compare speeds",
        ),
        (_batch(own=0), "own token is missing"),
        (lambda stay, k, share, ridge, most: most, "lost work"),
    ],
}
