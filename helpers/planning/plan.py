"""What a model needs before a single weight is read: its parameters, its bytes, and the cache that it grows.

``plan(config)`` builds the skeleton of a published architecture on torch's ``meta`` device, where a tensor has a name,
a shape and no memory, and counts. A model of 744 billion parameters is counted in less than a second.

Not counted: multi-token-prediction layers (transformers leaves them out; a published total that includes them is
larger) and buffers such as a router's bias.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig

from helpers.models.components import part_of
from helpers.planning.cache_size import layer_bytes, layer_kinds

EXPERTS, CHOSEN = ("num_experts", "n_routed_experts", "num_local_experts"), "num_experts_per_tok"
CONFIGS = Path(__file__).parents[1] / "facts" / "configs"

# Bits per weight, the scale that its group shares included.
BITS = {
    "float32": 32,
    "bf16": 16,
    "fp8 128x128": 8 + 32 / 128**2,  # e4m3, one float32 scale a 128x128 block (DeepSeek-V3, arXiv 2412.19437, 3.3)
    "int8 g128": 8 + 16 / 128,  # one 16-bit scale per group of 128
    "int4 g32": 4 + 16 / 32,  # one 16-bit scale per group of 32 (Kimi K2.5, compressed-tensors)
    "nf4 g64": 4 + 32 / 64,  # one float32 maximum a group of 64 (bitsandbytes without double quantisation)
    "fp4 1x32": 4 + 8 / 32,  # e2m1, one power of two (ue8m0) a group of 32: MXFP4, and DeepSeek-V4's experts
}


@dataclass(frozen=True)
class Plan:
    """The counts of one architecture. ``parts`` maps each part to its parameters; nothing is counted twice."""

    config: PretrainedConfig  # of the text model
    parts: dict[str, int]
    tied: bool  # the head is the embedding matrix: one matrix, two uses
    experts: int  # routed experts per layer; 0 in a dense model
    experts_per_token: int

    @property
    def total(self) -> int:
        """Parameters of the whole model, vision tower included."""
        return sum(self.parts.values())

    @property
    def text(self) -> int:
        """Parameters without the vision tower."""
        return self.total - self.parts.get("vision", 0)

    @property
    def active(self) -> int:
        """Parameters used for one text token: all but the vision tower and the experts that were not chosen.

        Includes the input embedding, of which a token reads one row; ``active_without_embedding`` leaves it out.
        """
        routed = self.parts.get("routed experts", 0)
        return self.text - (routed - routed * self.experts_per_token // self.experts if routed else 0)

    @property
    def active_without_embedding(self) -> int:
        """As ``active``, without the input embedding. A tied matrix still counts: it is the head as well."""
        return self.active if self.tied else self.active - self.parts["embedding"]

    def weight_bytes(self, format: str = "bf16", routed: str | None = None) -> int:
        """Bytes of all weights in ``format``; ``routed`` gives the routed experts a format of their own.

        Raises ValueError for a format that is not in ``BITS``.
        """
        experts = self.parts.get("routed experts", 0)
        bits = (self.total - experts) * _bits(format) + experts * _bits(routed or format)
        return round(bits / 8)

    @cached_property
    def layers(self) -> Counter:
        """How many layers keep which kind of cache: ``{"latent": 61}``, ``{"state": 18, "keys and values": 6}``."""
        return Counter(layer_kinds(self.config))

    def cache_bytes(self, tokens: int, element_bytes: float = 2) -> float:
        """Bytes of the cache of one sequence of ``tokens``; formulas and sources in ``cache_size``."""
        if tokens < 0:
            raise ValueError(f"a context has 0 tokens or more, got {tokens}")
        return sum(n * layer_bytes(self.config, kind, tokens, element_bytes) for kind, n in self.layers.items())

    def fits(self, memory_bytes: float, format: str = "bf16", tokens: int = 0, routed: str | None = None) -> bool:
        """Whether weights and the cache of one sequence fit ``memory_bytes``; working memory is not counted."""
        return self.weight_bytes(format, routed) + self.cache_bytes(tokens) <= memory_bytes


def plan(config: dict | PretrainedConfig) -> Plan:
    """The plan of a config: the dict of a ``config.json``, or transformers' own config object.

    Raises ValueError for a config without ``model_type``, for a family that the installed transformers lacks, for
    fields that it refuses, and for experts that it does not count. Built in lesson `open_a_model`.
    """
    whole = config if isinstance(config, PretrainedConfig) else _read(config)
    text = whole.get_text_config()
    model = skeleton(whole)
    parts = Counter()
    for name, parameter in model.named_parameters():  # a tied matrix appears once
        parts[part_of(name)] += parameter.numel()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    experts, chosen = _experts(text) if parts["routed experts"] else (0, 0)
    return Plan(text, dict(parts), tied, experts, chosen)


def _experts(config: PretrainedConfig) -> tuple[int, int]:
    """Routed experts per layer, and those that a token takes, under the names that families give them."""
    experts = next((count for name in EXPERTS if (count := getattr(config, name, None))), 0)
    chosen = getattr(config, CHOSEN, None) or 0
    if not (experts and chosen):
        raise ValueError(
            f"this {config.model_type} has experts, and its config lacks {' or '.join(EXPERTS)}, or {CHOSEN}"
        )
    return experts, chosen


def skeleton(config: PretrainedConfig) -> torch.nn.Module:
    """The model of a config on the ``meta`` device: every name and shape, no bytes."""
    has_more_than_text = config.get_text_config() is not config
    family = AutoModelForImageTextToText if has_more_than_text else AutoModelForCausalLM
    with torch.device("meta"):
        return family.from_config(config)


def published(name: str) -> dict:
    """The published sizes of a real model, from ``helpers/facts/configs``, ready for ``plan``."""
    path = CONFIGS / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"no published config {name!r}; there are: {', '.join(published_names())}")
    return json.loads(path.read_text(encoding="utf-8"))["config"]


def published_names() -> list[str]:
    """The names that ``published`` knows."""
    return sorted(path.stem for path in CONFIGS.glob("*.json"))


def _read(config: dict) -> PretrainedConfig:
    family = config.get("model_type")
    if not family:
        raise ValueError("the config has no model_type, so its family is unknown")
    try:
        return AutoConfig.for_model(family, **{k: v for k, v in config.items() if k != "model_type"})
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"transformers refuses this {family} config: {' '.join(str(error).split())}") from error


def _bits(format: str) -> float:
    if format not in BITS:
        raise ValueError(f"no weight format {format!r}; known: {', '.join(BITS)}")
    return BITS[format]
