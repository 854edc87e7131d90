"""Sparse attention: the index scores, the choice among them, and attention over the chosen, each against an oracle."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DeepseekV32Config, GlmMoeDsaConfig
from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Indexer
from transformers.models.glm_moe_dsa.modeling_glm_moe_dsa import GlmMoeDsaIndexer

from helpers.compare import assert_close, causality_probe, tolerance
from helpers.layers.attention import causal_mask
from helpers.layers.dsa import (
    QUERIES_PER_BLOCK,
    Indexer,
    SparseAttention,
    SparseLatents,
    attend_chosen,
    scores,
    select_tokens,
)
from helpers.layers.kv_cache import KVBuffer
from helpers.layers.mla import MLA, expanded
from helpers.layers.ragged import standing_at
from helpers.layers.rope import angles, frequencies, rotate, rotate_neighbours

LENGTHS = pytest.mark.parametrize("length", [1, 31, 33, 70])  # within one block of queries, just over it, over two
INF = float("inf")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


# --- scores


def test_scores_of_two_heads_are_what_paper_says():
    query = torch.tensor([[[[2.0, 0, 0, 0], [0, -4.0, 0, 0]]]])  # one token, two heads of width four
    key = torch.tensor([[[1.0, 1, 0, 0], [3.0, -1, 0, 0]]])
    weights = torch.tensor([[[1.0, 10.0]]])
    # head one: 2 and 6, head two: -4 and 4, halved; the relu drops the -2; divided by the root of two heads
    expected = torch.tensor([[[1.0 * 1, 1.0 * 3 + 10 * 2]]]) / 2**0.5
    torch.testing.assert_close(scores(query, key, weights), expected)


@pytest.mark.parametrize(("heads", "width"), [(1, 1), (4, 3), (33, 31)])
def test_scores_are_the_formula_one_number_at_a_time(heads, width):
    query, key, weights = random(2, 3, heads, width), random(2, 5, width, seed=1), random(2, 3, heads, seed=2)
    products = torch.einsum("bthk,bsk->bths", query.double(), key.double()) / width**0.5
    expected = (weights.double()[..., None] * products.clamp_min(0)).sum(dim=2) / heads**0.5
    assert_close(scores(query, key, weights), expected.float(), tolerance(torch.float32, heads * width), "scores")


def test_scores_of_bfloat16_are_summed_in_float32():
    query, key, weights = (random(*shape).bfloat16() for shape in ((1, 4, 16, 32), (1, 9, 32), (1, 4, 16)))
    wide = scores(query.float(), key.float(), weights.float())
    assert scores(query, key, weights).dtype == torch.float32
    assert torch.equal(scores(query, key, weights), wide)


# --- the choice


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 40), st.integers(0, 39))
@settings(deadline=None, max_examples=100)
def test_the_choice_is_the_stable_sort_of_what_is_visible(values, k, hidden):
    """Few different values, so that the cut nearly always falls among equals."""
    line = torch.tensor(values, dtype=torch.float32)
    line[len(values) - min(hidden, len(values) - 1) :] = -INF
    best = sorted(range(len(values)), key=lambda at: (-line[at].item(), at))[:k]
    expected = sorted(at for at in best if line[at] > -INF)
    chosen = select_tokens(line.expand(1, 2, -1), k)
    assert chosen.shape == (1, 2, min(k, len(values)))
    for row in chosen[0].tolist():
        assert row == expected + [-1] * (len(row) - len(expected))


def test_a_query_with_fewer_visible_keys_than_k_keeps_them_all_and_none_of_the_future():
    line = random(1, 6, 6).masked_fill(~causal_mask(torch.arange(6)[None], 6), -INF)
    chosen = select_tokens(line, 4)[0]
    assert chosen[0].tolist() == [0, -1, -1, -1]
    assert chosen[2].tolist() == [0, 1, 2, -1]
    assert (chosen <= torch.arange(6)[:, None]).all()
    assert (chosen[3:] >= 0).all()


def test_equal_scores_are_chosen_the_same_whatever_stands_behind_them():
    short, long = torch.zeros(1, 1, 50), torch.zeros(1, 1, 5000)
    long[..., 50:] = -INF  # a longer row, as a cache with room or a longer batch gives
    assert torch.equal(select_tokens(short, 16), select_tokens(long, 16))
    assert select_tokens(short, 16).flatten().tolist() == list(range(16))


def test_a_row_of_nan_chooses_nothing_and_does_not_stop_the_others():
    line = torch.tensor([[[float("nan")] * 4, [1.0, 3.0, 2.0, 0.0]]])
    assert select_tokens(line, 2)[0].tolist() == [[-1, -1], [1, 2]]


# --- the indexer

SIZES = {"hidden_size": 24, "q_lora_rank": 20, "qk_rope_head_dim": 8, "index_head_dim": 12, "index_n_heads": 18}
PEERS = {
    "V3.2": (DeepseekV32Config, DeepseekV32Indexer, rotate, rotate_neighbours),
    "GLM-5": (GlmMoeDsaConfig, GlmMoeDsaIndexer, rotate_neighbours, rotate),
}
FAMILY = pytest.mark.parametrize("family", PEERS)
K = 9


def pair(family: str) -> tuple[torch.nn.Module, Indexer]:
    """transformers' indexer and ours with the same random numbers, the norm's too."""
    config, peer, turn, _ = PEERS[family]
    theirs = peer(config(**SIZES, index_topk=K), 0)
    ours = Indexer(24, 20, 18, 12, 8, K, turn)
    for seed, weight in enumerate(theirs.parameters()):
        weight.copy_((weight.dim() == 1) + 0.5 * random(*weight.shape, seed=seed))
    names = {"query": "wq_b", "key": "wk", "key_norm": "k_norm", "weights": "weights_proj"}
    weights = theirs.state_dict()
    ours.load_state_dict(
        {name: weights[f"{names[name.split('.')[0]]}.{name.split('.')[1]}"] for name in ours.state_dict()}
    )
    return theirs, ours


def inputs(length: int, start: int = 0, batch: int = 2) -> tuple:
    """Activations, latents of the queries, rows and angles of ``length`` tokens."""
    positions = (torch.arange(length) + start).expand(batch, -1)
    return (
        random(batch, length, 24),
        random(batch, length, 20, seed=1),
        standing_at(positions),
        angles(positions, frequencies(8, 1e4)),
    )


def part(given: tuple, first: int, last: int) -> tuple:
    x, latent, rows, (cos, sin) = given
    at = slice(first, last)
    return x[:, at], latent[:, at], standing_at(rows.positions[:, at]), (cos[:, at], sin[:, at])


def choice_of(theirs: torch.nn.Module, given: tuple) -> list[list[set]]:
    """The visible positions that transformers' indexer keeps: it fills short rows with future ones, masked later."""
    x, latent, rows, rotary = given
    twice = tuple(torch.cat([half, half], dim=-1) for half in rotary)
    kept = theirs(x, latent, twice, causal_mask(rows.positions, x.shape[1]), rows.positions)
    return [[{at for at in row.tolist() if at <= t} for t, row in enumerate(one)] for one in kept]


