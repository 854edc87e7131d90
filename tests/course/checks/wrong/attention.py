"""Known wrong answers of lesson `attention`, each with a piece of the message that it must get."""

import torch


def _newest(share=lambda x, heads: x.repeat_interleave(heads // x.shape[1], dim=1), scale=0.5, after=False, keep=True):
    """A decoding step with one mistake."""

    def step(query, key, value, kept):
        if keep and not (after and kept):
            kept.append((key, value))
        keys, values = (share(torch.stack([pair[n] for pair in kept or [(key, value)]]), len(query)) for n in (0, 1))
        weights = (torch.einsum("hk,shk->hs", query, keys) / query.shape[1] ** scale).softmax(dim=-1)
        if keep and after and len(kept) < 99 and kept[-1][0] is not key:
            kept.append((key, value))
        return torch.einsum("hs,shk->hk", weights, values)

    return step


def _move(key, by, theta, part, width=None, neighbours=False, everything=False):
    part = key.shape[1] if everything else part
    angle = by * theta ** (-2 * torch.arange(part // 2) / (width or part))
    turned, rest = key[:, :part], key[:, part:]
    first, second = (turned[:, 0::2], turned[:, 1::2]) if neighbours else turned.chunk(2, dim=1)
    cos, sin = angle.cos(), angle.sin()
    both = [first * cos - second * sin, second * cos + first * sin]
    joined = torch.stack(both, dim=-1).flatten(1) if neighbours else torch.cat(both, dim=1)
    return torch.cat([joined, rest], dim=1)


def _probe(places, same=lambda a, b, place: torch.equal(a[:place], b[:place]), copy=True):
    def is_causal(function, x):
        before = function(x)
        for place in places(len(x)):
            changed = x.clone() if copy else x
            changed[place:] = 3.0
            if not same(function(changed), before, place):
                return False
        return True

    return is_causal


def _one_row_at_a_time(function, x):
    before = function(x)
    for place in range(1, len(x)):
        changed = x.clone()
        changed[place] = 3.0
        if not torch.equal(function(changed)[place - 1], before[place - 1]):
            return False
    return True


WRONG = {
    "room": [
        (lambda memory, weights, layers, heads, width: memory // (4 * layers * heads * width), "the weights take"),
        (lambda memory, weights, layers, heads, width: (memory - weights) // (2 * layers * heads * width), "twice"),
        (lambda memory, weights, layers, heads, width: (memory - weights) / (4 * layers * heads * width), "no token"),
        (
            lambda memory, weights, layers, heads, width: -((weights - memory) // (4 * layers * heads * width)),
            "one too",
        ),
        (lambda memory, weights, layers, heads, width: (memory - weights) // (4 * heads * width), "room for one layer"),
    ],
    "mask": [
        (lambda held, new: torch.ones(new, held + new, dtype=torch.bool).tril(), "the rows start at place 0"),
        (lambda held, new: torch.ones(new, held + new, dtype=torch.bool).tril(held - 1), "does not see itself"),
        (lambda held, new: torch.ones(new, held + new, dtype=torch.bool).tril(held + 1), "sees the one after it"),
        (lambda held, new: torch.ones(new, held + new, dtype=torch.bool).triu(held + 1), "the other way round"),
        (lambda held, new: torch.ones(new, held + new, dtype=torch.bool), "those behind it"),
        (lambda held, new: torch.ones(new, new, dtype=torch.bool).tril(), "the shape must be"),
        (lambda held, new: torch.ones(new, held + new).tril(held), "a mask is boolean"),
    ],
    "newest": [
        (_newest(share=lambda x, heads: x.repeat(1, heads // x.shape[1], 1)), "groups of neighbours"),
        (_newest(scale=0.0), "not divided by the root"),
        (_newest(scale=1.0), "it is the root of the width"),
        (_newest(after=True), "does not see itself"),
        (_newest(keep=False), "is not in `kept` afterwards"),
        (lambda query, key, value, kept: value, "the shape must be"),
    ],
    "move": [
        (lambda key, by, theta, part: _move(key, -by, theta, part), "the wrong way"),
        (lambda key, by, theta, part: _move(key, by, theta, part, everything=True), "all 32 coordinates"),
        (lambda key, by, theta, part: _move(key, by, theta, part, width=key.shape[1]), "a small head of its own"),
        (lambda key, by, theta, part: _move(key, by, theta, part, neighbours=True), "pairs of neighbours"),
        (lambda key, by, theta, part: key, "nothing moved"),
    ],
    "probe": [
        (_probe(lambda length: [length - 1]), "only the first token"),
        (_probe(lambda length: [1]), "only the last but one"),
        (_probe(lambda length: range(1, length), copy=False), "x itself was changed"),
        (_probe(lambda length: range(1, length), same=lambda a, b, place: torch.equal(a, b)), "it is causal"),
        (_probe(lambda length: range(1, length), same=lambda a, b, p: torch.allclose(a[:p], b[:p], atol=0.1)), "small"),
        (_one_row_at_a_time, "one early token sees the last"),
        (lambda function, x: "yes", "True or False is expected"),
    ],
}
