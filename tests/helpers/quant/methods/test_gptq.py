"""GPTQ is held by brute force: each of its steps is the best there is, given the steps before; the whole is greedy."""

import itertools

import pytest
import torch
from torch import Tensor

from helpers.compare import assert_close, randn, tolerance
from helpers.quant.formats.integers import Grid, from_codes, grid_of, round_to
from helpers.quant.formats.named import Encoded, encode
from helpers.quant.formats.packing import pack_pairs
from helpers.quant.methods.gptq import compensate, gptq, inverse_factor
from helpers.quant.methods.input_statistics import Inputs, output_error


def mixed(tokens: int, width: int, seed: int) -> Tensor:
    """Inputs whose columns depend on each other, as those of a model do."""
    return randn(tokens, width, seed=seed) @ (torch.eye(width) + 0.7 * randn(width, width, seed=seed + 1))


def case(rows: int, width: int, bits: int, seed: int, group: int | None = None) -> tuple[Tensor, Grid, Inputs]:
    weight = randn(rows, width, seed=seed)
    return weight, grid_of(weight, bits, group, symmetric=False), Inputs.of(mixed(6 * width, width, seed + 100))


def with_the_rest_free(weight: Tensor, fixed: Tensor, hessian: Tensor) -> Tensor:
    """The columns behind the ``fixed`` ones at which the error is least, found by solving for them."""
    n = fixed.shape[1]
    error = (weight[:, :n] - fixed).double()
    return weight[:, n:] + torch.linalg.solve(hessian[n:, n:].double(), hessian[n:, :n].double() @ error.T).T.float()


def by_brute_force(weight: Tensor, grid: Grid, inputs: Inputs) -> Tensor:
    """Column by column: try every code, let all later columns take their best real values, keep the least error."""
    rows, width = weight.shape
    codes = torch.zeros(rows, width, dtype=torch.int32)
    made = torch.zeros(rows, 0)
    for j in range(width):
        column = Grid(grid.scale[:, :1], grid.zero[:, :1], grid.low, grid.high)  # one group: all columns share it
        tried = []
        for code in range(grid.low, grid.high + 1):
            value = from_codes(torch.full((rows, 1), code, dtype=torch.int32), column)
            fixed = torch.cat([made, value], dim=1)
            whole = torch.cat([fixed, with_the_rest_free(weight, fixed, inputs.hessian)], dim=1)
            tried.append(output_error(whole - weight, inputs))
        codes[:, j] = torch.stack(tried).argmin(dim=0) + grid.low
        made = torch.cat([made, from_codes(codes[:, j : j + 1], column)], dim=1)
    return codes


