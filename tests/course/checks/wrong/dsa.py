"""Known wrong answers of lesson `dsa`, each with a piece of the message that it must get."""

import math

import torch


def _rows(scores, k, bar=float("-inf")):
    barred = scores.where(torch.ones_like(scores).tril().bool(), torch.tensor(bar))
    return barred.topk(min(k, len(scores)), dim=-1).indices


def _late_ties(scores, k):
    rows = scores.tolist()
    return [sorted(sorted(range(t + 1), key=lambda s: (-row[s], -s))[:k]) for t, row in enumerate(rows)]


def _filled(scores, k):
    chosen = _rows(scores, k)
    return chosen.where(chosen <= torch.arange(len(scores))[:, None], -1).tolist()


def _newest(scores, k):
    return [list(range(max(0, t + 1 - k), t + 1)) for t in range(len(scores))]


def _by_score(scores, k):
    rows = scores.tolist()
    return [sorted(range(t + 1), key=lambda s: (-row[s], s))[:k] for t, row in enumerate(rows)]


def _probe(positions, tell):
    def probe(layer, length, width):
        x = torch.randn(1, length, width, generator=torch.Generator().manual_seed(0))
        for at in positions(length):
            changed = x.clone()
            changed[:, at:] = -changed[:, at:] + 1
            if not tell(layer(x), layer(changed), at):
                return False
        return True

    return probe


def _before(a, b, at):
    return torch.equal(a[:, :at], b[:, :at])


def _every(length):
    return range(1, length)


def _compare(length, k, tell=torch.equal, fill=None):
    def test(ours, theirs):
        x = torch.randn(length, 8, generator=torch.Generator().manual_seed(0))
        return tell(ours(x, k), theirs(x, k))

    return test


def _two_inputs(ours, theirs):
    generator = torch.Generator().manual_seed(0)
    return torch.equal(*(choose(torch.randn(64, 8, generator=generator), 4) for choose in (ours, theirs)))


def _blocks(scores, k, size, seen=lambda b, size, t: range(b, min(b + size, t + 1)), pool=max, keep=None, order=sorted):
    chosen = []
    for t, row in enumerate(scores.tolist()):
        blocks = range(0, t + 1, size)
        score = {b: pool(row[s] for s in range(b, min(b + size, t + 1))) for b in blocks}
        best = sorted(blocks, key=lambda b: (-score[b], b))[: keep(k, size) if keep else k // size]
        chosen.append([s for b in order(best) for s in seen(b, size, t) if s < len(scores)])
    return chosen


def _mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def _best_tokens(scores, k, size):
    return [sorted(sorted(range(t + 1), key=lambda s: -row[s])[:k]) for t, row in enumerate(scores.tolist())]


WRONG = {
    "pays": [
        (lambda dense, index, k: k * dense / index, "the indexer alone"),
        (lambda dense, index, k: k * (dense + index) / dense, "every token of the context"),
        (lambda dense, index, k: k, "on top"),
        (lambda dense, index, k: k * dense / (dense + index), "the sign"),
        (lambda dense, index, k: k * dense / (dense - index) if dense != index else math.inf, "never pays"),
    ],
    "select": [
        (lambda scores, k: scores.topk(min(k, len(scores)), dim=-1).indices, "which comes after it"),
        (lambda scores, k: _rows(scores, k, 0.0), "zero beats every negative score"),
        (_late_ties, "the earlier position goes first"),
        (_filled, "no -1 fills the rest"),
        (_newest, "its best"),
        (_by_score, "in order of position"),
    ],
    "causal": [
        (lambda layer, length, width: True, "rows of fewer than 6 visible keys"),
        (_probe(_every, lambda a, b, at: torch.equal(a, b)), "an honest layer was called leaky"),
        (_probe(lambda length: [4], _before), "row 14 alone"),
        (_probe(lambda length: range(5, length), _before), "row 3 alone"),
        (lambda layer, length, width: "yes", "True or False is expected"),
    ],
    "agrees": [
        (_compare(16, 16), "with k = 16 and 16 tokens everything is chosen"),
        (_compare(16, 2048), "with k = 2048 and 16 tokens"),
        (_compare(64, 4, lambda a, b: bool((a.sum() == b.sum()).item())), "compare every cell"),
        (lambda ours, theirs: ours is theirs, "never asked"),
        (_two_inputs, "are the inputs the same"),
        (lambda ours, theirs: ours(torch.randn(64, 3), 4) is None, "shape T x 8"),
    ],
    "blocks": [
        (lambda s, k, size: _blocks(s, k, size, seen=lambda b, size, t: range(b, b + size)), "a part that comes later"),
        (lambda s, k, size: _blocks(s, k, size, pool=_mean), "have the highest visible scores"),
        (_best_tokens, "a block is read whole"),
        (lambda s, k, size: _blocks(s, k, size, keep=lambda k, size: k), "pays for"),
        (lambda s, k, size: _blocks(s, k, size, order=list), "in order of position"),
    ],
}
