"""What a quantised model really stores: each of its weights, by the part of the model and by the format of its numbers.

A library that loads "in four bits" replaces the layers that it knows, and says nothing of the others. Here every byte
is counted where it lies: packed codes, their scales and tables, and whatever stayed as it was.
"""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from helpers.models.components import REST, part_of
from helpers.quant.linear import Packed
from helpers.quant.parts import layers_of
from helpers.shapes import Tensor


@dataclass(frozen=True)
class Stored:
    """One weight of a model, or several summed, as it lies in memory."""

    name: str
    part: str  # a word of helpers.models.components
    format: str  # "bfloat16", "nf4", ...; of several summed "bfloat16, nf4"
    weights: int  # the numbers that it stands for
    bytes: int  # of all tensors that it takes: codes, scales, tables

    @property
    def bits(self) -> float:
        """Bits for each number that it stands for."""
        return 8 * self.bytes / self.weights


def audit(model: nn.Module) -> list[Stored]:
    """Every parameter and every buffer of ``model``, each once: of transformers, bitsandbytes or this course.

    A tied matrix counts once; what is on the ``meta`` device counts as if it were here. ValueError for a model without
    a tensor. Built in lesson `quantise_moe`.
    """
    packed = [(name, module) for name, module in model.named_modules() if isinstance(module, Packed)]
    inside = {id(tensor) for _, module in packed for tensor in module.buffers()}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    held = [_held(name, tensor) for name, tensor in tensors if tensor.numel() and id(tensor) not in inside]
    for name, module in packed:
        size = sum(tensor.nbytes for tensor in module.buffers())
        held.append(Stored(name, part_of(name), module.name, module.numbers(), size))
    if not held:
        raise ValueError(f"{type(model).__name__} holds no tensor: there is nothing to count")
    return held


def together(part: str, stored: Iterable[Stored]) -> Stored:
    """Several as one: their weights and bytes summed, their formats in one line."""
    stored = list(stored)
    formats = ", ".join(sorted({one.format for one in stored}))
    return Stored(part, part, formats, sum(one.weights for one in stored), sum(one.bytes for one in stored))


def summed(stored: Iterable[Stored]) -> list[Stored]:
    """One row for each part and format, most bytes first."""
    rows: dict[tuple[str, str], list[Stored]] = {}
    for one in stored:
        rows.setdefault((one.part, one.format), []).append(one)
    return sorted((together(part, some) for (part, _), some in rows.items()), key=lambda row: -row.bytes)


def stored_by_part(model: nn.Module) -> dict[str, Stored]:
    """What each part of the model holds, most bytes first. Norms, biases and what else is never packed count as REST,
    whatever part they lie in. Built in lesson `quantise_moe`."""
    every = [(f"{at}.", leaf) for at, layer in layers_of(model) for leaf, _ in layer.named_parameters()]
    names = {at + leaf for at, leaf in every if leaf != "bias"}
    names |= {name for name, module in model.named_modules() if isinstance(module, Packed)}
    rows: dict[str, list[Stored]] = {}
    for one in audit(model):
        rows.setdefault(one.part if one.name in names else REST, []).append(one)
    parts = sorted((together(part, some) for part, some in rows.items()), key=lambda row: -row.bytes)
    return {row.part: row for row in parts}


def share_in(stored: Sequence[Stored], *formats: str) -> float:
    """The share of all weights, 0 to 1, that are stored in one of these formats. Built in lesson `quantise_moe`."""
    return sum(one.weights for one in stored if one.format in formats) / sum(one.weights for one in stored)


def bytes_of(stored: Sequence[Stored]) -> int:
    """Bytes of all of them."""
    return sum(one.bytes for one in stored)


def load_in_4bit(folder: str | os.PathLike, kind: str = "nf4", double: bool = False) -> nn.Module:
    """The model of a folder as ``from_pretrained(..., BitsAndBytesConfig(load_in_4bit=True))`` loads it, on the CPU.

    What is not quantised is bfloat16. transformers asks for the package accelerate before it does this. Built in
    lesson `quantise_moe`.
    """
    with _quiet():
        from transformers import BitsAndBytesConfig

        way = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double)
    return _from_pretrained(folder, {"quantization_config": way, "device_map": "cpu"})


def load_in_16bit(folder: str | os.PathLike) -> nn.Module:
    """The model of a folder as transformers loads it, in bfloat16: beside it the other is compared."""
    return _from_pretrained(folder, {})


def _from_pretrained(folder: str | os.PathLike, settings: dict) -> nn.Module:
    """Nothing is downloaded, and what the libraries print on the way is kept quiet: the missing ``kernels`` package, a
    progress bar, layers for further tokens that transformers does not build."""
    with _quiet():
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        sees = config.get_text_config() is not config
        family = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        return family.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True, **settings)


def _held(name: str, tensor: Tensor) -> Stored:
    """A plain tensor, or one of bitsandbytes with all that belongs to it."""
    state = getattr(tensor, "quant_state", None)
    if state is None:
        return Stored(name, part_of(name), str(tensor.dtype).removeprefix("torch."), tensor.numel(), tensor.nbytes)
    beside = sum(value.nbytes for value in state.as_dict().values() if torch.is_tensor(value))
    return Stored(name, part_of(name), state.quant_type, state.shape.numel(), tensor.nbytes + beside)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block nothing below an error is printed or warned of; then all is as it was set before."""
    from transformers.utils import logging as their_logging

    bar, disabled = their_logging.is_progress_bar_enabled(), logging.root.manager.disable
    their_logging.disable_progress_bar()
    logging.disable(max(logging.WARNING, disabled))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if bar:
            their_logging.enable_progress_bar()
