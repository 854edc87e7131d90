"""A DeepSeek-V4 in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Two spellings of a config.json are read: the release's (``compress_ratios``, ``num_hash_layers``, ``rope_scaling``) and
transformers' (``layer_types``, ``mlp_layer_types``, ``rope_parameters``). Tensors are named as transformers 5.23 writes
them. The release's own files leave out ``model.``, and have ``embed``, ``hc_head_fn`` and ``attn.kv_norm`` where here
are ``embed_tokens``, ``hc_head.hc_fn`` and ``attn.norm``.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from helpers.config_words import by_one_name, rope_type, rotary_object
from helpers.layers.rope import Yarn
from helpers.models.published import check_features, check_sizes, checkpoint_name, under

# config.json's words: a window only; also an entry for each 4 tokens, a few of them chosen; also one for each 128, all.
WINDOW, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
HASHED, LEARNED = "hash_moe", "moe"  # how a token's experts are chosen
KINDS = {0: WINDOW, 4: SPARSE, 128: HEAVY}  # by the release's compress_ratios

FLASH = (WINDOW, WINDOW, *(SPARSE, HEAVY) * 20, SPARSE)  # DeepSeek-V4-Flash, 43 layers
PRO = (HEAVY, HEAVY, *(SPARSE, HEAVY) * 29, SPARSE)  # DeepSeek-V4-Pro, 61 layers


@dataclass(frozen=True)
class Config:
    """The sizes of one model. The published names stand in CONFIG_NAMES. The two schedules have no default."""

    vocab_size: int
    width: int
    num_blocks: int
    layer_kinds: tuple[str, ...]  # WINDOW, SPARSE or HEAVY, one per block
    router_kinds: tuple[str, ...]  # HASHED or LEARNED, one per block
    num_heads: int
    head_dim: int
    rotary_dim: int  # of each head: the part that positions turn
    query_rank: int
    output_groups: int
    output_rank: int
    window: int
    index_heads: int
    index_dim: int
    index_k: int
    num_experts: int
    experts_per_token: int
    expert_width: int
    num_streams: int
    sparse_ratio: int = 4  # tokens per entry
    heavy_ratio: int = 128
    routed_scale: float = 1.5
    activation_limit: float = 10.0
    sinkhorn_rounds: int = 20
    hyper_epsilon: float = 1e-6
    norm_epsilon: float = 1e-6
    rope_theta: float = 1e4  # of layers with a window only
    entry_theta: float = 1.6e5  # of the others, and of their entries
    yarn: Yarn | None = None  # only where there are entries
    tied: bool = False
    context: int = 1048576

    def __post_init__(self):
        for name, kinds, known in (
            ("layer_types", self.layer_kinds, (WINDOW, SPARSE, HEAVY)),
            ("mlp_layer_types", self.router_kinds, (HASHED, LEARNED)),
        ):
            if len(kinds) != self.num_blocks or not {*kinds} <= {*known}:
                raise ValueError(f"{name} is {list(kinds)}; {self.num_blocks} of {', '.join(known)} are needed")
        if self.num_heads % self.output_groups:
            raise ValueError(f"{self.num_heads} heads do not make {self.output_groups} even groups")
        if self.rotary_dim > min(self.head_dim, self.index_dim):
            raise ValueError(f"rotary part {self.rotary_dim} of heads {self.head_dim} and {self.index_dim} wide")


CONFIG_NAMES = {  # ours -> config.json's
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_blocks": "num_hidden_layers",
    "layer_kinds": "layer_types",  # in the release compress_ratios
    "router_kinds": "mlp_layer_types",  # in the release num_hash_layers
    "num_heads": "num_attention_heads",
    "head_dim": "head_dim",
    "rotary_dim": "qk_rope_head_dim",
    "query_rank": "q_lora_rank",
    "output_groups": "o_groups",
    "output_rank": "o_lora_rank",
    "window": "sliding_window",
    "index_heads": "index_n_heads",
    "index_dim": "index_head_dim",
    "index_k": "index_topk",
    "num_experts": "n_routed_experts",
    "experts_per_token": "num_experts_per_tok",
    "expert_width": "moe_intermediate_size",
    "num_streams": "hc_mult",
    "sparse_ratio": "compress_rate_csa",  # since transformers 5 these two inside compress_rates
    "heavy_ratio": "compress_rate_hca",
    "routed_scale": "routed_scaling_factor",
    "activation_limit": "swiglu_limit",
    "sinkhorn_rounds": "hc_sinkhorn_iters",
    "hyper_epsilon": "hc_eps",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "entry_theta": "compress_rope_theta",
    "yarn": "rope_parameters",  # or rope_scaling
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
}

# Ours -> the checkpoint's, inside block n; {e} is the expert. As transformers 5.23 writes it.
BLOCK = {
    "attention_streams.weight": "hc_attn_fn",
    "attention_streams.base": "hc_attn_base",
    "attention_streams.scale": "hc_attn_scale",
    "attention_norm.weight": "attn_norm.weight",
    "attention.query_down.weight": "attn.wq_a.weight",
    "attention.query_norm.weight": "attn.q_norm.weight",
    "attention.query_up.weight": "attn.wq_b.weight",
    "attention.key.weight": "attn.wkv.weight",
    "attention.key_norm.weight": "attn.norm.weight",
    "attention.sinks": "attn.attn_sink",
    "attention.output_down.weight": "attn.wo_a.weight",
    "attention.output_up.weight": "attn.wo_b.weight",
    "attention.compressor.value.weight": "attn.compressor.wkv.weight",
    "attention.compressor.gate.weight": "attn.compressor.wgate.weight",
    "attention.compressor.bias": "attn.compressor.ape",
    "attention.compressor.norm.weight": "attn.compressor.norm.weight",
    "attention.indexer.compressor.value.weight": "attn.indexer.compressor.wkv.weight",
    "attention.indexer.compressor.gate.weight": "attn.indexer.compressor.wgate.weight",
    "attention.indexer.compressor.bias": "attn.indexer.compressor.ape",
    "attention.indexer.compressor.norm.weight": "attn.indexer.compressor.norm.weight",
    "attention.indexer.query.weight": "attn.indexer.wq_b.weight",
    "attention.indexer.weights.weight": "attn.indexer.weights_proj.weight",
    "mlp_streams.weight": "hc_ffn_fn",
    "mlp_streams.base": "hc_ffn_base",
    "mlp_streams.scale": "hc_ffn_scale",
    "mlp_norm.weight": "ffn_norm.weight",
    "mlp.router.logits.weight": "ffn.gate.weight",
    "mlp.router.bias": "ffn.gate.bias",  # a buffer, where the router is LEARNED
    "mlp.router.table": "ffn.gate.tid2eid",  # a buffer, where it is HASHED
    "mlp.experts.gate_up": "ffn.experts.{e}.{w1,w3}.weight",
    "mlp.experts.down": "ffn.experts.{e}.w2.weight",
    "mlp.shared.gate.weight": "ffn.shared_experts.w1.weight",
    "mlp.shared.up.weight": "ffn.shared_experts.w3.weight",
    "mlp.shared.down.weight": "ffn.shared_experts.w2.weight",
}
NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    **under("blocks.{n}.", "model.layers.{n}.", BLOCK),
    "streams_head.weight": "model.hc_head.hc_fn",
    "streams_head.base": "model.hc_head.hc_base",
    "streams_head.scale": "model.hc_head.hc_scale",
    "norm.weight": "model.norm.weight",
    "head.weight": "head.weight",
}
RELEASE = {  # outside of the blocks: DeepSeek's own name -> the one that transformers writes
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "hc_head_fn": "model.hc_head.hc_fn",
    "hc_head_base": "model.hc_head.hc_base",
    "hc_head_scale": "model.hc_head.hc_scale",
}

OTHER_NAMES = {"num_local_experts": "n_routed_experts", "intermediate_size": "moe_intermediate_size"}
SHARE = "partial_rotary_factor"  # of a head: the part that positions turn, as transformers has it

# What a config.json may say of the features that are not built here.
ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "num_key_value_heads": 1,
    "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True,
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary, the release's or transformers'.

    ValueError where a size or a schedule is missing, or a feature is asked that is not here.
    """
    check_features(published, ONLY, "DeepSeek-V4")
    published = by_one_name(published, OTHER_NAMES)
    flat = {**published, **_schedules(published), **_rates(published), **_ropes(published)}
    fields = dataclasses.fields(Config)
    check_sizes(flat, [CONFIG_NAMES[field.name] for field in fields if field.default is dataclasses.MISSING])
    given = {field.name: flat[name] for field in fields if flat.get(name := CONFIG_NAMES[field.name]) is not None}
    return Config(**{ours: tuple(value) if isinstance(value, list) else value for ours, value in given.items()})


