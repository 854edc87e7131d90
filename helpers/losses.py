"""What the zoo's models are trained for: functions from a model and a batch to the number to make smaller."""

from torch import nn
from torch.nn import functional

from helpers.data.tasks import Rows
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.shapes import Float, Int, Tensor

REST = 0.1  # what a token that is no answer counts: it can only be guessed, but its grammar is worth learning
DRAFT = 0.3  # what the drafter's loss counts, as in DeepSeek-V3's first stage


def answers(model: nn.Module, rows: Rows) -> Float[Tensor, ""]:
    """Nats a token of the answers, and a little of all other tokens."""
    ids = rows.token_ids.to(next(model.parameters()).device)
    return answers_of(model(ids[:, :-1]), rows)


def answers_of(logits: Float[Tensor, "B T vocab"], rows: Rows) -> Float[Tensor, ""]:
    """``answers`` from logits that are there already."""
    targets, answer, real = (part[:, 1:].to(logits.device) for part in rows)
    nats = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)
    return nats[answer].mean() + REST * nats[real & ~answer].mean()


def with_draft(model: DeepSeekV3, batch: Int[Tensor, "B T_and_1"]) -> Float[Tensor, ""]:
    """Nats of the next token, and ``DRAFT`` x those of the drafter for the one after it.

    The drafter reads what the model made of token t, and token t + 1; its gradient passes into the model, as in
    training DeepSeek-V3. Source: "DeepSeek-V3 Technical Report", 2024, equations 24 and 25. Built in lesson 11.
    """
    batch = batch.to(next(model.parameters()).device)
    hidden = model.read(batch[:, :-1])
    drafted = model.draft(hidden[:, :-1], batch[:, 1:-1])
    return _nats(model.logits(hidden), batch[:, 1:]) + DRAFT * _nats(drafted, batch[:, 2:])


def _nats(logits: Float[Tensor, "B T vocab"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
