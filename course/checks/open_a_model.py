"""Checks of lesson `open_a_model`: reading a header, counting what works on one token, the cache, what fits."""

import json
import random

import torch

from course.exercise.exercise import Exercise, Wrong, attempt, predict, returned, reveal
from helpers.planning.plan import Plan, plan, published
from helpers.units import GB

__all__ = ["active", "cache", "fits", "header", "predict", "reveal", "tied"]

TYPES = {"BF16": 2, "F32": 4, "U8": 1}


# The warm-up: bytes of a key/value cache.


def _check_cache(answer):
    for layers, query_heads, kv_heads, head_dim, tokens in [
        (28, 16, 8, 128, 200_000),
        (3, 10, 5, 7, 11),
        (1, 4, 1, 8, 1),
    ]:
        got = returned(answer, layers, query_heads, kv_heads, head_dim, tokens)
        right = 2 * layers * kv_heads * head_dim * tokens * 2
        if got == right:
            continue
        if got == right / 4:
            raise Wrong(
                "that counts numbers of keys alone: keys and values are kept, and each number takes 2 bytes in bf16"
            )
        if got == right / 2:
            raise Wrong("half of it: either the values are missing beside the keys, or the 2 bytes of a bf16 number")
        if got == right * query_heads / kv_heads:
            raise Wrong("that keeps a key for every query head; queries share the keys of the key/value heads")
        if layers > 1 and got == right / layers:
            raise Wrong("that is the cache of one layer, and every layer keeps its own")
        raise Wrong(
            f"for {layers} layers, {kv_heads} key/value heads of {head_dim}, {tokens} tokens: {right} bytes, not {got}"
        )
    return f"28 layers keep {2 * 28 * 8 * 128 * 200_000 * 2 / GB:.1f} GB for 200,000 tokens"


# Core: the header of a safetensors file.


