"""A packed cache answers as one would whose numbers were only rounded, and takes the bytes that its formula says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import zoo
from helpers.checkpoints import load
from helpers.compare import randn, relative_rms
from helpers.layers.kv_cache import KVBuffer
from helpers.quant.cache import CHANNEL, TOKEN, ChannelSlots, Rule, TokenSlots, packed_cache
from helpers.quant.formats.integers import from_codes, round_to
from helpers.quant.formats.packing import pack_bits, unpack_bits


def rounded(rows: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Each row of a matrix on its grid, as numbers: nothing is packed."""
    grid = rule.grid(rows)
    return from_codes(round_to(rows, grid), grid)


class RoundedSlots(KVBuffer):
    """The oracle: slots in full precision, whose numbers are put on the grid whenever they are read."""

    def __init__(self, rule: Rule):
        super().__init__()
        self.rule = rule

    def write(self, new, positions, starts=None):
        held = super().write(new, positions, starts)
        wide = held.flatten(2)
        if self.rule.along == TOKEN:
            return rounded(wide.flatten(0, 1), self.rule).view(held.shape)
        full = wide.shape[1] // self.rule.group * self.rule.group
        out = wide.clone()
        for block in range(0, full, self.rule.group):
            part = wide[:, block : block + self.rule.group].mT  # B W L
            out[:, block : block + self.rule.group] = rounded(part.flatten(0, 1), self.rule).view(part.shape).mT
        return out.view(held.shape)


def places(start: int, count: int, batch: int = 2) -> torch.Tensor:
    return torch.arange(start, start + count).expand(batch, -1)


def slots_of(rule: Rule) -> KVBuffer:
    return TokenSlots(rule) if rule.along == TOKEN else ChannelSlots(rule)


RULES = [Rule(bits, along, group) for bits in (8, 4, 3, 2) for along, group in ((TOKEN, 8), (TOKEN, 48), (CHANNEL, 8))]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_packed_slots_give_back_what_rounding_alone_gives_bit_for_bit(rule):
    packed, oracle = slots_of(rule), RoundedSlots(rule)
    new, start = randn(2, 70, 3, 16, seed=0), 0
    for count in (1, 31, 7, 1, 30):  # blocks close within a call, at its end and one token later
        part, where = new[:, start : start + count], places(start, count)
        assert torch.equal(packed.write(part, where), oracle.write(part, where))
        start += count
    assert packed.length == 70


