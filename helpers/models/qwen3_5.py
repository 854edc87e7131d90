"""Qwen3.5, the text model: three blocks that remember in a matrix of constant size, then one that looks back at all.

Gated DeltaNet layers cost the same for every token and cannot recall everything; a gated attention layer in every
fourth block can. The feed-forward layer is dense, or a few experts out of many and one that every token uses.
Built in lessons `deltanet` (the layers) and `experts` (the experts).
Source: Qwen team, "Qwen3.5", 2026; transformers' ``modeling_qwen3_5.py`` and ``modeling_qwen3_5_moe.py``.
"""

from dataclasses import dataclass

from torch import nn
from torch.nn import functional

from helpers.config_words import flattened
from helpers.layers.delta import DeltaState, GatedDeltaNet
from helpers.layers.gated_attention import GatedAttention
from helpers.layers.kv_cache import Cache, KeyValues
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import ZeroCentredNorm
from helpers.layers.ragged import Rows, arrange, known
from helpers.layers.rope import angles_of_axes, frequencies
from helpers.models.published import check_features, check_sizes, checkpoint_name
from helpers.models.text_only import text_only
from helpers.moe.experts import Experts
from helpers.moe.router import softmax_top_k
from helpers.shapes import Bool, Float, Int, Tensor

DELTA, ATTENTION = "linear_attention", "full_attention"  # config.json's words for the two kinds of layer


@dataclass(frozen=True)
class Config:
    """The sizes of one model. The published names stand in CONFIG_NAMES. Experts or ``mlp_width``: one of the two."""

    vocab_size: int
    width: int
    num_blocks: int
    layer_kinds: tuple[str, ...]  # DELTA or ATTENTION, one per block
    num_heads: int
    num_kv_heads: int
    head_dim: int
    delta_key_heads: int
    delta_value_heads: int
    delta_key_dim: int
    delta_value_dim: int
    conv_width: int
    mlp_width: int = 0
    num_experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0  # of the expert that every token uses
    norm_epsilon: float = 1e-6
    rope_theta: float = 1e7
    rotary_share: float = 0.25  # of each head: the part that positions turn
    sections: tuple[int, ...] = (11, 11, 10)  # frequencies for time, height and width
    tied: bool = False
    context: int = 262144

    def __post_init__(self):
        for heads, shared in ((self.num_heads, self.num_kv_heads), (self.delta_value_heads, self.delta_key_heads)):
            if heads % shared:
                raise ValueError(f"{heads} heads cannot share {shared} key heads evenly")
        if len(self.layer_kinds) != self.num_blocks or not {*self.layer_kinds} <= {DELTA, ATTENTION}:
            raise ValueError(
                f"layer_types is {list(self.layer_kinds)}; {self.num_blocks} of {DELTA!r} and {ATTENTION!r} are needed"
            )
        if bool(self.mlp_width) == bool(self.num_experts):
            raise ValueError(f"mlp width {self.mlp_width} and {self.num_experts} experts: exactly one must be there")
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim or len(self.sections) != 3:
            raise ValueError(
                f"positions turn {self.rotary_dim} of {self.head_dim} coordinates in sections {list(self.sections)}; "
                "an even number and three sections are needed"
            )
        if self.experts_per_token > self.num_experts:
            raise ValueError(f"{self.experts_per_token} experts per token cannot be chosen out of {self.num_experts}")

    @property
    def rotary_dim(self) -> int:
        """Coordinates of a head that positions turn."""
        return int(self.head_dim * self.rotary_share)


