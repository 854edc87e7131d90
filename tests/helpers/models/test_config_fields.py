"""A field that several configs have means the same in each of them: config.json tells."""

from collections import defaultdict

import pytest

from helpers.checkpoints.families import CONFIG_NAMES

# Fields that config.json calls by several words, family by family, and what each of them means in all.
SEVERAL_WORDS = {
    "num_blocks": ({"num_hidden_layers", "depth"}, "blocks, one behind the other, without drafters"),
    "num_heads": ({"num_attention_heads", "num_heads"}, "heads that ask, of each attention layer"),
    "num_experts": ({"num_experts", "n_routed_experts"}, "experts that a router chooses among, of each layer"),
    "merge": ({"spatial_merge_size", "merge_kernel_size"}, "patches along each side of a cell"),
}


@pytest.fixture(scope="module")
def words() -> dict[str, set[str]]:
    """Our field -> config.json's words for it, of all configs."""
    found = defaultdict(set)
    for names in CONFIG_NAMES.values():
        for field, word in names.items():
            found[field].add(word)
    return found


def test_a_field_has_one_word_in_every_config_json_or_stands_in_the_table(words):
    assert {field: said for field, said in words.items() if len(said) > 1} == {
        field: said for field, (said, _) in SEVERAL_WORDS.items()
    }


def test_a_word_of_config_json_has_one_field_in_every_config(words):
    fields = defaultdict(set)
    for field, said in words.items():
        for word in said:
            fields[word].add(field)
    assert {word: ours for word, ours in fields.items() if len(ours) > 1} == {}
