"""What compiled steps answer, as JSON: run in a process of its own, since no compiler follows pytest's shape checks."""

import json
import sys

import torch

from helpers.compare import max_error
from helpers.decoding.compiled import Compiled
from helpers.generate import generate
from helpers.models.configs import deepseek_v3, deepseek_v4, glm5, qwen3, qwen3_5
from helpers.models.configs.deepseek_v4 import HASHED, HEAVY, LEARNED, SPARSE
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.models.deepseek_v4 import DeepSeekV4
from helpers.models.glm5 import GLM5
from helpers.models.qwen3 import Qwen3
from helpers.models.qwen3_5 import Qwen3_5
from helpers.training.train import initialise

PROMPT = torch.tensor([[5, 6, 7, 11], [8, 9, 10, 12]])
REAL = torch.tensor([[False, True, True, True], [True] * 4])


def small(theta: float = 1e6) -> Qwen3:
    """A Qwen3 of one block: compiling takes long enough."""
    return random(Qwen3(qwen3.Config(53, 16, 1, 4, 2, 8, 24, rope_theta=theta)))


def with_memory() -> Qwen3_5:
    """A Qwen3.5 with one layer of each kind."""
    heads = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "delta_key_heads": 1, "delta_value_heads": 2}
    sizes = {"delta_key_dim": 8, "delta_value_dim": 8, "conv_width": 4, "mlp_width": 24, "sections": (1, 1, 0)}
    kinds = (qwen3_5.DELTA, qwen3_5.ATTENTION)
    return random(Qwen3_5(qwen3_5.Config(53, 16, 2, kinds, **heads, **sizes, rotary_share=0.5)))


def sparse() -> GLM5:
    """A GLM-5 without experts, which reads five tokens at a time; the second block shares the first one's choice."""
    sizes = {"latent_width": 12, "nope_dim": 8, "rotary_dim": 4, "value_dim": 8, "index_heads": 3, "index_dim": 8}
    experts = {"num_experts": 1, "experts_per_token": 1, "expert_width": 1, "num_shared": 1}  # in no block
    plan = {"index_k": 5, "mlp_width": 24, "indexers": (glm5.FULL, glm5.SHARED)}
    return random(GLM5(glm5.Config(53, 16, 2, 2, 2, 16, **sizes, **experts, **plan)))


def with_experts() -> DeepSeekV3:
    """A DeepSeek-V3 of one dense block and one with six experts, two per token, and a shared one."""
    sizes = {"query_rank": 12, "latent_width": 12, "nope_dim": 8, "rotary_dim": 4, "value_dim": 8, "mlp_width": 24}
    experts = {"num_experts": 6, "experts_per_token": 2, "expert_width": 12, "num_shared": 1}
    return random(DeepSeekV3(deepseek_v3.Config(53, 16, 2, 1, 2, **sizes, **experts)))


def with_entries() -> DeepSeekV4:
    """A DeepSeek-V4 whose blocks see a window and entries of four and of three tokens, of which one chooses two."""
    heads = {"num_heads": 2, "head_dim": 8, "rotary_dim": 4, "query_rank": 12, "output_groups": 2, "output_rank": 6}
    entries = {"window": 3, "index_heads": 3, "index_dim": 8, "index_k": 2, "sparse_ratio": 3, "heavy_ratio": 4}
    experts = {"num_experts": 6, "experts_per_token": 2, "expert_width": 12, "num_streams": 2, "sinkhorn_rounds": 3}
    kinds = (HEAVY, SPARSE), (HASHED, LEARNED)
    return random(DeepSeekV4(deepseek_v4.Config(53, 16, 2, *kinds, **heads, **entries, **experts)))


def random(model: torch.nn.Module) -> torch.nn.Module:
    initialise(model, seed=0, std=0.5)
    return model.eval()


def written(model: torch.nn.Module) -> dict:
    """Twelve tokens behind a padded batch, compiled twice and not; how often Python was in a layer the second time. The
    same texts padded on the right, too."""
    calls = []
    found = generate(compiled := Compiled(model, 16), PROMPT, 12, mask=REAL).tolist()
    model.blocks[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    again = generate(compiled, PROMPT, 12, mask=REAL).tolist()
    in_python = len(calls)
    turned = PROMPT.clone()
    turned[0] = PROMPT[0].roll(-1)
    right = generate(compiled, turned, 12, mask=REAL.flip(1))[:, 4:].tolist()
    return {
        "compiled": found,
        "again": again,
        "right": right,
        "expected": generate(model, PROMPT, 12, mask=REAL).tolist(),
        "calls": in_python,
    }


def errors_of_neighbours() -> list[float]:
    """Largest error of a step's logits, for two models that only one number tells apart, and their distance."""
    models = [small(theta) for theta in (1e6, 10.0)]
    steps = [Compiled(model, 9) for model in models]
    text = torch.cat([PROMPT, PROMPT[:, :1]], dim=1)
    with torch.inference_mode():
        found = [last_logits(step) for step in steps]
        wanted = [model(text)[:, -1:] for model in models]
    return [*map(max_error, found, wanted), (wanted[0] - wanted[1]).abs().max().item()]


def last_logits(steps: Compiled) -> torch.Tensor:
    cache = steps.new_cache()
    steps(PROMPT, cache)
    return steps(PROMPT[:, :1], cache)


FAMILIES = {
    "qwen3": small,
    "qwen3_5": with_memory,
    "glm5": sparse,
    "deepseek_v3": with_experts,
    "deepseek_v4": with_entries,
}

if __name__ == "__main__":
    asked = sys.argv[1:]  # families, or "neighbours"
    found = {name: written(FAMILIES[name]()) if name in FAMILIES else errors_of_neighbours() for name in asked}
    print(json.dumps(found))