def _file(draw: random.Random) -> tuple[bytes, dict]:
    """A random file, its tensors in no particular order, and what reading it gives."""
    table, data, answer = {}, b"", {}
    for name in draw.sample(["norm", "query", "key", "value", "embed", "head"], draw.randint(1, 5)):
        kind, shape = draw.choice(list(TYPES)), [draw.randint(1, 4) for _ in range(draw.randint(0, 3))]
        size = TYPES[kind] * torch.Size(shape).numel()
        table[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += draw.randbytes(size)
    order = draw.sample(list(table), len(table))
    text = json.dumps({"__metadata__": {"format": "pt"}} | {name: table[name] for name in order}).encode()
    text += b" " * (-len(text) % 8 + 8 * draw.randint(0, 2))
    for name, row in table.items():
        begin, end = (8 + len(text) + offset for offset in row["data_offsets"])
        answer[name] = (row["dtype"], tuple(row["shape"]), begin, end)
    return len(text).to_bytes(8, "little") + text + data, answer


def _check_header(answer):
    draw = random.Random(3)
    for _ in range(12):
        content, right = _file(draw)
        got = _parsed(answer, content)
        if not isinstance(got, dict):
            raise Wrong(
                f"a dict from name to (dtype, shape, begin, end) is expected, and this is a {type(got).__name__}"
            )
        _compare_headers(got, right, int.from_bytes(content[:8], "little"))
    return "12 files of random tensors, each byte found where it lies"


def _parsed(answer, content: bytes):
    try:
        return returned(answer, content)
    except Wrong as wrong:
        if "DecodeError" in str(wrong):
            message = (
                "what you cut out is no JSON: the length is little-endian, and the header begins after its 8 bytes"
            )
            raise Wrong(message) from None
        raise


def _compare_headers(got: dict, right: dict, length: int) -> None:
    if "__metadata__" in got:
        raise Wrong("__metadata__ is a note about the file and no tensor: leave it out")
    if set(got) != set(right):
        raise Wrong(f"the tensors are {sorted(right)}, and these were found: {sorted(map(str, got))}")
    for name, (kind, shape, begin, end) in right.items():
        row = got[name]
        if not isinstance(row, (tuple, list)) or len(row) != 4:
            raise Wrong(f"for each tensor four things are expected: dtype, shape, begin, end; {name!r} has {row!r}")
        if row[0] != kind or not isinstance(row[1], (tuple, list)) or tuple(row[1]) != shape:
            raise Wrong(f"{name!r} is {kind} of shape {shape}, not {row[0]} of shape {row[1]}")
        _compare_places(name, (row[2], row[3]), (begin, end), length)


def _compare_places(name: str, got: tuple, right: tuple, length: int) -> None:
    if not all(isinstance(place, int) for place in got):
        raise Wrong(f"begin and end are whole numbers, and {name!r} has {got[0]!r} and {got[1]!r}")
    shifts = {a - b for a, b in zip(right, got, strict=True)}
    if shifts == {8 + length}:
        raise Wrong("data_offsets count from the end of the header; a place in the file needs 8 and the length added")
    if shifts == {8}:
        raise Wrong("8 bytes too early: the length itself stands before the header")
    if shifts == {length}:
        raise Wrong("too early by the header: the numbers begin after it")
    if right[1] != got[1] and right[0] == got[0]:
        raise Wrong("the second offset is the end of the tensor, not its size and not the next beginning")
    if shifts != {0}:
        raise Wrong(f"{name!r} lies in the bytes {right[0]} to {right[1]} of the file, not {got[0]} to {got[1]}")


# Core: the parameters that work on one token.


def _random_parts(draw: random.Random) -> tuple[dict, int, int]:
    experts = draw.choice([8, 16, 64])
    parts = {
        "embedding": draw.randint(10, 99) * 100,
        "attention": draw.randint(10, 99) * 100,
        "dense FFN": draw.randint(1, 99) * 10,
        "routed experts": experts * draw.randint(100, 999),
        "shared expert": draw.randint(100, 999),
        "router": draw.randint(10, 99),
        "head": draw.randint(10, 99) * 100,
    }
    if draw.random() < 0.5:
        parts["vision"] = draw.randint(100, 999)
    return parts, experts, draw.choice([1, 2, 4])


def _check_active(answer):
    draw = random.Random(5)
    for _ in range(10):
        parts, experts, chosen = _random_parts(draw)
        _compare_active(returned(answer, parts, experts, chosen), parts, experts, chosen)
    glm = plan(published("glm5"))
    got = attempt(answer, glm.parts, glm.experts, glm.experts_per_token)
    if got != glm.active:
        raise Wrong(
            f"right on small numbers; for GLM-5 it must be the whole number {glm.active}, not {got}: avoid floats"
        )
    return f"GLM-5: {glm.active / 1e9:.1f} of {glm.total / 1e9:.0f} billion"


def _compare_active(got, parts: dict, experts: int, chosen: int) -> None:
    routed, whole = parts["routed experts"], sum(parts.values())
    vision = parts.get("vision", 0)
    right = whole - vision - routed + routed * chosen // experts
    if not isinstance(got, (int, float)):
        raise Wrong(f"a whole number of parameters is expected, and this is a {type(got).__name__}")
    if got == right:
        return
    mistakes = {
        whole: "that is every parameter: of the routed experts only the chosen ones work on a token",
        whole - vision: "that is the whole text model: of the routed experts only the chosen ones work on a token",
        right + vision: "the vision tower counts here, and a text token never passes it",
        right - routed * chosen // experts: "no routed expert is left, and a few are chosen for every token",
        right - routed * chosen // experts + routed // experts: "one expert counts; several are chosen for a token",
        right - parts["shared expert"]: "the shared expert is missing: every token passes it",
        whole * chosen // experts: "the fraction holds for the routed experts alone; everything else always works",
    }
    raise Wrong(mistakes.get(int(got), f"for {parts} with {chosen} of {experts} experts: {right}, not {got}"))


# Core: is the head the embedding?


def _tied_cases() -> list[tuple[dict, bool, str]]:
    embedding = torch.arange(12, dtype=torch.float32).reshape(4, 3)
    name, head, inner = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
    norm = torch.ones(3)
    return [
        ({name: embedding, inner: norm}, True, "no head is in the file, so the embedding serves as the head: tied"),
        (
            {name: embedding, head: embedding.clone() + 1, inner: norm},
            False,
            "a head with other numbers is a matrix of its own: not tied",
        ),
        (
            {name: embedding, head: embedding.clone(), inner: norm},
            True,
            "the same numbers are stored twice: tied, and the file wastes the space",
        ),
        (
            {name: embedding, head: embedding.clone().index_fill_(0, torch.tensor([3]), 0.0)},
            False,
            "only the last row differs, and that is enough: not tied",
        ),
        (
            {"model.language_model.embed_tokens.weight": embedding, inner: norm},
            True,
            "look for names by their end: in models that see, the prefix is longer",
        ),
    ]


def _check_tied(answer):
    for tensors, right, why in _tied_cases():
        got = returned(answer, tensors)
        if isinstance(got, torch.Tensor) and got.numel() != 1:
            raise Wrong("== compares two tensors number by number; torch.equal gives one answer for all of them")
        if not isinstance(got, (bool, type(torch.tensor(True)))):
            raise Wrong(f"True or False is expected, and this is {got!r}")
        if bool(got) is not right:
            raise Wrong(why)
    return "five files, two of them made to deceive"


# The stretch: what fits a machine.


def _toy_plan(dense: int, routed: int, layers: int) -> Plan:
    """A plan with round numbers: ``layers`` layers of 2 key/value heads of width 8."""
    from transformers import Qwen3Config

    config = Qwen3Config(num_hidden_layers=layers, num_key_value_heads=2, head_dim=8)
    return Plan(config, {"embedding": 0, "attention": dense, "routed experts": routed}, False, 8, 1)


def _check_fits(answer):
    plans = {"small": _toy_plan(1_000, 0, 1), "sparse": _toy_plan(1_000, 8_000, 1), "talker": _toy_plan(1_000, 0, 100)}
    cases = [
        (10**9, 1_000, {"small", "sparse", "talker"}, "everything fits a gigabyte"),
        (
            4_000,
            0,
            {"small", "talker"},
            "every expert must be in memory, chosen or not: count the total, not the active part",
        ),
        (10_000, 100, {"small"}, "the cache takes memory beside the weights"),
        (2_000 + 64 * 10, 10, {"small"}, "exactly full is still a fit"),
        (100, 0, set(), "nothing fits 100 bytes"),
    ]
    for memory, tokens, right, why in cases:
        got = returned(answer, plans, memory, "bf16", tokens)
        if not isinstance(got, (list, set, tuple)) or not all(isinstance(name, str) for name in got):
            raise Wrong(f"a list of names is expected, and this is a {_kind(got)}")
        if set(got) != right:
            raise Wrong(f"{why}: for {memory} bytes and {tokens} tokens {sorted(right)}, not {sorted(got)}")
    _check_fits_formats(answer, plans)
    return "memory, cache and format all count"


def _kind(got) -> str:
    name = type(got).__name__
    return f"{name} of {type(next(iter(got))).__name__}" if isinstance(got, (list, set, tuple)) else name


def _check_fits_formats(answer, plans: dict) -> None:
    if set(attempt(answer, plans, 600, "fp4 1x32", 0)) != {"small", "talker"}:
        raise Wrong("with 4.25 bits per weight 1,000 parameters take 531 bytes: use the format that is asked for")


cache = Exercise(
    "cache",
    lesson="open_a_model",
    check=_check_cache,
    hints=[
        "Each layer keeps, for each token and each key/value head, one key and one value.",
        "A key has head_dim numbers, a value as well; bf16 takes 2 bytes per number. Query heads keep nothing.",
    ],
    minutes=4,
    difficulty=1,
)
header = Exercise(
    "header",
    lesson="open_a_model",
    check=_check_header,
    hints=[
        "int.from_bytes(content[:8], 'little') is the length; the JSON is content[8 : 8 + length].",
        "Take __metadata__ out, then add 8 + length to both offsets of every tensor.",
    ],
    minutes=8,
    difficulty=2,
)
active = Exercise(
    "active",
    lesson="open_a_model",
    check=_check_active,
    hints=[
        "Start from the sum of all parts; take away what one text token does not pass.",
        "It does not pass the vision tower, nor the experts that were not chosen. Keep whole numbers with //.",
    ],
    minutes=8,
    difficulty=2,
)
tied = Exercise(
    "tied",
    lesson="open_a_model",
    check=_check_tied,
    hints=[
        "Find the embedding by the end of its name: 'embed_tokens.weight'. Does a name end in 'lm_head.weight'?",
        "Where both are stored, torch.equal tells whether every number is the same.",
    ],
    minutes=7,
    difficulty=2,
)
fits = Exercise(
    "fits",
    lesson="open_a_model",
    check=_check_fits,
    hints=[
        "plan.weight_bytes(format) and plan.cache_bytes(tokens) are the two sums.",
        "A name belongs to the answer when weights + cache <= memory_bytes; go through plans.items().",
    ],
    minutes=10,
    difficulty=3,
)
