"""One call that packs a whole model, in place, and says what it did: bytes by part, before and after."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import nn

from helpers.models.components import part_of
from helpers.moe.experts import Experts
from helpers.moe.routers import WideLinear
from helpers.quant.audit import Stored, stored_by_part, together
from helpers.quant.backends import Ways, stored_as
from helpers.quant.cpu import CPU
from helpers.quant.experts import QuantisedExperts
from helpers.quant.formats.blocks import check_numbers
from helpers.quant.formats.named import format_of
from helpers.quant.linear import Pack, Packed, QuantisedEmbedding, QuantisedLinear, packing
from helpers.quant.parts import check_parts, layers_of, weights_of
from helpers.units import format_bytes, format_count

KEPT = ("router", "head", "embedding", "vision")  # small parts that suffer most, and one that a token reads a row of

PACKED = {
    nn.Linear: QuantisedLinear,
    nn.Embedding: QuantisedEmbedding,
    WideLinear: QuantisedLinear,
    Experts: QuantisedExperts,
}


@dataclass(frozen=True)
class Report:
    """What ``quantise`` did: ``print`` shows it as a table."""

    format: str
    before: dict[str, Stored]  # by part
    after: dict[str, Stored]

    @property
    def bytes_before(self) -> int:
        return sum(part.bytes for part in self.before.values())

    @property
    def bytes_after(self) -> int:
        return sum(part.bytes for part in self.after.values())

    @property
    def share_packed(self) -> float:
        """Of all numbers of the model, those that are in a format now."""
        packed = sum(part.weights for part in self.after.values() if self.format in part.format.split(", "))
        return packed / sum(part.weights for part in self.after.values())

    def __str__(self) -> str:
        rows = [("part", "numbers", "before", "after", "bits per number", "held as")]
        for name, was in self.before.items():
            rows.append(_row(name, was, self.after[name]))
        was, now = (together("all", stored.values()) for stored in (self.before, self.after))
        rows.append(_row("all", was, replace(now, format="")))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(_cells(row, widths)).rstrip() for row in rows)


def quantise(model: nn.Module, name: str, keep: Collection[str] = KEPT, wrap: bool = False, ways: Ways = CPU) -> Report:
    """Pack every matrix of ``model`` in the format ``name``, in place, but for the parts in ``keep``.

    ``name`` is one of ``helpers.quant.formats.named.FORMATS``, or "int8-dynamic", whose layers round their tokens to
    INT8 too. ``keep`` holds words of ``helpers.models.components.PARTS`` ("router", "head", "attention", ...) or names
    of single layers; where the head is the embedding, keeping it keeps both. Norms are never packed, and what is packed
    already stays, so that parts can have different formats. ``wrap`` lets the groups of a format run on over the ends
    of rows where they do not divide a width. Make the model bfloat16 first to get the kernels in ``ways``: a float32
    model is exact and slow. Experts are stacks, and are packed with the rest.

    ValueError for an unknown format or part, a width that the format does not divide, numbers that no format stores
    (NaN, infinity, above 1e37), or where nothing is left to pack; the model is then as it was. Built in lesson
    `quantise_moe`.
    """
    chosen = _chosen(model, name, keep, wrap)
    before = stored_by_part(model)
    # All or nothing without a second model in memory: whatever can be refused is looked for first, and then each layer
    # is let go as soon as its packed one stands in its place. So only names are held here, and no layers. Stopped in
    # between, by a person or for lack of memory, the model has some packed layers and computes with them.
    for at in chosen:
        put(model, at, packed(model.get_submodule(at), packing(name, ways, wrap)))
    return Report(name, before, stored_by_part(model))


def packed(layer: nn.Module, pack: Pack) -> nn.Module:
    """The packed layer that takes the place of this one; ``pack`` quantises its weights, or reads them."""
    return PACKED[type(layer)](layer, pack).train(layer.training)


def put(model: nn.Module, at: str, layer: nn.Module) -> None:
    """``layer`` in the place of the one named ``at``."""
    owner, _, leaf = at.rpartition(".")
    setattr(model.get_submodule(owner), leaf, layer)


def products(model: nn.Module) -> Iterator[tuple[str, Packed, torch.dtype]]:
    """The packed matrices that tokens are multiplied with, by name, and the dtype of those tokens.

    A table of embeddings is looked up, and multiplies none.
    """
    dtype = _dtype(model)
    for at, owner in model.named_modules():
        if isinstance(owner, QuantisedEmbedding):
            continue
        for leaf, part in owner.named_children():
            if isinstance(part, Packed):
                yield f"{at}.{leaf}".lstrip("."), part, dtype


def _dtype(model: nn.Module) -> torch.dtype:
    """Of the model's tokens: that of what packed layers decode to, or of the weights that are not packed."""
    likes = (buffer for name, buffer in model.named_buffers() if name.endswith("like"))
    plain = (weight for weight in model.parameters() if weight.is_floating_point())
    return next(chain(likes, plain, [torch.empty(0)])).dtype


