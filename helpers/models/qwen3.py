"""Qwen3, dense: the plain modern decoder that the later models are compared with.

Each block adds two things to the residual stream: what attention gathered from earlier positions, and what the
feed-forward layer made of the position itself. Built in lesson `open_a_model`.
Source: Qwen team, "Qwen3 Technical Report", 2025; transformers' ``modeling_qwen3.py``.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from helpers.config_words import flattened
from helpers.layers.attention import Attention
from helpers.layers.kv_cache import Cache, KeyValues
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows, arrange, known
from helpers.layers.rope import angles, frequencies
from helpers.models.published import check_features, check_layer_types, check_sizes, checkpoint_name
from helpers.models.text_only import text_only
from helpers.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Config:
    """The sizes of one model. The published names stand in CONFIG_NAMES."""

    vocab_size: int
    width: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    norm_epsilon: float = 1e-6
    rope_theta: float = 1e6
    tied: bool = True  # the head is the embedding
    context: int = 32768  # positions that it was trained for

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} query heads cannot share {self.num_kv_heads} key/value heads evenly")


CONFIG_NAMES = {  # ours -> config.json's
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_blocks": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_width": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",  # since transformers 5 inside rope_parameters
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
}

# Ours -> the checkpoint's; {n} is the block.
NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "blocks.{n}.attention_norm.weight": "model.layers.{n}.input_layernorm.weight",
    "blocks.{n}.attention.query.weight": "model.layers.{n}.self_attn.q_proj.weight",
    "blocks.{n}.attention.key.weight": "model.layers.{n}.self_attn.k_proj.weight",
    "blocks.{n}.attention.value.weight": "model.layers.{n}.self_attn.v_proj.weight",
    "blocks.{n}.attention.output.weight": "model.layers.{n}.self_attn.o_proj.weight",
    "blocks.{n}.attention.query_norm.weight": "model.layers.{n}.self_attn.q_norm.weight",
    "blocks.{n}.attention.key_norm.weight": "model.layers.{n}.self_attn.k_norm.weight",
    "blocks.{n}.mlp_norm.weight": "model.layers.{n}.post_attention_layernorm.weight",
    "blocks.{n}.mlp.gate.weight": "model.layers.{n}.mlp.gate_proj.weight",
    "blocks.{n}.mlp.up.weight": "model.layers.{n}.mlp.up_proj.weight",
    "blocks.{n}.mlp.down.weight": "model.layers.{n}.mlp.down_proj.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


# What a config.json may say of the features that are not built here.
ONLY = {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False, "rope_type": "default"}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a size is missing or a feature is asked that is not here."""
    published = flattened(published)
    check_features(published, ONLY, "Qwen3")
    check_layer_types(published, ("full_attention",), "Qwen3")
    check_sizes(published, CONFIG_NAMES.values())
    return Config(**{ours: published[name] for ours, name in CONFIG_NAMES.items()})


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``."""
    return checkpoint_name(name, NAMES, "Qwen3")


class Block(nn.Module):
    """One layer of the decoder: attention, then the feed-forward layer, each normalised first and added back."""

    def __init__(self, config: Config):
        super().__init__()
        width, epsilon = config.width, config.norm_epsilon
        self.attention_norm = RMSNorm(width, epsilon)
        self.attention = Attention(width, config.num_heads, config.num_kv_heads, config.head_dim, epsilon)
        self.mlp_norm = RMSNorm(width, epsilon)
        self.mlp = SwiGLU(width, config.mlp_width)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: KeyValues | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.attention(self.attention_norm(x), rows, rotary, cache)
        return x + self.mlp(self.mlp_norm(x))


class Qwen3(nn.Module):
    """Token ids in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)

    @text_only
    def forward(
        self, token_ids: Int[Tensor, "B T"], cache: Cache | None = None, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T vocab"]:
        """With a cache, ``token_ids`` are the next tokens after those it has read. ``mask`` is True for real tokens:
        in a padded batch, left or right, each row gets the answer that it gets alone."""
        rows = arrange(token_ids, mask, None) if cache is None else cache.begin(token_ids, mask)
        x = self.embedding(known(rows.token_ids, self.config.vocab_size))
        rotary = self.rotary(rows.positions, x.dtype)
        for n, block in enumerate(self.blocks):
            x = block(x, rows, rotary, None if cache is None else cache.blocks[n])
        if cache is not None:
            cache.end(rows)
        return rows.restore(functional.linear(self.norm(x), (self.head or self.embedding).weight))

    def rotary(self, positions: Int[Tensor, "B T"], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The cosines and sines of the positions, made anew: a buffer is one more thing to load."""
        radians = frequencies(self.config.head_dim, self.config.rope_theta, positions.device)
        return angles(positions, radians, dtype)

    def new_cache(self) -> Cache:
        """An empty cache for one batch of sequences."""
        return Cache([KeyValues() for _ in self.blocks])
