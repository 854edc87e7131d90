"""Known wrong answers of lesson `mla`, each with a piece of the message that it must get."""

import torch


def _step(width=lambda q, r, c: (q + r) ** 0.5, turned=1.0, expand="none"):
    """A decoding step with one mistake, or with keys and values made on the way."""

    def step(query, q_rope, latent, k_rope, w_uk, w_uv):
        if expand == "both":
            key = torch.einsum("sc,hkc->shk", latent, w_uk)
            content = torch.einsum("hk,shk->hs", query, key)
        else:
            content = torch.einsum("hk,hkc->hc", query, w_uk) @ latent.T
        scores = content + turned * (q_rope @ k_rope.T)
        weights = (scores / width(query.shape[1], q_rope.shape[1], latent.shape[1])).softmax(dim=-1)
        if expand != "none":
            return torch.einsum("hs,shv->hv", weights, torch.einsum("sc,hvc->shv", latent, w_uv))
        return torch.einsum("hc,hvc->hv", weights @ latent, w_uv)

    return step


def _even(keys, C, K, V, less=1, more=0):
    matrix = C * (K + V)
    return (keys * matrix - less) // (matrix + keys * (2 * C - K - V)) + more


def _rank(sizes=lambda s: s.square(), bound=lambda b: b**2, more=0):
    def smallest(matrix, limit):
        values = sizes(torch.linalg.svdvals(matrix.double()))
        rest = [values[r:].sum().item() for r in range(len(values) + 1)]
        return next(r for r, left in enumerate(rest) if left <= bound(limit) * rest[0]) + more

    return smallest


WRONG = {
    "kept": [
        (
            lambda layers, heads, latent, rotary, tokens: layers * heads * (latent + rotary) * tokens * 2,
            "for every head",
        ),
        (
            lambda layers, heads, latent, rotary, tokens: layers * (latent + rotary) * tokens * 4,
            "key and value at once",
        ),
        (lambda layers, heads, latent, rotary, tokens: layers * latent * tokens * 2, "the RoPE key is missing"),
        (
            lambda layers, heads, latent, rotary, tokens: layers * (latent + heads * rotary) * tokens * 2,
            "one RoPE key",
        ),
        (lambda layers, heads, latent, rotary, tokens: (latent + rotary) * tokens * 2, "that is one layer"),
    ],
    "absorb": [
        (_step(expand="both"), "right, and expanded"),
        (_step(expand="value"), "half absorbed"),
        (_step(turned=0.0), "the rotary part is missing"),
        (_step(width=lambda q, r, c: 1.0), "not scaled"),
        (_step(width=lambda q, r, c: q**0.5), "1 / sqrt(K + R)"),
        (_step(width=lambda q, r, c: c**0.5), "not of the latent's"),
        (lambda query, *rest: query, "a tensor [H, V]"),
    ],
    "even": [
        (lambda keys, C, K, V: _even(keys, C, K, V, more=1), "one too many"),
        (lambda keys, C, K, V: C * (K + V) // (2 * C - K - V), "a cache without end"),
        (lambda keys, C, K, V: keys, "the number of kept tokens"),
        (lambda keys, C, K, V: keys * C * (K + V) // (C * (K + V) + keys * 2 * C), "expanding pays for the pairs too"),
        (lambda keys, C, K, V: keys * C * (K + V) / (C * (K + V) + keys * (2 * C - K - V)), "a whole number"),
    ],
    "layout": [
        (lambda width: list(range(width)), "nothing moved"),
        (lambda width: [n // 2 + n % 2 * (width // 2) for n in range(width)], "the way back"),
        (lambda width: [*range(1, width, 2), *range(0, width, 2)], "the wrong way round"),
        (lambda width: list(range(0, width, 2)), "stands once"),
        (lambda width: list(range(width))[::-1], "the scores differ"),
    ],
    "rank": [
        (_rank(sizes=lambda s: s, bound=lambda b: b), "add up as squares"),
        (_rank(bound=lambda b: b), "compare with bound ** 2"),
        (_rank(more=1), "one more than needed"),
        (_rank(more=-1), "one too few"),
        (lambda matrix, bound: len(torch.linalg.svdvals(matrix)) * bound, "a whole number"),
    ],
}