def _chosen(model: nn.Module, name: str, keep: Collection[str], wrap: bool) -> list[str]:
    """The names of the layers to pack. ValueError for all that packing them would refuse."""
    layers = dict(layers_of(model))
    divides = format_of(stored_as(name)).divides
    check_parts(keep, layers)
    chosen = {at: layer for at, layer in layers.items() if not _kept(model, at, keep)}
    if not chosen:
        raise ValueError(f"nothing is left to pack: what is not packed already is in keep={list(keep)}")
    for at, layer in chosen.items():
        _check_numbers(at, layer)
    if narrow := {at: width for at, layer in chosen.items() if (width := _narrow(layer, divides, wrap))}:
        _refuse_narrow(narrow, name, divides, wrap)
    return list(chosen)


def _kept(model: nn.Module, at: str, keep: Collection[str]) -> bool:
    part, owner = part_of(at), model.get_submodule(at.rpartition(".")[0])
    tied = part == "embedding" and getattr(owner, "head", owner) is None
    return at in keep or part in keep or (tied and "head" in keep)


def _check_numbers(at: str, layer: nn.Module) -> None:
    for weight in weights_of(layer):
        if weight.is_meta:
            raise ValueError(f"{at} has no numbers yet (it is on the meta device): load the model first")
        try:
            if not weight.numel():
                raise ValueError(f"{list(weight.shape)} holds no number")
            check_numbers(weight)
        except ValueError as error:
            raise ValueError(f"{at}: {error}") from None


def _narrow(layer: nn.Module, divides: int, wrap: bool) -> int | None:
    """The width of a matrix of this layer that groups of so many numbers do not divide; None where they divide all."""
    for weight in weights_of(layer):
        if weight.shape[-2:].numel() % divides if wrap else weight.shape[-1] % divides:
            return weight.shape[-1]
    return None


def _refuse_narrow(narrow: dict[str, int], name: str, divides: int, wrap: bool) -> None:
    at, width = next(iter(narrow.items()))
    rest = f" and {len(narrow) - 1} more layers" if len(narrow) > 1 else ""
    parts, remedy = (
        sorted({part_of(at) for at in narrow}),
        "let groups run on over the ends of rows with wrap=True, ",
    )
    raise ValueError(
        f"{name!r} needs {'matrices' if wrap else 'widths'} that {divides} divides, and {at} has {width} columns"
        f"{rest}: {'' if wrap else remedy}keep {parts}, or take another format"
    )


def _row(name: str, was: Stored, now: Stored) -> tuple[str, ...]:
    sizes = format_count(was.weights), format_bytes(was.bytes), format_bytes(now.bytes)
    return name, *sizes, f"{now.bits:.2f}", now.format


def _cells(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    words = (0, len(row) - 1)
    return [c.ljust(w) if n in words else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))]
