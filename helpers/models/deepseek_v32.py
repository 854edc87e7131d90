"""DeepSeek-V3.2: DeepSeek-V3 that reads 2048 chosen tokens instead of the whole text.

Each block attends over the latents that its own indexer chose, then sends every token to a few experts out of many
and to a shared one; the first blocks have a plain feed-forward layer. Two rotations meet in one layer: attention pairs
neighbouring coordinates, the indexer pairs the two halves. The published checkpoint also holds a block that guesses the
token after the next, as DeepSeek-V3's; it is not read here.
Source: DeepSeek-AI, "DeepSeek-V3.2", 2025; transformers' ``modeling_deepseek_v32.py``. Built in lessons `mla`, `dsa`
and `experts`.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from helpers.config_words import by_one_name, flattened, rotary_settings
from helpers.layers.dsa import Indexer, SparseAttention, SparseLatents
from helpers.layers.kv_cache import Cache
from helpers.layers.mla import MLA
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows, arrange, known
from helpers.layers.rope import Yarn, angles_of_yarn, frequencies, rotate
from helpers.models.published import check_features, check_layer_types, check_sizes, checkpoint_name, shared_experts
from helpers.models.text_only import text_only
from helpers.moe.moe_layer import MoE, RouterConfig
from helpers.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Config:
    """The sizes of one model. The published names stand in CONFIG_NAMES."""

    vocab_size: int
    width: int
    num_blocks: int
    num_dense_blocks: int  # the first ones, without experts
    num_heads: int
    query_rank: int
    latent_width: int
    head_dim: int  # of a key, without its rotary part
    rotary_dim: int
    value_dim: int
    index_heads: int
    index_dim: int
    index_k: int  # tokens that each query reads
    mlp_width: int  # of the dense blocks
    num_experts: int
    experts_per_token: int
    expert_width: int
    num_shared: int  # experts that every token goes to
    num_groups: int = 1  # of experts
    kept_groups: int = 1
    routed_scale: float = 1.0
    normalised: bool = True  # the weights of a token's experts sum to routed_scale
    norm_epsilon: float = 1e-6
    rope_theta: float = 1e4
    yarn: Yarn | None = None
    tied: bool = False
    context: int = 163840

    def __post_init__(self):
        if not 0 < self.rotary_dim <= self.index_dim:
            raise ValueError(f"{self.rotary_dim} coordinates cannot be turned in index heads of {self.index_dim}")


CONFIG_NAMES = {  # ours -> config.json's
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_blocks": "num_hidden_layers",
    "num_dense_blocks": "first_k_dense_replace",
    "num_heads": "num_attention_heads",
    "query_rank": "q_lora_rank",
    "latent_width": "kv_lora_rank",
    "head_dim": "qk_nope_head_dim",
    "rotary_dim": "qk_rope_head_dim",
    "value_dim": "v_head_dim",
    "index_heads": "index_n_heads",
    "index_dim": "index_head_dim",
    "index_k": "index_topk",
    "mlp_width": "intermediate_size",
    "num_experts": "n_routed_experts",
    "experts_per_token": "num_experts_per_tok",
    "expert_width": "moe_intermediate_size",
    "num_shared": "n_shared_experts",
    "num_groups": "n_group",
    "kept_groups": "topk_group",
    "routed_scale": "routed_scaling_factor",
    "normalised": "norm_topk_prob",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",  # since transformers 5 inside rope_parameters
    "yarn": "rope_scaling",  # since transformers 5 inside rope_parameters
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
}

OTHER_NAMES = {"num_local_experts": "n_routed_experts", "num_experts": "n_routed_experts"}
SPARSE = ("indexed_attention", "deepseek_sparse_attention")  # every layer's kind, by its name now and before

# What a config.json may say of the features that are not built here.
ONLY = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "indexer_rope_interleave": (False,),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
    "rope_type": ("default", "yarn"),
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a size is missing or a feature is asked that is not here."""
    flat = by_one_name(flattened(published), OTHER_NAMES)
    only = {**ONLY, "num_key_value_heads": (None, flat.get("num_attention_heads"))}  # every head makes its own key
    check_features(flat, only, "DeepSeek-V3.2")
    check_layer_types(flat, SPARSE, "DeepSeek-V3.2")
    flat["rope_scaling"] = Yarn.from_hf(rotary_settings(published))
    flat["first_k_dense_replace"] = dense_blocks(flat)
    flat["n_shared_experts"] = shared_experts(flat)
    check_sizes(flat, [name for ours, name in CONFIG_NAMES.items() if ours != "yarn"])
    return Config(**{ours: flat[name] for ours, name in CONFIG_NAMES.items()})