def _schedules(published: dict) -> dict:
    """The kind of each layer in transformers' words; where those are missing, out of the release's numbers."""
    blocks, found = published.get("num_hidden_layers") or 0, {}
    ratios = (published.get("compress_ratios") or ())[:blocks]  # one more may stand there, for the MTP layer
    if unknown := {*ratios} - {*KINDS}:
        raise ValueError(
            f"config.json has {sorted(unknown)} in compress_ratios; allowed are {', '.join(map(str, KINDS))}"
        )
    if published.get("layer_types") is None and ratios:
        found["layer_types"] = [KINDS[ratio] for ratio in ratios]
    if published.get("mlp_layer_types") is None and (count := published.get("num_hash_layers")) is not None:
        found["mlp_layer_types"] = [HASHED if n < count else LEARNED for n in range(blocks)]
    return found


def _rates(published: dict) -> dict:
    """Tokens per entry: the two older words win over ``compress_rates``, as in transformers."""
    rates = published.get("compress_rates") or {}
    older = {"compress_rate_csa": SPARSE, "compress_rate_hca": HEAVY}
    return {old: rates[kind] for old, kind in older.items() if published.get(old) is None and kind in rates}


def _ropes(published: dict) -> dict:
    """The two thetas, the part of a head that positions turn, and YaRN.

    The release has them beside the sizes; transformers 5 has them under "main" and "compress", and looks beside the
    sizes only for what these two leave out.
    """
    near, far = _near_and_far(published)
    for part, allowed in ((near, ("default",)), (far, ("default", "yarn"))):
        if (kind := rope_type(part)) not in allowed:
            raise ValueError(f"config.json has rope_type={kind!r}; this DeepSeek-V4 has only {' and '.join(allowed)}")
    factor = far.get("attention_factor")
    if rope_type(far) == "yarn" and factor != 1.0:  # the release scales neither angles nor scores
        raise ValueError(f"config.json has attention_factor={factor!r}; this DeepSeek-V4 has only 1.0")
    yarn = Yarn.from_hf({name: value for name, value in far.items() if name != SHARE})
    found = {"rope_theta": near.get("rope_theta"), "compress_rope_theta": far.get("rope_theta")}
    return {**found, "qk_rope_head_dim": _rotary_dim(published, near, far), "rope_parameters": yarn}


