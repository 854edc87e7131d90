"""A text-only model refuses images with a clear ValueError, not with an unknown argument."""

from collections.abc import Callable, Mapping
from functools import wraps

from torch import nn

from helpers.layers.kv_cache import Cache
from helpers.shapes import Bool, Float, Int, Tensor

SEEING = "Qwen3.5 with its vision tower (qwen3_5, qwen3_5_moe) and Kimi K2.5 (kimi_k25)"


def text_only(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The ``forward`` of a model that reads text: it takes ``images`` as others do, and refuses all but None."""

    @wraps(forward)
    def checked(
        self: nn.Module,
        token_ids: Int[Tensor, "B T"],
        cache: Cache | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        images: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T vocab"]:
        if images is not None:
            raise ValueError(f"{type(self).__name__} reads text only, and images were given; those that see: {SEEING}")
        return forward(self, token_ids, cache, mask)

    return checked
