"""Attention that never holds the scores is attention."""

import pytest
import torch
from support.kernel_tests import WHERE, in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.attention.flash import attend_causal, cost
from helpers.layers.attention import attend, causal_mask

pytestmark = needs_triton


def asked(batch, length, keys, heads, groups, width, dtype=torch.float32, value_width=None):
    value_width = value_width or width
    shapes = (batch, length, heads, width), (batch, keys, groups, width), (batch, keys, groups, value_width)
    query, key, value = (numbers(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes))
    positions = (keys - length + torch.arange(length, device=WHERE)).expand(batch, -1).contiguous()
    return query, key, value, positions


@in_both
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1, 1, 16), (2, 31, 31, 2, 1, 16), (1, 33, 33, 2, 2, 24), (1, 65, 130, 4, 2, 32), (1, 3, 70, 6, 3, 8)],
)
def test_it_is_the_readable_attention(sizes, dtype):
    query, key, value, positions = asked(*sizes, dtype)
    answer, launched = launches_of(attend_causal, query, key, value, positions)
    exact = attend(query.double(), key.double(), value.double(), causal_mask(positions, key.shape[1]))
    assert launched == {"_flash": 1}
    near_float64(answer, exact, 64, "the mixture")


def test_values_may_be_wider_than_keys():
    query, key, value, positions = asked(1, 5, 9, 2, 1, 16, value_width=40)
    exact = attend(query.double(), key.double(), value.double(), causal_mask(positions, 9))
    near_float64(attend_causal(query, key, value, positions), exact, 64, "the mixture")


def test_rows_of_one_batch_may_stand_at_different_places():
    query, key, value, _ = asked(2, 3, 40, 2, 1, 16)
    positions = torch.tensor([[0, 1, 2], [37, 38, 39]], device=WHERE)
    exact = attend(query.double(), key.double(), value.double(), causal_mask(positions, 40))
    near_float64(attend_causal(query, key, value, positions), exact, 64, "the mixture")


def test_a_later_key_changes_nothing_before_it():
    query, key, value, positions = asked(1, 40, 40, 2, 1, 16)
    before = attend_causal(query, key, value, positions)
    key[:, 20:], value[:, 20:] = 9.0, -9.0
    after = attend_causal(query, key, value, positions)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_where_a_gradient_is_wanted_the_readable_one_answers():
    query, key, value, positions = asked(1, 4, 4, 2, 1, 16)
    query.requires_grad_()
    answer, launched = launches_of(attend_causal, query, key, value, positions)
    answer.sum().backward()
    assert not launched
    assert query.grad.any()


def wrong(**changed):
    parts = dict(zip(("query", "key", "value", "positions"), asked(1, 4, 4, 4, 2, 16), strict=True))
    return [{**parts, **changed}[name] for name in parts]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(query=torch.ones(1, 4, 3, 16)), "cannot share 2"),
        (dict(key=torch.ones(1, 4, 2, 8)), "do not fit"),
        (dict(value=torch.ones(1, 16, 2, 4).transpose(1, 3)), "strides"),
        (dict(key=torch.ones(1, 4, 2, 16).half()), "one dtype"),
        (dict(query=torch.ones(1, 0, 4, 16)), "length 0"),
        (dict(positions=torch.zeros(1, 3, dtype=torch.int64)), "positions are"),
    ],
)
def test_what_it_cannot_do_right_is_refused(changed, message):
    refused(attend_causal, *wrong(**changed), message=message)


def test_work_grows_with_the_square_and_reading_with_the_length():
    short, long = cost(1, 1000, 32, 8, 128), cost(1, 2000, 32, 8, 128)
    assert 3.9 < long.flops / short.flops < 4.1
    assert long.bytes == 2 * short.bytes