def _near_and_far(published: dict) -> tuple[dict, dict]:
    """The rotary settings of layers with a window only, and of those with entries."""
    rope = rotary_object(published)
    near, far = rope.get("main"), rope.get("compress")
    theta = {"rope_theta": published.get("rope_theta", Config.rope_theta)}
    if isinstance(near, dict) and isinstance(far, dict):
        return {**theta, **near}, {**theta, **far}
    flat = {name: value for name, value in rope.items() if name not in ("main", "compress", SHARE)}
    return theta, {"attention_factor": 1.0, **flat, "rope_theta": published.get("compress_rope_theta")}


def _rotary_dim(published: dict, *parts: dict) -> int | None:
    """Coordinates of a head that positions turn. ValueError where config.json says two things of it."""
    head_dim, rotary_dim = published.get("head_dim") or 0, published.get("qk_rope_head_dim")
    shares = [share for part in (*parts, published) if (share := part.get(SHARE)) is not None]
    widths = {*([] if rotary_dim is None else [rotary_dim]), *(int(head_dim * share) for share in shares)}
    if len(widths) > 1:
        raise ValueError(
            f"config.json turns {' and '.join(map(str, sorted(widths)))} coordinates of a head, by qk_rope_head_dim "
            f"and {SHARE}; they must agree"
        )
    return widths.pop() if widths else None


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read."""
    named = {"model_type": "deepseek_v4", "architectures": ["DeepseekV4ForCausalLM"]}
    flat = {CONFIG_NAMES[ours]: value for ours, value in vars(config).items()}
    flat |= {"layer_types": [*config.layer_kinds], "mlp_layer_types": [*config.router_kinds]}
    share = {SHARE: config.rotary_dim / config.head_dim}
    near = {"rope_type": "default", "rope_theta": config.rope_theta, **share}
    far = config.yarn.to_hf() if config.yarn else {"rope_type": "default"}
    ropes = {"main": near, "compress": {**far, "rope_theta": config.entry_theta, **share}}
    return {**named, **flat, **share, "rope_parameters": ropes}


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "DeepSeek-V4")


def rename(name: str) -> str:
    """DeepSeek's own name -> the one that transformers writes."""
    return RELEASE.get(name) or (f"model.{name}" if name.startswith("layers.") else name)


def unused(config: Config, names: Collection[str]) -> tuple[str, ...]:
    """Prefixes of the tensors that are not read: of the block that guesses the token after the next, as DeepSeek names
    it and with transformers' "model." before it."""
    return ("mtp.", "model.mtp.")
