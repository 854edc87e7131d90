"""Checks of lesson `gptq_awq`: the cost of an error, a Cholesky step, act order, AWQ's search, a wrong text."""

import torch
from torch import Tensor

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal, tensor
from helpers.compare import randn
from helpers.quant.formats.integers import from_codes, grid_of, round_to
from helpers.quant.methods.awq import stretch
from helpers.quant.methods.gptq import gptq, inverse_factor
from helpers.quant.methods.input_statistics import Inputs

__all__ = ["cost", "harm", "order", "predict", "reveal", "search", "step"]

Mistakes = list[tuple[Tensor, str]]


def _compare(got: Tensor, right: Tensor, mistakes: Mistakes, otherwise: str) -> None:
    if torch.allclose(got, right, rtol=1e-3, atol=1e-5):
        return
    for wrong, message in mistakes:
        if wrong.shape == got.shape and torch.allclose(got, wrong, rtol=1e-3, atol=1e-5):
            raise Wrong(message)
    raise Wrong(otherwise)


def _fed(tokens: int, width: int, seed: int) -> Tensor:
    """Inputs whose columns depend on each other."""
    return randn(tokens, width, seed=seed) @ (torch.eye(width) + 0.7 * randn(width, width, seed=seed + 1))


# The warm-up: what an error costs.


def _check_cost(answer):
    for n, (rows, width, tokens) in enumerate([(3, 5, 40), (1, 1, 1), (7, 4, 9)]):
        weight, x = randn(rows, width, seed=n), _fed(tokens, width, 10 + n)
        made = (2 * weight).round() / 2
        got = tensor(returned(answer, weight.clone(), made.clone(), x.clone()), (rows,), "the answer")
        off = x @ (made - weight).T
        mistakes = [
            ((made - weight).square().sum(dim=1), "that is how far the weights are off: the inputs are missing"),
            ((made - weight).square().mean(dim=1), "that is the weights' mean square: the inputs are missing"),
            (off.square().sum(dim=0), "summed over the tokens: a mean over them is asked"),
            (off.mean(dim=0).square(), "the mean was squared: errors up and down cancelled; square first, then mean"),
            (off.abs().mean(dim=0), "the mean of the sizes: squares are asked"),
            (off.square().mean(dim=0).sqrt(), "one root too many: the mean square is asked"),
            ((x @ made.T).square().mean(dim=0), "that is the size of the new answers, not by how much they are off"),
        ]
        right = off.square().mean(dim=0)
        _compare(got, right, mistakes, f"{[round(v, 3) for v in right.tolist()]} for {rows} rows, not {got.tolist()}")
    return "e H e for each row, one token and one column among the sizes"


# Core: one Cholesky step.


def _check_step(answer):
    for n, (rows, width, j) in enumerate([(3, 5, 1), (4, 6, 0), (2, 4, 3), (5, 7, 3), (1, 1, 0)]):
        left, upper = randn(rows, width, seed=n), inverse_factor(Inputs.of(_fed(50, width, 20 + n)).hessian).float()
        value, given = left[:, j].round(), left.clone()
        got = tensor(returned(answer, given, j, value.clone(), upper.clone()), (rows, width), "the answer")
        if not torch.equal(given, left):
            raise Wrong("`left` itself was changed: work on a clone, the caller still needs what it gave")
        _compare_step(got, left, j, value, upper)
    return "the first, a middle and the last column"


