"""Prompts as people have them: what a tokenizer returns, lists, arrays and tensors become one batch and its mask."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy
import torch
from torch import nn

from helpers.layers.ragged import check_ids, check_mask, check_vocabulary
from helpers.shapes import Bool, Int, Tensor
from helpers.vision.images import KEYS as IMAGES

Prompt = Tensor | Mapping | Sequence | numpy.ndarray
IDS, MASK = "input_ids", "attention_mask"  # what tokenizers call them
IDS_NEEDED = "whole numbers (rows, tokens), all rows of one length, are needed, or what a tokenizer makes of a text"
MASK_NEEDED = "True or 1 is needed for each real token, False or 0 for padding"
SAID_ELSEWHERE = ("token_type_ids", "mm_token_type_ids")  # all zeros, or what the placeholders say as well


class Batch(NamedTuple):
    """What a model reads first, on its device."""

    token_ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"] | None
    images: Mapping[str, Tensor] | None

    @property
    def given(self) -> dict:
        """What goes to the model beside the ids."""
        named = {"mask": self.mask, "images": self.images}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def rows(self) -> list[list[int]]:
        """The real tokens of each row."""
        real = torch.ones_like(self.token_ids, dtype=torch.bool) if self.mask is None else self.mask
        return [row[own].tolist() for row, own in zip(self.token_ids, real, strict=True)]

    def last(self, logits: Tensor) -> Tensor:
        """The logits at the last real token of each row, B x vocab of B x T x vocab, wherever the padding is.

        Where no row is padded on the right, the last column is all that is asked for.
        """
        if self.mask is None or self.mask[:, -1].all():
            return logits[:, -1]
        column = torch.arange(self.mask.shape[1], device=self.mask.device)
        row = torch.arange(len(self.mask), device=self.mask.device)
        return logits[row, (column * self.mask).argmax(dim=1)]


def read_prompt(
    model: nn.Module, prompt: Prompt, mask: Prompt | None = None, images: Mapping[str, Tensor] | None = None
) -> Batch:
    """``prompt`` as a batch for ``model``: a row or rows of token ids, or what a tokenizer or a processor returns.

    A tokenizer's output brings its own mask, a processor's also its images; ``mask`` holds True or 1 for real tokens,
    False or 0 for padding. Raises ValueError for what is no batch of token ids of the model's vocabulary, for a mask
    of another shape or with other values, and for a row without a real token.
    """
    if isinstance(prompt, Mapping):
        prompt, mask, images = _of_tokenizer(prompt, mask, images)
    device = next((parameter.device for parameter in model.parameters()), None)
    token_ids = _as_rows("token_ids", prompt, IDS_NEEDED).to(device)
    check_ids(token_ids)
    token_ids = token_ids if token_ids.dtype == torch.int32 else token_ids.long()
    mask = None if mask is None else _as_mask(mask, token_ids)
    _check_known(model, token_ids, mask)
    return Batch(token_ids, mask, images if images is None else _moved(images, device))


def _of_tokenizer(
    prompt: Mapping, mask: Prompt | None, images: Mapping[str, Tensor] | None
) -> tuple[Prompt, Prompt | None, Mapping[str, Tensor] | None]:
    """Ids, mask and images of a tokenizer's or a processor's output; an argument of ours counts before its part."""
    if IDS not in prompt or (unread := [key for key in prompt if key not in (IDS, MASK, *IMAGES, *SAID_ELSEWHERE)]):
        held = ", ".join(map(str, unread if IDS in prompt else prompt)) or "nothing"
        raise ValueError(f"the prompt holds {held}; {IDS} is needed, and {', '.join([MASK, *IMAGES])} may stand beside")
    own = {key: prompt[key] for key in IMAGES if key in prompt}
    return prompt[IDS], prompt.get(MASK) if mask is None else mask, own or None if images is None else images


def _as_rows(name: str, given: Prompt, needed: str) -> Tensor:
    """A tensor of two axes, where the numbers allow it; a row alone is a batch of one."""
    try:
        tensor = given if isinstance(given, Tensor) else torch.tensor(_plain(given))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{name} cannot be read from this {type(given).__name__}: {needed}") from None
    return tensor[None] if tensor.dim() == 1 and tensor.numel() else tensor


def _plain(given: object) -> object:
    """Lists in place of tuples, arrays and tensors, however deep."""
    if hasattr(given, "tolist"):
        return given.tolist()
    return [_plain(one) for one in given] if isinstance(given, list | tuple) else given


def _as_mask(mask: Prompt, token_ids: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True for real tokens. A tokenizer's mask holds 1 and 0 for True and False."""
    mask = _as_rows("mask", mask, MASK_NEEDED).to(token_ids.device)
    whole = not (mask.is_floating_point() or mask.is_complex())
    if whole and (other := mask[(mask != 0) & (mask != 1)]).numel():
        raise ValueError(f"mask holds {other[0].item()}: {MASK_NEEDED}")
    mask = mask.bool() if whole else mask
    check_mask(token_ids, mask)
    return mask


def vocabulary(model: nn.Module) -> int | None:
    """How many tokens the model knows, where its config says so; of one that sees, its text model's."""
    config = getattr(getattr(model, "model", model), "config", None)  # a compiled model holds the one it compiles
    return getattr(getattr(config, "text", config), "vocab_size", None)


def _check_known(model: nn.Module, token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None) -> None:
    """ValueError for an id outside the vocabulary. Padding may hold any, and an image's placeholder stands for it."""
    if (vocab_size := vocabulary(model)) is None:
        return
    config = getattr(model, "model", model).config
    unread = token_ids == getattr(config, "image_token", -1)
    unread = unread if mask is None else unread | ~mask
    check_vocabulary(token_ids.masked_fill(unread, 0), vocab_size)


def _moved(images: Mapping[str, Tensor], device: torch.device | None) -> Mapping[str, Tensor]:
    if not isinstance(images, Mapping):
        return images  # the model says what is needed
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in images.items()}
