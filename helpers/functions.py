"""The functions that a layer computes with: named in one place, and exchanged for others of the same signature.

A layer owns weights and calls functions. One that has several implementations stands in the layer's ``functions``
under a name, in its readable form, and ``forward`` calls it by that name. ``helpers.use`` exchanges the functions of a
whole model for kernels, an ablation those of one layer, an experiment some for a while; no layer has a line about it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from torch import nn

FORWARD = "forward"  # the one function that every module has


def declared(**functions: Callable) -> Mapping[str, Callable]:
    """The functions of a class of layers by name: readable ones, the same for all of them."""
    return MappingProxyType(functions)


class Layer(nn.Module):
    """A module that says what it computes with.

    ``functions`` stand in the class; a layer whose functions were exchanged has its own beside them.
    ``asks_the_text``: it looks at the tokens to know which weights work, which a compiled step cannot do.
    """

    functions: Mapping[str, Callable] = declared()
    asks_the_text: bool = False


def exchange(part: nn.Module, functions: Mapping[str, Callable]) -> None:
    """From now on ``part`` computes with these: functions that it names, or its whole ``forward``.

    Raises ValueError for a name that it does not have.
    """
    named = getattr(part, "functions", {})
    if unknown := sorted(functions.keys() - named.keys() - {FORWARD}):
        allowed = ", ".join([*named, FORWARD])
        raise ValueError(f"{type(part).__name__} computes with {allowed}; it has no {', '.join(unknown)}")
    if FORWARD in functions:
        part.forward = functions[FORWARD]
    if changed := {name: function for name, function in functions.items() if name != FORWARD}:
        part.functions = {**named, **changed}


@contextmanager
def exchanged(parts: Mapping[nn.Module, Mapping[str, Callable]]) -> Iterator[None]:
    """Within the block each of these modules computes with these functions, afterwards with those it had before."""
    before = [(part, {name: vars(part)[name] for name in _KEPT & vars(part).keys()}) for part in parts]
    try:
        for part, functions in parts.items():
            exchange(part, functions)
        yield
    finally:
        for part, held in before:
            for name in _KEPT & vars(part).keys():
                del vars(part)[name]
            vars(part).update(held)


_KEPT = {FORWARD, "functions"}
