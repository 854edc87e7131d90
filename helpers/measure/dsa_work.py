"""The work of one decoded token in latent attention, dense and sparse, in FLOP and in bytes, from a model's sizes.

Only what grows with the text is counted: scores and mixtures over the earlier tokens. The weights of the layer are read
and used once in either form, and choosing k of S numbers is no matrix product; both stand beside these in a clock.
"""

from dataclasses import dataclass
from math import inf

from helpers.measure.work import Work


@dataclass(frozen=True)
class SparseSizes:
    """What a published config says of one layer; the published names stand in ``of``."""

    heads: int
    latent: int
    rope_dim: int
    key: int  # of a head, without its rotary part
    value: int
    index_heads: int
    index_width: int
    k: int

    @classmethod
    def of(cls, config: dict) -> "SparseSizes":
        """From a config.json's dictionary. Raises ValueError naming the sizes that it lacks."""
        names = ("num_attention_heads", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
        names += ("index_n_heads", "index_head_dim", "index_topk")
        if missing := [name for name in names if name not in config]:
            raise ValueError(f"this config has no sparse latent attention: it lacks {', '.join(missing)}")
        return cls(*(config[name] for name in names))


def pair_flops(heads: int, latent: int, rope_dim: int) -> int:
    """One query and one latent, absorbed: all heads score it and mix it."""
    return 2 * heads * (2 * latent + rope_dim)


def index_pair_flops(index_heads: int, index_width: int) -> int:
    """One query and one index key: all index heads score it, and are weighed and added."""
    return 2 * index_heads * (index_width + 1)


def dense_decode(s: SparseSizes, tokens: int, number_bytes: float = 2) -> Work:
    """Every head scores and mixes the latents of all ``tokens`` (absorbed form); each latent is read once for all."""
    return Work(tokens * pair_flops(s.heads, s.latent, s.rope_dim), tokens * (s.latent + s.rope_dim) * number_bytes)


def index_decode(s: SparseSizes, tokens: int, key_bytes: float = 2) -> Work:
    """Every index head scores the one index key of all ``tokens``, and the heads are weighed and added."""
    return Work(tokens * index_pair_flops(s.index_heads, s.index_width), tokens * s.index_width * key_bytes)


def sparse_decode(
    s: SparseSizes, tokens: int, number_bytes: float = 2, key_bytes: float | None = None, layers_a_choice: float = 1
) -> Work:
    """Index scores of all tokens, attention over k. ``layers_a_choice`` layers share one choice (IndexShare)."""
    index = index_decode(s, tokens, number_bytes if key_bytes is None else key_bytes)
    return index * (1 / layers_a_choice) + dense_decode(s, min(s.k, tokens), number_bytes)


def made_flops(s: SparseSizes, tokens: int) -> int:
    """Keys and values of every head, made from the latents of all ``tokens``."""
    return 2 * tokens * s.heads * s.latent * (s.key + s.value)


def masked_decode(s: SparseSizes, tokens: int, number_bytes: float = 2) -> Work:
    """Sparse by a mask: index scores of all tokens; keys and values of all tokens and heads made from the latents,
    written, read again and scored, and what was not chosen is barred."""
    numbers = tokens * s.heads * (s.key + s.rope_dim + s.value)
    made = Work(made_flops(s, tokens), tokens * (s.latent + s.rope_dim) * number_bytes)
    return index_decode(s, tokens, number_bytes) + made + Work(2 * numbers, 2 * numbers * number_bytes)


def break_even(s: SparseSizes, number_bytes: float = 2, key_bytes: float | None = None) -> tuple[float, float]:
    """The context from which on sparse decoding does less: in FLOP, and in bytes. Infinite where it never does.

    Dense work a token of context D, index work I: ``I n + D k = D n``, so n = k D / (D - I). Built in lesson `dsa`.
    """
    dense = dense_decode(s, 1, number_bytes)
    index = index_decode(s, 1, number_bytes if key_bytes is None else key_bytes)
    return _meet(s.k, dense.flops, index.flops), _meet(s.k, dense.bytes, index.bytes)


def prefill_break_even(s: SparseSizes) -> float:
    """The same for a token of a prompt, in FLOP. A dense prompt is read in the expanded form, with a key and a value a
    head, which costs fewer FLOP per pair than the absorbed form over gathered latents. Built in lesson `dsa`."""
    expanded = 2 * s.heads * (s.key + s.rope_dim + s.value)
    return _meet(s.k * dense_decode(s, 1).flops / expanded, expanded, index_decode(s, 1).flops)


def _meet(k: float, dense: float, index: float) -> float:
    return k * dense / (dense - index) if dense > index else inf