def dense_blocks(published: dict) -> int | None:
    """How many first blocks have no experts. ValueError where ``mlp_layer_types`` has such a block further behind,
    or lists another number of blocks."""
    kinds = published.get("mlp_layer_types")
    if kinds is None:
        return published.get("first_k_dense_replace")
    if list(kinds) != sorted(kinds) or not {*kinds} <= {"dense", "sparse"}:
        raise ValueError(f"config.json has mlp_layer_types={kinds!r}; dense blocks can only be the first ones")
    if len(kinds) != published.get("num_hidden_layers"):
        blocks = published.get("num_hidden_layers")
        raise ValueError(f"config.json has {len(kinds)} mlp_layer_types and {blocks} num_hidden_layers; one each")
    return kinds.count("dense")


BLOCK = {  # ours -> the checkpoint's, inside block n
    "attention_norm.weight": "input_layernorm.weight",
    "attention.mla.q_a.weight": "self_attn.q_a_proj.weight",
    "attention.mla.q_a_norm.weight": "self_attn.q_a_layernorm.weight",
    "attention.mla.q_b.weight": "self_attn.q_b_proj.weight",
    "attention.mla.kv_a.weight": "self_attn.kv_a_proj_with_mqa.weight",
    "attention.mla.kv_a_norm.weight": "self_attn.kv_a_layernorm.weight",
    "attention.mla.kv_b.weight": "self_attn.kv_b_proj.weight",
    "attention.mla.output.weight": "self_attn.o_proj.weight",
    "attention.indexer.query.weight": "self_attn.indexer.wq_b.weight",
    "attention.indexer.key.weight": "self_attn.indexer.wk.weight",
    "attention.indexer.key_norm.weight": "self_attn.indexer.k_norm.weight",
    "attention.indexer.key_norm.bias": "self_attn.indexer.k_norm.bias",
    "attention.indexer.weights.weight": "self_attn.indexer.weights_proj.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.e_score_correction_bias",
    "mlp.experts.gate": "mlp.experts.{e}.gate_proj.weight",
    "mlp.experts.up": "mlp.experts.{e}.up_proj.weight",
    "mlp.experts.down": "mlp.experts.{e}.down_proj.weight",
    "mlp.shared.gate.weight": "mlp.shared_experts.gate_proj.weight",
    "mlp.shared.up.weight": "mlp.shared_experts.up_proj.weight",
    "mlp.shared.down.weight": "mlp.shared_experts.down_proj.weight",
}
NAMES = {  # {n} is the block, {e} the expert
    "embedding.weight": "model.embed_tokens.weight",
    **{f"blocks.{{n}}.{ours}": f"model.layers.{{n}}.{theirs}" for ours, theirs in BLOCK.items()},
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "DeepSeek-V3.2")


class Block(nn.Module):
    """One layer of the decoder: sparse attention, then experts or the dense layer, each normalised and added back."""

    def __init__(self, config: Config, dense: bool):
        super().__init__()
        c = config
        self.attention_norm = RMSNorm(c.width, c.norm_epsilon)
        scale = (c.head_dim + c.rotary_dim) ** -0.5 * (c.yarn.on_scores if c.yarn else 1.0)
        mla = MLA(c.width, c.num_heads, c.query_rank, c.latent_width, c.head_dim, c.rotary_dim, c.value_dim, scale)
        # Half-split, although the attention beside it pairs neighbours.
        indexer = Indexer(c.width, c.query_rank, c.index_heads, c.index_dim, c.rotary_dim, c.index_k, rotate)
        self.attention = SparseAttention(mla, indexer)
        self.mlp_norm = RMSNorm(c.width, c.norm_epsilon)
        choice = RouterConfig(c.experts_per_token, c.num_groups, c.kept_groups, c.routed_scale, c.normalised)
        experts = (c.expert_width, c.num_experts, c.num_shared)
        self.mlp = SwiGLU(c.width, c.mlp_width) if dense else MoE(c.width, *experts, choice)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: SparseLatents | None = None,
    ) -> Float[Tensor, "B T D"]:
        answer, _chosen = self.attention(self.attention_norm(x), rows, rotary, cache)
        x = x + answer
        return x + self.mlp(self.mlp_norm(x))


class DeepSeekV32(nn.Module):
    """Token ids in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, n < config.num_dense_blocks) for n in range(config.num_blocks))
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
        """The cosines and sines of the positions, for attention and indexer alike."""
        c = self.config
        radians = frequencies(c.rotary_dim, c.rope_theta, positions.device)
        return angles_of_yarn(positions, radians, c.rope_theta, c.yarn, dtype)

    def new_cache(self) -> Cache:
        """An empty cache for one batch of sequences: latents, and the indexers' keys."""
        return Cache([SparseLatents() for _ in self.blocks])
