"""Acceptance by depth counts what the model would have written; tokens of a pass, and when drafting is a loss."""

import itertools
import math

import pytest
import torch

from helpers.compare import randn
from helpers.data.tasks import Rows
from helpers.decoding.acceptance import acceptance_by_depth, speed_up, tokens_per_pass
from helpers.models.configs.deepseek_v3 import Config
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.zoo.evidence.facts import acceptance

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def model() -> DeepSeekV3:
    """Every number random, and so few tokens that a random drafter is often right."""
    made = DeepSeekV3(Config(3, 24, 2, 1, 2, 12, 10, 8, 4, 6, 32, 4, 2, 12, 1, num_drafters=1)).eval()
    for n, (name, weight) in enumerate(made.state_dict().items()):
        weight.copy_(("norm" in name) + 0.4 * randn(*weight.shape, seed=n))
    return made


def ids(length: int, rows: int = 2) -> torch.Tensor:
    return torch.randint(3, (rows, length), generator=torch.Generator().manual_seed(3))


def test_acceptance_is_what_the_cards_say_at_depth_one(model):
    text, answer = ids(40, rows=3), randn(3, 40, seed=5) > 0
    said = acceptance(model, Rows(text, answer, torch.ones_like(answer)))
    assert acceptance_by_depth(model, text, 1) == pytest.approx([said["everywhere"]])
    assert acceptance_by_depth(model, text, 1, answer) == pytest.approx([said["in answers"]])
    assert 0.05 < said["everywhere"] < 0.95


def most_likely_drafts(model: DeepSeekV3, text: torch.Tensor, depth: int) -> list[int]:
    """Behind this text, without a cache: from the second on by the drafter's own output and its own guess."""
    hidden, told = model.read(text[:, :-1]), text[:, 1:]
    for _ in range(depth):
        drafted = model.ahead(hidden, told)[:, -1:]
        hidden, told = torch.cat([hidden, drafted], 1), torch.cat([told, model.logits(drafted).argmax(-1)], 1)
    return told[0, -depth:].tolist()


def test_acceptance_by_depth_counts_what_the_model_would_have_written_itself(model):
    text, depth = ids(30, rows=1), 3
    reached = [0] * (depth + 1)
    for t in range(1, 29):
        read = text[:, : t + 1]
        reached[0] += 1
        for d, guess in enumerate(most_likely_drafts(model, read, depth)):
            if model(read)[0, -1].argmax() != guess:
                break
            reached[d + 1] += 1
            read = torch.cat([read, torch.tensor([[guess]])], dim=1)
    assert 0 < reached[3] < reached[1] < reached[0]
    wanted = [after / before for before, after in itertools.pairwise(reached)]
    assert acceptance_by_depth(model, text, depth) == pytest.approx(wanted)


def test_a_depth_that_nobody_reached_has_no_share(model):
    nowhere = torch.zeros(2, 8, dtype=torch.bool)
    assert all(map(math.isnan, acceptance_by_depth(model, ids(8), 2, nowhere)))


def test_a_depth_below_one_is_refused(model):
    with pytest.raises(ValueError, match="k is 0; a draft guesses 1 token or more"):
        acceptance_by_depth(model, ids(8), 0)


def test_tokens_of_a_pass_are_the_geometric_sum():
    assert tokens_per_pass([]) == 1
    assert tokens_per_pass([0.5]) == 1.5
    assert tokens_per_pass([1.0] * 4) == 5
    assert tokens_per_pass([0.5, 0.0, 1.0]) == 1.5  # nothing counts behind a wrong guess
    for p in (0.1, 0.58, 0.9):
        assert tokens_per_pass([p] * 3) == pytest.approx((1 - p**4) / (1 - p))
    assert tokens_per_pass([0.875]) == 1.875  # DeepSeek-V3: 85 to 90 % of second tokens


def test_drafting_breaks_even_where_what_is_won_pays_for_the_wider_pass_and_the_draft():
    assert speed_up([0.4], wide_pass=1.15, draft=0.25) == pytest.approx(1)
    assert speed_up([1.0], wide_pass=1.0, draft=0.0) == 2
    assert speed_up([0.0], wide_pass=1.0, draft=0.25) == pytest.approx(0.8)
    assert speed_up([0.5, 0.5], wide_pass=1.2, draft=0.1) == pytest.approx(1.75 / 1.4)