CONFIG_NAMES = {  # ours -> config.json's
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_blocks": "num_hidden_layers",
    "layer_kinds": "layer_types",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "delta_key_heads": "linear_num_key_heads",
    "delta_value_heads": "linear_num_value_heads",
    "delta_key_dim": "linear_key_head_dim",
    "delta_value_dim": "linear_value_head_dim",
    "conv_width": "linear_conv_kernel_dim",
    "mlp_width": "intermediate_size",
    "num_experts": "num_experts",
    "experts_per_token": "num_experts_per_tok",
    "expert_width": "moe_intermediate_size",
    "shared_width": "shared_expert_intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",  # this and the next two inside rope_parameters
    "rotary_share": "partial_rotary_factor",
    "sections": "mrope_section",
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
}
EXPERTS = ("num_experts", "experts_per_token", "expert_width", "shared_width")  # only where there are experts
MAY_LACK = ("rotary_share", "sections")  # as transformers, which then takes our defaults

BLOCK = {  # ours -> the checkpoint's, inside block n
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query_and_gate.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "delta.mix.weight": "linear_attn.in_proj_qkv.weight",
    "delta.gate.weight": "linear_attn.in_proj_z.weight",
    "delta.beta.weight": "linear_attn.in_proj_b.weight",
    "delta.decay.weight": "linear_attn.in_proj_a.weight",
    "delta.conv": "linear_attn.conv1d.weight",
    "delta.log_rate": "linear_attn.A_log",
    "delta.decay_bias": "linear_attn.dt_bias",
    "delta.norm": "linear_attn.norm.weight",
    "delta.output.weight": "linear_attn.out_proj.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.experts.gate": "mlp.experts.{e}.gate_proj.weight",
    "mlp.experts.up": "mlp.experts.{e}.up_proj.weight",
    "mlp.experts.down": "mlp.experts.{e}.down_proj.weight",
    "mlp.shared.gate.weight": "mlp.shared_expert.gate_proj.weight",
    "mlp.shared.up.weight": "mlp.shared_expert.up_proj.weight",
    "mlp.shared.down.weight": "mlp.shared_expert.down_proj.weight",
    "mlp.shared_gate.weight": "mlp.shared_expert_gate.weight",
}


def names(prefix: str = "model.") -> dict[str, str]:
    """Ours -> the checkpoint's; {n} is the block, {e} the expert. A vision checkpoint has another prefix."""
    return {
        "embedding.weight": f"{prefix}embed_tokens.weight",
        **{f"blocks.{{n}}.{ours}": f"{prefix}layers.{{n}}.{theirs}" for ours, theirs in BLOCK.items()},
        "norm.weight": f"{prefix}norm.weight",
        "head.weight": "lm_head.weight",
    }


NAMES = names()

# What a config.json may say of the features that are not built here.
ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "attn_output_gate": True,
    "mlp_only_layers": [],
    "rope_type": "default",
    "mrope_interleaved": True,
}


def from_hf(published: dict) -> Config:
    """Read the dictionary of a text model's config.json, or of the part ``text_config`` where there is vision.

    ValueError where a size is missing or a feature is asked that is not here.
    """
    flat = flattened(published)
    check_features(flat, ONLY, "Qwen3.5")
    if flat.get("layer_types") is None and flat.get("full_attention_interval"):
        flat["layer_types"] = _every(flat["full_attention_interval"], flat.get("num_hidden_layers") or 0)
    without = ("mlp_width",) if flat.get("num_experts") else EXPERTS
    values = {ours: flat.get(name) for ours, name in CONFIG_NAMES.items() if ours not in without}
    check_sizes(flat, [CONFIG_NAMES[ours] for ours in values if ours not in MAY_LACK])
    given = {ours: value for ours, value in values.items() if value is not None}
    return Config(**{ours: tuple(value) if isinstance(value, list) else value for ours, value in given.items()})


def _every(interval: int, num_blocks: int) -> list[str]:
    """The published layout: attention in every block whose number, from 1, is a multiple of ``interval``."""
    return [ATTENTION if n % interval == 0 else DELTA for n in range(1, num_blocks + 1)]


def published_name(name: str, table: dict[str, str] = NAMES) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, table, "Qwen3.5")