def as_sets(chosen: torch.Tensor) -> list[list[set]]:
    return [[set(row.tolist()) - {-1} for row in rows] for rows in chosen]


@FAMILY
@LENGTHS
def test_the_choice_is_transformers(family, length):
    theirs, ours = pair(family)
    given = inputs(length)
    assert as_sets(ours(*given)) == choice_of(theirs, given)


@FAMILY
def test_the_other_pairing_of_the_rotation_chooses_other_tokens(family):
    theirs, ours = pair(family)
    given = inputs(70)
    ours.rotate = PEERS[family][3]
    assert as_sets(ours(*given)) != choice_of(theirs, given)
    short = part(given, 0, K)
    assert as_sets(ours(*short)) == choice_of(theirs, short)  # not seen while everything is chosen


@FAMILY
@pytest.mark.parametrize("cuts", [[70], [1] * 70, [33, 1, 36]], ids=str)
def test_any_split_with_a_cache_chooses_as_the_whole(family, cuts):
    _, ours = pair(family)
    given, cache, start = inputs(70), KVBuffer(), 0
    whole = as_sets(ours(*given))
    parts = []
    for size in cuts:
        parts.append(as_sets(ours(*part(given, start, start + size), cache)))
        start += size
    assert [[kept for rows in parts for kept in rows[b]] for b in range(2)] == whole
    assert cache.bytes() == 2 * 70 * 12 * 4


def test_no_token_chooses_by_a_later_one():
    _, ours = pair("V3.2")
    _, latent, rows, rotary = inputs(40)
    assert causality_probe(lambda x: ours(x, latent, rows, rotary), inputs(40)[0], 20) == 0


def test_the_parts_that_training_takes_give_gradients():
    _, ours = pair("V3.2")
    x, latent, _, rotary = inputs(7)
    with torch.enable_grad():
        scores(*ours.project(x, latent, rotary)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in ours.parameters())


# --- attention over the chosen


def latents(length: int, heads: int = 3) -> tuple:
    """Queries and their rotary part, latents, RoPE keys, and the matrices that make keys and values of latents."""
    shapes = [
        (2, length, heads, 6),
        (2, length, heads, 4),
        (2, length, 10),
        (2, length, 4),
        (heads, 6, 10),
        (heads, 5, 10),
    ]
    return tuple(random(*shape, seed=seed) for seed, shape in enumerate(shapes))


def chosen_of(wanted: torch.Tensor, k: int) -> torch.Tensor:
    return select_tokens(wanted.masked_fill(~CAUSAL, -INF), k)


SCALE = 10**-0.5
CAUSAL = causal_mask(torch.arange(40).expand(2, -1), 40)  # more than one block of queries
CLOSE = tolerance(torch.float32, 40 * 10)


