"""The audit: every byte of a model counted where it lies, of transformers, bitsandbytes and this course."""

import warnings

import pytest
import torch
from torch import nn

from helpers import zoo
from helpers.checkpoints import load
from helpers.quant.audit import Stored, audit, bytes_of, load_in_4bit, load_in_16bit, share_in, summed
from helpers.quant.model import quantise
from helpers.quant.parts import all_but


def total_weights(model: nn.Module) -> int:
    return sum(row.weights for row in audit(model))


@pytest.fixture(scope="module")
def loaded() -> nn.Module:
    return load_in_4bit(zoo.folder("tiny-qwen3_5-moe"))


def test_the_experts_of_a_mixture_stay_in_bfloat16_when_it_is_loaded_in_four_bits(loaded):
    formats = {row.format for row in audit(loaded) if row.part == "routed experts"}
    assert formats == {"bfloat16"}
    routers = [row for row in audit(loaded) if row.part == "router" and "shared" not in row.name]
    assert {row.format for row in routers} == {"bfloat16"}
    assert "nf4" in {row.format for row in audit(loaded) if row.part == "attention"}


def test_what_is_not_quantised_is_as_it_is_in_sixteen_bits(loaded):
    plain = load_in_16bit(zoo.folder("tiny-qwen3_5-moe"))
    kept = [row for row in audit(loaded) if row.format == "bfloat16"]
    assert all(torch.equal(loaded.get_parameter(row.name), plain.get_parameter(row.name)) for row in kept)
    assert {row.format for row in audit(plain)} == {"bfloat16", "float32"}
    assert bytes_of(audit(plain)) > 1.3 * bytes_of(audit(loaded))


@pytest.mark.parametrize("name", ["tiny-kimi-k2_5", "tiny-deepseek-v4", "tiny-glm5"])
def test_in_every_family_with_experts_they_are_not_found(name):
    rows = [row for row in audit(load_in_4bit(zoo.folder(name))) if row.part == "routed experts"]
    assert rows
    assert share_in(rows, "nf4") == 0


def test_a_dense_model_is_quantised_but_for_its_embedding_and_norms():
    rows = audit(load_in_4bit(zoo.folder("tiny-dense-active")))
    assert {row.format for row in rows if row.part in ("attention", "dense FFN") and ".norm" not in row.name} >= {"nf4"}
    assert share_in([row for row in rows if row.part == "dense FFN"], "nf4") == 1


def test_quantised_or_not_a_model_stands_for_as_many_weights(loaded):
    ours = load("zoo:tiny-qwen3_5-moe")
    rotary = sum(row.weights for row in audit(loaded) if "inv_freq" in row.name)
    assert total_weights(loaded) - rotary == total_weights(ours)


def test_ours_and_theirs_have_the_same_weights_in_every_part(loaded):
    def by_part(model):
        sums = {}
        for row in audit(model):
            if "inv_freq" not in row.name:
                sums[row.part] = sums.get(row.part, 0) + row.weights
        return sums

    assert by_part(loaded) == by_part(load("zoo:tiny-qwen3_5-moe"))


def test_our_own_packed_layers_count_by_their_format_and_stand_for_as_many_weights():
    model, plain = (load("zoo:tiny-deepseek-v3") for _ in range(2))
    report = quantise(model, "int4", keep=all_but("routed experts"), wrap=True)
    experts = [row for row in audit(model) if row.part == "routed experts"]
    assert {row.format for row in experts} == {"int4"}
    assert total_weights(model) == total_weights(plain)
    assert bytes_of(audit(model)) == report.bytes_after
    assert bytes_of(audit(plain)) == report.bytes_before


def test_bytes_of_a_quantised_layer_are_its_codes_scales_and_table(loaded):
    layer = loaded.model.layers[3].self_attn.o_proj
    (row,) = [row for row in audit(loaded) if row.name.endswith("3.self_attn.o_proj.weight")]
    weights = layer.in_features * layer.out_features
    assert row.weights == weights
    assert row.bytes == weights // 2 + 4 * -(-weights // 64) + 16 * 4  # half a byte, a float32 for 64, 16 values
    assert row.bits > 4.5


def test_double_quantisation_brings_a_table_of_256_values_that_a_small_layer_does_not_earn_back():
    single, double = (
        {row.name: row.bytes for row in audit(load_in_4bit(zoo.folder("tiny-dense-total"), double=way))}
        for way in (False, True)
    )
    small, large = (f"model.layers.0.{name}.weight" for name in ("self_attn.q_a_proj", "mlp.up_proj"))
    assert double[small] > single[small]
    assert double[large] < single[large]


def test_a_tied_matrix_counts_once_and_a_buffer_counts():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    model.register_buffer("steps", torch.zeros(4, dtype=torch.float64))
    assert bytes_of(audit(model)) == 5 * 3 * 4 + 4 * 8


def test_rows_of_one_part_and_format_are_summed_the_largest_first():
    rows = [
        Stored("a", "attention", "nf4", 10, 6),
        Stored("b", "attention", "nf4", 10, 4),
        Stored("c", "head", "bf16", 8, 16),
    ]
    assert [(row.part, row.weights, row.bytes) for row in summed(rows)] == [("head", 8, 16), ("attention", 20, 10)]
    assert summed(rows)[1].bits == 4
    assert share_in(rows, "nf4") == 20 / 28


def test_a_model_without_a_tensor_is_refused():
    with pytest.raises(ValueError, match="holds no tensor"):
        audit(nn.Identity())


def test_loading_says_nothing_and_leaves_warnings_as_they_were(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_in_4bit(zoo.folder("tiny-deepseek-v3"))
        with pytest.raises(UserWarning, match="still heard"):
            warnings.warn("still heard", stacklevel=1)
    assert capfd.readouterr() == ("", "")
