"""Known wrong answers of lesson `open_a_model`, each with a piece of the message that it must get."""

import json
import struct

import torch


def _header(order="little", add=lambda length: 8 + length, keep_note=False, end=lambda begin, stop: stop):
    """A reader with one mistake."""

    def read(content):
        length = int.from_bytes(content[:8], order)
        table = json.loads(content[8 : 8 + length])
        if not keep_note:
            table.pop("__metadata__", None)
        place = add(length)
        return {
            name: (row["dtype"], tuple(row["shape"]), place + row["data_offsets"][0], place + end(*row["data_offsets"]))
            if name != "__metadata__"
            else None
            for name, row in table.items()
        }

    return read


def _active(count):
    return lambda parts, experts, chosen: count(parts, sum(parts.values()), experts, chosen)


def _text(parts, whole):
    return whole - parts.get("vision", 0)


def _names(tensors, end):
    return [name for name in tensors if name.endswith(end)]


def _tied_by_full_name(tensors):
    embedding, head = tensors.get("model.embed_tokens.weight"), tensors.get("lm_head.weight")
    return embedding is not None and (head is None or torch.equal(head, embedding))


WRONG = {
    "cache": [
        (lambda layers, queries, keys, width, tokens: layers * keys * width * tokens * 2, "half of it"),
        (lambda layers, queries, keys, width, tokens: layers * keys * width * tokens, "counts numbers of keys alone"),
        (lambda layers, queries, keys, width, tokens: 4 * layers * queries * width * tokens, "for every query head"),
        (lambda layers, queries, keys, width, tokens: 4 * keys * width * tokens, "the cache of one layer"),
    ],
    "header": [
        (_header(add=lambda length: 0), "count from the end of the header"),
        (_header(add=lambda length: length), "8 bytes too early"),
        (_header(add=lambda length: 8), "too early by the header"),
        (_header(order="big"), "the length is little-endian"),
        (_header(keep_note=True), "__metadata__ is a note"),
        (_header(end=lambda begin, stop: stop - begin), "the second offset is the end"),
        (lambda content: struct.unpack("<Q", content[:8]), "a dict from name to"),
    ],
    "active": [
        (_active(lambda parts, whole, experts, chosen: whole), "that is every parameter"),
        (
            _active(lambda parts, whole, experts, chosen: _text(parts, whole) - parts["routed experts"]),
            "no routed expert is left",
        ),
        (
            _active(
                lambda parts, whole, experts, chosen: (
                    _text(parts, whole) - parts["routed experts"] + parts["routed experts"] // experts
                )
            ),
            "several are chosen",
        ),
        (_active(lambda parts, whole, experts, chosen: whole * chosen / experts), "holds for the routed experts alone"),
        (_active(lambda parts, whole, experts, chosen: parts), "a whole number of parameters is expected"),
    ],
    "tied": [
        (lambda tensors: "lm_head.weight" not in tensors, "the same numbers are stored twice"),
        (lambda tensors: True, "a head with other numbers"),
        (_tied_by_full_name, "look for names by their end"),
        (
            lambda tensors: all(
                torch.equal(tensors[head][:2], tensors[_names(tensors, "embed_tokens.weight")[0]][:2])
                for head in _names(tensors, "lm_head.weight")
            ),
            "only the last row differs",
        ),
        (lambda tensors: "maybe", "True or False is expected"),
        (lambda tensors: tensors[_names(tensors, "weight")[0]] == 0, "torch.equal gives one answer"),
        (lambda tensors: None, "its last line a return"),
    ],
    "fits": [
        (
            lambda plans, memory, form, tokens: [
                n for n, p in plans.items() if p.active * 2 + p.cache_bytes(tokens) <= memory
            ],
            "every expert must be in memory",
        ),
        (
            lambda plans, memory, form, tokens: [n for n, p in plans.items() if p.weight_bytes(form) <= memory],
            "the cache",
        ),
        (
            lambda plans, memory, form, tokens: [
                n for n, p in plans.items() if p.weight_bytes(form) + p.cache_bytes(tokens) < memory
            ],
            "exactly full",
        ),
        (
            lambda plans, memory, form, tokens: list(plans.values()),
            "a list of names is expected, and this is a list of",
        ),
        (lambda plans, memory, form, tokens: plans, "a list of names is expected, and this is a dict"),
        (
            lambda plans, memory, form, tokens: [n for n, p in plans.items() if p.fits(memory, "bf16", tokens)],
            "use the format that is asked for",
        ),
    ],
}
