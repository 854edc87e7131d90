"""The model that reads pictures: it says which number is drawn, and cannot know it from anything but the pixels."""

import random
from dataclasses import replace

import torch
from tokenizers import AddedToken, Tokenizer
from torch import nn

from helpers.data.digits import PICTURE, Pictures, Shown, numbers, shown
from helpers.models.configs import kimi_k25
from helpers.models.kimi_k25 import KimiK25
from helpers.shapes import Float, Tensor
from helpers.training.losses import answers_of
from helpers.training.train import Settings
from helpers.vision import moonvit
from helpers.zoo.card import table
from helpers.zoo.follow import Made
from helpers.zoo.recipe import Recipe, Stage
from helpers.zoo.recipes.facts import V3
from helpers.zoo.tokenizer import train_tokenizer

DIGITS, NOISE = (1, 2, 3, 4, 5), 0.25
PHASES = ((300, (1,)), (400, (1, 2)), (400, (1, 2, 3)), (1100, DIGITS))
BATCH, STEPS = 32, sum(steps for steps, _ in PHASES)
COUNT = 128  # pictures per cell of a table
LOUDER = (0.0, 0.25, 0.5, 1.0, 2.0)  # deviations of the noise, where ink and paper are two apart


def digit_tokenizer() -> Tokenizer:
    """Bytes, and one token for a cell of a picture."""
    tokenizer = train_tokenizer(["0"], 257)
    tokenizer.add_special_tokens([AddedToken(PICTURE, special=True, normalized=False)])
    return tokenizer


def stream(tokenizer: Tokenizer) -> Pictures:
    """Pictures of one digit, then of more, at last of up to five."""
    return Pictures(tokenizer, BATCH, PHASES, NOISE, seed=1)


@torch.no_grad()
def by_inputs(model: nn.Module) -> None:
    """Make the first weights of tower and projector as large as their inputs are few: a patch has 48 numbers, and with
    one deviation for all a tower learns to see several times later."""
    generator = torch.Generator().manual_seed(3)
    for part in (model.vision, model.projector):
        for weight in part.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)


def looking(model: nn.Module, batch: Shown) -> Float[Tensor, ""]:
    """Nats per token of what the pictures say."""
    return answers_of(logits(model, batch), batch.rows)


def logits(model: nn.Module, batch: Shown) -> Float[Tensor, "B T vocab"]:
    """What the model makes of the texts and their pictures."""
    device = next(model.parameters()).device
    images = {name: value.to(device) for name, value in batch.images.items()}
    return model(batch.rows.token_ids[:, :-1].to(device), images=images)


def of_digits(made: Made) -> dict:
    """Numbers read right, by digits and by noise; beside it the same model given another picture of the same size."""
    model, tokenizer = made.model, made.tokenizer
    by_digits = [[n, *read(model, tokenizer, n, NOISE)] for n in (*DIGITS, 6)]
    by_noise = [[noise, *read(model, tokenizer, 4, noise)] for noise in LOUDER]
    columns, note = ["numbers read", "digits read", "digits with another's picture"], f"{COUNT} pictures per row."
    return {
        "can": f"reads {by_digits[3][1]:.0%} of numbers of four drawn digits, {by_digits[3][2]:.0%} of the digits",
        "loss": {"value": by_nats(model, tokenizer), "what": "nats per drawn digit"},
        "tables": {
            "digits": table(["digits", *columns], by_digits, note),
            "noise": table(["noise", *columns], by_noise),
        },
    }


@torch.no_grad()
def read(model: nn.Module, tokenizer: Tokenizer, digits: int, noise: float) -> tuple[float, float, float]:
    """Shares of whole numbers and of digits read right, and of digits where the picture shows another number."""
    wanted = numbers(random.Random(f"held out/{digits}/{noise}"), COUNT, digits)
    other = numbers(random.Random(f"another/{digits}/{noise}"), COUNT, digits)
    given, changed = (shown(each, tokenizer, digits, noise) for each in (wanted, other))
    right = _right(model, given, digits)
    blind = _right(model, Shown(given.rows, changed.images), digits)
    return right.all(dim=1).float().mean().item(), right.float().mean().item(), blind.float().mean().item()


def _right(model: nn.Module, batch: Shown, digits: int) -> Tensor:
    """True for each digit that the model finds most likely; the ones before it are given."""
    ids, answer = batch.rows.token_ids[:, 1:], batch.rows.answer[:, 1:]
    same = logits(model, batch).argmax(dim=-1).cpu() == ids
    return same[answer].view(len(ids), digits + 1)[:, :digits]  # without the line end


@torch.no_grad()
def by_nats(model: nn.Module, tokenizer: Tokenizer) -> float:
    """Mean nats of a token of the answers, numbers of four digits."""
    batch = shown(numbers(random.Random("held out"), COUNT, 4), tokenizer, 4, NOISE)
    return answers_of(logits(model, batch), batch.rows, rest=0.0).item()


TINY_KIMI_K25 = Recipe(
    name="tiny-kimi-k2_5",
    model=KimiK25,
    config=kimi_k25.Config(
        # As Kimi K2's text model is DeepSeek-V3's with other sizes.
        text=replace(V3, vocab_size=258, num_experts=8, expert_width=32, context=128, num_drafters=0),
        vision=moonvit.Config(
            width=64, num_blocks=2, num_heads=4, mlp_width=128, patch_side=4, grid_height=8, grid_width=8
        ),
        image_token=257,
    ),
    tokenizer=digit_tokenizer,
    stages=(
        Stage(
            "pictures",
            Settings(STEPS, lr=3e-3, warm_up=50, final=0.05),
            stream,
            f"drawn numbers of 1 digit, later of up to 5, noise of {NOISE}; {STEPS} steps of {BATCH} pictures",
            loss=looking,
            balance=1e-3,
        ),
    ),
    evidence=of_digits,
    std=0.08,
    prepare=by_inputs,
)