def _compare_step(got: Tensor, left: Tensor, j: int, value: Tensor, upper: Tensor) -> None:
    error, row = (left[:, j] - value)[:, None], upper[j, j:]

    def moved(by: Tensor, place: slice = slice(j, None), settle: bool = False) -> Tensor:
        after = left.clone()
        after[:, place] -= by
        if settle:
            after[:, j] = value
        return after

    right = moved(error / upper[j, j] * row)
    whole = moved(error / upper[j, j] * upper[:, j], slice(None))
    mistakes = [
        (left, "nothing has moved"),
        (
            moved(0 * error, settle=True),
            "nothing was passed on to the columns behind j (column j of the factor is zero there: take its row j)",
        ),
        (moved(error * row), "the error is not divided by the diagonal: its column does not even become `value`"),
        (moved(error * row, settle=True), "what is passed on is not divided by the diagonal, upper[j, j]"),
        (moved(-error / upper[j, j] * row), "the wrong way: the others move against the error, `left` minus"),
        (
            moved(-error / upper[j, j] * row, settle=True),
            "the wrong way: the others move against the error, `left` minus",
        ),
        (whole, "that is column j of the factor, which speaks of the columns before: take its row j"),
        (moved(error / upper[j, j] ** 2 * row), "divided by the diagonal twice"),
        (
            moved(error / upper[j, j] * row * torch.tensor([0.0] + [1.0] * (len(row) - 1))),
            "column j is not yet `value`",
        ),
    ]
    _compare(
        got, right, mistakes, f"another matrix: for column {j}, left minus error / upper[j, j] times row j from j on"
    )


# Core: act order.


def _check_order(answer):
    for n, (rows, width) in enumerate([(3, 6), (4, 9), (2, 1)]):
        weight = randn(rows, width, seed=30 + n)
        hessian = Inputs.of(_fed(60, width, 40 + n) * (1 + torch.arange(width) % 4)).hessian
        asked = []

        def rounder(w, h, asked=asked):
            if h.dim() != 2:
                raise Wrong("hessian[order, order] is its diagonal: both axes are sorted by hessian[order][:, order]")
            asked.append((w, h))
            return _unlike(w, h)

        got = returned(answer, weight.clone(), hessian.clone(), rounder)
        got = tensor(got, (rows, width), "the answer")
        if len(asked) != 1:
            raise Wrong(f"rounder was called {len(asked)} times; once is enough, with sorted columns")
        _compare_order(got, weight, hessian)
    return "sorted once, each column back in its place"


def _unlike(weight: Tensor, hessian: Tensor) -> Tensor:
    """Stands for a rounder: its values tell in which order the columns came and with which part of the Hessian."""
    place = torch.arange(1.0, weight.shape[1] + 1)
    return weight + 10 * place + hessian.sum(dim=0) + 100 * hessian.diagonal() + hessian[0] * place


def _compare_order(got: Tensor, weight: Tensor, hessian: Tensor) -> None:
    order = hessian.diagonal().argsort(descending=True)
    back, h = order.argsort(), hessian[order][:, order]
    sorted_values = _unlike(weight[:, order], h)
    up = order.flip(0)
    by_weight = weight.square().sum(dim=0).argsort(descending=True)
    mistakes = [
        (_unlike(weight, hessian), "the columns came as they stand: sort them first"),
        (
            _unlike(weight[:, up], hessian[up][:, up])[:, up.argsort()],
            "smallest first: the columns that matter most come first",
        ),
        (sorted_values, "the values are still in the order of rounding: bring each column back"),
        (sorted_values[:, order], "not back yet: the way back is order.argsort(), and not order once more"),
        (_unlike(weight[:, order], hessian)[:, back], "the columns are sorted and the Hessian is not"),
        (_unlike(weight[:, order], hessian[order])[:, back], "of the Hessian rows are sorted, and columns are not"),
        (_unlike(weight[:, order], hessian[:, order])[:, back], "of the Hessian columns are sorted, and rows are not"),
        (
            _unlike(weight[:, by_weight], hessian[by_weight][:, by_weight])[:, by_weight.argsort()],
            "ordered by the weights: the inputs decide, which is the diagonal of the Hessian",
        ),
    ]
    _compare(
        got,
        sorted_values[:, back],
        mistakes,
        "other values: sort both axes of the Hessian and the columns, round, sort back",
    )


# Core: AWQ's search.

_ALPHAS = [0.0, 0.25, 0.5, 0.75, 1.0]


