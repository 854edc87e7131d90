"""Known wrong answers of lesson `deltanet`, each with a piece of the message that it must get."""

import torch


def _off_diagonal(matrix):
    return matrix - torch.diag(torch.diag(matrix))


def _solve(cut, weigh=lambda beta: beta[:, None], start=lambda key, state: key @ state):
    """A solver with one mistake."""

    def corrections(key, value, beta, state):
        system = torch.eye(len(key), dtype=key.dtype) + cut(weigh(beta) * (key @ key.T))
        return torch.linalg.solve(system, beta[:, None] * (value - start(key, state)))

    return corrections


def _first(fits):
    """The first n of 1, 2, ... whose bytes, by somebody's count, fit."""

    def every(layers, state, token, tokens, memory):
        return next((n for n in range(1, layers + 1) if fits(layers, n, state, token, tokens) <= memory), 0)

    return every


def _first_of(many):
    """Right, but it goes on where no layer of attention is left."""

    def every(layers, state, token, tokens, memory):
        kept = (layers // n * token * tokens + (layers - layers // n) * state for n in range(1, many))
        return next((n for n, size in enumerate(kept, 1) if size <= memory), 0)

    return every


WRONG = {
    "write": [
        (lambda s, k, v, b: s + b * torch.outer(k, v), "that adds"),
        (lambda s, k, v, b: s - torch.outer(k, b * (v - k @ s)), "the sign of the correction"),
        (lambda s, k, v, b: s + torch.outer(k, v - k @ s), "it is the share of the error"),
        (lambda s, k, v, b: s + torch.outer(k, v - b * (k @ s)), "the new value is written whole"),
        (lambda s, k, v, b: torch.outer(k, b * (v - k @ s)), "everything else in the memory is lost"),
        (lambda s, k, v, b: s, "has not changed"),
        (lambda s, k, v, b: torch.outer(v, k), "a tensor of shape (2, 3)"),
    ],
    "corrections": [
        (lambda k, v, b, s: b[:, None] * (v - k @ s), "earlier tokens wrote is missing"),
        (lambda k, v, b, s: b[:, None] * v, "neither the old memory"),
        (_solve(lambda m: m.tril(-1), start=lambda key, state: 0), "the state before the chunk"),
        (_solve(lambda m: m.tril(0)), "a token does not correct itself"),
        (_solve(_off_diagonal), "later tokens are in the system"),
        (_solve(lambda m: m.tril(-1), weigh=lambda beta: 1), "weighed by that token's beta"),
    ],
    "capacity": [
        (len, "only 16 answers can be chosen freely"),
        (lambda keys: keys.shape[1], "are independent: one answer each"),
        (lambda keys: min(keys.shape), "a key that comes twice"),
        (lambda keys: min(len(torch.unique(keys, dim=0)), keys.shape[1]), "the sum of two others"),
    ],
    "attention_every": [
        (_first(lambda layers, n, s, t, c: layers // n * t * c), "are too many by one"),
        (_first(lambda layers, n, s, t, c: -(-layers // n) * t * c + (layers - -(-layers // n)) * s), "exactly full"),
        (_first(lambda layers, n, s, t, c: layers // n * t * c + (layers - layers // n) * s * c), "bytes: 4, not 0"),
        (_first(lambda layers, n, s, t, c: layers // n * t + (layers - layers // n) * s), "bytes: 4, not 1"),
        (_first_of(99), "that is no hybrid"),
    ],
}
