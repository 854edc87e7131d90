"""A tiny model of each family for `python3 -m course parity`: transformers' classes, and sizes at which all count.

Texts are longer than every window, every chosen share and every block of compression, so that sparsity matters; the
indexers have 16 heads, because scores of few tie at exactly zero and the library then breaks ties by chance; schedules
are written out, because the library's defaults are not the published ones. Keys are the model_type of config.json.
"""

from typing import NamedTuple


class Tiny(NamedTuple):
    """Names in `transformers`, looked up only when needed, and what its config class is given."""

    model: str
    config: str
    sizes: dict


PLAIN = {"vocab_size": 199, "hidden_size": 64, "max_position_embeddings": 512}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}

QWEN3 = {**PLAIN, **HEADS, "num_hidden_layers": 3, "intermediate_size": 96, "tie_word_embeddings": False}

DELTA = ["linear_attention"] * 3 + ["full_attention"]
QWEN3_5 = {
    **PLAIN,
    **HEADS,
    "num_hidden_layers": 4,
    "layer_types": DELTA,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_interleaved": True,
        "mrope_section": [3, 3, 2],
    },
}
QWEN3_5_DENSE = {**QWEN3_5, "intermediate_size": 96}
QWEN3_5_MOE = {
    **QWEN3_5,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}

EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "routed_scaling_factor": 2.5,
}
LATENT = {
    **PLAIN,
    **EXPERTS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "intermediate_size": 96,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
GROUPS = {"n_group": 4, "topk_group": 2}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
LARGE = {**LATENT, **GROUPS, "rope_parameters": YARN}
DEEPSEEK_V3 = {**LARGE, "num_nextn_predict_layers": 1}
INDEX = {"index_n_heads": 16, "index_head_dim": 16, "index_topk": 12}
DEEPSEEK_V32 = {**LARGE, **INDEX}
GLM_5 = {**LATENT, **INDEX, "num_hidden_layers": 4, "indexer_types": ["full", "full", "shared", "shared"]}

DEEPSEEK_V4 = {
    **PLAIN,
    **EXPERTS,
    "num_hidden_layers": 4,
    "layer_types": [
        "sliding_attention",
        "heavily_compressed_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
    ],
    "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "partial_rotary_factor": 0.5,
    "q_lora_rank": 24,
    "o_groups": 2,
    "o_lora_rank": 16,
    "sliding_window": 8,
    "index_n_heads": 16,
    "index_head_dim": 16,
    "index_topk": 4,
    "hc_mult": 4,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
}

TOWER = {"hidden_size": 32, "intermediate_size": 48, "patch_size": 4}
PICTURE = {"image_token_id": 193, "video_token_id": 194, "vision_start_token_id": 195, "vision_end_token_id": 196}
QWEN3_5_TOWER = {
    **TOWER,
    "depth": 2,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
}
MOONVIT = {
    **TOWER,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pos_emb_height": 4,
    "pos_emb_width": 4,
}
KIMI_K25 = {
    "text_config": {**LARGE, "model_type": "deepseek_v3", "n_group": 1, "topk_group": 1},
    "vision_config": MOONVIT,
    "projection_hidden_size": 32,
    "tie_word_embeddings": False,
    **PICTURE,
}


def seeing(text: dict, kind: str) -> dict:
    """A Qwen3.5 with a tower for images; both levels say whether the head is the embedding."""
    return {"text_config": {**text, "model_type": f"{kind}_text"}, "vision_config": QWEN3_5_TOWER, **PICTURE}


CONFIGS = {
    "qwen3": Tiny("Qwen3ForCausalLM", "Qwen3Config", QWEN3),
    "qwen3_5_text": Tiny("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", QWEN3_5_DENSE),
    "qwen3_5_moe_text": Tiny("Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextConfig", QWEN3_5_MOE),
    "qwen3_5": Tiny("Qwen3_5ForConditionalGeneration", "Qwen3_5Config", seeing(QWEN3_5_DENSE, "qwen3_5")),
    "qwen3_5_moe": Tiny("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeConfig", seeing(QWEN3_5_MOE, "qwen3_5_moe")),
    "deepseek_v3": Tiny("DeepseekV3ForCausalLM", "DeepseekV3Config", DEEPSEEK_V3),
    "deepseek_v32": Tiny("DeepseekV32ForCausalLM", "DeepseekV32Config", DEEPSEEK_V32),
    "glm_moe_dsa": Tiny("GlmMoeDsaForCausalLM", "GlmMoeDsaConfig", GLM_5),
    "deepseek_v4": Tiny("DeepseekV4ForCausalLM", "DeepseekV4Config", DEEPSEEK_V4),
    "kimi_k25": Tiny("Kimi_K25ForConditionalGeneration", "Kimi_K25Config", KIMI_K25),
}
