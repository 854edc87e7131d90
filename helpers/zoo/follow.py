"""Follow a recipe: from seeded weights through its stages, in one sitting or in many."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from helpers.device import threads
from helpers.moe.balance import rebalance, watch_loads
from helpers.training.train import Run, initialise, train, train_only
from helpers.zoo.recipe import Recipe, Stage


@dataclass(frozen=True)
class Made:
    """What a recipe has given so far."""

    model: nn.Module
    tokenizer: Tokenizer
    runs: dict[str, Run]  # by stage, those that were begun
    whole: bool  # every stage is done


def begin(recipe: Recipe) -> nn.Module:
    """The model with the weights that its training starts from."""
    torch.manual_seed(recipe.seed)  # layers make vectors and convolutions from torch's own generator
    model = recipe.model(recipe.config)
    initialise(model, recipe.seed, recipe.std)
    if recipe.prepare:
        recipe.prepare(model)
    return model


def follow(
    recipe: Recipe,
    build: Path,
    seconds: float | None = None,
    report: Callable[[Stage, Run], None] | None = None,
    device: torch.device | str = "cpu",
) -> Made:
    """Take the stages in order, each from the checkpoint in ``build`` where there is one.

    After ``seconds``, but not without a step, this sitting ends, and the same call goes on later. ``report`` is called
    after each step. torch computes on the recipe's threads meanwhile.
    ValueError where a checkpoint is damaged or belongs to another run.
    """
    with threads(recipe.threads):
        return _stages(recipe, build, seconds, report, device)


def _stages(
    recipe: Recipe,
    build: Path,
    seconds: float | None,
    report: Callable[[Stage, Run], None] | None,
    device: torch.device | str,
) -> Made:
    tokenizer, model, runs = recipe.tokenizer(), begin(recipe).to(device), {}
    end = None if seconds is None else time.monotonic() + seconds
    for stage in recipe.stages:
        left = None if end is None else max(1e-6, end - time.monotonic())  # time for one step
        runs[stage.name] = run = take(stage, recipe, model, tokenizer, build, left, report)
        if run.step < stage.settings.steps:
            return Made(model, tokenizer, runs, whole=False)
    model.requires_grad_(True)
    return Made(model, tokenizer, runs, whole=True)


def take(
    stage: Stage,
    recipe: Recipe,
    model: nn.Module,
    tokenizer: Tokenizer,
    build: Path,
    seconds: float | None = None,
    report: Callable[[Stage, Run], None] | None = None,
) -> Run:
    """One stage: its weights, its loss, and after each step the balance of its routers."""
    train_only(model, stage.trains)
    checkpoint = build / (stage.made_by or recipe.name) / f"{stage.name}-{stage.settings.steps}.safetensors"
    with watch_loads(model) as loads:

        def after(model: nn.Module) -> None:
            rebalance(model, loads, stage.balance)
            loads.clear()

        return train(
            model,
            stage.stream(tokenizer),
            stage.settings,
            checkpoint,
            seconds=seconds,
            report=(lambda run: report(stage, run)) if report else None,
            loss=stage.loss,
            after=after if stage.balance else None,
        )
