"""Known wrong answers of lesson `experts`, each with a piece of the message that it must get."""

import torch
from torch.nn.functional import one_hot


def _sizes(stored=lambda one, router, e, c, s: (e + s) * one + router, used=None):
    def answer(width, hidden, experts, chosen, shared):
        given = 3 * width * hidden, experts * width, experts, chosen, shared
        return stored(*given), (used or (lambda one, router, e, c, s: (c + s) * one + router))(*given)

    return answer


def _route(choice=lambda logits, scores, bias: scores + bias, weigh=lambda logits, scores, bias: scores, total=True):
    def answer(logits, bias, k, scale):
        given = logits, logits.sigmoid(), bias
        indices = choice(*given).topk(k).indices
        weights = weigh(*given).gather(-1, indices)
        return indices, scale * (weights / weights.sum(-1, keepdim=True) if total else weights)

    return answer


def _unscaled(logits, bias, k, scale):
    return _route()(logits, bias, k, 1.0)


def _scatter(back=True, weigh=True, sort_weights=True, skip=True):
    def answer(x, indices, weights, num_experts, expert):
        k = indices.shape[1]
        order = indices.flatten().argsort(stable=True)
        blocks = x[order // k].split(indices.flatten().bincount(minlength=num_experts).tolist())
        made = torch.cat([expert(e, rows) for e, rows in enumerate(blocks) if len(rows) or not skip])
        if not back:
            return (made.view(*indices.shape, -1) * weights[..., None]).sum(dim=1)
        own = weights.flatten()[order] if sort_weights else weights.flatten()
        return torch.zeros_like(x).index_add(0, order // k, made * own[:, None] if weigh else made)

    return answer


def _pair_by_pair(x, indices, weights, num_experts, expert):
    out = torch.zeros_like(x)
    for t in range(len(x)):
        for place, e in enumerate(indices[t].tolist()):
            out[t] += weights[t, place] * expert(e, x[t : t + 1])[0]
    return out


def _room(allow=0, flip=False):
    def answer(indices, num_experts, capacity):
        asked = one_hot(indices.flatten(), num_experts)
        asked = asked.flip(0) if flip else asked
        before = asked.cumsum(dim=0) - asked
        kept = (before * asked).sum(dim=1) < capacity + allow
        return (kept.flip(0) if flip else kept).view(indices.shape)

    return answer


def _first_choices_first(indices, num_experts, capacity):
    return _room()(indices.T, num_experts, capacity).T


WRONG = {
    "sizes": [
        (
            _sizes(lambda one, router, e, c, s: e * one + router, lambda one, router, e, c, s: c * one + router),
            "shared",
        ),
        (
            _sizes(lambda one, router, e, c, s: (e + s) * one, lambda one, router, e, c, s: (c + s) * one),
            "the router is",
        ),
        (_sizes(used=lambda one, router, e, c, s: (e + s) * one + router), "only the chosen ones"),
        (_sizes(used=lambda one, router, e, c, s: (c + s) * one + router // e * c), "asks every expert"),
        (lambda *given: _sizes()(*given)[::-1], "stored, then used"),
        (lambda *given: 7, "two numbers are expected"),
    ],
    "route": [
        (_route(weigh=lambda logits, scores, bias: scores + bias), "it chooses, and does not weigh"),
        (_route(choice=lambda logits, scores, bias: scores), "without the bias"),
        (_route(choice=lambda logits, scores, bias: logits + bias), "after the sigmoid"),
        (_route(choice=lambda logits, scores, bias: logits.softmax(-1) + bias), "compete before the choice"),
        (_route(weigh=lambda logits, scores, bias: logits.softmax(-1)), "not from a softmax"),
        (_route(total=False), "divide by their sum"),
        (_unscaled, "they sum to scale"),
        (lambda logits, bias, k, scale: logits, "a pair (indices, weights)"),
    ],
    "scatter": [
        (_scatter(back=False), "back to its place"),
        (_scatter(weigh=False), "the weights are missing"),
        (_scatter(sort_weights=False), "sort both"),
        (_scatter(skip=False), "with no rows"),
        (_pair_by_pair, "was asked twice"),
        (lambda x, indices, weights, num_experts, expert: x[:0], "has the shape"),
    ],
    "capacity": [
        (lambda indices, num_experts, capacity: torch.ones_like(indices).bool(), "nobody is turned away"),
        (_room(flip=True), "the last tokens keep"),
        (_room(allow=1), "one too many"),
        (_first_choices_first, "all first choices"),
        (
            lambda indices, num_experts, capacity: (torch.arange(len(indices)) < capacity)[:, None].expand_as(indices),
            "not by token",
        ),
        (lambda indices, num_experts, capacity: indices, "True or False"),
    ],
}
