"""How many bytes a model keeps for the tokens it has read, by formula, for each kind of layer.

A layer's type in config.json names its mask and not what it keeps: a ``sliding_attention`` layer of Gemma 3 keeps keys
and values, one of DeepSeek-V4 one vector that is both. So formulas are chosen by the family, ``model_type``, and a
family is here when a test holds its formulas to the cache that transformers really fills
(tests/helpers/planning/test_plan.py). Others are refused: layers that share keys and values (Gemma 3n), states of
other shapes (Mamba, Lightning), two attentions in a layer.

``tokens`` is the length of the one sequence, ``element_bytes`` the size of a stored number (2 in bf16).
"""

from transformers import PretrainedConfig

GROUPED, SLIDING, CHUNKED = "keys and values", "keys and values in a window", "keys and values of a chunk"
LATENT, INDEXED, STATE = "latent", "latent and index", "state"
WINDOW, EVERY_4TH, EVERY_128TH = "window", "window and every 4th", "window and every 128th"

# By model_type: transformers' name of a layer's type -> what such a layer keeps.
_GROUPED = {"full_attention": GROUPED, "sliding_attention": SLIDING}
_DELTA = {"full_attention": GROUPED, "linear_attention": STATE}
_LATENT = {"full_attention": LATENT}
_INDEXED = {"indexed_attention": INDEXED}
KEPT = {
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text"), _GROUPED),
    **dict.fromkeys(("llama", "mistral", "mixtral", "ministral", "ministral3", "starcoder2", "smollm3"), _GROUPED),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "gpt_oss", "phi3", "cohere", "cohere2", "exaone4"), _GROUPED),
    **dict.fromkeys(("olmo", "olmo2", "olmo3", "glm", "glm4", "glm4_moe", "granite", "seed_oss"), _GROUPED),
    **dict.fromkeys(("ernie4_5", "minimax_m2"), _GROUPED),
    "llama4_text": {"full_attention": GROUPED, "chunked_attention": CHUNKED},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _DELTA),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3"), _LATENT),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _INDEXED),
    "kimi_linear": {"full_attention": LATENT, "linear_attention": STATE},
    "deepseek_v4": {
        "sliding_attention": WINDOW,
        "compressed_sparse_attention": EVERY_4TH,
        "heavily_compressed_attention": EVERY_128TH,
    },
}


def layer_kinds(config: PretrainedConfig) -> list[str]:
    """What each layer caches, first layer first. ValueError for a family or a layer that has no formula here."""
    family = config.model_type
    if family not in KEPT:
        raise ValueError(f"no cache formula for model_type {family!r}; known: {', '.join(KEPT)}")
    if getattr(config, "is_heterogeneous", False):
        raise ValueError(f"no cache formula for a {family} whose layers have sizes of their own (per_layer_config)")
    known, types = KEPT[family], _layer_types(config)
    if unknown := sorted(set(types) - set(known)):
        raise ValueError(f"no cache formula for {', '.join(unknown)} layers of {family}; known: {', '.join(known)}")
    shared = getattr(config, "indexer_types", None) or ["full"] * len(types)
    return [
        LATENT if known[name] == INDEXED and indexer == "shared" else known[name]
        for name, indexer in zip(types, shared, strict=True)
    ]


def _layer_types(config: PretrainedConfig) -> list[str]:
    """One per layer. Where the config lists none, all are alike, and transformers' cache asks for these sizes too."""
    if types := getattr(config, "layer_types", None):
        return types
    slides, chunks = (getattr(config, name, None) is not None for name in ("sliding_window", "attention_chunk_size"))
    every = "sliding_attention" if slides else "chunked_attention" if chunks else "full_attention"
    return [every] * config.num_hidden_layers


def layer_bytes(config: PretrainedConfig, kind: str, tokens: int, element_bytes: float = 2) -> float:
    """Bytes that one layer of this kind keeps for one sequence."""
    if kind == STATE:
        return state_bytes(config, element_bytes)
    numbers = {
        GROUPED: keys_and_values,
        SLIDING: keys_and_values_in_window,
        CHUNKED: keys_and_values_of_chunk,
        LATENT: latent,
        INDEXED: latent_and_index,
        WINDOW: window,
        EVERY_4TH: compressed_sparse,
        EVERY_128TH: heavily_compressed,
    }[kind]
    return numbers(config, tokens) * element_bytes


