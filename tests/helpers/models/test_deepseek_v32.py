"""Names and configs of our DeepSeek-V3.2; its numbers are compared in test_dsa_models.py."""

import pytest
from support.dsa_sizes import MODELS, V32
from support.random_models import apart, reference

from helpers.models.configs.deepseek_v32 import from_hf, published_name
from helpers.models.deepseek_v32 import DeepSeekV32
from helpers.models.published import names_of_experts

SMALL, ODD, DENSE = (sizes for kind, sizes in MODELS.values() if kind == V32)
CONFIGS = pytest.mark.parametrize("sizes", [SMALL, ODD, DENSE], ids=["groups", "odd, yarn", "no experts, top 1"])


@CONFIGS
def test_names_map_one_to_one_onto_the_checkpoint(sizes):
    theirs = reference(V32, sizes)
    model = DeepSeekV32(from_hf(theirs.config.to_dict()))
    names = [published_name(name) for name in model.state_dict()]
    count = sizes["n_routed_experts"]
    spread = [
        part for name in names for parts in names_of_experts(name, count if "{e}" in name else 1) for part in parts
    ]
    assert len(set(spread)) == len(spread)
    assert set(spread) == set(apart(theirs.state_dict()))


def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match=r"no parameter 'blocks.0.attention.query.weight'"):
        published_name("blocks.0.attention.query.weight")
    assert published_name("blocks.12.mlp.experts.down") == "model.layers.12.mlp.experts.{e}.down_proj.weight"


@CONFIGS
def test_the_config_of_the_checkpoint_and_that_of_transformers_are_one(sizes):
    """The published file has theta beside ``rope_scaling``, and ``first_k_dense_replace`` alone."""
    written = reference(V32, sizes).config.to_dict()
    rope = written.pop("rope_parameters")
    older = {**written, "rope_theta": rope.pop("rope_theta")}
    del older["mlp_layer_types"]
    older["rope_scaling"] = {**rope, "type": rope.pop("rope_type")} if sizes == ODD else None
    assert from_hf(older) == from_hf(reference(V32, sizes).config.to_dict())
    assert (from_hf(older).yarn is not None) == (sizes == ODD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index_topk": None}, "lacks index_topk"),
        ({"q_lora_rank": None}, "lacks q_lora_rank"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'; this DeepSeek-V3.2 has only 'silu'"),
        ({"indexer_rope_interleave": True}, "indexer_rope_interleave=True"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2; this DeepSeek-V3.2 has only None or 4"),
        ({"mlp_layer_types": ["sparse", "dense", "sparse"]}, "dense blocks can only be the first ones"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "rope_type='linear'"),
        ({"index_head_dim": 6}, "8 coordinates cannot be turned in index heads of 6"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_hf({**reference(V32, SMALL).config.to_dict(), **changes})
