"""Which layers of a model can be packed, and which of its parts a person asks to keep."""

from collections.abc import Collection, Iterator

from torch import nn

from helpers.models.components import PARTS, REST, part_of
from helpers.moe.experts import Experts
from helpers.moe.routers import WideLinear
from helpers.shapes import Tensor

PLAIN = (nn.Linear, nn.Embedding, WideLinear, Experts)


def all_but(*parts: str) -> list[str]:
    """Every part except these: ``keep=all_but("routed experts")`` packs those only. ValueError for an unknown part."""
    check_parts(parts, ())
    return [part for part in PARTS if part not in parts]


def check_parts(parts: Collection[str], layers: Collection[str]) -> None:
    """ValueError unless each is one of PARTS, or one of the names of layers."""
    if isinstance(parts, str):
        raise ValueError(f"keep is a list of parts, such as [{parts!r}]")
    if unknown := [part for part in parts if part not in PARTS and part not in layers]:
        also = f", and single layers such as {next(iter(layers))!r}" if layers else ""
        raise ValueError(f"there is no part {', '.join(map(repr, unknown))}; there are {', '.join(PARTS)}{also}")


def layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers whose matrices are not packed, with their names, in the order of the model."""
    for name, layer in model.named_modules():
        if type(layer) in PLAIN and part_of(name) != REST:
            yield name, layer


def weights_of(layer: nn.Module) -> list[Tensor]:
    """The matrices, and stacks of them, that a format would pack."""
    return [layer.gate, layer.up, layer.down] if isinstance(layer, Experts) else [layer.weight]
