"""IndexShare, schedules and configs of our GLM-5; its numbers are compared in test_dsa_models.py."""

import pytest
import torch
from support.dsa_sizes import GLM5, LENGTH, MODELS
from support.random_models import ours_from, reference, tokens
from transformers import GlmMoeDsaConfig

from helpers.compare import assert_close
from helpers.models.configs.glm5 import FULL, SHARED, from_hf, published_name

SMALL, SHARE = MODELS["GLM-5"][1], MODELS["GLM-5.2, IndexShare"][1]


def test_sharing_another_blocks_choice_is_seen():
    """What comes of a schedule that is off by one: the third block scores for itself with the second one's indexer."""
    theirs, ids = reference(GLM5, SHARE), tokens(SHARE["vocab_size"], LENGTH)
    model = ours_from(theirs)
    with torch.no_grad():
        assert_close(model(ids), theirs(ids).logits, 1e-4, "logits")
    model.blocks[2].attention.indexer = model.blocks[1].attention.indexer
    with torch.no_grad(), pytest.raises(AssertionError, match="logits"):
        assert_close(model(ids), theirs(ids).logits, 0.01, "logits")


def written(**changes) -> dict:
    return {**reference(GLM5, SMALL).config.to_dict(), **changes}


def test_the_schedule_of_glm_5_2_has_21_indexers_in_78_blocks():
    counted = written(num_hidden_layers=78, indexer_types=None, index_topk_freq=4, index_skip_topk_offset=3)
    counted["mlp_layer_types"] = None
    kinds = from_hf(counted).indexers
    assert kinds[:12] == (FULL,) * 3 + (SHARED,) * 3 + (FULL,) + (SHARED,) * 3 + (FULL, SHARED)
    assert (kinds.count(FULL), kinds.count(SHARED)) == (21, 57)


@pytest.mark.parametrize("every", [1, 2, 3, 4])
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_a_counted_schedule_is_transformers(every, offset):
    sizes = SMALL | {"num_hidden_layers": 9, "indexer_types": None}
    theirs = GlmMoeDsaConfig(**sizes, index_topk_freq=every, index_skip_topk_offset=offset).to_dict()
    assert from_hf(theirs).indexers == tuple(theirs["indexer_types"])
    assert from_hf(theirs | {"indexer_types": None}).indexers == tuple(theirs["indexer_types"])


def test_a_spelled_schedule_is_read():
    assert from_hf(written(indexer_types=None, index_topk_pattern="FSF")).indexers == (FULL, SHARED, FULL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indexer_types": [SHARED, FULL, FULL]}, "the first block has no earlier one"),
        ({"indexer_types": [FULL, FULL]}, "3 of 'full' and 'shared' are needed"),
        ({"indexer_types": [FULL, "half", FULL]}, "3 of 'full' and 'shared' are needed"),
        ({"index_topk": None}, "lacks index_topk"),
        ({"indexer_rope_interleave": False}, "indexer_rope_interleave=False; this GLM-5 has only True"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "rope_type='yarn'"),
        ({"mlp_layer_types": ["dense", "sparse", "dense"]}, "dense blocks can only be the first ones"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_hf(written(**changes))


def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match=r"GLM-5 has no parameter 'blocks.0.bias'"):
        published_name("blocks.0.bias")
