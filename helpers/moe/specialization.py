"""Who the experts become: which of them each token went to, and what kind of token that was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from helpers.hooks import hooked
from helpers.moe.experts import Experts, mixtures
from helpers.shapes import Float, Int, Tensor


@contextmanager
def watch_choices(model: nn.Module) -> Iterator[dict[str, list[Int[Tensor, "*rest A"]]]]:
    """Within the block: for each mixture, by its name, the experts of every token, one tensor per call.

    Built in lesson `experts`.
    """
    choices: dict[str, list[Tensor]] = {}
    with hooked(experts.register_forward_pre_hook(_keeper(choices, name)) for name, experts in mixtures(model)):
        yield choices


def _keeper(choices: dict[str, list[Tensor]], name: str):
    def keep(_experts: Experts, given: tuple) -> None:
        choices.setdefault(name, []).append(given[1].detach().cpu())

    return keep


def shares_by_class(
    indices: Int[Tensor, "tokens A"], classes: Int[Tensor, " tokens"], num_classes: int, num_experts: int
) -> Float[Tensor, "classes E"]:
    """How the choices of each class's tokens spread over the experts: each row sums to 1, or is 0 without a token.

    Built in lesson `experts`.
    """
    pairs = classes[:, None].expand_as(indices) * num_experts + indices
    counts = pairs.flatten().bincount(minlength=num_classes * num_experts).view(num_classes, num_experts).float()
    return counts / counts.sum(dim=1, keepdim=True).clamp_min(1)


def specialisation(shares: Float[Tensor, "classes E"]) -> float:
    """How far the classes are from all being alike: 0 for one spread in every class, 1 for experts of their own.

    The mean over classes of half the sum of differences to the mean spread, over what it is for classes apart.
    """
    apart = (shares - shares.mean(dim=0)).abs().sum(dim=1).mean() / 2
    return float(apart / (1 - 1 / len(shares)))