class GatedMoE(nn.Module):
    """A few experts for each token, and one for every token, whose part in the sum each token sets by a gate.

    Source: transformers' ``Qwen3_5MoeSparseMoeBlock``. Built in lesson `experts`.
    """

    def __init__(self, width: int, num_experts: int, experts_per_token: int, expert_width: int, shared_width: int):
        super().__init__()
        self.experts_per_token = experts_per_token
        self.router = nn.Linear(width, num_experts, bias=False)
        self.experts = Experts(num_experts, width, expert_width)
        self.shared = SwiGLU(width, shared_width) if shared_width else None
        self.shared_gate = nn.Linear(width, 1, bias=False) if shared_width else None

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        routed = self.experts(x, *softmax_top_k(self.router(x), self.experts_per_token))
        return routed + self.shared_gate(x).sigmoid() * self.shared(x) if self.shared else routed


class Block(nn.Module):
    """One layer of the decoder: a memory or attention, then the feed-forward layer, each normalised and added back."""

    def __init__(self, config: Config, kind: str):
        super().__init__()
        c = config
        self.attention_norm = ZeroCentredNorm(c.width, c.norm_epsilon)
        self.delta = self.attention = None
        if kind == DELTA:
            heads = (c.delta_key_heads, c.delta_value_heads, c.delta_key_dim, c.delta_value_dim)
            self.delta = GatedDeltaNet(c.width, *heads, c.conv_width, c.norm_epsilon)
        else:
            self.attention = GatedAttention(c.width, c.num_heads, c.num_kv_heads, c.head_dim, c.norm_epsilon)
        self.mlp_norm = ZeroCentredNorm(c.width, c.norm_epsilon)
        experts = (c.num_experts, c.experts_per_token, c.expert_width, c.shared_width)
        self.mlp = GatedMoE(c.width, *experts) if c.num_experts else SwiGLU(c.width, c.mlp_width)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: KeyValues | DeltaState | None = None,
    ) -> Float[Tensor, "B T D"]:
        if self.delta:
            x = x + self.delta(self.attention_norm(x), rows, cache)
        else:
            x = x + self.attention(self.attention_norm(x), rows, rotary, cache)
        return x + self.mlp(self.mlp_norm(x))


class Qwen3_5(nn.Module):
    """Token ids in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, kind) for kind in config.layer_kinds)
        self.norm = ZeroCentredNorm(config.width, config.norm_epsilon)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)

    @text_only
    def forward(
        self, token_ids: Int[Tensor, "B T"], cache: Cache | None = None, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T vocab"]:
        """With a cache, ``token_ids`` are the next tokens after those it has read. ``mask`` is True for real tokens:
        in a padded batch, left or right, each row gets the answer that it gets alone."""
        rows = arrange(token_ids, mask, None) if cache is None else cache.begin(token_ids, mask)
        places = rows.positions.expand(3, -1, -1)  # text: time, height and width are all the position
        x = self.embedding(known(rows.token_ids, self.config.vocab_size))
        return rows.restore(self.decode(x, places, rows, cache))

    def decode(
        self, x: Float[Tensor, "B T D"], places: Int[Tensor, "3 B T"], rows: Rows, cache: Cache | None = None
    ) -> Float[Tensor, "B T vocab"]:
        """From vectors to logits: x may hold pieces of an image among the words, and ``places`` where in it they are.

        Columns are those of ``rows``; who sees whom is the order of the tokens, whatever their places.
        """
        radians = frequencies(self.config.rotary_dim, self.config.rope_theta, x.device)
        rotary = angles_of_axes(places, radians, self.config.sections, x.dtype)
        for n, block in enumerate(self.blocks):
            x = block(x, rows, rotary, None if cache is None else cache.blocks[n])
        if cache is not None:
            cache.end(rows)
        return functional.linear(self.norm(x), (self.head or self.embedding).weight)

    def new_cache(self) -> Cache:
        """An empty cache: keys and values in some blocks, one matrix a head in the others."""
        return Cache([DeltaState() if kind == DELTA else KeyValues() for kind in self.config.layer_kinds])
