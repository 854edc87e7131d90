"""Latent attention against transformers', expanded against absorbed, cache against none; and YaRN's numbers."""

import pytest
import torch
from transformers import DeepseekV3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from helpers.compare import assert_close, causality_probe, max_error, tolerance
from helpers.layers.mla import (
    MLA,
    Latents,
    absorbed,
    absorbing_pays,
    attention_weights,
    expanded,
    into_latents,
    out_of_latents,
)
from helpers.layers.ragged import standing_at
from helpers.layers.rope import Yarn, angles_of_yarn, frequencies, stretched

V3_YARN = {"factor": 40.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 1.0}
UNEVEN = {"factor": 4.0, "original_max_position_embeddings": 128, "mscale": 0.7, "mscale_all_dim": 1.3, "beta_fast": 8}
SIZES = {  # width, heads, query rank, latent, head, rotary, value, YaRN
    "as published": (32, 4, 12, 16, 8, 4, 8, None),
    "odd, no query rank": (27, 3, None, 9, 7, 6, 5, V3_YARN),
    "one head": (24, 1, 10, 11, 16, 8, 3, UNEVEN),
}
ALL = pytest.mark.parametrize("name", SIZES)
NAMES = {
    "q": "q_proj",
    "q_a": "q_a_proj",
    "q_a_norm": "q_a_layernorm",
    "q_b": "q_b_proj",
    "kv_a": "kv_a_proj_with_mqa",
    "kv_a_norm": "kv_a_layernorm",
    "kv_b": "kv_b_proj",
    "output": "o_proj",
}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def published(name) -> DeepseekV3Config:
    width, heads, rank, latent, head, rotary, value, yarn = SIZES[name]
    rope = {"rope_theta": 1e4, **({"rope_type": "yarn", **yarn} if yarn else {"rope_type": "default"})}
    config = DeepseekV3Config(
        hidden_size=width, num_attention_heads=heads, num_key_value_heads=heads, q_lora_rank=rank, kv_lora_rank=latent,
        qk_nope_head_dim=head, qk_rope_head_dim=rotary, v_head_dim=value, rope_parameters=rope,
        max_position_embeddings=4096,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return config


def yarn_of(name) -> Yarn | None:
    return Yarn.from_hf(published(name).rope_parameters)


def pair(name) -> tuple[MLA, DeepseekV3Attention]:
    """Ours and transformers' with the same random numbers everywhere."""
    theirs, yarn = DeepseekV3Attention(published(name), 0).eval(), yarn_of(name)
    for n, weight in enumerate(theirs.parameters()):
        weight.copy_((weight.dim() == 1) + 0.3 * randn(*weight.shape, seed=n))
    sizes = SIZES[name][:7]
    ours = MLA(*sizes, scale=(sizes[4] + sizes[5]) ** -0.5 * (yarn.on_scores if yarn else 1.0)).eval()
    weights = theirs.state_dict()
    renamed = {key: f"{NAMES[key.removesuffix('.weight')]}.weight" for key in ours.state_dict()}
    assert set(renamed.values()) == set(weights)
    ours.load_state_dict({key: weights[value] for key, value in renamed.items()})
    return ours, theirs


def turns(name, positions, dtype=torch.float32):
    return angles_of_yarn(positions, frequencies(SIZES[name][5], 1e4), 1e4, yarn_of(name), dtype)


def places(x):
    return torch.arange(x.shape[1]).expand(len(x), -1)


def run(ours, name, x, cache=None, start=0):
    positions = places(x) + start
    return ours(x, standing_at(positions), turns(name, positions, x.dtype), cache)


@ALL
@pytest.mark.parametrize("length", [1, 31, 33])
def test_latent_attention_is_transformers(name, length):
    ours, theirs = pair(name)
    x = randn(2, length, SIZES[name][0], seed=5)
    rotary = DeepseekV3RotaryEmbedding(published(name))(x, places(x))
    barred = torch.full((length, length), float("-inf")).triu(1)[None, None]
    wanted = theirs(x, position_embeddings=rotary, attention_mask=barred)[0]
    assert_close(run(ours, name, x), wanted, tolerance(torch.float32, 64 + length), "attention")
    assert max_error(run(ours, name, x), wanted) < 1e-5


@ALL
def test_angles_are_transformers_where_yarn_stretches_them_too(name):
    positions = torch.tensor([[0, 1, 5, 63, 64, 500, 4000]])
    cos, sin = turns(name, positions)
    theirs = DeepseekV3RotaryEmbedding(published(name))(randn(1, 7, 1), positions)
    half = SIZES[name][5] // 2
    assert max_error(cos, theirs[0][..., :half]) < 1e-3  # radians of thousands have no better float32
    assert max_error(sin, theirs[1][..., :half]) < 1e-3
    assert max_error(cos[:, :5], theirs[0][:, :5, :half]) < 1e-5


@pytest.mark.parametrize("width", [2, 6, 64])
@pytest.mark.parametrize("context", [8, 4096, 10**12], ids="{:g}".format)
@pytest.mark.parametrize("turns", [(32, 1), (3, 2.5)], ids=str)
def test_stretched_frequencies_are_transformers_at_the_ends_of_the_ramp_too(width, context, turns):
    config = published("as published")
    config.head_dim, yarn = width, Yarn(16.0, context, *turns)
    config.rope_parameters = {"rope_theta": 1e4, **yarn.to_hf()}
    wanted, on_angles = ROPE_INIT_FUNCTIONS["yarn"](config)
    assert_close(stretched(frequencies(width, 1e4), 1e4, yarn), wanted, 1e-6, "frequencies")
    assert on_angles == yarn.on_angles


def test_yarn_leaves_fast_pairs_and_slows_slow_ones_by_the_whole_factor():
    plain = frequencies(64, 1e4)
    slowed = stretched(plain, 1e4, Yarn(40.0, 4096))
    ratio = plain / slowed
    assert torch.equal(ratio[:10], torch.ones(10))
    assert max_error(ratio[-8:], torch.full((8,), 40.0)) < 1e-4
    assert bool((ratio.diff() > -1e-4).all())
    assert torch.equal(stretched(plain, 1e4, Yarn(1.0, 4096)), plain)


def test_the_published_strengths_of_yarn():
    v3 = Yarn(40.0, 4096, mscale=1.0, strength=1.0)
    assert v3.on_angles == 1.0
    assert v3.on_scores == pytest.approx(1.8738, abs=1e-4)
    assert Yarn(40.0, 4096).on_angles == pytest.approx(1.36889, abs=1e-5)
    assert Yarn(40.0, 4096).on_scores == 1.0
    assert Yarn(16.0, 65536, given=1.0).on_angles == 1.0  # DeepSeek-V4


def parts(name, queries, keys, dtype=torch.float32, each=False):
    """Random arguments for both forms; ``each``: every query has latents of its own."""
    _, heads, _, latent, head, rotary, value, _ = SIZES[name]
    per = (2, queries, keys) if each else (2, keys)
    mask = torch.rand(2, queries, keys, generator=torch.Generator().manual_seed(8)) < 0.6
    mask[..., 0] = True
    return (
        randn(2, queries, heads, head, seed=1, dtype=dtype),
        randn(2, queries, heads, rotary, seed=2, dtype=dtype),
        randn(*per, latent, seed=3, dtype=dtype),
        randn(*per, rotary, seed=4, dtype=dtype),
        randn(heads, head, latent, seed=5, dtype=dtype),
        randn(heads, value, latent, seed=6, dtype=dtype),
        mask,
        0.3,
    )


@ALL
@pytest.mark.parametrize("each", [False, True], ids=["one cache", "gathered"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 33), (5, 31)])
def test_absorbed_is_expanded(name, each, queries, keys):
    arguments = parts(name, queries, keys, torch.float64, each)
    assert max_error(absorbed(*arguments), expanded(*arguments)) < 1e-12


