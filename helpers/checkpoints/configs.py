"""Our configs as the config.json that transformers reads, family by family: the way back of each ``from_hf``."""

from typing import Any

from helpers.layers.rope import Yarn
from helpers.models import deepseek_v3, deepseek_v32, glm5, kimi_k25, qwen3, qwen3_5, qwen3_5_vision
from helpers.models.configs import deepseek_v4 as deepseek_v4_config
from helpers.vision import moonvit
from helpers.vision import qwen3_5 as tower


def from_qwen3(config: qwen3.Config) -> dict[str, Any]:
    """The config.json of a Qwen3."""
    sizes = _sizes(config, qwen3.CONFIG_NAMES, without=("rope_theta",))
    return _named("qwen3", "Qwen3ForCausalLM") | sizes | {"rope_parameters": _rope(config.rope_theta)}


def from_qwen3_5(config: qwen3_5.Config) -> dict[str, Any]:
    """The config.json of a Qwen3.5 text model, dense or with experts."""
    rope = _rope(config.rope_theta) | {"partial_rotary_factor": config.rotary_share}
    rope |= {"mrope_section": list(config.sections), "mrope_interleaved": True}
    in_rope = ("rope_theta", "rotary_share", "sections")
    without = (*in_rope, "mlp_width") if config.num_experts else (*in_rope, *qwen3_5.EXPERTS)
    kind = (
        ("qwen3_5_moe_text", "Qwen3_5MoeForCausalLM") if config.num_experts else ("qwen3_5_text", "Qwen3_5ForCausalLM")
    )
    return _named(*kind) | _sizes(config, qwen3_5.CONFIG_NAMES, without) | {"rope_parameters": rope}


def from_deepseek_v3(config: deepseek_v3.Config) -> dict[str, Any]:
    """The config.json of a DeepSeek-V3."""
    sizes = _sizes(config, deepseek_v3.CONFIG_NAMES, without=("rope_theta", "yarn"))
    return _named("deepseek_v3", "DeepseekV3ForCausalLM") | sizes | _latent(config, config.yarn)


def from_deepseek_v32(config: deepseek_v32.Config) -> dict[str, Any]:
    """The config.json of a DeepSeek-V3.2."""
    sizes = _sizes(config, deepseek_v32.CONFIG_NAMES, without=("rope_theta", "yarn"))
    blocks = {"mlp_layer_types": _mlp_layer_types(config)}
    return _named("deepseek_v32", "DeepseekV32ForCausalLM") | sizes | blocks | _latent(config, config.yarn)


def from_deepseek_v4(config: deepseek_v4_config.Config) -> dict[str, Any]:
    """The config.json of a DeepSeek-V4."""
    return _named("deepseek_v4", "DeepseekV4ForCausalLM") | deepseek_v4_config.to_hf(config)


def from_glm5(config: glm5.Config) -> dict[str, Any]:
    """The config.json of a GLM-5, 5.1 or 5.2."""
    sizes = _sizes(config, glm5.CONFIG_NAMES, without=("rope_theta",))
    blocks = {"mlp_layer_types": _mlp_layer_types(config)}
    return _named("glm_moe_dsa", "GlmMoeDsaForCausalLM") | sizes | blocks | _latent(config, None)


def from_qwen3_5_vision(config: qwen3_5_vision.Config) -> dict[str, Any]:
    """The config.json of a Qwen3.5 that sees, dense or with experts."""
    kind = "qwen3_5_moe" if config.text.num_experts else "qwen3_5"
    architecture = f"Qwen3_5{'Moe' if config.text.num_experts else ''}ForConditionalGeneration"
    vision = _vision(config.vision, tower.CONFIG_NAMES, f"{kind}_vision")
    parts = {"text_config": from_qwen3_5(config.text), "vision_config": vision}
    own = {"image_token_id": config.image_token, "tie_word_embeddings": config.text.tied}
    return _named(kind, architecture) | own | parts


def from_kimi_k25(config: kimi_k25.Config) -> dict[str, Any]:
    """The config.json of a Kimi K2.5."""
    vision = _vision(config.vision, moonvit.CONFIG_NAMES, "kimi_k25_vision")
    vision["merge_kernel_size"] = [config.vision.merge, config.vision.merge]
    parts = {"text_config": from_deepseek_v3(config.text), "vision_config": vision}
    own = {"image_token_id": config.image_token, "tie_word_embeddings": config.text.tied}
    own |= {"projection_hidden_size": config.vision.width, "projection_layer_norm_eps": config.projector_epsilon}
    return _named("kimi_k25", "Kimi_K25ForConditionalGeneration") | own | parts


def _vision(config: Any, names: dict[str, str], model_type: str) -> dict[str, Any]:
    rope = {"rope_type": "axial", "rope_theta": config.rope_theta}
    return {"model_type": model_type, **_sizes(config, names, without=("rope_theta",)), "rope_parameters": rope}


def _named(model_type: str, architecture: str) -> dict[str, Any]:
    return {"model_type": model_type, "architectures": [architecture]}


def _sizes(config: object, names: dict[str, str], without: tuple[str, ...]) -> dict[str, Any]:
    values = {published: getattr(config, ours) for ours, published in names.items() if ours not in without}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _rope(theta: float, yarn: Yarn | None = None) -> dict[str, Any]:
    return {**(yarn.to_hf() if yarn else {"rope_type": "default"}), "rope_theta": theta}


def _latent(config: Any, yarn: Yarn | None) -> dict[str, Any]:
    """Latent attention has as many key heads as query heads."""
    return {"num_key_value_heads": config.num_heads, "rope_parameters": _rope(config.rope_theta, yarn)}


def _mlp_layer_types(config: Any) -> list[str]:
    return ["dense" if n < config.num_dense_blocks else "sparse" for n in range(config.num_blocks)]
