"""Rounding a whole model on a text, layer by layer: each layer sees what the rounded ones before it make of the text.

So a later layer can make up for what earlier ones lost, and the inputs of one block are all that is held at a time.
Layers that read the same input (query, key and value; gate and up) are done together: it is looked at once. Weights are
replaced by what their codes stand for, in their own type; embedding and head stay as they are.

    calibrate(model, token_ids, with_gptq, partial(grid_of, bits=3, group=32, symmetric=False))
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from helpers.hooks import hooked
from helpers.models.components import PARTS, part_of
from helpers.quant.formats.blocks import check_numbers, not_zero
from helpers.quant.formats.integers import from_codes, round_to
from helpers.quant.methods.awq import MakeGrid, rounded, search
from helpers.quant.methods.gptq import gptq
from helpers.quant.methods.input_statistics import Inputs, output_error
from helpers.quant.methods.undo import undone_on_error
from helpers.shapes import Float, Int, Tensor

Weights = Sequence[Float[Tensor, "_ I"]]  # of layers that read the same input
Method = Callable[[Weights, MakeGrid, Inputs], list[Tensor]]


class Rounded(NamedTuple):
    """By how much a layer's answers on the text are off: squares, as a share of the squares of right answers."""

    name: str
    nearest: float  # had its weights been rounded to the nearest
    error: float  # as they are now


def to_nearest(weights: Weights, make_grid: MakeGrid, inputs: Inputs) -> list[Tensor]:
    """Round to nearest: the text plays no part. Built in lesson `formats`."""
    grids = [make_grid(weight) for weight in weights]
    return [from_codes(round_to(weight, grid), grid) for weight, grid in zip(weights, grids, strict=True)]


def with_gptq(weights: Weights, make_grid: MakeGrid, inputs: Inputs) -> list[Tensor]:
    """GPTQ, the columns of the largest inputs first. Built in lesson `gptq_awq`.

    Rows do not know of each other and their grids are their own, so these layers are rounded as one matrix.
    """
    whole = torch.cat(list(weights))
    grid = make_grid(whole)
    return list(from_codes(gptq(whole, grid, inputs), grid).split([len(weight) for weight in weights]))


def with_awq(weights: Weights, make_grid: MakeGrid, inputs: Inputs) -> list[Tensor]:
    """AWQ: one scale for all layers that read the same input. Built in lesson `gptq_awq`."""
    found = search(weights, make_grid, inputs)
    return [rounded(weight, found.scale, make_grid) for weight in weights]


@torch.no_grad()
def calibrate(
    model: nn.Module, token_ids: Int[Tensor, "B T"], method: Method, make_grid: MakeGrid, keep: Sequence[str] = ()
) -> list[Rounded]:
    """Round every linear layer in ``model.blocks``, in place, on the text ``token_ids``; say how far each is off.

    The model reads the text once. Before a block does, it is rounded: so the next one gets what a rounded block says.
    The parts in ``keep`` stay, and so do layers with one of its words in their name, and experts, which are stacks and
    no linear layers. ValueError for a word of ``keep`` that is neither a part nor in a name, and with the layer's name
    where one cannot be rounded; whatever stops it, the model is then as it was. Built in lesson `gptq_awq`.
    """
    if not isinstance(getattr(model, "blocks", None), nn.ModuleList):
        raise ValueError(
            f"{type(model).__name__} has no blocks to go through; of a model that reads images, give .text"
        )
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    _check_kept(keep, list(names.values()))
    report: list[Rounded] = []

    def round_block(block: nn.Module, given: tuple) -> None:
        for layers in _sharing_an_input(block, given):
            layers = {names[layer]: layer for layer in layers if not _kept(names[layer], keep)}
            if layers:
                made, rows = _rounded(layers, partial(_inputs, block, given), method, make_grid)
                report.extend(rows)
                for layer, weight in zip(layers.values(), made, strict=True):
                    keep_old(layer.weight)
                    layer.weight.copy_(weight)

    hooks = hooked([block.register_forward_pre_hook(round_block) for block in model.blocks])
    with hooks, undone_on_error() as keep_old:
        model(token_ids)
    return report


def _kept(name: str, keep: Sequence[str]) -> bool:
    return part_of(name) in keep or any(word in name for word in keep)


def _check_kept(keep: Sequence[str], names: list[str]) -> None:
    if isinstance(keep, str):
        raise ValueError(f"keep is a list of words, such as [{keep!r}]")
    if unknown := [word for word in keep if word not in PARTS and not any(word in name for name in names)]:
        raise ValueError(f"keep={unknown}: neither a part ({', '.join(PARTS)}) nor in a name such as {names[0]}")


def _rounded(
    layers: Mapping[str, nn.Linear], read_by: Callable[[nn.Linear], Inputs], method: Method, make_grid: MakeGrid
) -> tuple[list[Tensor], list[Rounded]]:
    """The new weights of layers that read the same, and by how much each is off."""
    try:
        for layer in layers.values():
            check_numbers(layer.weight)
        weights, inputs = [layer.weight.float() for layer in layers.values()], read_by(next(iter(layers.values())))
        made, nearest = method(weights, make_grid, inputs), to_nearest(weights, make_grid, inputs)
        rows = zip(layers, weights, nearest, made, strict=True)
        return made, [Rounded(name, _off(old, near, inputs), _off(old, new, inputs)) for name, old, near, new in rows]
    except ValueError as error:
        raise ValueError(f"{', '.join(layers)}: {error}") from error


def _off(weight: Float[Tensor, "O I"], made: Float[Tensor, "O I"], inputs: Inputs) -> float:
    wrong, right = (output_error(part, inputs).sum() for part in (made - weight, weight))
    return (wrong / not_zero(right)).item()  # a layer that always answers zero is not off


def _sharing_an_input(block: nn.Module, given: tuple) -> list[list[nn.Linear]]:
    """The linear layers of a block in the order in which they are asked, those together that read one tensor."""
    asked: list[tuple[Tensor, list[nn.Linear]]] = []

    def note(layer: nn.Linear, args: tuple) -> None:
        if not asked or asked[-1][0] is not args[0]:
            asked.append((args[0], []))
        asked[-1][1].append(layer)

    with hooked([layer.register_forward_pre_hook(note) for layer in _linears(block)]):
        block.forward(*given)
    return [layers for _, layers in asked]


class _Enough(Exception):
    """What was wanted has been seen: the rest of the block need not run."""


def _inputs(block: nn.Module, given: tuple, layer: nn.Linear) -> Inputs:
    """What ``layer`` reads when the block, as it is now, is given this."""
    seen = []

    def note(_layer: nn.Linear, args: tuple) -> None:
        seen.append(Inputs.of(args[0]))
        raise _Enough

    with hooked([layer.register_forward_pre_hook(note)]), suppress(_Enough):
        block.forward(*given)  # and not block(): this runs inside the block's own hook
    return seen[0]


def _linears(block: nn.Module) -> list[nn.Linear]:
    return [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
