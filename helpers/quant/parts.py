"""The parts of a model by words that a person would use, and what each of them holds in memory."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from torch import nn

from helpers.moe.experts import Experts
from helpers.moe.routers import WideLinear
from helpers.quant.linear import Packed
from helpers.shapes import Tensor

# A part -> what the names of its layers hold, and what it is. The first that fits counts: an indexer lies in attention.
PARTS: dict[str, tuple[Collection[str], str]] = {
    "vision": (("vision", "projector"), "the tower that reads images, and what joins it to the text model"),
    "embedding": (("embedding",), "a vector for each token of the vocabulary"),
    "head": (("head",), "from the last vector to a logit for each token; may be the embedding"),
    "router": (("router", "shared_gate"), "which experts a token goes to, and how much the shared one counts"),
    "indexer": (("indexer",), "which tokens or entries sparse attention reads"),
    "experts": (("experts",), "the routed experts"),
    "shared": (("shared",), "the expert that every token uses"),
    "attention": (("attention",), "queries, keys, values, latents, compressors, output"),
    "delta": (("delta",), "Gated DeltaNet, attention's place in most blocks of Qwen3.5"),
    "mlp": (("mlp",), "the feed-forward layer of a block without experts"),
    "drafter": (("join",), "what joins a text and its next token in a drafter"),
}
REST = "norms and the rest"  # never packed: norms, biases, sinks, convolutions, mixing of streams
PLAIN = (nn.Linear, nn.Embedding, WideLinear, Experts)


def part_of(name: str) -> str:
    """The part that a layer of this name belongs to: ``blocks.3.attention.query`` is ``attention``."""
    words = name.split(".")
    for part, (marks, _) in PARTS.items():
        if any(mark in words for mark in marks):
            return part
    return REST


def all_but(*parts: str) -> list[str]:
    """Every part except these: ``keep=all_but("experts")`` packs the experts only. ValueError for an unknown part."""
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


@dataclass
class Held:
    """What one part holds: numbers of its weights, bytes in memory, and the formats that they are in."""

    numbers: int = 0
    bytes: int = 0
    formats: set[str] = field(default_factory=set)

    def add(self, tensor: Tensor) -> None:
        """A tensor that is not packed."""
        self.numbers += tensor.numel()
        self.bytes += tensor.nbytes
        self.formats.add(str(tensor.dtype).removeprefix("torch."))

    def add_packed(self, packed: Packed) -> None:
        """Matrices that are."""
        self.numbers += packed.numbers()
        self.bytes += sum(tensor.nbytes for tensor in packed.tensors().values())
        self.formats.add(packed.name)


def held_by_part(model: nn.Module) -> dict[str, Held]:
    """What each part of the model holds, the largest first. Built in lesson `quantise_moe`."""
    held: dict[str, Held] = {}
    plain = {name for name, _ in layers_of(model)}
    packed = {name: module for name, module in model.named_modules() if isinstance(module, Packed)}
    for name, matrices in packed.items():
        held.setdefault(part_of(name), Held()).add_packed(matrices)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        layer, _, leaf = name.rpartition(".")
        if layer not in packed and tensor.numel():
            held.setdefault(part_of(name) if layer in plain and leaf != "bias" else REST, Held()).add(tensor)
    return dict(sorted(held.items(), key=lambda pair: -pair[1].bytes))