@pytest.mark.parametrize(("width", "bits"), [(1, 2), (2, 2), (3, 3), (4, 2), (6, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_each_code_is_what_trying_all_codes_finds_when_later_columns_are_free(width, bits, seed):
    weight, grid, inputs = case(40, width, bits, seed)
    assert torch.equal(compensate(weight, grid, inputs.hessian, damping=0), by_brute_force(weight, grid, inputs))


def test_what_is_passed_on_is_the_exact_minimum_of_what_is_left():
    hessian = Inputs.of(mixed(60, 7, 3)).hessian
    upper = inverse_factor(hessian, damping=0)
    weight, error = randn(5, 7, seed=1).double(), randn(5, 7, seed=2).double()
    left = weight.clone()
    for j in range(6):
        left[:, j + 1 :] -= error[:, j, None] / upper[j, j] * upper[j, j + 1 :]
        fixed = torch.cat([weight[:, :0], left[:, : j + 1] - error[:, : j + 1]], dim=1)
        assert_close(left[:, j + 1 :], with_the_rest_free(weight, fixed, hessian), 1e-5, f"step {j}")


@pytest.mark.parametrize("seed", range(4))
def test_the_error_is_the_sum_of_what_each_step_could_not_mend(seed):
    """(what a column missed / the diagonal)^2, summed: no other place holds any error."""
    weight, grid, inputs = case(12, 8, 3, seed)
    codes = compensate(weight, grid, inputs.hessian, damping=0)
    error = (weight - from_codes(codes, grid)).double()
    upper = inverse_factor(inputs.hessian, damping=0)
    steps = torch.linalg.solve_triangular(upper, error, upper=True, left=False)
    assert_close(steps.square().sum(dim=1).float(), output_error(error.float(), inputs), 1e-4, "sum of the steps")


@pytest.mark.parametrize("width", [1, 5, 64])
def test_without_correlation_it_is_rounding_to_nearest_and_that_is_the_optimum(width):
    weight = randn(9, width, seed=4)
    grid, diagonal = grid_of(weight, 2, symmetric=False), torch.rand(width) + 0.1
    codes = compensate(weight, grid, diagonal.diag())
    assert torch.equal(codes, round_to(weight, grid))
    if width == 5:
        every = torch.tensor(list(itertools.product(range(4), repeat=5)), dtype=torch.int32)
        best = torch.stack([_errors(weight[r], _row(grid, r), every, diagonal.diag()).min() for r in range(9)])
        own = torch.stack([_errors(weight[r], _row(grid, r), codes[r : r + 1], diagonal.diag())[0] for r in range(9)])
        assert_close(own, best, 1e-6, "the least error of all 1024 choices")


def _row(grid: Grid, r: int) -> Grid:
    return Grid(grid.scale[r : r + 1], grid.zero[r : r + 1], grid.low, grid.high)


def _errors(weight: Tensor, grid: Grid, codes: Tensor, hessian: Tensor) -> Tensor:
    """The error of one row for each of many choices of codes."""
    error = (codes - grid.zero) * grid.scale - weight
    return ((error @ hessian) * error).sum(dim=1)


def test_the_best_of_all_codes_is_sometimes_better_and_never_worse():
    """Greedy is not optimal; if it were, the docstring would say too little."""
    weight, grid, inputs = case(60, 4, 2, 7)
    every = torch.tensor(list(itertools.product(range(4), repeat=4)), dtype=torch.int32)
    best = torch.stack([_errors(weight[r], _row(grid, r), every, inputs.hessian).min() for r in range(60)])
    own = output_error(from_codes(gptq(weight, grid, inputs, damping=0), grid) - weight, inputs)
    nearest = output_error(from_codes(round_to(weight, grid), grid) - weight, inputs)
    assert (own >= best - 1e-5).all()
    assert 0 < (own > best + 1e-4).sum() < (nearest > best + 1e-4).sum()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("act_order", [False, True])
def test_no_row_is_ever_worse_than_rounded_to_nearest(bits, seed, act_order):
    weight, grid, inputs = case(24, 32, bits, seed, group=8)
    own = output_error(from_codes(gptq(weight, grid, inputs, act_order=act_order), grid) - weight, inputs)
    nearest = output_error(from_codes(round_to(weight, grid), grid) - weight, inputs)
    assert (own <= nearest).all()
    assert own.sum() < 0.8 * nearest.sum()


def test_the_greedy_codes_alone_can_be_worse_in_a_row_so_keeping_the_better_is_needed():
    worse = 0
    for seed in range(12):
        weight, grid, inputs = case(64, 8, 2, seed)
        own = output_error(from_codes(compensate(weight, grid, inputs.hessian), grid) - weight, inputs)
        worse += int((own > output_error(from_codes(round_to(weight, grid), grid) - weight, inputs)).sum())
    assert worse > 0


def passed_on_at_once(weight: Tensor, grid: Grid, hessian: Tensor) -> Tensor:
    """Algorithm 1 as it is printed, without blocks: each error moves every later column before the next is rounded."""
    upper, left, codes = inverse_factor(hessian).to(weight.dtype), weight.clone(), []
    group = weight.shape[1] // grid.scale.shape[1]
    for j in range(weight.shape[1]):
        own = Grid(grid.scale[:, [j // group]], grid.zero[:, [j // group]], grid.low, grid.high)
        codes.append(round_to(left[:, [j]], own))
        left[:, j:] -= (left[:, [j]] - from_codes(codes[-1], own)) / upper[j, j] * upper[j, j:]
    return torch.cat(codes, dim=1)


@pytest.mark.parametrize(("width", "group"), [(1, 1), (31, 31), (33, 11), (128, 32), (129, 43), (200, 8)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_an_error_that_waits_until_a_column_is_read_gives_the_codes_of_the_printed_algorithm(width, group, symmetric):
    weight, inputs = randn(24, width, seed=1).double(), Inputs.of(mixed(4 * width, width, 7))
    grid, hessian = grid_of(weight, 3, group, symmetric), inputs.hessian.double()
    assert torch.equal(compensate(weight, grid, hessian), passed_on_at_once(weight, grid, hessian))


@pytest.mark.parametrize("block", [1, 3, 31, 32, 33, 1000])
@pytest.mark.parametrize("act_order", [False, True])
def test_blocks_change_the_order_of_the_sums_and_nothing_else(block, act_order):
    weight, grid, inputs = (part.double() if isinstance(part, Tensor) else part for part in case(16, 32, 4, 5, group=8))
    one = compensate(weight, grid, inputs.hessian, act_order=act_order, block=32)
    assert torch.equal(compensate(weight, grid, inputs.hessian, act_order=act_order, block=block), one)


def test_order_by_inputs_is_the_same_as_sorting_the_columns_before_and_back_after():
    weight, _, inputs = case(16, 12, 3, 2)
    grid = grid_of(weight, 3, symmetric=False)
    order = inputs.hessian.diagonal().argsort(descending=True)
    hessian = inputs.hessian[order][:, order]
    sorted_codes = compensate(weight[:, order], grid, hessian)
    assert torch.equal(compensate(weight, grid, inputs.hessian, act_order=True), sorted_codes[:, order.argsort()])
    assert not torch.equal(compensate(weight, grid, inputs.hessian), sorted_codes[:, order.argsort()])


def test_the_factor_is_that_of_the_inverse():
    x = mixed(50, 9, 8).double()
    hessian = x.T @ x / 50
    upper = inverse_factor(hessian, damping=0.01)
    damped = hessian.double() + 0.01 * hessian.diagonal().double().mean() * torch.eye(9).double()
    assert torch.equal(upper, upper.triu())
    assert_close(upper.T @ upper @ damped, torch.eye(9), tolerance(torch.float64, 9) * 1e3, "factor times matrix")


def test_quantised_weights_come_back_as_they_are():
    weight, grid, inputs = case(8, 16, 4, 6, group=8)
    codes = round_to(weight, grid)
    assert torch.equal(gptq(from_codes(codes, grid), grid, inputs), codes)


def test_its_codes_are_stored_in_the_bytes_of_the_format():
    weight, inputs = randn(12, 256, seed=3), Inputs.of(mixed(300, 256, 3))
    grid = grid_of(weight, 4, 128, symmetric=False, scale_dtype=torch.bfloat16)
    codes = gptq(weight, grid, inputs)
    parts = {"codes": pack_pairs(codes), "scale": grid.scale, "zero": pack_pairs(grid.zero.int())}
    stored = Encoded("int4-affine", (12, 256), parts)
    assert stored.bytes() == encode(weight, "int4-affine").bytes()
    assert torch.equal(stored.decode(), from_codes(codes, grid))


def test_a_column_that_is_never_fed_is_rounded_and_disturbs_nobody():
    weight, grid, _ = case(8, 6, 3, 9)
    x = mixed(40, 6, 9)
    x[:, 2] = 0
    codes = compensate(weight, grid, Inputs.of(x).hessian)
    assert torch.equal(codes[:, 2], round_to(weight, grid)[:, 2])


def test_an_error_that_is_not_divided_by_the_diagonal_is_caught_by_the_brute_force():
    weight, grid, inputs = case(40, 4, 2, 1)
    upper, left = inverse_factor(inputs.hessian, 0).float(), weight.clone()
    wrong = torch.zeros(40, 4, dtype=torch.int32)
    for j in range(4):
        column = Grid(grid.scale, grid.zero, grid.low, grid.high)
        wrong[:, j] = round_to(left[:, j : j + 1], column)[:, 0]
        left[:, j:] -= (left[:, j : j + 1] - from_codes(wrong[:, j : j + 1], column)) * upper[j, j:]
    assert not torch.equal(wrong, by_brute_force(weight, grid, inputs))


@pytest.mark.parametrize(
    ("hessian", "damping", "said"),
    [
        (torch.ones(3, 3), 0.0, "larger damping"),
        (torch.zeros(3, 3), 0.01, "no input at all"),
    ],
)
def test_a_hessian_that_cannot_be_inverted_is_refused(hessian, damping, said):
    with pytest.raises(ValueError, match=said):
        inverse_factor(hessian, damping)


def test_inputs_sum_up_a_text_and_refuse_what_is_none():
    x = torch.tensor([[[1.0, -2.0], [3.0, 0.0]]])
    seen = Inputs.of(x)
    assert seen.hessian.tolist() == [[5.0, -1.0], [-1.0, 2.0]]
    assert (seen.size.tolist(), seen.largest.tolist(), seen.tokens) == ([2.0, 1.0], [3.0, 2.0], 2)
    assert output_error(torch.tensor([[1.0, 1.0]]), seen).item() == pytest.approx(5.0)  # mean of (1 - 2)^2 and 3^2
    for bad in (x[:, :0], x * float("nan"), x / 0.0):
        with pytest.raises(ValueError, match="finite"):
            Inputs.of(bad)
