"""Told pairs: what stands in a row, what its answers are, and that a batch follows from its step."""

import pytest
import torch

from helpers.data.pairs import PairBatches, tell_pairs


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("pairs", [1, 5, 8])
def test_the_answer_is_the_value_that_was_told_last(pairs, rounds):
    ids, answers = tell_pairs(seeded(0), 6, pairs, 8, rounds)
    assert ids.shape == (6, 2 * pairs * rounds + pairs)
    for row, right in zip(ids.tolist(), answers.tolist(), strict=True):
        told = row[: 2 * pairs * rounds]
        memory = dict(zip(told[::2], told[1::2], strict=True))  # a later pair replaces an earlier one
        assert [memory[key] for key in row[2 * pairs * rounds :]] == right
        assert sorted(row[2 * pairs * rounds :]) == sorted(set(told[::2]))


def test_keys_and_values_have_words_of_their_own():
    ids, answers = tell_pairs(seeded(1), 50, 7, 9, 2)
    assert set(ids[:, 0:28:2].flatten().tolist()) == set(range(9))
    assert set(ids[:, 1:28:2].flatten().tolist()) == set(range(9, 18)) == set(answers.flatten().tolist())


def test_a_second_round_has_new_values_and_another_order():
    ids, _ = tell_pairs(seeded(2), 20, 8, 8, 2)
    assert not ids[:, :16:2].equal(ids[:, 16:32:2])
    assert not ids[:, 1:16:2].equal(ids[:, 17:32:2])


@pytest.mark.parametrize(("pairs", "rounds"), [(0, 1), (9, 1), (4, 0)])
def test_what_cannot_be_told_is_refused(pairs, rounds):
    with pytest.raises(ValueError, match=f"{pairs} pairs in {rounds} rounds were asked for; 1 to 8 pairs"):
        tell_pairs(seeded(0), 1, pairs, 8, rounds)


def test_a_batch_follows_from_its_step_and_seed():
    batches = PairBatches(words=16, most_pairs=6, most_rounds=2, batch=3)
    assert batches[4].token_ids.equal(batches[4].token_ids)
    assert not batches[4].token_ids.equal(PairBatches(16, 6, 2, 3, seed=1)[4].token_ids)
    lengths = {batches[step].token_ids.shape[1] for step in range(80)}
    assert lengths == {pairs * (2 * rounds + 1) for pairs in range(2, 7) for rounds in (1, 2)}
