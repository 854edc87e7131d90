"""Sizes of small models with an indexer, DeepSeek-V3.2's and GLM-5's, as config.json names them."""

from helpers.models.configs.glm5 import FULL, SHARED

V32, GLM5 = "deepseek_v32", "glm_moe_dsa"
SMALL = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 10, "qk_rope_head_dim": 8, "v_head_dim": 14,
    "index_n_heads": 16, "index_head_dim": 16, "index_topk": 12,
    "intermediate_size": 48, "moe_intermediate_size": 20, "n_routed_experts": 8, "n_shared_experts": 1,
    "num_experts_per_tok": 3, "first_k_dense_replace": 1, "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip
ODD = SMALL | {  # more heads than experts
    "hidden_size": 33, "num_attention_heads": 7, "num_key_value_heads": 7, "q_lora_rank": 21, "kv_lora_rank": 15,
    "qk_nope_head_dim": 7, "v_head_dim": 9, "index_n_heads": 17, "index_head_dim": 11, "index_topk": 5,
    "n_routed_experts": 5, "n_shared_experts": 2, "norm_topk_prob": False,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0}
YARN |= {"beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 64}
GROUPS = {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}
ONE_GROUP = {"n_group": 1, "topk_group": 1}
DENSE = {"num_hidden_layers": 2, "first_k_dense_replace": 2, "rms_norm_eps": 1e-5, "index_topk": 1}
SHARE = [FULL, FULL, SHARED, SHARED, FULL, SHARED]
MODELS = {
    "V3.2, groups": (V32, SMALL | GROUPS),
    "V3.2, odd, YaRN": (V32, ODD | ONE_GROUP | {"rope_parameters": YARN}),
    "V3.2, no experts, top 1": (V32, SMALL | GROUPS | DENSE),
    "GLM-5": (GLM5, SMALL | {"indexer_types": [FULL] * 3}),
    "GLM-5.2, IndexShare": (GLM5, SMALL | {"num_hidden_layers": 6, "indexer_types": SHARE}),
    "GLM-5, odd, one indexer": (GLM5, ODD | {"num_hidden_layers": 4, "indexer_types": [FULL] + [SHARED] * 3}),
}
LENGTH = 40  # of a text: well above the top-k
