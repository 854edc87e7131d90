"""What the zoo's models are trained for: functions from a model and a batch to the number to make smaller."""

import torch
from torch import nn
from torch.nn import functional

from helpers.data.tasks import Rows
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.moe.balance import balance_loss, watch_routers
from helpers.moe.router import highest
from helpers.shapes import Float, Tensor

REST = 0.1  # what a token that is no answer counts: it can only be guessed, but its grammar is worth learning
EVEN = 0.01  # what an uneven load counts


def answers(model: nn.Module, rows: Rows) -> Float[Tensor, ""]:
    """Nats per token of the answers, and a little of all other tokens."""
    ids = rows.token_ids.to(next(model.parameters()).device)
    return answers_of(model(ids[:, :-1]), rows)


def answers_of(logits: Float[Tensor, "B T vocab"], rows: Rows, rest: float = REST) -> Float[Tensor, ""]:
    """``answers`` from logits that are there already; ``rest`` is what a token that is no answer counts."""
    targets, answer, real = (part[:, 1:].to(logits.device) for part in rows)
    nats = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)
    return nats[answer].mean() + rest * nats[real & ~answer].mean()


@torch.no_grad()
def nats_of_answers(model: nn.Module, rows: Rows) -> float:
    """Mean nats of an answer's token, for a card."""
    ids = rows.token_ids.to(next(model.parameters()).device)
    return answers_of(model(ids[:, :-1]), rows, rest=0.0).item()


def drafts(model: DeepSeekV3, rows: Rows, depth: int = 1) -> Float[Tensor, ""]:
    """``answers`` of the drafter: from what the model made of token t, and token t + 1, it guesses token t + 2.

    With a ``depth`` the drafter goes on from what it made itself, told one more token each time, and the losses are
    averaged: V3 trains one depth, GLM-5 the same drafter at three.
    Source: "DeepSeek-V3 Technical Report", 2024, equations 21 to 25; "GLM-5", 2026, section 2. Built in lesson `mtp`.
    """
    ids = rows.token_ids.to(next(model.parameters()).device)
    return drafts_from(model, model.read(ids[:, :-2]), rows, depth)


def drafts_from(model: DeepSeekV3, hidden: Float[Tensor, "B T D"], rows: Rows, depth: int = 1) -> Float[Tensor, ""]:
    """``drafts`` where ``read`` has been asked already: of the rows without their last two tokens."""
    ids, losses = rows.token_ids.to(hidden.device), []
    for d in range(1, depth + 1):
        hidden = model.ahead(hidden[:, : ids.shape[1] - 1 - d], ids[:, d:-1])
        losses.append(answers_of(model.logits(hidden), Rows(*(part[:, d:] for part in rows))))
    return torch.stack(losses).mean()


def answers_evenly(model: nn.Module, rows: Rows) -> Float[Tensor, ""]:
    """``answers``, and ``EVEN`` x the balance loss of each mixture: for routers that have no bias, as Qwen3.5's."""
    with watch_routers(model) as logits:
        loss = answers(model, rows)
    shares = [router.float().softmax(dim=-1) for router in logits]
    k = model.config.experts_per_token
    uneven = [balance_loss(share.flatten(0, 1), highest(share, k).flatten(0, 1)) for share in shares]
    return loss + EVEN * torch.stack(uneven).mean()
