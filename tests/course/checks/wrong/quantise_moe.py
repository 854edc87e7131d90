"""Known wrong answers of lesson `quantise_moe`, each with a piece of the message that it must get."""

import math

import torch


def _audit(share, mean=lambda rows: 8 * sum(r[1] for r in rows) / sum(r[0] for r in rows)):
    return lambda rows: (share(rows), mean(rows))


def _few(rows):
    return sum(r[0] for r in rows if r[2] < 8) / sum(r[0] for r in rows)


def _sets(before, after, k):
    return [logits.topk(k, dim=-1).indices.sort(dim=-1).values for logits in (before, after)]


def _changed(before, after, k):
    a, b = _sets(before, after, k)
    return (a != b).any(dim=-1).float().mean()


def _ordered(before, after, k):
    return (before.topk(k).indices != after.topk(k).indices).any(dim=-1).float().mean()


def _pairs(before, after, k):
    a, b = _sets(before, after, k)
    return (a != b).float().mean()


def _int4(levels=7, shared=False, offset=8, swapped=False, exact=False, dtype=torch.bfloat16, pack=True):
    def answer(stack, group):
        groups = stack.unflatten(-1, (-1, group))
        most = groups.abs().amax(dim=-1)
        if shared:
            most = most.amax(dim=0, keepdim=True).expand_as(most)
        scale = (most / levels).to(dtype)
        by = most / levels if exact else scale.float()
        codes = ((groups / by[..., None]).round().clamp(-8, 7) + offset).flatten(-2).long() & 15
        if not pack:
            return codes.to(torch.uint8), scale
        first, second = codes[..., 0::2], codes[..., 1::2]
        return ((second | first << 4) if swapped else (first | second << 4)).to(torch.uint8), scale

    return answer


def _round(rows, bits, dim):
    least, most = rows.amin(dim, keepdim=True), rows.amax(dim, keepdim=True)
    step = ((most - least) / (2**bits - 1)).clamp_min(1e-12)
    return ((rows - least) / step).round() * step + least


def _keys(dim=0, last=False, more=0):
    def answer(keys, bits, block):
        parts = keys.split(block)
        return torch.cat([_round(p, bits + more, dim) if last or len(p) == block else p for p in parts])

    return answer


def _texts(weights_each=False, room=True, gpus_count=True, unit=1e9, whole=math.floor, least=0, texts=True):
    def answer(weights_bytes, token_bytes, tokens, gpus, gb_each, room_share):
        memory = (gpus if gpus_count else 1) * gb_each * unit * (1 - room_share if room else 1)
        left = memory - weights_bytes * (gpus if weights_each else 1)
        return max(least, whole(left / (token_bytes * (tokens if texts else 1))))

    return answer


WRONG = {
    "audit": [
        (_audit(lambda rows: sum(r[1] for r in rows if r[2] < 8) / sum(r[1] for r in rows)), "share of the bytes"),
        (_audit(lambda rows: sum(r[2] < 8 for r in rows) / len(rows)), "share of the rows"),
        (_audit(lambda rows: sum(r[0] for r in rows if r[2] <= 8) / sum(r[0] for r in rows)), "under 8 is few"),
        (_audit(_few, lambda rows: sum(r[2] for r in rows) / len(rows)), "mean over rows"),
        (_audit(_few, lambda rows: sum(r[1] for r in rows) / sum(r[0] for r in rows)), "a byte has 8 bits"),
        (_few, "two numbers are expected"),
    ],
    "changed": [
        (_ordered, "in another order are no change"),
        (_pairs, "a share of pairs"),
        (lambda before, after, k: (before.argmax(-1) != after.argmax(-1)).float().mean(), "only the best expert"),
        (lambda before, after, k: 1 - _changed(before, after, k), "kept its experts"),
        (lambda before, after, k: _changed(before, after, k) * len(before), "how many tokens changed"),
        (lambda before, after, k: [1], "one number from 0 to 1"),
    ],
    "experts": [
        (_int4(levels=8), "divide by 7"),
        (_int4(shared=True), "each expert needs its own"),
        (_int4(dtype=torch.float32), "bfloat16 takes half"),
        (_int4(swapped=True), "the halves are swapped"),
        (_int4(offset=0), "a half byte has no sign"),
        (_int4(offset=7), "it is 8"),
        (_int4(exact=True), "a scale that is not stored"),
        (_int4(pack=False), "one code a byte"),
        (lambda stack, group: stack, "a pair (packed, scale)"),
    ],
    "texts": [
        (_texts(room=False), "no room is left"),
        (_texts(unit=2**30), "a GiB"),
        (_texts(weights_each=True), "there once"),
        (_texts(gpus_count=False), "their memories add up"),
        (_texts(whole=math.ceil), "rounded up"),
        (_texts(texts=False), "these are tokens"),
        (_texts(least=-(10**9)), "below zero"),
        (_texts(whole=float), "a whole number"),
    ],
    "keys": [
        (lambda keys, bits, block: torch.cat([_round(k[None], bits, 0) for k in keys]), "nothing was rounded"),
        (_keys(dim=1), "numbers of one token share"),
        (_keys(last=True), "the last block is not full"),
        (lambda keys, bits, block: _round(keys, bits, 0), "all tokens share one block"),
        (_keys(more=1), "so many steps"),
        (lambda keys, bits, block: keys[:1], "has the shape"),
    ],
}
