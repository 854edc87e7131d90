"""Our DeepSeek-V3.2 and GLM-5 and transformers' on the same random weights, at lengths where the choice matters."""

import pytest
import torch
from support.dsa_sizes import GLM5, LENGTH, MODELS, SMALL
from support.random_models import apart, by_our_names, ours_from, padded, placed, reference, tokens, watched

from helpers.compare import assert_close, causality_probe
from helpers.layers.rope import rotate, rotate_neighbours
from helpers.models.configs.glm5 import FULL, SHARED

EVERY = pytest.mark.parametrize("name", MODELS)
ONE_A_FAMILY = pytest.mark.parametrize("name", ["V3.2, groups", "GLM-5.2, IndexShare"])
BLOCK, LOGITS = 1e-5, 1e-4  # relative; transformers rounds to float32 in other places than we do
pytestmark = pytest.mark.usefixtures("no_gradients")
made: dict[str, torch.nn.Module] = {}


def pair(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """transformers' model, made once for all tests, none of which changes it; and a fresh one of ours."""
    if name not in made:
        made[name] = reference(*MODELS[name])
    return made[name], ours_from(made[name])


def words(length: int = LENGTH, batch: int = 2) -> torch.Tensor:
    return tokens(SMALL["vocab_size"], length, batch)


@EVERY
def test_every_part_of_every_block_is_transformers(name):
    theirs, model = pair(name)
    seen, chosen = watched(theirs, words()), None
    for n, block in enumerate(model.blocks):
        before, (x, wanted) = chosen, seen[f"{n}.self_attn"]
        answer, chosen = block.attention(x, *placed(model, x), None, before)
        assert_close(answer, wanted, BLOCK, f"attention {n}")
        x, wanted = seen[f"{n}.mlp"]
        assert_close(block.mlp(x), wanted, BLOCK, f"feed-forward {n}")
        x, wanted = seen[f"{n}"]
        shared = [None, before] if MODELS[name][0] == GLM5 else []
        found = block(x, *placed(model, x), *shared)
        assert_close(found[0] if shared else found, wanted, BLOCK, f"block {n}")
    assert len(model.blocks) == len(theirs.model.layers)


def as_sets(chosen: torch.Tensor) -> list[list[set]]:
    """The positions that each query reads; transformers fills short rows with later ones, which it masks afterwards."""
    return [[{at for at in row.tolist() if 0 <= at <= t} for t, row in enumerate(rows)] for rows in chosen]


@EVERY
def test_every_indexer_chooses_the_tokens_of_transformers_and_the_others_share(name):
    theirs, model = pair(name)
    seen, chosen = watched(theirs, words()), None
    kinds = MODELS[name][1].get("indexer_types", [FULL] * len(model.blocks))
    for n, block in enumerate(model.blocks):
        before, (x, _) = chosen, seen[f"{n}.self_attn"]
        _, chosen = block.attention(x, *placed(model, x), None, before)
        assert (chosen is before) == (kinds[n] == SHARED)
        if kinds[n] == FULL:
            assert as_sets(chosen) == as_sets(seen[f"{n}.self_attn.indexer"][1])
    assert len([part for part in seen if part.endswith("indexer")]) == kinds.count(FULL)


@EVERY
def test_every_token_goes_to_the_experts_that_transformers_sends_it_to(name):
    theirs, model = pair(name)
    seen, sparse = watched(theirs, words()), range(MODELS[name][1]["first_k_dense_replace"], len(model.blocks))
    for n in sparse:
        x, (_, weights, indices) = seen[f"{n}.mlp.gate"]
        ours, our_weights = (part.flatten(0, -2) for part in model.blocks[n].mlp.router(x))
        order, our_order = indices.argsort(-1), ours.argsort(-1)
        assert torch.equal(ours.gather(1, our_order), indices.gather(1, order))
        assert_close(our_weights.gather(1, our_order), weights.gather(1, order), BLOCK, "router weights")
    assert len([part for part in seen if part.endswith("gate")]) == len(sparse)


@EVERY
@pytest.mark.parametrize("length", [1, 11, LENGTH])
def test_logits_are_transformers(name, length):
    theirs, model = pair(name)
    assert_close(model(words(length)), theirs(words(length)).logits, LOGITS, "logits")


@EVERY
def test_reading_everything_would_be_another_answer(name):
    """Without this, all the tests here would pass with the indexer left out."""
    kind, sizes = MODELS[name]
    sparse, dense = pair(name)[1], ours_from(reference(kind, sizes | {"index_topk": LENGTH}))
    ids, k = words(), sizes["index_topk"]
    assert k < LENGTH
    assert_close(sparse(ids[:, :k]), dense(ids[:, :k]), LOGITS, "as long as the top-k")
    with pytest.raises(AssertionError, match="longer"):
        assert_close(sparse(ids), dense(ids), 0.05, "longer")


@EVERY
@pytest.mark.parametrize("cuts", [[1] * LENGTH, [LENGTH], [15, 1, 1, 23]], ids=["token by token", "whole", "mixed"])
def test_any_split_with_a_cache_is_the_whole_and_takes_the_promised_bytes(name, cuts):
    model, sizes = pair(name)[1], MODELS[name][1]
    cache = model.new_cache()
    parts = [model(part, cache) for part in words().split(cuts, dim=1)]
    assert_close(torch.cat(parts, dim=1), model(words()), LOGITS, "cached logits")
    blocks = sizes["num_hidden_layers"]
    latents = blocks * (sizes["kv_lora_rank"] + sizes["qk_rope_head_dim"])
    index = sizes.get("indexer_types", [FULL] * blocks).count(FULL) * sizes["index_head_dim"]  # shared ones keep none
    assert cache.bytes() == 2 * LENGTH * (latents + index) * 4


@ONE_A_FAMILY
def test_greedy_decoding_is_transformers_with_its_cache(name):
    theirs, model = pair(name)
    ids = words(20)
    wanted = theirs.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    cache, next_ids, written = model.new_cache(), ids, [ids]
    for _ in range(8):
        next_ids = model(next_ids, cache)[:, -1:].argmax(-1)
        written.append(next_ids)
    assert torch.equal(torch.cat(written, dim=1), wanted)


@EVERY
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_in_a_padded_batch_each_row_gets_the_answer_it_gets_alone(name, left):
    model, (ids, mask) = pair(name)[1], padded(SMALL["vocab_size"], [24, 13, 1], left)
    cache, more = model.new_cache(), (words(3, batch=3) + 1) % SMALL["vocab_size"]
    first, then = model(ids, cache, mask), [model(more[:, t : t + 1], cache) for t in range(3)]
    for row in range(3):
        alone = model(torch.cat([ids[row][mask[row]], more[row]])[None])[0]
        together = torch.cat([first[row][mask[row]], *[step[row] for step in then]])
        assert_close(together, alone, LOGITS, f"row {row}")


@EVERY
def test_a_row_does_not_know_its_neighbours(name):
    model, ids = pair(name)[1], words(batch=3)
    assert_close(model(ids)[1:2], model(ids[1:2]), LOGITS, "row")


@EVERY
@pytest.mark.parametrize("position", [4, 30])  # fewer tokens before it than the top-k, and more
def test_no_position_sees_a_later_one(name, position):
    assert causality_probe(pair(name)[1], words(), position) < LOGITS  # not 0: an expert's product has other rows in it


@ONE_A_FAMILY
def test_the_gradients_are_transformers_and_the_indexers_have_none(name):
    theirs, model = reference(*MODELS[name]), pair(name)[1]
    with torch.enable_grad():
        for logits in (model(words()), theirs(words()).logits):
            logits.logsumexp(-1).sum().backward()
    for weight in theirs.parameters():
        weight.data = weight.grad if weight.grad is not None else torch.zeros_like(weight)
    wanted = by_our_names(model, MODELS[name][0], apart(theirs.state_dict()))
    for part, weight in model.named_parameters():
        if ".indexer." in part:
            assert weight.grad is None, part
        else:
            assert weight.grad.isfinite().all(), part
            assert_close(weight.grad, wanted[part], LOGITS, part)


@ONE_A_FAMILY
def test_the_other_pairing_in_the_indexer_is_seen_but_not_while_everything_is_read(name):
    """The bug that several engines had: texts stay fluent, and the wrong tokens are read."""
    theirs, model = pair(name)
    for block in model.blocks:
        if block.attention.indexer is not None:
            block.attention.indexer.rotate = rotate if MODELS[name][0] == GLM5 else rotate_neighbours
    k = SMALL["index_topk"]
    assert_close(model(words()[:, :k]), theirs(words()[:, :k]).logits, LOGITS, "logits")
    with pytest.raises(AssertionError, match="logits"):
        assert_close(model(words()), theirs(words()).logits, 0.01, "logits")
