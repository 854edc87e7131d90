import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.compare import (
    assert_close,
    causality_probe,
    chance_of,
    kl,
    max_error,
    relative_rms,
    tolerance,
    top1_agreement,
)


def test_errors_small_enough_for_paper():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])
    assert max_error(a, b) == 1
    assert relative_rms(a, b) == pytest.approx(1 / math.sqrt(34))
    assert relative_rms(torch.zeros(3), torch.zeros(3)) == 0
    assert relative_rms(torch.ones(3), torch.zeros(3)) == math.inf


def test_different_shapes_are_an_error_and_never_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 1\) and \(2,\)"):
        max_error(torch.ones(2, 1), torch.ones(2))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2000), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 9999))
def test_a_product_in_a_dtype_stays_within_the_tolerance_of_that_dtype(length, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(16, length, generator=generator).to(dtype) for _ in range(2))
    assert_close(a @ b.T, a.double() @ b.double().T, tolerance(dtype, length), "product")


def test_a_product_taken_in_a_coarser_dtype_is_beyond_the_tolerance():
    a, b = torch.randn(32, 64), torch.randn(64, 32)
    coarse = (a.bfloat16() @ b.bfloat16()).float()
    with pytest.raises(AssertionError, match="relative RMS"):
        assert_close(coarse, a @ b, tolerance(torch.float32, 64), "bf16")


def test_one_wrong_element_among_a_million_is_seen_and_located():
    b = torch.randn(1000, 1000)
    a = b.clone()
    a[12, 34] += 1.0
    with pytest.raises(AssertionError, match=r"layer 3: .*at \(12, 34\)"):
        assert_close(a, b, 2e-3, "layer 3")
    assert relative_rms(a, b) < 2e-3


def test_nan_never_passes():
    with pytest.raises(AssertionError):
        assert_close(torch.tensor([1.0, float("nan")]), torch.ones(2), 1.0, "nan")


def test_equal_tensors_pass_at_tolerance_zero_and_so_do_empty_ones():
    assert_close(torch.zeros(3), torch.zeros(3), 0.0, "zeros")
    assert_close(torch.empty(0, 4), torch.empty(0, 4), 0.0, "empty")


def test_tolerance_refuses_integers_and_empty_sums():
    with pytest.raises(ValueError, match=r"torch\.equal"):
        tolerance(torch.int64, 4)
    with pytest.raises(ValueError, match="at least 1"):
        tolerance(torch.float32, 0)


def test_kl_is_zero_for_the_same_prediction_whatever_constant_is_added():
    logits = torch.randn(3, 5, 11)
    assert kl(logits, logits + 7.0) == pytest.approx(0, abs=1e-9)
    assert top1_agreement(logits, logits + 7.0) == 1


def test_kl_agrees_with_torch():
    a, b = torch.randn(4, 9), torch.randn(4, 9)
    expected = torch.nn.functional.kl_div(b.log_softmax(-1), a.log_softmax(-1), reduction="batchmean", log_target=True)
    assert kl(a, b) == pytest.approx(expected.item(), rel=1e-5)


def test_top1_agreement_counts_positions():
    a = torch.eye(4)
    b = a.clone()
    b[3] = torch.tensor([9.0, 0, 0, 0])
    assert top1_agreement(a, b) == 0.75


def test_the_causality_probe_finds_a_look_ahead_and_clears_a_running_sum():
    x = torch.randn(2, 9, 3)
    assert causality_probe(lambda x: x.cumsum(1), x, 4) == 0
    assert causality_probe(lambda x: x + x.roll(-1, 1), x, 4) > 0


def test_the_causality_probe_changes_every_token_id_and_stays_in_the_vocabulary():
    embedding = torch.randn(7, 4)
    ids = torch.tensor([[0, 6, 1, 0, 6]])
    assert causality_probe(lambda ids: embedding[ids].cumsum(1), ids, 2) == 0


def test_a_probe_that_could_not_see_a_leak_is_refused():
    with pytest.raises(ValueError, match="proves nothing"):
        causality_probe(lambda x: torch.zeros_like(x), torch.randn(1, 5, 2), 2)
    with pytest.raises(ValueError, match="1 to 4"):
        causality_probe(lambda x: x, torch.randn(1, 5, 2), 0)


def test_the_chance_of_counts_is_pearsons():
    """60 heads of 100 throws: a chi-square of 4 with one degree of freedom, 4.55 %."""
    half = torch.tensor([0.5, 0.5])
    assert chance_of(torch.tensor([60, 40]), half) == pytest.approx(0.0455, abs=1e-4)
    assert chance_of(torch.tensor([50, 50]), half) == pytest.approx(1.0)
    assert chance_of(torch.tensor([600, 400]), half) < 1e-9


def test_honest_draws_give_every_chance_alike_and_others_none():
    generator, p = torch.Generator().manual_seed(0), torch.tensor([0.5, 0.3, 0.15, 0.05])
    counts = [torch.bincount(torch.multinomial(p, 2000, True, generator=generator), minlength=4) for _ in range(400)]
    chances = torch.tensor([chance_of(own, p) for own in counts])
    for share in (0.1, 0.5, 0.9):
        assert (chances < share).float().mean().item() == pytest.approx(share, abs=0.1)  # 4 x sqrt(0.25 / 400)
    assert max(chance_of(own, torch.tensor([0.3, 0.5, 0.15, 0.05])) for own in counts) < 1e-6


def test_what_cannot_happen_and_did_is_no_chance_and_too_few_draws_are_refused():
    assert chance_of(torch.tensor([9, 9, 1]), torch.tensor([0.5, 0.5, 0.0])) == 0
    assert chance_of(torch.tensor([9, 9, 0]), torch.tensor([0.5, 0.5, 0.0])) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"expected 2.0 times; 5 or more"):
        chance_of(torch.tensor([10, 10]), torch.tensor([0.9, 0.1]))
