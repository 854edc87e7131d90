"""transformers as the reference: the parts that its public models are made of, and what it calls their cache.

transformers promises its models and configs, ``from transformers import Qwen3Model``. Where it keeps the layers of a
model, and what it calls an argument, changes from release to release; both are known here and nowhere else.
"""

import inspect
import sys
from importlib.metadata import version
from typing import Any

from torch import nn


def parts_of(model: type[nn.Module], *names: str) -> tuple[Any, ...]:
    """The classes and functions of these names that stand beside a public model of transformers, in this order.

    ``Attention, Rotary = parts_of(Qwen3Model, "Qwen3Attention", "Qwen3RotaryEmbedding")``. Raises ValueError for names
    that this transformers does not have there.
    """
    beside = vars(sys.modules[model.__module__])
    if missing := [name for name in names if name not in beside]:
        raise ValueError(
            f"transformers {version('transformers')} has no {', '.join(missing)} beside {model.__name__}: "
            "the name has moved; pyproject.toml names the releases that were run"
        )
    return tuple(beside[name] for name in names)


def with_cache(module: nn.Module, cache: Any) -> dict[str, Any]:
    """The argument that hands ``cache`` to transformers: ``model(ids, **with_cache(model, cache))``.

    transformers calls it ``cache`` from 5.24 on and ``past_key_values`` before.
    """
    taken = inspect.signature(module.forward).parameters
    return {"cache" if "cache" in taken else "past_key_values": cache}