@ALL
def test_latents_gathered_for_each_query_are_the_same_latents(name):
    query, turned, latent, key, *rest = parts(name, 3, 9, torch.float64)
    gathered = [part[:, None].expand(-1, 3, -1, -1) for part in (latent, key)]
    for form in (absorbed, expanded):
        wanted = form(query, turned, latent, key, *rest)
        assert max_error(form(query, turned, *gathered, *rest), wanted) < 1e-12


def test_the_pieces_that_a_selection_composes_are_the_absorbed_form():
    query, turned, latent, key, w_uk, w_uv, mask, scale = parts("as published", 2, 7, torch.float64)
    scores = into_latents(query, w_uk) @ latent[:, None].mT + turned @ key[:, None].mT
    mixed = attention_weights(scores * scale, mask) @ latent[:, None]
    wanted = absorbed(query, turned, latent, key, w_uk, w_uv, mask, scale)
    assert max_error(out_of_latents(mixed, w_uv), wanted) < 1e-12


def test_absorbing_pays_for_few_queries_of_a_long_cache():
    assert absorbing_pays(1, 4096, 512, 128, 128)
    assert absorbing_pays(160, 10**6, 512, 128, 128)
    assert not absorbing_pays(180, 10**6, 512, 128, 128)
    assert not absorbing_pays(4096, 4096, 512, 128, 128)