@pytest.mark.parametrize("along", [TOKEN, CHANNEL])
def test_more_bits_are_nearer_and_eight_are_near(along):
    new = randn(2, 32, 4, 16, seed=1)
    errors = [relative_rms(slots_of(Rule(bits, along, 16)).write(new, places(0, 32)), new) for bits in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_bytes_are_codes_a_scale_of_two_bytes_and_a_zero_of_one():
    slots = TokenSlots(Rule(4, TOKEN, 16))
    slots.write(randn(2, 10, 48, seed=0), places(0, 10))
    assert slots.bytes() == 2 * 10 * (48 // 2 + 3 * 48 // 16)
    three = TokenSlots(Rule(3, TOKEN, 16))
    three.write(randn(2, 10, 48, seed=0), places(0, 10))
    assert three.bytes() == 2 * 10 * (48 * 3 // 8 + 3 * 48 // 16)


def test_along_channels_closed_blocks_are_packed_and_the_newest_tokens_stay_whole():
    slots = ChannelSlots(Rule(2, CHANNEL, 32))
    slots.write(randn(2, 70, 48, seed=0), places(0, 70))
    assert slots.bytes() == 2 * (64 * 48 // 4 + 2 * 48 * 3 + 6 * 48 * 4)


def test_a_large_channel_costs_the_others_along_tokens_and_not_along_channels():
    keys = randn(1, 64, 32, seed=2)
    keys[..., 5] *= 30
    others = [n for n in range(32) if n != 5]
    errors = {}
    for along in (TOKEN, CHANNEL):
        held = slots_of(Rule(4, along, 32)).write(keys, places(0, 64, 1))
        errors[along] = relative_rms(held[..., others], keys[..., others])
    assert errors[TOKEN] > 5 * errors[CHANNEL]


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("tiny-qwen3", {"keys": Rule(4, CHANNEL, 16), "values": Rule(4, TOKEN, 16)}),
        ("tiny-glm5", {"latent": Rule(4, TOKEN, 16), "k_rope": Rule(8, TOKEN, 16), "index_keys": Rule(2)}),
        ("tiny-qwen3_5", {"keys": Rule(3), "values": Rule(2)}),
    ],
)
def test_a_model_with_packed_slots_answers_as_with_rounded_ones(name, rules):
    model = load(zoo.folder(name))
    ids = torch.randint(model.config.vocab_size, (2, 75), generator=torch.Generator().manual_seed(0))
    packed, oracle, plain = packed_cache(model.new_cache(), rules), model.new_cache(), model.new_cache()
    for entry in oracle.blocks:
        for part in (entry, getattr(entry, "latents", None)):
            for slot in set(rules) & set(vars(part) if part else ()):
                setattr(part, slot, RoundedSlots(rules[slot]))
    with torch.no_grad():
        for start, end in ((0, 70), (70, 71), (71, 75)):
            answers = [model(ids[:, start:end], cache) for cache in (packed, oracle, plain)]
            assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert packed.bytes() < plain.bytes()


def test_rows_of_unequal_length_are_packed_along_tokens_and_refused_along_channels():
    model = load("zoo:tiny-qwen3")
    ids = torch.randint(model.config.vocab_size, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, :5] = False
    cache = packed_cache(model.new_cache(), {"keys": Rule(8), "values": Rule(8)})
    with torch.no_grad():
        model(ids, cache, mask)
        together = model(ids[:, :1], cache)
        alone = packed_cache(model.new_cache(), {"keys": Rule(8), "values": Rule(8)})
        model(ids[1:, 5:], alone)
        assert torch.allclose(model(ids[1:, :1], alone), together[1:], atol=1e-2)  # sums in another order tip a code
    cache = packed_cache(model.new_cache(), {"keys": Rule(4, CHANNEL)})
    with torch.no_grad():
        model(ids, cache, mask)
        with pytest.raises(ValueError, match="along channels all are equally long"):
            model(ids[:, :1], cache)


def test_what_was_read_is_taken_back_as_far_as_no_block_has_closed():
    tokens, channels = TokenSlots(Rule(4)), ChannelSlots(Rule(4, CHANNEL))
    new = randn(1, 40, 32, seed=0)
    for slots in (tokens, channels):
        slots.write(new, places(0, 40, 1))
        slots.rollback(torch.tensor([0]), 35)
        assert slots.length == 35
        assert slots.write(new[:, 35:36], places(35, 1, 1)).shape == (1, 36, 32)
    with pytest.raises(ValueError, match="32 tokens lie in closed blocks"):
        channels.rollback(torch.tensor([0]), 31)


def test_what_no_block_keeps_a_full_cache_and_impossible_rules_are_refused():
    model = load("zoo:tiny-glm5")
    with pytest.raises(ValueError, match="no block of this cache keeps keys; index_keys, k_rope, latent are kept"):
        packed_cache(model.new_cache(), {"keys": Rule(4)})
    cache = model.new_cache()
    with torch.no_grad():
        model(torch.tensor([[1, 2]]), cache)
    with pytest.raises(ValueError, match="holds 2 tokens already"):
        packed_cache(cache, {"latent": Rule(4)})
    with pytest.raises(ValueError, match="2 to 8 bits"):
        Rule(1)
    with pytest.raises(ValueError, match="along is 'head'"):
        Rule(4, "head")
    with pytest.raises(ValueError, match="the width must divide"):
        TokenSlots(Rule(4, TOKEN, 32)).write(randn(1, 3, 48, seed=0), places(0, 3, 1))
    with pytest.raises(ValueError, match="no fixed room along channels"):
        ChannelSlots(Rule(4, CHANNEL)).reserve(8)


@given(st.integers(1, 8), st.integers(1, 20), st.randoms(use_true_random=False))
def test_codes_of_any_width_come_back_from_as_few_bytes_as_hold_them(bits, columns, rng):
    codes = torch.tensor([[rng.randrange(2**bits) for _ in range(columns)] for _ in range(3)])
    packed = pack_bits(codes, bits)
    assert packed.shape == (3, -(-columns * bits // 8))
    assert torch.equal(unpack_bits(packed, bits, columns).long(), codes)


def test_a_code_too_wide_for_its_bits_is_refused():
    with pytest.raises(ValueError, match="3 bits hold 0 to 7"):
        pack_bits(torch.tensor([[8]]), 3)
