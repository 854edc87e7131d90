"""Four-bit codes in bytes and in words, both ways round."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.quant.packing import pack_pairs, pack_words, unpack_pairs, unpack_words


def test_two_codes_in_a_byte_on_paper():
    codes = torch.tensor([[1, 2, 15, 0, 7]])
    assert pack_pairs(codes).tolist() == [[0x21, 0x0F, 0x07]]
    assert pack_pairs(codes, first_high=True).tolist() == [[0x12, 0xF0, 0x70]]
    assert pack_words(codes, filler=8).tolist() == [[0x88870F21 - 2**32]]


@given(rows=st.integers(1, 4), columns=st.integers(1, 40), high=st.booleans(), seed=st.integers(0, 2**31))
def test_codes_come_back_whatever_the_width(rows, columns, high, seed):
    codes = torch.randint(16, (rows, columns), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unpack_pairs(pack_pairs(codes, high), columns, high).long(), codes)
    assert torch.equal(unpack_words(pack_words(codes), columns).long(), codes)
    assert pack_pairs(codes, high).shape == (rows, (columns + 1) // 2)


@pytest.mark.parametrize("pack", [pack_pairs, pack_words])
@pytest.mark.parametrize(("code", "words"), [(16, "0 to 16"), (-1, "-1 to 0")])
def test_a_code_of_more_than_four_bits_is_refused(pack, code, words):
    with pytest.raises(ValueError, match=f"four bits hold 0 to 15, and the codes go from {words}"):
        pack(torch.tensor([[0, code]]))