def _check_search(answer):
    for n, (width, best) in enumerate([(6, 0.5), (5, 0.0), (9, 1.0), (4, 0.25)]):
        size = randn(width, seed=50 + n).abs() + 0.05
        wanted = stretch(size, best)

        tried = []

        def error(s, wanted=wanted, width=width, tried=tried):
            tried.append(tensor(s, (width,), "s"))
            return (s / wanted).log().square().sum().item()

        got = returned(answer, size.clone(), error, list(_ALPHAS))
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong(f"a pair (alpha, s) is expected, and this is a {type(got).__name__}")
        if best and any(torch.allclose(s, 1 / stretch(size, best), rtol=1e-3) for s in tried):
            raise Wrong("s is upside down: columns with large inputs are stretched, s grows with size")
        if isinstance(got[0], Tensor) and got[0].numel() != 1:
            raise Wrong("the pair is (alpha, s): one number first, and then the tensor")
        if any(torch.allclose(s, size**a, rtol=1e-3) for s in tried for a in _ALPHAS if a) and float(got[0]) != best:
            raise Wrong("the error was asked of size^alpha as it stands: divide by the root first, then ask")
        _compare_search(float(got[0]), tensor(got[1], (width,), "s"), size, best, wanted, error)
    return "the least at 0, at 1 and between"


def _compare_search(alpha: float, s: Tensor, size: Tensor, best: float, wanted: Tensor, error) -> None:
    if alpha == best and torch.allclose(s, wanted, rtol=1e-3):
        return
    power, errors = size**alpha, [error(stretch(size, a)) for a in _ALPHAS]
    ways = [
        (power, "s is not divided by the root of its largest times its least: the grid would drift with it"),
        (power / power.mean(), "s is divided by its mean here; by the root of its largest times its least is asked"),
        (power / power.max(), "s is divided by its largest here; by the root of its largest times its least is asked"),
    ]
    for way, message in ways if alpha else []:  # with alpha 0 they are all alike
        if torch.allclose(s, way, rtol=1e-3):
            raise Wrong(message)
    if alpha == best:
        raise Wrong("the right alpha with another s: size to the power alpha, over the root of largest times least")
    if alpha == _ALPHAS[max(range(len(_ALPHAS)), key=errors.__getitem__)]:
        raise Wrong(f"alpha {alpha:g} has the largest error of all: the least is asked")
    if alpha == _ALPHAS[-1]:
        raise Wrong("always the last alpha: keep the best so far, and replace it when an error is smaller")
    raise Wrong(f"the least error is at alpha {best:g}, not at {alpha:g}")


# The stretch: does a text hurt?


def _check_harm(answer):
    shown = None
    for n, width in enumerate([12, 8]):
        weight, real = randn(20, width, seed=60 + n), _fed(80, width, 70 + n)
        texts = {"its own": real, "narrow": _narrow(width, 80 + n), "random": randn(80, width, seed=90 + n)}
        grid = grid_of(weight, 2, symmetric=False)
        nearest = from_codes(round_to(weight, grid), grid)

        def rounder(w, x, grid=grid):
            return from_codes(gptq(w, grid, Inputs.of(x)), grid)

        got = returned(answer, weight.clone(), dict(texts), real.clone(), rounder, nearest.clone())
        shown = shown or _compare_harm(got, weight, texts, real, rounder, nearest)
    return ", ".join(f"{name} {value:.2f}" for name, value in shown.items())


def _narrow(width: int, seed: int) -> Tensor:
    """A text that fills few directions."""
    return randn(80, 2, seed=seed) @ randn(2, width, seed=seed + 1) + 0.02 * randn(80, width, seed=seed + 2)


