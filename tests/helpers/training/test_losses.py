"""What the zoo's models are trained for."""

import pytest
import torch
from torch.nn import functional

from helpers.data.tasks import Rows
from helpers.models.configs import qwen3_5
from helpers.models.configs.deepseek_v3 import Config
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.models.qwen3_5 import Qwen3_5
from helpers.moe.balance import balance_loss, watch_routers
from helpers.training.losses import EVEN, REST, answers, answers_evenly, answers_of, drafts
from helpers.training.train import initialise


def test_answers_count_in_full_other_tokens_a_little_and_filling_nothing():
    logits = torch.randn(1, 4, 7, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    rows = Rows(ids, torch.tensor([[0, 0, 1, 0, 0]]).bool(), torch.tensor([[1, 1, 1, 1, 0]]).bool())
    nats = functional.cross_entropy(logits[0], ids[0, 1:], reduction="none")
    assert answers_of(logits, rows).item() == pytest.approx((nats[1] + REST * (nats[0] + nats[2]) / 2).item())


def rows_of(ids: torch.Tensor) -> Rows:
    """Every second token an answer, and the last row shorter."""
    answer = torch.arange(ids.shape[1])[None].expand_as(ids) % 2 == 1
    real = torch.ones_like(ids).bool()
    real[-1, -2:] = False
    return Rows(ids, answer & real, real)


@pytest.fixture
def drafting() -> DeepSeekV3:
    torch.manual_seed(0)
    model = DeepSeekV3(Config(31, 16, 2, 1, 2, 8, 8, 4, 4, 4, 24, 4, 2, 8, 1, num_drafters=1))
    initialise(model, 0, std=0.3)
    return model


def test_the_draft_is_held_to_the_token_after_the_next(drafting):
    model, rows = drafting, rows_of(torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(1)))
    hidden = model.read(rows.token_ids[:, :-1])
    drafted = model.draft(hidden[:, :-1], rows.token_ids[:, 1:-1])  # of places 0 ... 6: each has read t and t + 1
    nats = functional.cross_entropy(drafted.flatten(0, 1), rows.token_ids[:, 2:].flatten(), reduction="none").view(2, 7)
    answer, real = rows.answer[:, 2:], rows.real[:, 2:]
    second = nats[answer].mean() + REST * nats[real & ~answer].mean()
    loss = drafts(model, rows)
    assert loss.item() == pytest.approx(second.item(), rel=1e-5)
    loss.backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "drafter" in name)


def test_deeper_drafts_are_told_one_token_more_each_and_their_losses_are_averaged(drafting):
    rows = rows_of(torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(1)))
    hidden, losses = drafting.read(rows.token_ids), []
    for d in (1, 2, 3):
        hidden = drafting.ahead(hidden[:, : 8 - d], rows.token_ids[:, d:8])
        losses.append(answers_of(drafting.logits(hidden), Rows(*(part[:, d:] for part in rows))).item())
        assert drafts(drafting, rows, d).item() == pytest.approx(sum(losses) / d, rel=1e-5)
    assert len({round(loss, 3) for loss in losses}) == 3


def test_a_drafter_that_is_told_one_token_too_early_has_another_loss(drafting):
    rows = rows_of(torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(1)))
    early = drafting.draft(drafting.read(rows.token_ids[:, :-2]), rows.token_ids[:, :-2])
    wrong = answers_of(early, Rows(*(part[:, 1:] for part in rows)))
    assert abs(drafts(drafting, rows).item() - wrong.item()) > 0.01


def test_an_uneven_load_costs_and_its_gradient_reaches_the_router():
    torch.manual_seed(0)
    kinds = (qwen3_5.DELTA, qwen3_5.ATTENTION)
    sizes = {"num_experts": 4, "experts_per_token": 1, "expert_width": 8, "shared_width": 8, "sections": (1, 0, 0)}
    model = Qwen3_5(qwen3_5.Config(31, 16, 2, kinds, 2, 1, 8, 2, 2, 4, 4, 2, **sizes))
    initialise(model, 0, std=0.3)
    rows = rows_of(torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(1)))
    with watch_routers(model) as logits:
        plain = answers(model, rows)
    assert len(logits) == 2
    shares = [router.softmax(dim=-1).flatten(0, 1) for router in logits]
    extra = sum(balance_loss(share, share.argmax(dim=-1, keepdim=True)) for share in shares) / 2
    assert answers_evenly(model, rows).item() == pytest.approx((plain + EVEN * extra).item(), rel=1e-5)
    assert extra > 1
