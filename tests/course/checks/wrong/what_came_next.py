"""Known wrong answers of lesson `what_came_next`, each with a piece of the message that it must get."""

import torch


def _sinkhorn(matrix, rounds, rows=True, columns=True):
    for _ in range(rounds):
        matrix = matrix / matrix.sum(dim=0, keepdim=True) if columns else matrix
        matrix = matrix / matrix.sum(dim=1, keepdim=True) if rows else matrix
    return matrix


def _over(factor=4, window=True, tokens=True, more=1, share=1):
    def first(heads, width, index_heads, index_width, ratio, k, near):
        attention = factor * heads * width * (k + near * window)
        entries = attention // (2 * index_heads * (index_width + 1) // share) + more
        return entries * ratio if tokens else entries

    return first


WRONG = {
    "kept": [
        (lambda n, w, m, K, X: min(n, w - 1) * K + -(-n // m) * (K + X), "not complete"),
        (lambda n, w, m, K, X: min(n, w - 1) * K + n // m * K, "the index keys are missing"),
        (lambda n, w, m, K, X: n // m * (K + X), "the window is missing"),
        (lambda n, w, m, K, X: min(n, w) * K + n // m * (K + X), "window - 1"),
        (lambda n, w, m, K, X: (w - 1) * K + n // m * (K + X), "does not fill the window"),
        (lambda n, w, m, K, X: min(n, w - 1) * K + n * (K + X), "one entry a token"),
        (lambda n, w, m, K, X: n / m, "a whole number"),
    ],
    "readable": [
        (lambda t, m, N: [n * m <= t for n in range(N)], "an entry that has begun"),
        (lambda t, m, N: [(n + 1) * m - 1 < t for n in range(N)], "one token late"),
        (lambda t, m, N: [(n + 1) * m <= t + 2 for n in range(N)], "a leak of one token"),
        (lambda t, m, N: [True] * N, "every entry is read"),
        (lambda t, m, N: (t + 1) // m, "one per entry"),
    ],
    "doubly_stochastic": [
        (lambda a: _sinkhorn(a, 1), "one round is not enough"),
        (lambda a: a / a.sum(dim=1, keepdim=True), "rows sum to one, columns do not"),
        (lambda a: a.softmax(dim=0), "columns sum to one, rows do not"),
        (lambda a: torch.full_like(a, 1 / len(a)), "not made from the given matrix"),
        (lambda a: torch.eye(len(a)), "zero or negative"),
        (lambda a: a / a.sum(), "rows are off by"),
        (lambda a: a[0], "a matrix of"),
    ],
    "takes_over": [
        (_over(window=False), "the window is missing"),
        (_over(tokens=False), "the number of entries"),
        (_over(factor=2), "half of the attention"),
        (_over(more=0), "one entry too early"),
        (lambda *sizes: _over()(*sizes) - 1, "not complete yet"),
        (lambda H, K, h, k, m, n, w: _over()(H, K, 1, k, m, n, w), "every index head"),
        (lambda *sizes: _over()(*sizes) + 0.5, "a whole number"),
    ],
}
