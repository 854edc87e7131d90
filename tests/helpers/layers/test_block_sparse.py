"""Block-sparse attention: what is chosen, that nothing of the future chooses, and what reading it gives."""

import pytest
import torch

from helpers.compare import assert_close, causality_probe, randn, tolerance
from helpers.layers.attention import attend, causal_mask
from helpers.layers.block_sparse import attend_blocks, choose_blocks, mean_keys

LENGTHS = pytest.mark.parametrize("length", [1, 7, 8, 9, 31, 33])  # under, at and over blocks of 8
NEAR = tolerance(torch.float32, 64)


def text(length: int, batch: int = 2, heads: int = 4, groups: int = 2, width: int = 8) -> list[torch.Tensor]:
    return [randn(batch, length, h, width, seed=n) for n, h in enumerate((heads, groups, groups))]


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(query.shape[1]).expand(len(query), -1)
    return attend(query, key, value, causal_mask(positions, key.shape[1]))


def masked(query, key, value, chosen, block):
    """The oracle: dense attention under a mask made of the choice, one head at a time."""
    length, heads, groups = query.shape[1], query.shape[2], key.shape[2]
    at = torch.arange(length)
    of_block = (chosen[..., None] == torch.arange(chosen.shape[1])).any(3)  # B N G M
    mask = of_block[:, at // block][..., at // block] & (at[None, :] <= at[:, None])[:, None]  # B T G S
    share = heads // groups
    one = [
        attend(query[:, :, h, None], key[:, :, h // share, None], value[:, :, h // share, None], mask[:, :, h // share])
        for h in range(heads)
    ]
    return torch.cat(one, dim=2)


@LENGTHS
@pytest.mark.parametrize("k", [1, 2, 3])
def test_reading_blocks_is_dense_attention_under_the_mask_of_the_choice(length, k):
    parts = text(length)
    chosen = choose_blocks(*parts[:2], 8, k)
    assert_close(attend_blocks(*parts, chosen, 8), masked(*parts, chosen, 8), NEAR, "the mixture")


@LENGTHS
@pytest.mark.parametrize("k", [5, 100])
def test_choosing_every_block_is_dense_attention(length, k):
    parts = text(length)
    chosen = choose_blocks(*parts[:2], 8, k)
    assert_close(attend_blocks(*parts, chosen, 8), dense(*parts), NEAR, "the mixture")


def test_few_blocks_are_not_dense_attention():
    parts = text(33)
    sparse = attend_blocks(*parts, choose_blocks(*parts[:2], 8, 2), 8)
    assert torch.allclose(sparse[:, :16], dense(*parts)[:, :16], atol=1e-6)  # two blocks: all there is
    assert not torch.allclose(sparse[:, 16:], dense(*parts)[:, 16:], atol=1e-2)


@LENGTHS
@pytest.mark.parametrize("k", [1, 2, 9])
def test_a_choice_has_its_own_block_nothing_later_nothing_twice_and_k_where_there_are_k(length, k):
    chosen = choose_blocks(*text(length)[:2], 8, k)
    count = -(-length // 8)
    assert chosen.shape == (2, count, 2, min(k, count))
    for n in range(count):
        for kept in chosen[:, n].flatten(0, 1).tolist():
            real = [block for block in kept if block >= 0]
            assert n == max(real)
            assert len(set(real)) == len(real) == min(k, n + 1)
            assert real == sorted(real)


def test_the_block_whose_mean_key_answers_the_first_query_is_chosen():
    query, key = torch.zeros(1, 16, 1, 2), torch.zeros(1, 16, 1, 2)
    key[0, 4:8, 0, 0] = torch.tensor([4.0, 0, 0, 0])  # block 1 of four, mean 1
    key[0, 8:12, 0, 1] = 0.5  # block 2
    query[0, 12, 0] = torch.tensor([1.0, 0.0])
    query[0, 13:, 0] = torch.tensor([0.0, 9.0])  # what the others want does not count
    assert mean_keys(key, 4)[0, :, 0].tolist() == [[0, 0], [1, 0], [0, 0.5], [0, 0]]
    assert choose_blocks(query, key, 4, 2)[0, 3, 0].tolist() == [1, 3]


def test_heads_that_share_keys_choose_together_and_groups_apart():
    query, key = torch.zeros(1, 12, 4, 2), torch.zeros(1, 12, 2, 2)
    key[0, :4, :, 0], key[0, 4:8, :, 1] = 1, 1
    query[0, 8, :, 0] = torch.tensor([3.0, 0.0, 0.0, 0.0])
    query[0, 8, :, 1] = torch.tensor([0.0, 1.0, 3.0, 0.0])
    assert choose_blocks(query, key, 4, 2)[0, 2].tolist() == [[0, 2], [1, 2]]


@pytest.mark.parametrize("position", [3, 8, 13, 20, 30])
def test_nothing_of_the_future_is_read_or_chooses(position):
    def answer(x):
        query, key = x.unflatten(-1, (4, 8)), x[..., :16].unflatten(-1, (2, 8))
        return attend_blocks(query, key, key, choose_blocks(query, key, 8, 2), 8).flatten(2)

    assert causality_probe(answer, randn(1, 33, 32, seed=3), position) == 0.0


def test_the_mean_of_a_blocks_queries_would_leak():
    """The known mistake: what the last query of a block asks decides what the first one reads."""

    def answer(x):
        query, key = x.unflatten(-1, (4, 8)), x[..., :16].unflatten(-1, (2, 8))
        means = mean_keys(query, 8).repeat_interleave(8, dim=1)
        return attend_blocks(query, key, key, choose_blocks(means, key, 8, 2), 8).flatten(2)

    assert causality_probe(answer, randn(1, 40, 32, seed=3), 37) > 0.1


def test_what_was_not_chosen_is_not_read():
    parts = text(32, batch=1, heads=2, groups=1)
    chosen = torch.tensor([[[[0, -1]], [[1, -1]], [[0, 2]], [[-1, 3]]]])
    before = attend_blocks(*parts, chosen, 8)
    for cache in parts[1:]:
        cache[:, :8] += 9
    after = attend_blocks(*parts, chosen, 8)
    assert torch.equal(before[:, 8:16], after[:, 8:16])
    assert torch.equal(before[:, 24:], after[:, 24:])
    assert not torch.allclose(before[:, 16:24], after[:, 16:24])


def test_values_may_be_wider_and_a_gradient_reaches_all_that_was_read():
    query, key, value = text(20)
    value = randn(2, 20, 2, 11, seed=5).requires_grad_()
    answer = attend_blocks(query, key, value, choose_blocks(query, key, 8, 1), 8)
    assert answer.shape == (2, 20, 4, 11)
    answer[:, 8:16].sum().backward()
    assert (value.grad.abs().sum(dim=(0, 2, 3)) > 0).tolist() == [False] * 8 + [True] * 8 + [False] * 4


@pytest.mark.parametrize(("block", "k"), [(0, 1), (8, 0)])
def test_no_block_and_no_choice_are_refused(block, k):
    with pytest.raises(ValueError, match="both are 1 or more"):
        choose_blocks(*text(9)[:2], block, k)