def head_width(config: PretrainedConfig) -> int:
    """The width K of a key, which configs before 2024 leave to the model's width."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def window_size(config: PretrainedConfig, name: str = "sliding_window") -> int:
    """How many tokens a query sees, its own included. ValueError for layers with a window of no size."""
    size = getattr(config, name, None)
    if type(size) is not int or size < 1:
        raise ValueError(f"this {config.model_type} has layers with a window, and its {name} is {size!r}")
    return size


def keys_and_values(config: PretrainedConfig, tokens: int) -> int:
    """Numbers kept by grouped-query attention: a key and a value for each of the G key/value heads."""
    return 2 * config.num_key_value_heads * head_width(config) * tokens


def keys_and_values_in_window(config: PretrainedConfig, tokens: int) -> int:
    """Numbers kept by a sliding window: keys and values of the tokens that the next one will see beside itself."""
    return keys_and_values(config, _kept(window_size(config), tokens))


def keys_and_values_of_chunk(config: PretrainedConfig, tokens: int) -> int:
    """Numbers kept by attention in chunks: transformers keeps what a window of a chunk's length would, and masks."""
    return keys_and_values(config, _kept(window_size(config, "attention_chunk_size"), tokens))


def _kept(size: int, tokens: int) -> int:
    """Tokens that transformers keeps for a window: cut to the last ``size - 1``, and [-0:] cuts nothing."""
    return min(tokens, size - 1) if size > 1 else tokens


def latent(config: PretrainedConfig, tokens: int) -> int:
    """Numbers kept by MLA: one latent and one rotary key a token, for all heads (arXiv 2405.04434, 2.1.3)."""
    return (config.kv_lora_rank + config.qk_rope_head_dim) * tokens


def latent_and_index(config: PretrainedConfig, tokens: int) -> int:
    """Numbers kept by DSA: MLA's, and the indexer's one key a token (DeepSeek-V3.2-Exp report, section 2)."""
    return latent(config, tokens) + config.index_head_dim * tokens


def state_bytes(config: PretrainedConfig, element_bytes: float) -> float:
    """Bytes kept by Gated DeltaNet or Kimi Delta Attention at any length: a float32 matrix a head, the last inputs.

    Source: transformers' qwen3_5 and arXiv 2412.06464; shapes (value heads, key width, value width) and
    (channels, kernel width). Kimi Linear has as many key heads as value heads, all of one width (arXiv 2510.26692).
    """
    if config.model_type == "kimi_linear":
        key_dim, keys = config.linear_head_dim, config.linear_num_heads * config.linear_head_dim
        values = keys
    else:
        key_dim, keys = config.linear_key_head_dim, config.linear_num_key_heads * config.linear_key_head_dim
        values = config.linear_num_value_heads * config.linear_value_head_dim
    return 4 * values * key_dim + element_bytes * (2 * keys + values) * config.linear_conv_kernel_dim


def window(config: PretrainedConfig, tokens: int) -> int:
    """Numbers kept by DeepSeek-V4's sliding window: one vector per token that is key and value at once."""
    return config.head_dim * _kept(window_size(config), tokens)


def heavily_compressed(config: PretrainedConfig, tokens: int) -> int:
    """Numbers kept by HCA: the window, one entry for m' tokens, and the unfinished group with its gates.

    Source: DeepSeek-V4 report, section 2.3.2, and transformers' DeepseekV4HCACache.
    """
    every = config.compress_rates["heavily_compressed_attention"]
    entries, waiting = divmod(tokens, every)
    return window(config, tokens) + config.head_dim * (entries + 2 * waiting)


def compressed_sparse(config: PretrainedConfig, tokens: int) -> int:
    """Numbers kept by CSA: the window, one entry and one index key for m tokens, and the two newest groups.

    Entries overlap: each is made from its own group and the one before, so that one stays too, with its gates.
    Source: DeepSeek-V4 report, section 2.3.1, and transformers' DeepseekV4CSACache.
    """
    every = config.compress_rates["compressed_sparse_attention"]
    entries, waiting = divmod(tokens, every)
    before = every if entries else 0
    width = config.head_dim + config.index_head_dim
    return window(config, tokens) + width * (entries + 2 * 2 * waiting + 2 * before)
