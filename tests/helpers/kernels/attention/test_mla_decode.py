"""Latent attention of few queries over many keys, split among programs, is the readable one."""

import pytest
import torch
from support.kernel_tests import WHERE, in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.attention import mla_decode, split_kv
from helpers.kernels.attention.mla_decode import absorbed, cost
from helpers.layers import mla
from helpers.layers.attention import causal_mask

pytestmark = needs_triton
NAMES = ("query", "q_rope", "latent", "k_rope", "w_uk", "w_uv")


def parts(batch, length, keys, heads, latent=32, turned=16, width=8, value=8, dtype=torch.float32):
    """Queries, cache and matrices of latent attention."""
    shapes = (batch, length, heads, width), (batch, length, heads, turned), (batch, keys, latent), (batch, keys, turned)
    shapes += (heads, width, latent), (heads, value, latent)
    return [numbers(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]


def mask_of(batch, length, keys):
    positions = (keys - length + torch.arange(length, device=WHERE)).expand(batch, -1)
    return causal_mask(positions, keys)


@in_both
@pytest.mark.parametrize(
    ("batch", "length", "keys", "heads", "latent", "turned"),
    [(1, 1, 1, 1, 16, 16), (2, 1, 31, 3, 32, 16), (1, 2, 33, 16, 32, 8), (1, 1, 70, 17, 40, 16)],
)
def test_it_is_the_readable_one(batch, length, keys, heads, latent, turned, dtype):
    given, mask = parts(batch, length, keys, heads, latent, turned, dtype=dtype), mask_of(batch, length, keys)
    answer, launched = launches_of(absorbed, *given, mask, 0.2)
    assert launched == {"_walk": 1}
    near_float64(answer, mla.absorbed(*(x.double() for x in given), mask, 0.2), 64, "the mixture")


@pytest.mark.parametrize("least", [8, 16, 40])
def test_however_the_keys_are_split_the_answer_is_one(least, monkeypatch):
    monkeypatch.setattr(mla_decode, "LEAST", least)
    given, mask = parts(1, 1, 75, 2), mask_of(1, 1, 75)
    answer, launched = launches_of(absorbed, *given, mask, 0.2)
    splits = split_kv.splits_for(1, 75, least)
    assert splits == 75 // least
    assert launched == ({"_walk": 1, "_combine": 1} if splits > 1 else {"_walk": 1})
    near_float64(answer, mla.absorbed(*(x.double() for x in given), mask, 0.2), 64, "the mixture")


def test_a_split_of_which_nothing_is_seen_weighs_nothing(monkeypatch):
    monkeypatch.setattr(mla_decode, "LEAST", 16)
    given, mask = parts(1, 1, 64, 2), torch.zeros(1, 1, 64, dtype=torch.bool, device=WHERE)
    mask[..., 40] = True  # one key, in the third split of four
    only = mla.out_of_latents(given[2][:, 40, None, None].expand(-1, -1, 2, -1), given[5])
    assert torch.allclose(absorbed(*given, mask, 0.2), only, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("least", [16, 64])
def test_a_query_that_sees_nothing_gets_no_number_split_or_not(least, monkeypatch):
    monkeypatch.setattr(mla_decode, "LEAST", least)
    given, nothing = parts(1, 1, 64, 2), torch.zeros(1, 1, 64, dtype=torch.bool, device=WHERE)
    assert absorbed(*given, nothing, 0.2).isnan().all()
    assert mla.absorbed(*given, nothing, 0.2).isnan().all()


def test_there_are_programs_for_a_whole_gpu_and_none_with_too_little_to_do():
    assert split_kv.splits_for(programs=4, keys=131072, least=256) == 66  # 264 programs
    assert split_kv.splits_for(programs=4, keys=1024, least=256) == 4
    assert split_kv.splits_for(programs=1000, keys=131072, least=256) == 1
    assert split_kv.splits_for(programs=1, keys=5, least=256) == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("latent", torch.ones(1, 32, 4).mT, "strides"),
        ("latent", torch.ones(1, 0, 32), "length 0"),
        ("k_rope", torch.ones(1, 4, 8), "q_rope is"),
        ("w_uk", torch.ones(2, 8, 31), "w_uk is"),
        ("w_uv", torch.ones(2, 8, 32).half(), "one dtype"),
        ("latent", torch.ones(1, 5, 32), "k_rope is"),
    ],
)
def test_what_it_cannot_do_right_is_refused(name, value, message):
    given = dict(zip(NAMES, parts(1, 1, 4, 2), strict=True)) | {name: value}
    refused(absorbed, *given.values(), mask_of(1, 1, 4), 0.2, message=message)


def test_a_mask_of_another_length_is_refused():
    refused(absorbed, *parts(1, 1, 4, 2), mask_of(1, 1, 5), 0.2, message="the mask is")


def test_its_intensity_is_what_the_number_of_heads_says():
    work = cost(1, 131072, 64, 512, 64)
    assert work.bytes == pytest.approx(131072 * 576 * 2, rel=1e-3)
    assert work.intensity == pytest.approx(2 * 64 * (2 * 512 + 64) / (576 * 2), rel=1e-3)
