"""Checks of lesson `experts`: sizes, a router with a bias, sorted dispatch, capacity."""

import random

import torch
from torch import Tensor

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal, tensor
from helpers.compare import randn

__all__ = ["capacity", "predict", "reveal", "route", "scatter", "sizes"]


# The warm-up: parameters stored and used.


def _check_sizes(answer):
    draw = random.Random(10)
    cases = [(7168, 2048, 256, 8, 1), *(_random_sizes(draw) for _ in range(6))]
    for case in cases:
        _compare_sizes(returned(answer, *case), *case)
    stored, used = returned(answer, *cases[0])
    return f"a layer of DeepSeek-V3's experts: {stored / 1e9:.1f} billion stored, {used / 1e9:.2f} used"


def _random_sizes(draw: random.Random) -> tuple[int, int, int, int, int]:
    return draw.randint(3, 90), draw.randint(3, 90), draw.choice([8, 16, 64]), draw.randint(2, 6), draw.randint(2, 3)


def _compare_sizes(got, width: int, hidden: int, experts: int, chosen: int, shared: int) -> None:
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong(f"two numbers are expected, stored and used, and this is {str(got)[:40]}")
    one, router = 3 * width * hidden, experts * width
    right = (experts + shared) * one + router, (chosen + shared) * one + router
    if tuple(got) == right:
        return
    mistakes = {
        right[::-1]: "the order is stored, then used",
        (experts * one + router, chosen * one + router): "the shared experts are missing: every token passes them",
        (right[0] - router, right[1] - router): "the router is missing: it has a row of the width for each expert",
        (right[0], (chosen + shared) * one + chosen * width): "the router asks every expert, chosen or not: all its "
        "rows are used",
        (right[0] - (experts + shared) * one // 3, right[1] - (chosen + shared) * one // 3): "an expert has three "
        "matrices: gate, up and down",
        (right[0], right[0]): "of the routed experts only the chosen ones are used",
    }
    message = mistakes.get(tuple(got))
    raise Wrong(message or f"for {width}, {hidden}, {experts}, {chosen}, {shared}: {right}, not {tuple(got)}")


# Core: the router with a bias.


def _check_route(answer):
    for n, (tokens, experts, k, scale) in enumerate([(1, 4, 2, 1.0), (9, 8, 3, 2.5), (5, 6, 6, 1.5), (17, 16, 2, 2.0)]):
        logits, bias = randn(tokens, experts, seed=n), 0.5 * randn(experts, seed=50 + n)
        got = returned(answer, logits.clone(), bias.clone(), k, scale)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong(f"a pair (indices, weights) is expected, and this is a {type(got).__name__}")
        indices, weights = (
            tensor(part, (tokens, k), what) for part, what in zip(got, ("indices", "weights"), strict=True)
        )
        _compare_choice(indices, logits, bias, k)
        _compare_weights(torch.zeros(tokens, experts).scatter(1, indices, weights.float()), logits, bias, k, scale)
    return "four sizes, k = all experts among them"


def _compare_choice(indices: Tensor, logits: Tensor, bias: Tensor, k: int) -> None:
    def is_choice(scores: Tensor) -> bool:
        return torch.equal(indices.sort().values, scores.topk(k).indices.sort().values)

    if is_choice(logits.sigmoid() + bias):
        return
    if is_choice(logits):
        raise Wrong("these are the best without the bias: it takes part in the choice")
    if is_choice(logits + bias):
        raise Wrong("the bias is added to the scores, after the sigmoid, and not to the logits")
    if is_choice(logits.softmax(-1) + bias):
        raise Wrong("each score is its own sigmoid; a softmax makes the experts compete before the choice")
    raise Wrong(f"the {k} highest of sigmoid(logits) + bias are chosen, and these are others")


def _compare_weights(got: Tensor, logits: Tensor, bias: Tensor, k: int, scale: float) -> None:
    scores = logits.sigmoid()
    chosen = (scores + bias).topk(k).indices

    def spread(values: Tensor, normalised: bool = True, times: float = scale) -> Tensor:
        kept = values.gather(1, chosen)
        kept = kept / kept.sum(dim=-1, keepdim=True) if normalised else kept
        return torch.zeros_like(scores).scatter(1, chosen, times * kept)

    if torch.allclose(got, spread(scores), atol=1e-5):
        return
    mistakes = [
        (spread(scores + bias), "the bias is in the weights too: it chooses, and does not weigh"),
        (spread(scores, times=1.0), "the weights sum to 1 here; they sum to scale"),
        (spread(scores, normalised=False), "the weights do not sum to scale: divide by their sum first"),
        (spread(logits.softmax(-1)), "weights come from the sigmoid scores, not from a softmax"),
    ]
    for wrong, message in mistakes:
        if torch.allclose(got, wrong, atol=1e-5):
            raise Wrong(message)
    raise Wrong("the right experts, with other weights: scores of the chosen, over their sum, times scale")


# Core: sorted dispatch.


class _Expert:
    """Expert e multiplies by a matrix of its own, once, and never nothing."""

    def __init__(self, matrices: Tensor):
        self.matrices, self.asked = matrices, []

    def __call__(self, e: int, rows: Tensor) -> Tensor:
        if not len(rows):
            raise Wrong(f"expert {e} was asked with no rows: experts that nobody chose do no work")
        if e in self.asked:
            raise Wrong(f"expert {e} was asked twice: sort first, so that all of its rows are one block")
        self.asked.append(e)
        return rows @ self.matrices[e]


def _check_scatter(answer):
    cases = [(7, 5, [0, 2]), (1, 4, [3, 1]), (6, 3, [1]), (9, 4, None), (5, 3, [2, 0, 1]), (20, 6, None)]
    for n, (tokens, experts, choice) in enumerate(cases):
        x, matrices = randn(tokens, 8, seed=n), randn(experts, 8, 8, seed=20 + n)
        k = len(choice or [0, 1])
        indices = randn(tokens, experts, seed=40 + n).topk(k).indices
        indices = torch.tensor([choice] * tokens) if choice else indices
        weights = randn(tokens, k, seed=60 + n).softmax(-1) + 0.1
        got = returned(answer, x.clone(), indices.clone(), weights.clone(), experts, _Expert(matrices))
        _compare_sums(tensor(got, tuple(x.shape), "the sum"), x, indices, weights, matrices)
    return "one token, one expert for all, every expert, and experts without a token"


def _compare_sums(got: Tensor, x: Tensor, indices: Tensor, weights: Tensor, matrices: Tensor) -> None:
    made = torch.einsum("td,tade->tae", x, matrices[indices])
    right = (made * weights[..., None]).sum(dim=1)
    if torch.allclose(got, right, atol=1e-4):
        return
    order = indices.flatten().argsort(stable=True)
    pairs = made.flatten(0, 1)
    mistakes = [
        (made.sum(dim=1), "the weights are missing from the sum"),
        (
            (pairs[order].view(made.shape) * weights[..., None]).sum(dim=1),
            "the rows are still in the order of the experts: bring each pair back to its place",
        ),
        (
            torch.zeros_like(x).index_add(0, order // indices.shape[1], pairs[order] * weights.flatten()[:, None]),
            "the weights are in the order of the tokens and the rows in that of the experts: sort both",
        ),
        (right / weights.sum(dim=1, keepdim=True), "the weights are used as they are; nothing is divided by their sum"),
    ]
    for wrong, message in mistakes:
        if torch.allclose(got, wrong, atol=1e-4):
            raise Wrong(message)
    raise Wrong("another sum: compare with a loop over experts on three tokens")


# The stretch: capacity.


def _room(indices: Tensor, experts: int, capacity: int, order: list[int] | None = None) -> Tensor:
    """Who has room when pairs come in ``order`` (None: as they stand)."""
    taken, kept = [0] * experts, torch.zeros(indices.numel(), dtype=torch.bool)
    chosen = indices.flatten().tolist()
    for pair in range(len(chosen)) if order is None else order:
        kept[pair] = taken[chosen[pair]] < capacity
        taken[chosen[pair]] += 1
    return kept.view(indices.shape)


def _check_capacity(answer):
    cases = [(12, 3, 2, 3), (1, 4, 2, 1), (10, 5, 2, 1), (9, 4, 3, 4), (6, 3, 1, 6), (8, 2, 2, 0)]
    for n, (tokens, experts, k, room) in enumerate(cases):
        indices = randn(tokens, experts, seed=80 + n).topk(k).indices
        got = tensor(returned(answer, indices.clone(), experts, room), (tokens, k), "the answer")
        if got.dtype != torch.bool:
            raise Wrong(f"True or False is expected for each pair, and this is {got.dtype}")
        _compare_room(got, indices, experts, room)
    return "six sizes, no room at all and room for everybody among them"


def _compare_room(got: Tensor, indices: Tensor, experts: int, room: int) -> None:
    if torch.equal(got, _room(indices, experts, room)):
        return
    tokens, k = indices.shape
    pairs = range(indices.numel())
    mistakes = [
        (torch.ones_like(got), "nobody is turned away: an expert has room for `capacity` tokens only"),
        (_room(indices, experts, room, list(reversed(pairs))), "the last tokens keep their places: the first do"),
        (_room(indices, experts, room + 1), "one too many an expert: the one before it already filled the last place"),
        (
            _room(indices, experts, room, sorted(pairs, key=lambda pair: pair % k)),
            "all first choices come before any second choice here; earlier tokens come first, with all their choices",
        ),
        ((torch.arange(tokens) < room)[:, None].expand(-1, k), "places are counted by expert, not by token"),
    ]
    for wrong, message in mistakes:
        if torch.equal(got, wrong):
            raise Wrong(message)
    raise Wrong(f"with room for {room}: {_room(indices, experts, room).int().tolist()}, not {got.int().tolist()}")


sizes = Exercise(
    "sizes",
    lesson="experts",
    check=_check_sizes,
    hints=[
        "One expert has 3 x width x hidden parameters; the router has experts x width.",
        "Stored: all routed, all shared, the router. Used: the chosen, all shared, the whole router.",
    ],
    minutes=5,
    difficulty=1,
)
route = Exercise(
    "route",
    lesson="experts",
    check=_check_route,
    hints=[
        "scores = logits.sigmoid(); choose with (scores + bias).topk(k).indices.",
        "scores.gather(-1, indices) are the weights before they are divided by their sum and multiplied by scale.",
    ],
    minutes=8,
    difficulty=2,
)
scatter = Exercise(
    "scatter",
    lesson="experts",
    check=_check_scatter,
    hints=[
        "order = indices.flatten().argsort(stable=True); pair p belongs to token p // k.",
        "x[order // k].split(counts) gives one block an expert; skip those of no rows.",
        "Weigh with weights.flatten()[order, None], then zeros_like(x).index_add(0, order // k, made).",
    ],
    minutes=12,
    difficulty=2,
)
capacity = Exercise(
    "capacity",
    lesson="experts",
    check=_check_capacity,
    hints=[
        "indices.flatten() has the pairs in the order in which they come. For each, count who asked its expert before.",
        "one_hot(...).cumsum(dim=0) counts those up to and with it; take itself away, and compare with capacity.",
    ],
    minutes=12,
    difficulty=3,
)