@ALL
@pytest.mark.parametrize("cuts", [[1] * 19, [19], [7, 1, 1, 10], [18, 1]], ids=str)
def test_any_split_with_a_cache_is_the_whole(name, cuts):
    ours, _ = pair(name)
    x, cache, done = randn(2, 19, SIZES[name][0], seed=5), Latents(), []
    for part in x.split(cuts, dim=1):
        done.append(run(ours, name, part, cache, start=sum(piece.shape[1] for piece in done)))
    assert_close(torch.cat(done, dim=1), run(ours, name, x), tolerance(torch.float32, 128), "cached")
    _, _, _, latent, _, rotary, _, _ = SIZES[name]
    assert cache.bytes() == 2 * 19 * (latent + rotary) * 4


def test_deepseek_v3_remembers_1152_bytes_a_token_and_layer():
    cache = Latents()
    cache.write(torch.zeros(1, 3, 512).bfloat16(), torch.zeros(1, 3, 64).bfloat16(), standing_at(torch.arange(3)[None]))
    assert cache.bytes() == 3 * 1152


def test_float64_is_float64_but_for_the_norms_and_angles():
    ours, _ = pair("as published")
    x, cache = randn(2, 9, 32, seed=5, dtype=torch.float64), Latents()
    ours = ours.double()
    whole = run(ours, "as published", x)
    steps = [run(ours, "as published", x[:, t : t + 1], cache, t) for t in range(9)]
    assert max_error(torch.cat(steps, dim=1), whole) < 1e-12


def test_no_position_sees_a_later_one():
    ours, _ = pair("as published")
    assert causality_probe(lambda x: run(ours, "as published", x), randn(2, 12, 32), 5) == 0


def test_turning_the_wrong_pairs_is_seen(monkeypatch):
    from helpers.layers import mla, rope

    ours, _ = pair("as published")
    x = randn(1, 9, 32)
    right = run(ours, "as published", x)
    monkeypatch.setattr(mla, "rotate_neighbours", rope.rotate)
    with pytest.raises(AssertionError, match="attention"):
        assert_close(run(ours, "as published", x), right, 1e-3, "attention")


def test_the_gradients_of_both_forms_agree():
    arguments = parts("odd, no query rank", 3, 6, torch.float64)
    found = []
    with torch.enable_grad():
        for form in (expanded, absorbed):
            leaves = [part.clone().requires_grad_() for part in arguments[:6]]
            form(*leaves, *arguments[6:]).square().sum().backward()
            found.append([leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        assert max_error(one, other) < 1e-10


def test_yarn_is_read_where_it_is_asked_and_what_lacks_is_named():
    published = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale": 1.0}
    assert Yarn.from_hf(published) == Yarn(40, 4096, mscale=1.0)
    assert Yarn.from_hf({"rope_type": "default", "factor": 40}) is None
    for yarn in (Yarn(4, 64), Yarn(40, 4096, 16, 2, 1.0, 0.7), Yarn(16, 65536, given=1.0)):
        assert Yarn.from_hf(yarn.to_hf()) == yarn
    with pytest.raises(ValueError, match="lacks factor, original_max_position_embeddings"):
        Yarn.from_hf({"rope_type": "yarn"})
    with pytest.raises(ValueError, match="truncate=False"):
        Yarn.from_hf({**published, "truncate": False})
