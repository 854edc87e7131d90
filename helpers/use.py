"""One verb for how a model runs: readable, by the kernels of a CPU, by Triton's, or with compiled steps.

    use(model, "triton")                      every function and packed matrix that has a kernel runs by it
    use(model, "readable")                    and back
    fast = use(model, "compiled", capacity=512)

    form       functions of the layers              packed matrices                       steps
    readable   as they are written                  decoded, then multiplied              as they are written
    cpu        as they are written                  ``helpers.quant.cpu``                 as they are written
    triton     ``helpers.kernels.implementations``  ``helpers.kernels.quant.backends``    as they are written
    compiled   as they are written                  as they were                          ``helpers.decoding.compiled``

A form says everything: what has nothing of its own in it is readable. Weights stay as they are, so every form gives the
same answer up to rounding; ``quantise`` changes weights, and is a verb of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from helpers.decoding.compiled import Compiled
from helpers.functions import Layer, exchange, exchanged
from helpers.kernels.implementations import KERNELS, READABLE
from helpers.kernels.launch import DTYPES, INTERPRETED, triton
from helpers.kernels.quant.backends import GPU
from helpers.quant.backends import Way, Ways
from helpers.quant.cpu import CPU
from helpers.quant.linear import Packed
from helpers.quant.model import products

FORMS = ("readable", "cpu", "triton", "compiled")
WAYS: dict[str, Ways] = {"readable": {}, "cpu": CPU, "triton": GPU}
Row = tuple[str, str, str, int]  # kind of layer, function or format, form, how many


@dataclass(frozen=True)
class Report:
    """What runs on what: ``print`` shows it as a table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        table = [("layer", "computes", "by", "times"), *((*row[:3], str(row[3])) for row in self.rows)]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table
        )


def use(model: nn.Module, form: str, capacity: int | None = None) -> nn.Module:
    """The model to call from now on: ``model`` itself, its layers exchanged in place, or one with compiled steps.

    ``capacity``, for "compiled" only: the tokens that a text may have. A compiled model becomes "readable" again as the
    model inside it. Where a form is refused, nothing has changed. Raises ValueError for an unknown form, one in which
    nothing of this model has a kernel, compiled steps over kernels, and as ``Compiled`` does; for "triton" also where
    no kernel runs, while training (a kernel has no gradient), and for a dtype or a size that a kernel does not take.
    """
    _refuse(model, form, capacity)
    if form == "compiled":
        return Compiled(model, capacity)
    model = model.model if isinstance(model, Compiled) else model
    for layer, functions in _functions_in(model, form):
        exchange(layer, functions)
    for _, packed, dtype in products(model):
        packed.lay_out(WAYS[form], dtype)
    return model


@contextmanager
def using(model: nn.Module, form: str, capacity: int | None = None) -> Iterator[nn.Module]:
    """Within the block ``model`` runs in this form, and is what the block is given; then as it did before."""
    before = [(packed, dtype, packed.way) for _, packed, dtype in products(model)]
    with exchanged({layer: {} for layer in _layers(model)}):
        try:
            yield use(model, form, capacity)
        finally:
            for packed, dtype, way in before:
                packed.lay_out({packed.name: way}, dtype)


def in_use(model: nn.Module) -> Report:
    """What the functions and the packed matrices of a model run on now."""
    steps = [("steps", "one token", "compiled")] if isinstance(model, Compiled) else []
    functions = [
        (type(layer).__name__, READABLE.get(function, function).__name__, _form_of(function))
        for layer in _layers(model)
        for function in layer.functions.values()
    ]
    matrices = [("Packed", packed.name, _form_of_way(packed.name, packed.way)) for _, packed, _ in products(model)]
    return Report(tuple((*row, count) for row, count in Counter([*steps, *functions, *matrices]).items()))


def _layers(model: nn.Module) -> list[Layer]:
    return [part for part in model.modules() if isinstance(part, Layer) and part.functions]


def _form_of(function: Callable) -> str:
    return "triton" if function in READABLE else "readable"


def _form_of_way(name: str, way: Way) -> str:
    return next((form for form, ways in WAYS.items() if ways.get(name) is way), "readable")


def _functions_in(model: nn.Module, form: str) -> Iterator[tuple[Layer, dict[str, Callable]]]:
    """For each layer its functions in this form; one without another form stays."""
    for layer in _layers(model):
        readable = {name: READABLE.get(function, function) for name, function in layer.functions.items()}
        if form == "triton":
            yield layer, {name: KERNELS[f].kernel if f in KERNELS else f for name, f in readable.items()}
        else:
            yield layer, readable


def _refuse(model: nn.Module, form: str, capacity: int | None) -> None:
    if form not in FORMS:
        raise ValueError(f"there is no form {form!r}; a model runs in one of {', '.join(FORMS)}")
    if (capacity is None) == (form == "compiled"):
        raise ValueError(f"capacity is {capacity} for the form {form!r}: 'compiled' needs one, and no other form does")
    if isinstance(model, Compiled) and form != "readable":
        raise ValueError(f"compiled steps keep the functions of their making: use(model, 'readable') before {form!r}")
    if form == "compiled" and any(row[2] == "triton" for row in in_use(model).rows):
        raise ValueError(
            "kernels look at what they get, and no step is compiled with them: use(model, 'readable') first"
        )
    if form == "triton":
        _refuse_here(model)
        _refuse_numbers(model)
        _refuse_sizes(model)
    if form in ("triton", "cpu") and not _changes(model, form):
        raise ValueError(f"no function and no packed matrix of this {type(model).__name__} has a kernel in {form!r}")


def _refuse_here(model: nn.Module) -> None:
    """No Triton, no place for it, or no reading."""
    devices = {weight.device.type for weight in model.parameters()}
    if triton is None:
        raise ValueError("there is no Triton for this system: it is made for Linux")
    if not INTERPRETED and not (torch.cuda.is_available() and devices <= {"cuda"}):
        where = f"the model is on {', '.join(sorted(devices)) or 'no GPU'}"
        raise ValueError(f"{where}; Triton's kernels run on an NVIDIA GPU, or interpreted, with TRITON_INTERPRET=1")
    if model.training:
        raise ValueError("the model is in training, and kernels have no gradient: call model.eval() first")


def _refuse_numbers(model: nn.Module) -> None:
    allowed = [dtype for dtype in DTYPES if not (INTERPRETED and dtype == torch.bfloat16)]
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.dtype not in allowed:
            raise ValueError(f"{name} is {weight.dtype}; kernels here take {', '.join(map(str, allowed))}")


def _refuse_sizes(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        for function in layer.functions.values() if isinstance(layer, Layer) else ():
            implementation = KERNELS.get(READABLE.get(function, function))
            if implementation is not None and (reason := implementation.refuses(layer)):
                raise ValueError(f"{name or type(layer).__name__} has {reason}")


def _changes(model: nn.Module, form: str) -> bool:
    """Whether a function or a packed matrix has a kernel in this form."""
    functions = (function for _, held in _functions_in(model, form) for function in held.values())
    matrices = (_fits(packed, WAYS[form].get(packed.name), dtype) for _, packed, dtype in products(model))
    return any(_form_of(function) == form for function in functions) or any(matrices)


def _fits(packed: Packed, way: Way | None, dtype: torch.dtype) -> bool:
    device = next(iter(packed.tensors().values())).device.type
    return way is not None and device == way.device and dtype in way.dtypes
