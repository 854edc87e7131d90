"""A model whose steps of one token are compiled: the same weights, layers and answer, without Python in between.

A small model spends a step in asking: some hundred operations, each a few microseconds of Python and dispatch for a
microsecond of arithmetic. ``torch.compile`` follows ``forward`` once, merges what can be merged, and writes the rest as
one C++ function. That needs shapes that stay, so the cache takes its room at once. The layers are not written twice.
"""

from collections.abc import Callable

import torch
from torch import nn

from helpers.device import can_compile
from helpers.functions import Layer
from helpers.layers.kv_cache import Cache
from helpers.layers.ragged import check_ids, check_mask
from helpers.shapes import Bool, Float, Int, Tensor

OPTIONS = {
    "cpp_wrapper": True,  # the calls between kernels in C++ too
    # Before every call torch checks each weight and attribute of the model; here the shapes given are enough.
    "guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe,
    # One row times a small matrix is a sum that C++ merges with its neighbours; BLAS is for more, and is called for it.
    "post_grad_fusion_options": {"decompose_mm_pass": {}},
}


class Compiled(nn.Module):
    """``model`` for ``generate``, with steps of one token compiled. Texts may have ``capacity`` tokens, cache included.

    The first step takes as long as a C++ compiler takes, tens of seconds, once for a batch size; later processes find
    it in torch's own cache. Where no compiler is, steps run as the model is written. For reading only: no gradient,
    and the model must keep its shapes, dtype and device.
    Experts are read where they lie, those of each token gathered inside the sum. Raises ValueError for a model that has
    to ask the text while it works: packed experts, or a cache whose shapes follow it.
    """

    def __init__(self, model: nn.Module, capacity: int):
        layers = [part for part in model.modules() if isinstance(part, Layer)]
        if asking := {type(layer).__name__ for layer in layers if layer.asks_the_text}:
            raise ValueError(f"{', '.join(sorted(asking))} cannot be compiled: which weights work depends on the text")
        model.new_cache().reserve(capacity)  # a ValueError now rather than at the first token
        super().__init__()
        self.model, self.capacity = model, capacity
        self._step = whole(model) if can_compile() else model

    def new_cache(self) -> Cache:
        """An empty cache with its room already taken."""
        cache = self.model.new_cache()
        cache.reserve(self.capacity)
        return cache

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        cache: Cache,
        mask: Bool[Tensor, "B T"] | None = None,
        images: dict[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T vocab"]:
        """The model's logits. Raises ValueError where the text outgrows the cache."""
        tokens = cache.length + _longest(token_ids, mask)
        if tokens > self.capacity:
            raise ValueError(f"the text would have {tokens} tokens; the cache has room for {self.capacity}")
        if token_ids.shape[1] > 1 or cache.lengths is None:  # the prompt: one call, of any length
            return self.model(token_ids, cache=cache, mask=mask, images=images)
        cache.words_only = True  # a step's token is one that the model wrote: it is not searched for an image's place
        read = cache.counts
        logits = self._step(token_ids, cache)
        cache.counted(tuple(count + 1 for count in read))  # what is compiled has no number that changes
        return logits


def _longest(token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None) -> int:
    """Positions that the longest row takes in a cache: padding takes none."""
    check_ids(token_ids)
    if mask is None:
        return token_ids.shape[1]
    check_mask(token_ids, mask)
    return int(mask.sum(dim=1).max())


def whole(function: Callable) -> Callable:
    """``function`` and all that it calls as one compiled function, for arguments of the same shapes every time.

    Its attributes and numbers are those of the first call: what it belongs to must not change afterwards.
    """

    def own(*arguments):
        return function(*arguments)

    own.__code__ = own.__code__.replace()  # torch finds what it compiled by the code: no two functions share this one
    return torch.compile(own, fullgraph=True, dynamic=False, options=OPTIONS)
