"""Attention over chosen blocks by the kernel is the readable one, reads no other block, and refuses what it cannot."""

import pytest
import torch
from support.kernel_tests import WHERE, in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.attention import block_sparse as kernel_file
from helpers.kernels.attention.block_sparse import attend_blocks, cost
from helpers.kernels.attention.flash import cost as dense_cost
from helpers.layers import block_sparse
from helpers.layers.attention import attend, causal_mask

pytestmark = needs_triton
L = 16


def text(length=40, heads=4, groups=2, width=16, value_width=16, batch=1, dtype=torch.float32):
    sizes = (heads, width), (groups, width), (groups, value_width)
    return [numbers(batch, length, *size, seed=n, dtype=dtype) for n, size in enumerate(sizes)]


def wide(parts):
    return [x.double() for x in parts]


def dense(query, key, value):
    return attend(
        query, key, value, causal_mask(torch.arange(key.shape[1], device=WHERE).expand(len(key), -1), key.shape[1])
    )


def own(count, groups=2):
    """Each block reads itself."""
    return torch.arange(count, device=WHERE)[None, :, None, None].expand(1, count, groups, 1).contiguous()


@in_both
@pytest.mark.parametrize(
    ("sizes", "k"),
    [
        (dict(length=1), 1),
        (dict(length=16), 3),
        (dict(length=33, width=24, value_width=20), 2),
        (dict(length=50, heads=3, groups=1), 2),
        (dict(length=70, batch=2, heads=6, groups=3), 3),
        (dict(length=100, heads=10, groups=1, width=8, value_width=40), 4),  # the last tile has two heads of four
    ],
)
def test_it_is_the_readable_one_and_where_blocks_are_left_out_not_the_dense_answer(sizes, k, dtype):
    parts = text(**sizes, dtype=dtype)
    chosen = block_sparse.choose_blocks(*parts[:2], L, k)
    answer, launched = launches_of(attend_blocks, *parts, chosen, L)
    assert launched == {"_blocks": 1}
    near_float64(answer, block_sparse.attend_blocks(*wide(parts), chosen, L), 64, "the mixture")
    bites = k < -(-parts[0].shape[1] // L)
    assert ((answer - dense(*wide(parts))).abs().max() > 0.1) == bites


@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize("rows", [64, 128])  # of a tile, before Hopper and on it
def test_with_every_block_chosen_it_is_dense_attention(block, rows, monkeypatch):
    monkeypatch.setattr(kernel_file, "_heads_per_program", lambda shared, *_: dict(HEADS=rows // block))
    parts = text(length=70, heads=10)  # five heads to a key head: the last tile is not full
    chosen = block_sparse.choose_blocks(*parts[:2], block, 9)
    near_float64(attend_blocks(*parts, chosen, block), dense(*wide(parts)), 64, "the mixture")


def test_blocks_that_were_not_chosen_are_not_read():
    query, key, value = text(length=48)
    before = attend_blocks(query, key, value, own(3), L)
    key[:, :L], value[:, :L] = 7.0, 1e6
    assert torch.equal(attend_blocks(query, key, value, own(3), L)[:, L:], before[:, L:])


@pytest.mark.parametrize("position", [15, 16, 24, 39])
def test_a_later_token_changes_nothing_before_it(position):
    query, key, value = text()
    chosen = block_sparse.choose_blocks(query, key, L, 2)
    before = attend_blocks(query, key, value, chosen, L)
    key[:, position:], value[:, position:] = 9.0, -9.0
    after = attend_blocks(query, key, value, chosen, L)
    assert torch.equal(before[:, :position], after[:, :position])
    assert not torch.allclose(before[:, position:], after[:, position:])


def test_no_block_may_stand_anywhere_in_the_choice_which_may_be_of_32_bits():
    parts = text()
    spread = torch.tensor([[0, -1, -1], [-1, 1, -1], [2, -1, 0]], device=WHERE)
    tidy = torch.tensor([[0, -1], [1, -1], [0, 2]], device=WHERE, dtype=torch.int32)
    one, other = (attend_blocks(*parts, x[None, :, None].expand(1, 3, 2, -1).contiguous(), L) for x in (spread, tidy))
    assert torch.allclose(one, other, atol=1e-6)


def test_where_a_gradient_is_wanted_the_readable_form_answers():
    parts = text()
    parts[1].requires_grad_()
    answer, launched = launches_of(attend_blocks, *parts, own(3), L)
    answer.sum().backward()
    assert not launched
    assert parts[1].grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(block=24), "a block of 24 tokens is no tile"),
        (dict(key=torch.ones(1, 40, 3, 16), value=torch.ones(1, 40, 3, 16)), "cannot share 3 key heads"),
        (dict(value=torch.ones(1, 39, 2, 16)), "do not fit"),
        (dict(query=torch.ones(1, 30, 4, 16)), "do not fit"),
        (dict(value=torch.ones(1, 40, 2, 16).half()), "one dtype"),
        (dict(query=torch.ones(1, 40, 16, 4).mT), "query has strides"),
        (dict(query=torch.ones(1, 0, 4, 16)), "nothing to do"),
        (dict(chosen=own(2)), r"it must be \(1, 3, 2\) and slots"),
        (dict(chosen=own(3).float()), "int32 or int64"),
        (dict(chosen=own(3) + 1), "blocks 1 to 3 were chosen; there are 0 to 2"),
        (dict(chosen=own(3) - 2), "blocks -2 to 0"),
        (dict(chosen=torch.zeros_like(own(3))), "must choose its own block"),
    ],
)
def test_what_it_cannot_do_right_is_refused(change, message):
    given = dict(zip(("query", "key", "value"), text(), strict=True)) | {"chosen": own(3), "block": L} | change
    refused(attend_blocks, *given.values(), message=message)


@pytest.mark.parametrize(("length", "k"), [(1, 1), (33, 2), (64, 2), (70, 3), (48, 9)])
def test_its_work_is_that_of_every_pair_that_the_choice_lets_through(length, k):
    query, key, _ = text(length, batch=2)
    chosen, at = block_sparse.choose_blocks(query, key, L, k), torch.arange(length, device=WHERE)
    seen = (chosen[:, at // L, :, :, None] == at // L).any(dim=3) & (at <= at[:, None])[:, None]  # B T G S
    assert cost(2, length, 4, 2, 16, L, k).flops == 2 * int(seen.sum()) * 4 * 16  # two heads per group


def test_at_64k_with_2048_keys_a_query_a_sixteenth_of_the_pairs_is_left():
    whole, sparse = dense_cost(1, 2**16, 64, 4, 128), cost(1, 2**16, 64, 4, 128, 64, 32)
    assert 16 < whole.flops / sparse.flops < 16.6  # of an own block, half is seen
    assert sparse.intensity > 206  # right of an H200's ridge: arithmetic decides
