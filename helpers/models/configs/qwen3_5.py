"""A Qwen3.5 text model in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``Qwen3_5TextConfig`` and ``Qwen3_5MoeTextConfig``, and what ``save_pretrained`` writes.
"""

from collections.abc import Collection
from dataclasses import dataclass

from helpers.config_words import flattened
from helpers.models.published import check_features, check_sizes, checkpoint_name, rope, sizes, under

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
    "mlp.router.logits.weight": "mlp.gate.weight",
    "mlp.experts.gate_up": "mlp.experts.{e}.{gate_proj,up_proj}.weight",
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
        **under("blocks.{n}.", f"{prefix}layers.{{n}}.", BLOCK),
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


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read.

    A dense model leaves out the words for experts.
    """
    kind, name = ("qwen3_5_moe", "Qwen3_5Moe") if config.num_experts else ("qwen3_5", "Qwen3_5")
    turned = rope(config.rope_theta) | {"partial_rotary_factor": config.rotary_share}
    turned |= {"mrope_section": list(config.sections), "mrope_interleaved": True}
    without = ("rope_theta", "rotary_share", "sections", *(("mlp_width",) if config.num_experts else EXPERTS))
    named = {"model_type": f"{kind}_text", "architectures": [f"{name}ForCausalLM"]}
    return named | sizes(config, CONFIG_NAMES, without) | {"rope_parameters": turned}


def published_name(name: str, table: dict[str, str] = NAMES) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, table, "Qwen3.5")


def unused(config: Config, names: Collection[str]) -> tuple[str, ...]:
    """Prefixes of the tensors that are not read: the tower's, where only the text model of one that sees is asked for,
    and those of ``unused_text``."""
    return ("model.visual.", *unused_text(config, names))


def unused_text(config: Config, names: Collection[str]) -> tuple[str, ...]:
    """Prefixes of the block that guesses the token after the next, which transformers leaves out too.

    Where there is no shared expert, transformers still writes the gates of its answers, all zero: their names as well.
    """
    gates = (name for name in names if name.endswith(".mlp.shared_expert_gate.weight"))
    return ("mtp.", *(gates if config.num_experts and not config.shared_width else ()))
