"""How many bytes a model keeps for the tokens it has read, by formula, for each kind of layer.

Every formula is held by a test to the cache that transformers really fills (tests/helpers/checkpoints/test_plan.py).
``tokens`` is the length of the one sequence, ``element_bytes`` the size of a stored number (2 in bf16).
"""

from transformers import PretrainedConfig

# transformers' name of a layer -> ours, where the two say the same
_KINDS = {
    "full_attention": "keys and values",
    "linear_attention": "state",
    "indexed_attention": "latent and index",
    "sliding_attention": "window",
    "compressed_sparse_attention": "window and every 4th",
    "heavily_compressed_attention": "window and every 128th",
}


def layer_kinds(config: PretrainedConfig) -> list[str]:
    """What each layer caches, first layer first. Raises ValueError for a layer that has no formula here."""
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    unknown = sorted(set(types) - set(_KINDS))
    if unknown:
        raise ValueError(f"no cache formula for {', '.join(unknown)} layers; known: {', '.join(_KINDS)}")
    kinds = [_KINDS[name] for name in types]
    if getattr(config, "kv_lora_rank", None):
        kinds = ["latent" if kind == "keys and values" else kind for kind in kinds]
    shared = getattr(config, "indexer_types", None) or ["full"] * len(kinds)
    return [
        "latent" if kind == "latent and index" and indexer == "shared" else kind
        for kind, indexer in zip(kinds, shared, strict=True)
    ]


def layer_bytes(config: PretrainedConfig, kind: str, tokens: int, element_bytes: float = 2) -> float:
    """Bytes that one layer of this kind keeps for one sequence."""
    if kind == "state":
        return state_bytes(config, element_bytes)
    numbers = {
        "keys and values": keys_and_values,
        "latent": latent,
        "latent and index": latent_and_index,
        "window": window,
        "window and every 4th": compressed_sparse,
        "window and every 128th": heavily_compressed,
    }[kind]
    return numbers(config, tokens) * element_bytes


def keys_and_values(config: PretrainedConfig, tokens: int) -> int:
    """Numbers kept by grouped-query attention: a key and a value for each of the G key/value heads."""
    return 2 * config.num_key_value_heads * config.head_dim * tokens


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
    """Numbers kept by DeepSeek-V4's sliding window: one vector a token that is key and value at once."""
    return config.head_dim * min(tokens, config.sliding_window - 1)


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
