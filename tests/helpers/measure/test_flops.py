"""FLOP of a training step: counted, and by formulas written down here apart from it, for every family of models."""

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from helpers.measure import StepFlops, count_elements, count_flops, training_flops, training_flops_per_token
from helpers.models.configs import deepseek_v3, deepseek_v4, deepseek_v32, glm5, kimi_k25, qwen3, qwen3_5
from helpers.models.configs.deepseek_v4 import HASHED, HEAVY, LEARNED, SPARSE, WINDOW
from helpers.models.configs.qwen3_5 import ATTENTION, DELTA
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.models.deepseek_v4 import DeepSeekV4
from helpers.models.deepseek_v32 import DeepSeekV32
from helpers.models.glm5 import GLM5
from helpers.models.kimi_k25 import KimiK25
from helpers.models.qwen3 import Qwen3
from helpers.models.qwen3_5 import Qwen3_5
from helpers.vision import moonvit

LENGTHS = pytest.mark.parametrize("length", [2, 31, 33, 70])  # at 1 torch adds where it could multiply matrices
BLOCK_OF_QUERIES = 32

QWEN3 = qwen3.Config(
    vocab_size=97, width=32, num_blocks=3, num_heads=6, num_kv_heads=2, head_dim=10, mlp_width=50, tied=False
)  # fmt: skip
V3 = deepseek_v3.Config(
    vocab_size=97, width=32, num_blocks=3, num_dense_blocks=1, num_heads=4, query_rank=12, latent_width=16, nope_dim=8,
    rotary_dim=4, value_dim=6, mlp_width=40, num_experts=8, experts_per_token=3, expert_width=10, num_shared=2,
    num_drafters=1,
)  # fmt: skip
SPARSE_SIZES = dict(
    vocab_size=97, width=32, num_blocks=3, num_dense_blocks=1, num_heads=4, query_rank=12, latent_width=16, nope_dim=8,
    rotary_dim=4, value_dim=6, index_heads=5, index_dim=6, index_k=9, mlp_width=40, num_experts=8, experts_per_token=3,
    expert_width=10, num_shared=1,
)  # fmt: skip
V32 = deepseek_v32.Config(**SPARSE_SIZES)
GLM = glm5.Config(**SPARSE_SIZES, indexers=(glm5.FULL, glm5.SHARED, glm5.FULL))
QWEN3_5 = qwen3_5.Config(
    vocab_size=97, width=32, num_blocks=3, layer_kinds=(DELTA, ATTENTION, DELTA), num_heads=4, num_kv_heads=2,
    head_dim=16, delta_key_heads=2, delta_value_heads=4, delta_key_dim=8, delta_value_dim=6, conv_width=4,
    num_experts=6, experts_per_token=2, expert_width=12, shared_width=20, rotary_share=0.25, sections=(1, 1, 0),
)  # fmt: skip
V4 = deepseek_v4.Config(
    vocab_size=61, width=24, num_blocks=4, layer_kinds=(WINDOW, HEAVY, SPARSE, SPARSE),
    router_kinds=(HASHED, LEARNED, HASHED, LEARNED), num_heads=4, head_dim=16, rotary_dim=8, query_rank=20,
    output_groups=2, output_rank=6, window=7, index_heads=5, index_dim=12, index_k=3, num_experts=6,
    experts_per_token=2, expert_width=14, num_streams=4, heavy_ratio=8,
)  # fmt: skip


def matrices(model: nn.Module, part: str = "", used: Fraction = Fraction(1)) -> int:
    """Weights that a token is multiplied with: all matrices, of the experts the share ``used``. 2 FLOP each."""
    tied = getattr(model, "head", True) is None
    sizes = {name: weight.numel() for name, weight in model.named_parameters() if weight.dim() > 1 and part in name}
    skipped = ("conv", "compressor.bias") if tied else ("conv", "compressor.bias", "embedding.")
    sizes = {name: size for name, size in sizes.items() if not any(mark in name for mark in skipped)}
    return int(sum(size * (used if ".experts." in name else 1) for name, size in sizes.items()))


def apart(model: nn.Module, mark: str) -> int:
    return 2 * matrices(model, mark)


@LENGTHS
@pytest.mark.parametrize("tied", [True, False])
def test_a_dense_model_costs_what_the_formula_says(length, tied):
    c = QWEN3 if not tied else qwen3.Config(**{**vars(QWEN3), "tied": True})
    model = Qwen3(c)
    forward = 2 * matrices(model) * length + c.num_blocks * c.num_heads * 2 * length**2 * 2 * c.head_dim
    assert training_flops(model, length) == StepFlops(forward, 2 * forward, length)


