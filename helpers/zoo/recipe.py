"""What a model of the zoo is made by: everything that its weights depend on, beside the machine and the versions."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from helpers.training.train import Loss, Settings, Stream, loss_of


def everything(_name: str) -> bool:
    """All weights are trained."""
    return True


@dataclass(frozen=True)
class Stage:
    """One stretch of a training, with one purpose. A model may need several: first learn, then learn to choose."""

    name: str
    settings: Settings
    stream: Callable[[Tokenizer], Stream]
    data: str  # the same in words
    loss: Loss = loss_of
    trains: Callable[[str], bool] = everything  # whether a weight of this name is trained
    balance: float = 0.0  # how far the routers' bias moves after each step
    made_by: str = ""  # the recipe whose first stage this is too: trained once, a beginning for both

    def said(self) -> dict:
        """What can be written down of it."""
        own = {"data": self.data, "loss": self.loss.__name__, "balance": self.balance}
        return {**own, "settings": asdict(self.settings)}


@dataclass(frozen=True)
class Recipe:
    """One model. The same recipe on the same machine gives the same weights, bit for bit."""

    name: str
    model: Callable[[Any], nn.Module]
    config: Any
    tokenizer: Callable[[], Tokenizer]
    stages: tuple[Stage, ...]
    evidence: Callable[[Any], dict]  # from what helpers.zoo.follow made to what the model can do, measured
    seed: int = 0  # of the first weights
    std: float = 0.02  # of the first weights of matrices
    prepare: Callable[[nn.Module], None] | None = None  # what is done to the first weights beside that
    beside: tuple[str, ...] = ()  # recipes whose results stand beside this one's in its card
    threads: int = 1  # sums are taken in another order, and rounded otherwise, with another number of threads

    def said(self) -> dict:
        """All of it that can be written down, for the card and for a test."""
        own = {"name": self.name, "model": self.model.__name__, "config": asdict(self.config), "seed": self.seed}
        stages = {stage.name: stage.said() for stage in self.stages}
        prepared = self.prepare.__name__ if self.prepare else None
        return {**own, "std": self.std, "prepare": prepared, "threads": self.threads, "stages": stages}