@pytest.mark.parametrize("heads", [1, 3, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_choosing_every_token_is_dense_attention(heads, dtype):
    parts, everything = [part.to(dtype) for part in latents(40, heads)], chosen_of(CAUSAL.to(dtype), 40)
    sparse, dense = attend_chosen(*parts, everything, SCALE), expanded(*parts, CAUSAL, SCALE)
    assert sparse.dtype == dtype
    assert_close(sparse, dense, tolerance(dtype, 40 * 10), "all")


@pytest.mark.parametrize("k", [1, 5, 39])
def test_attention_over_the_chosen_is_dense_attention_under_their_mask(k):
    parts, chosen = latents(40), chosen_of(random(2, 40, 40, seed=9), k)
    mask = torch.zeros(2, 40, 41, dtype=torch.bool).scatter(2, chosen.where(chosen >= 0, 40), True)[..., :40]
    sparse = attend_chosen(*parts, chosen, SCALE)
    assert_close(sparse, expanded(*parts, mask, SCALE), CLOSE, "chosen")
    with pytest.raises(AssertionError, match="all"):
        assert_close(sparse, expanded(*parts, CAUSAL, SCALE), CLOSE, "all")  # and the choice does matter


def test_the_order_of_the_chosen_changes_nothing():
    parts, chosen = latents(40), chosen_of(random(2, 40, 40, seed=9), 7)
    assert_close(attend_chosen(*parts, chosen.flip(-1), SCALE), attend_chosen(*parts, chosen, SCALE), CLOSE, "flipped")


def leaky_choice(wanted: torch.Tensor, k: int) -> torch.Tensor:
    """The famous bug: the future gets a low score, top-k takes it where nothing else is left, and nothing masks it."""
    return wanted.masked_fill(~CAUSAL, -1e9).topk(k).indices


@pytest.mark.parametrize(("choose", "leaks"), [(chosen_of, False), (leaky_choice, True)])
def test_the_probe_sees_a_choice_that_takes_the_future_where_the_past_is_short(choose, leaks):
    query, turned, latent, *rest = latents(40)

    def layer(x):
        return attend_chosen(query, turned, x, *rest, choose(x @ x.mT, 16), SCALE).flatten(2)

    assert (causality_probe(layer, latent, 8) > 1e-3) == leaks  # row 7 sees 8 keys and wants 16


def layer(k: int, indexed: bool = True) -> SparseAttention:
    torch.manual_seed(0)
    indexer = Indexer(24, 20, 18, 12, 8, k, rotate) if indexed else None
    return SparseAttention(MLA(24, 3, 20, 10, 6, 8, 5, 14**-0.5), indexer)


def test_a_layer_that_chooses_every_token_is_the_dense_layer():
    x, _, rows, rotary = inputs(40)
    sparse, few = layer(40), layer(8)
    dense = sparse.mla(x, rows, rotary)
    assert_close(sparse(x, rows, rotary)[0], dense, CLOSE, "every token")
    with pytest.raises(AssertionError, match="few"):
        assert_close(few(x, rows, rotary)[0], dense, 0.01, "few")


def test_a_layer_without_an_indexer_reads_what_it_is_given_and_keeps_no_index_keys():
    x, _, rows, rotary = inputs(40)
    (_, chosen), cache = layer(8)(x, rows, rotary), SparseLatents()
    answer, passed_on = layer(8, indexed=False)(x, rows, rotary, cache, chosen)
    assert torch.equal(passed_on, chosen)
    assert not torch.equal(answer, layer(8, indexed=False)(x, rows, rotary, None, chosen.flip(0))[0])
    assert cache.bytes() == 2 * 40 * (10 + 8) * 4
    with pytest.raises(ValueError, match="without an indexer needs what an earlier layer chose"):
        layer(8, indexed=False)(x, rows, rotary)


def test_a_token_after_a_long_text_reads_the_chosen_latents_and_no_others():
    """Everything else in the cache is made unusable, and the answer is the same."""
    sparse, cache, given = layer(8), SparseLatents(), inputs(40)
    x, _, *where = part(given, 0, 39)
    sparse(x, *where, cache)
    x, _, *where = part(given, 39, 40)
    last = (x, *where)
    answer, chosen = sparse(*last, cache)
    unread = torch.ones(2, 40, dtype=torch.bool).scatter(1, chosen[:, 0], False)
    cache.latents.latent.held[unread] = float("nan")
    assert torch.equal(sparse(*last, cache)[0], answer)
    assert chosen.shape == (2, 1, 8)


# --- memory


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def largest(length: int) -> int:
    x, _, rows, rotary = inputs(length, batch=1)
    with LargestTensor() as seen:
        layer(16)(x, rows, rotary, SparseLatents())
    return seen.elements


def test_reading_a_prompt_holds_memory_linear_in_its_length():
    sizes = [largest(length) for length in (256, 512, 1024)]
    assert all(1.9 < long / short < 2.1 for short, long in pairwise(sizes))
    assert sizes[-1] == QUERIES_PER_BLOCK * 18 * 1024  # one block's index scores; transformers holds T of them