@LENGTHS
def test_of_the_experts_only_those_that_are_chosen_cost(length):
    c = V3
    model = DeepSeekV3(c)
    used = 2 * (matrices(model, used=Fraction(3, 8)) - matrices(model, "drafters", Fraction(3, 8)))
    pair = c.num_heads * 2 * (c.nope_dim + c.rotary_dim + c.value_dim)
    forward = used * length + c.num_blocks * pair * length**2
    assert training_flops(model, length) == StepFlops(forward, 2 * forward, length)


def test_a_drafter_costs_when_the_loss_asks_it():
    c, length = V3, 33
    model = DeepSeekV3(c)

    def with_draft(model, ids):
        hidden = model.read(ids[:, :-1])
        return model.logits(hidden).sum() + model.draft(hidden[:, :-1], ids[:, 1:-1]).sum()

    drafted = length - 1
    used = 2 * (matrices(model, "drafters", Fraction(3, 8)) + model.head.weight.numel())
    pair = c.num_heads * 2 * (c.nope_dim + c.rotary_dim + c.value_dim)
    more = training_flops(model, length, with_draft).forward - training_flops(model, length).forward
    assert more == used * drafted + pair * drafted**2


def blocks_of_queries(length: int, keys) -> int:
    """The sum of queries x keys over blocks of queries, where ``keys(end)`` are read by a block that ends there."""
    ends = [*range(BLOCK_OF_QUERIES, length, BLOCK_OF_QUERIES), length]
    starts = [0, *ends[:-1]]
    return sum((end - start) * keys(start, end) for start, end in zip(starts, ends, strict=True))


@LENGTHS
@pytest.mark.parametrize(("config", "family"), [(V32, DeepSeekV32), (GLM, GLM5)])
def test_sparse_attention_costs_its_choice_and_an_indexer_without_gradient(length, config, family):
    c, model = config, family(config)
    indexers = sum(block.attention.indexer is not None for block in model.blocks)
    index = apart(model, "indexer") * length
    index += indexers * 2 * c.index_heads * (c.index_dim + 1) * blocks_of_queries(length, lambda start, end: end)
    dense = 2 * matrices(model, used=Fraction(3, 8)) * length - apart(model, "indexer") * length
    dense += c.num_blocks * c.num_heads * 2 * length * min(c.index_k, length) * (2 * c.latent_width + c.rotary_dim)
    assert training_flops(model, length) == StepFlops(dense + index, 2 * dense, length)


