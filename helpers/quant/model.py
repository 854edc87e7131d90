"""One call that packs a whole model, in place, and says what it did: bytes by part, before and after."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from helpers.moe.experts import Experts
from helpers.moe.mixture import Router
from helpers.quant.cpu import CPU
from helpers.quant.experts import QuantisedExperts, QuantisedRouter
from helpers.quant.formats import format_of
from helpers.quant.linear import Pack, QuantisedEmbedding, QuantisedLinear, packing
from helpers.quant.parts import Held, check_parts, held_by_part, layers_of, part_of, weights_of
from helpers.quant.ways import Ways, stored_as
from helpers.shapes import Tensor
from helpers.units import format_bytes, format_count

KEPT = ("router", "head", "embedding", "vision")  # small parts that suffer most, and one that a token reads a row of

PACKED = {
    nn.Linear: QuantisedLinear,
    nn.Embedding: QuantisedEmbedding,
    Experts: QuantisedExperts,
    Router: QuantisedRouter,
}


@dataclass(frozen=True)
class Report:
    """What ``quantise`` did: ``print`` shows it as a table."""

    format: str
    before: dict[str, Held]  # by part
    after: dict[str, Held]

    @property
    def bytes_before(self) -> int:
        return sum(part.bytes for part in self.before.values())

    @property
    def bytes_after(self) -> int:
        return sum(part.bytes for part in self.after.values())

    @property
    def share_packed(self) -> float:
        """Of all numbers of the model, those that are in a format now."""
        packed = sum(part.numbers for part in self.after.values() if self.format in part.formats)
        return packed / sum(part.numbers for part in self.after.values())

    def __str__(self) -> str:
        rows = [("part", "numbers", "before", "after", "bits a number", "held as")]
        for name, was in self.before.items():
            rows.append(_row(name, was, self.after[name]))
        rows.append(_row("all", *(_sum(held.values()) for held in (self.before, self.after))))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(_cells(row, widths)).rstrip() for row in rows)


def quantise(model: nn.Module, name: str, keep: Collection[str] = KEPT, wrap: bool = False, ways: Ways = CPU) -> Report:
    """Pack every matrix of ``model`` in the format ``name``, in place, but for the parts in ``keep``.

    ``name`` is one of ``helpers.quant.formats.FORMATS``, or "int8-dynamic", whose layers round their tokens to INT8
    too. ``keep`` holds words of ``helpers.quant.parts.PARTS`` ("router", "head", "attention", ...) or names of single
    layers; where the head is the embedding, keeping it keeps both. Norms are never packed, and what is packed already
    stays, so that parts can have different formats. ``wrap`` lets the groups of a format run on over the ends of rows
    where they do not divide a width. Make the model bfloat16 first to get the kernels in ``ways``: a float32 model is
    exact and slow. Experts are stacks, and are packed with the rest.

    ValueError for an unknown format or part, a width that the format does not divide, NaN or infinity, or where
    nothing is left to pack; the model is then as it was. Built in lesson 15.
    """
    layers = dict(layers_of(model))
    stored_as(name)
    check_parts(keep, layers)
    chosen = {at: layer for at, layer in layers.items() if not _kept(model, at, keep)}
    _check(chosen, name, keep, wrap)
    before = held_by_part(model)
    for at, layer in chosen.items():
        put(model, at, packed(layer, packing(name, ways, wrap)))
    return Report(name, before, held_by_part(model))


def packed(layer: nn.Module, pack: Pack) -> nn.Module:
    """The packed layer that takes the place of this one; ``pack`` quantises its weights, or reads them."""
    return PACKED[type(layer)](layer, pack)


def put(model: nn.Module, at: str, layer: nn.Module) -> None:
    """``layer`` in the place of the one named ``at``."""
    owner, _, leaf = at.rpartition(".")
    setattr(model.get_submodule(owner), leaf, layer)


def _kept(model: nn.Module, at: str, keep: Collection[str]) -> bool:
    part, owner = part_of(at), model.get_submodule(at.rpartition(".")[0])
    tied = part == "embedding" and getattr(owner, "head", owner) is None
    return at in keep or part in keep or (tied and "head" in keep)


def _check(chosen: dict[str, nn.Module], name: str, keep: Collection[str], wrap: bool) -> None:
    """All that ``encode`` would refuse, before anything is changed."""
    if not chosen:
        raise ValueError(f"nothing is left to pack: what is not packed already is in keep={list(keep)}")
    divides, narrow = format_of(stored_as(name)).divides, {}
    for at, layer in chosen.items():
        for weight in weights_of(layer):
            _check_numbers(at, weight)
            matrix = weight[0] if weight.dim() == 3 else weight
            if (matrix.numel() if wrap else matrix.shape[1]) % divides:
                narrow[at] = weight.shape[-1]
    if narrow:
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


def _check_numbers(at: str, weight: Tensor) -> None:
    if weight.is_meta:
        raise ValueError(f"{at} has no numbers yet (it is on the meta device): load the model first")
    if wrong := int((~weight.isfinite()).sum()):
        raise ValueError(f"{at}: {wrong} of {weight.numel()} numbers are NaN or infinite, which no format stores")


def _row(name: str, was: Held, now: Held) -> tuple[str, ...]:
    bits = f"{8 * now.bytes / now.numbers:.2f}"
    held = ", ".join(sorted(now.formats))
    return name, format_count(was.numbers), format_bytes(was.bytes), format_bytes(now.bytes), bits, held


def _sum(parts) -> Held:
    total = Held()
    for part in parts:
        total.numbers, total.bytes = total.numbers + part.numbers, total.bytes + part.bytes
    return total


def _cells(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    words = (0, len(row) - 1)
    return [c.ljust(w) if n in words else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))]
