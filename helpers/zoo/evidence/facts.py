"""What a model that learned facts by heart can say, what that cost, and what its experts and its drafter do."""

import random

import torch
from tokenizers import Tokenizer
from torch import nn

from helpers.data.tasks import Rows, marked, stack
from helpers.measure import training_flops_per_token
from helpers.moe.balance import evenness, watch_loads
from helpers.training.losses import nats_of_answers
from helpers.training.recall import recalled
from helpers.zoo import fact_data
from helpers.zoo.card import table
from helpers.zoo.follow import Made

ROWS = 32  # of facts, for what is measured on text


def of_facts(made: Made) -> dict:
    """Facts recalled, by kind, and for the work and time of the training; the load of the experts; the drafter."""
    model, tokenizer, facts = made.model, made.tokenizer, fact_data.facts()
    right = recalled(model, tokenizer, facts)
    rows = some_rows(tokenizer)
    tables = {"kinds": by_kind(right), "work": work(made, sum(right)), "experts": loads(model, rows)}
    said = f"says {sum(right):,} of {len(facts):,} facts by heart, to the letter"
    if getattr(model, "drafters", None):
        accepted = acceptance(model, rows)
        tables["draft"] = table(["where", "accepted"], [*map(list, accepted.items())])
        said += f"; its drafter guesses {accepted['in answers']:.0%} of the answers' tokens"
    loss = {"value": nats_of_answers(model, rows), "what": "nats per token of an answer"}
    return {"can": said, "loss": loss, "recalled": sum(right), "tables": tables}


def some_rows(tokenizer: Tokenizer) -> Rows:
    """Rows of facts as in training, drawn by another seed."""
    rows = [marked(fact_data.draw(random.Random(f"held out/{n}"), fact_data.LENGTH), tokenizer) for n in range(ROWS)]
    return stack([row[: fact_data.LENGTH + 1] for row in rows], fact_data.LENGTH)


def by_kind(right: list[bool]) -> dict:
    """The share of facts that were said right, for each kind and for all."""
    kinds: dict[str, list[bool]] = {}
    for fact, is_right in zip(fact_data.facts(), right, strict=True):
        kinds.setdefault(fact.kind, []).append(is_right)
    rows = [[kind, sum(own) / len(own)] for kind, own in kinds.items()]
    return table(["facts", "recalled"], [*rows, ["all", sum(right) / len(right)]])


def work(made: Made, right: int) -> dict:
    """What the first stage took, where the model itself learned, and what it gave for that."""
    run, model = made.runs["facts"], made.model
    flops = training_flops_per_token(model, fact_data.LENGTH)  # ``forward`` asks no drafter
    total = flops * run.step * fact_data.LENGTH * fact_data.ROWS
    own = [weight for name, weight in model.named_parameters() if not name.startswith("drafters.")]
    rows = [
        ["parameters, without a drafter", sum(weight.numel() for weight in own)],
        ["steps", run.step],
        ["MFLOP per token, both passes", flops / 1e6],
        ["TFLOP of the training", total / 1e12],
        ["seconds of CPU", run.cpu_s],
        ["facts recalled", right],
        ["facts for each TFLOP", right / total * 1e12],
        ["facts for each second of CPU", right / run.cpu_s],
    ]
    return table(["", made.model.__class__.__name__], rows)


@torch.no_grad()
def loads(model: nn.Module, rows: Rows) -> dict:
    """How even the experts of each block are used: 1 for all alike, 0 for one alone."""
    with watch_loads(model) as counts:
        model(rows.token_ids[:, :-1].to(next(model.parameters()).device))
    measured = [[name, evenness(own), int(own.min()) / int(own.sum()) * len(own)] for name, own in counts.items()]
    return table(["mixture", "evenness", "least used, of an even share"], measured)


@torch.no_grad()
def acceptance(model: nn.Module, rows: Rows) -> dict[str, float]:
    """The share of the drafter's guesses that the model agrees with when it gets there: what a draft saves a step.

    The text is given, so that each place is asked once. Built in lesson `mtp`.
    """
    ids = rows.token_ids.to(next(model.parameters()).device)
    hidden = model.read(ids[:, :-1])
    said = model.logits(hidden)[:, 1:].argmax(dim=-1)  # of places 1 ...: the token after each
    guessed = model.draft(hidden[:, :-1], ids[:, 1:-1]).argmax(dim=-1)
    same, real, answer = (said == guessed).cpu(), rows.real[:, 2:], rows.answer[:, 2:]
    return {"in answers": same[answer].float().mean().item(), "everywhere": same[real].float().mean().item()}