@pytest.mark.parametrize("length", [31, 33, 70, 128])
def test_the_delta_rule_costs_its_chunks_its_system_and_its_convolution(length):
    c, model = QWEN3_5, Qwen3_5(QWEN3_5)
    chunk = min(64, length)
    chunks, heads, layers = -(-length // chunk), c.delta_value_heads, c.layer_kinds.count(DELTA)
    key, value = c.delta_key_dim, c.delta_value_dim
    conv = 2 * c.conv_width * (2 * c.delta_key_heads * key + heads * value) * length
    inside = heads * chunks * 2 * chunk**2 * (2 * key + value)
    system = heads * chunks * chunk**2 * (key + value)
    step = heads * 2 * chunk * key * value  # one product with the state: three a chunk
    attention = c.num_heads * 2 * length**2 * 2 * c.head_dim
    twice = 2 * matrices(model, used=Fraction(2, 6)) * length + layers * (conv + inside) + attention
    forward = twice + layers * (system + 3 * step * chunks)
    # The first state is no weight's work and the last one is read by nobody; a system's own gradient is a product.
    backward = 2 * twice + layers * (3 * system + step * (2 * (2 * chunks - 1) + 2 * (chunks - 1)))
    assert training_flops(model, length) == StepFlops(forward, backward, length)


@LENGTHS
def test_entries_windows_and_streams_cost_what_the_formula_says(length):
    c, model = V4, DeepSeekV4(V4)
    index, twice = 0, 2 * matrices(model, used=Fraction(2, 6)) * length - apart(model, "indexer") * length
    twice += 2 * c.num_blocks * 2 * c.num_streams**2 * c.width * length  # streams mixed, twice a block
    for kind in c.layer_kinds:
        entries = {WINDOW: 0, HEAVY: length // c.heavy_ratio, SPARSE: length // c.sparse_ratio}[kind]
        shared, chosen = (entries, 0) if kind == HEAVY else (0, min(c.index_k, entries))

        def read(start, end, shared=shared, chosen=chosen):
            return end - start + c.window - 1 + shared + chosen

        twice += 2 * c.num_heads * 2 * c.head_dim * blocks_of_queries(length, read)
        if kind == SPARSE:
            index += 2 * c.index_heads * (c.index_dim + 1) * entries * length
    ran = apart(model, "indexer") if length >= c.sparse_ratio else apart(model, "indexer.compressor")
    index += ran * length
    assert training_flops(model, length) == StepFlops(twice + index, 2 * twice, length)


def test_a_model_that_sees_costs_on_text_what_its_text_model_costs():
    vision = moonvit.Config(24, 2, 2, 40, patch_side=4, grid_height=5, grid_width=5)
    text = deepseek_v3.Config(**{**vars(V3), "num_drafters": 0})
    seeing = KimiK25(kimi_k25.Config(text, vision, image_token=7))
    assert training_flops(seeing, 33) == training_flops(DeepSeekV3(text), 33)


@pytest.mark.parametrize("make", [lambda: DeepSeekV3(V3), lambda: GLM5(GLM)])
def test_other_tokens_and_more_texts_cost_the_same_a_token(make):
    model, length = make(), 40
    ids = torch.randint(97, (3, length + 1), generator=torch.Generator().manual_seed(0))
    three = training_flops(model, length, lambda model, _: model(ids[:, :-1]).sum())
    one = training_flops(model, length)
    assert three == StepFlops(3 * one.forward, 3 * one.backward, length)
    assert training_flops_per_token(model, length) == (one.forward + one.backward) / length


def test_frozen_weights_cost_no_gradient_of_their_own():
    model = Qwen3(QWEN3)
    model.requires_grad_(False)
    model.head.weight.requires_grad_(True)
    c, length = QWEN3, 33
    step = training_flops(model, length)
    assert step.backward == 2 * c.vocab_size * c.width * length


def test_counting_leaves_no_gradient_and_changes_no_weight():
    model = Qwen3(QWEN3)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    training_flops(model, 5)
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def attentions() -> list[int]:
    """transformers' Qwen3, its attention written out and in one operation: FLOP of a step."""
    sizes = dict(vocab_size=97, hidden_size=32, num_hidden_layers=2, intermediate_size=48, head_dim=8)
    sizes |= dict(num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False)

    def logits(model, ids):
        return model(ids[:, :-1], use_cache=False).logits.sum()

    kinds = ("eager", "sdpa")
    models = [Qwen3ForCausalLM._from_config(Qwen3Config(**sizes), attn_implementation=kind) for kind in kinds]
    return [training_flops(model, 40, logits) for model in models]


def test_fused_attention_on_a_cpu_is_counted_as_torch_counts_it_on_a_gpu():
    eager, fused = attentions()
    scores = 2 * 4 * 2 * 40**2 * 8  # layers, heads, one product of queries and keys
    assert fused.forward == eager.forward
    assert fused.backward == eager.backward + scores  # it computes the scores a second time rather than keep them


def test_torch_itself_still_misses_what_is_mended():
    """When torch learns one of these, its own formula is to be used, and this test says so."""
    x = torch.randn(1, 4, 16, 8, requires_grad=True)
    system, right = torch.eye(8) + torch.randn(8, 8).tril(-1), torch.randn(8, 3)
    weight = torch.randn(6, 1, 4, requires_grad=True)

    def theirs(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    def attend():
        functional.scaled_dot_product_attention(x, x, x, is_causal=True).sum().backward()

    def solve():
        torch.linalg.solve_triangular(system, right, upper=False)

    def convolve():
        functional.conv1d(torch.randn(1, 6, 13, requires_grad=True), weight, groups=6).sum().backward()

    def group():
        functional.grouped_mm(torch.ones(9, 8), torch.ones(2, 8, 4), offs=torch.tensor([3, 9], dtype=torch.int32))

    def one_vector():
        torch.ones(9, 8).mv(torch.ones(8))

    assert theirs(attend) == theirs(solve) == theirs(group) == theirs(one_vector) == 0
    assert sum(count_flops(group).values()) == 2 * 9 * 8 * 4
    assert sum(count_flops(one_vector).values()) == 2 * 9 * 8
    product = 2 * 4 * 16 * 16 * 8
    assert sum(count_flops(attend).values()) == (2 + 5) * product
    assert sum(count_flops(solve).values()) == 8 * 8 * 3
    forward = 2 * 6 * 4 * 10
    assert sum(count_flops(convolve).values()) == 3 * forward
    assert theirs(convolve) == (1 + 1 + 6) * forward  # the weight's gradient as if all 6 channels were mixed


def test_elements_are_those_that_no_formula_counts():
    x = torch.ones(3, 5)
    assert count_elements(lambda: x + x) == 15
    assert count_elements(lambda: x @ x.T) == 0
    assert count_elements(lambda: x.T.reshape(15)) == 15  # a copy
    assert count_elements(lambda: x.view(15)[2:]) == 0
    assert count_elements(lambda: x.clone().relu_()) == 30


@pytest.mark.parametrize(("length", "frozen", "said"), [(0, False, "1 token or more"), (3, True, "requires_grad")])
def test_what_cannot_be_counted_is_said(length, frozen, said):
    model = Qwen3(QWEN3).requires_grad_(not frozen)
    with pytest.raises(ValueError, match=said):
        training_flops(model, length)