def _compare_harm(got, weight: Tensor, texts: dict, real: Tensor, rounder, nearest: Tensor) -> dict[str, float]:
    if not isinstance(got, dict) or set(got) != set(texts):
        raise Wrong(f"a dictionary with the names {', '.join(texts)} is expected, and this is {str(got)[:60]}")

    def off(made: Tensor, x: Tensor) -> float:
        return (x @ (made - weight).T).square().sum().item()

    made = {name: rounder(weight, x) for name, x in texts.items()}
    right = {name: off(own, real) / off(nearest, real) for name, own in made.items()}
    mistakes = {
        "measured on the text that it was calibrated on, where it always looks good: measure on `real`": {
            name: off(made[name], x) / off(nearest, x) for name, x in texts.items()
        },
        "GPTQ's error is measured on its own text and rounding's in use: both belong on `real`": {
            name: off(made[name], x) / off(nearest, real) for name, x in texts.items()
        },
        "upside down: the error of the calibrated one stands above": {name: 1 / value for name, value in right.items()},
        "a root was taken, or norms were: squares are compared": {name: value**0.5 for name, value in right.items()},
        "that is a difference of errors: their ratio is asked": {
            name: off(own, real) - off(nearest, real) for name, own in made.items()
        },
        "sizes were summed: squares are asked": {
            name: ((real @ (own - weight).T).abs().sum() / (real @ (nearest - weight).T).abs().sum()).item()
            for name, own in made.items()
        },
        "calibrated on `real` whatever the text: each text is to be tried": dict.fromkeys(texts, right["its own"]),
        "that is not divided by the error of `nearest`": {name: off(own, real) for name, own in made.items()},
        "how far the weights moved, and no input at all: what counts is the answers' error": {
            name: ((own - weight).square().sum() / (nearest - weight).square().sum()).item()
            for name, own in made.items()
        },
    }
    if _same(got, right):
        return right
    for message, wrong in mistakes.items():
        if _same(got, wrong):
            raise Wrong(message)
    raise Wrong(f"{ {name: round(value, 2) for name, value in right.items()} } is expected, not {str(got)[:80]}")


def _same(got: dict, other: dict[str, float]) -> bool:
    try:
        return all(abs(float(got[name]) - value) <= 1e-3 * abs(value) for name, value in other.items())
    except (TypeError, ValueError, RuntimeError):
        raise Wrong("each name belongs to one number") from None


cost = Exercise(
    "cost",
    lesson="gptq_awq",
    check=_check_cost,
    hints=[
        "By how much are the answers off? x @ made.T - x @ weight.T, which is [tokens, rows].",
        "Square each of them, then take the mean over the tokens, dim=0.",
    ],
    minutes=5,
    difficulty=1,
)
step = Exercise(
    "step",
    lesson="gptq_awq",
    check=_check_step,
    hints=[
        "error = (left[:, j] - value) / upper[j, j]: one number a row of the matrix.",
        "Row j of upper, from column j on, says how much of it each column gets. At j itself it is the diagonal.",
        "after = left.clone(); after[:, j:] -= error[:, None] * upper[j, j:]",
    ],
    minutes=10,
    difficulty=2,
)
order = Exercise(
    "order",
    lesson="gptq_awq",
    check=_check_order,
    hints=[
        "order = hessian.diagonal().argsort(descending=True); the columns of the weight are weight[:, order].",
        "The Hessian has both axes to sort: hessian[order][:, order]. The way back is order.argsort().",
    ],
    minutes=8,
    difficulty=2,
)
search = Exercise(
    "search",
    lesson="gptq_awq",
    check=_check_search,
    hints=[
        "For one alpha: s = size**alpha; s = s / (s.max() * s.min()).sqrt().",
        "min(alphas, key=lambda alpha: error(scale_of(alpha))) gives the alpha of the least error.",
    ],
    minutes=8,
    difficulty=2,
)
harm = Exercise(
    "harm",
    lesson="gptq_awq",
    check=_check_harm,
    hints=[
        "Error in use of some values: (real @ (made - weight).T).square().sum(), whatever text they were made on.",
        "For each name: that error of rounder(weight, texts[name]), over that error of nearest.",
    ],
    minutes=12,
    difficulty=3,
)
