"""Four-bit codes in bytes and in words, both ways round."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.quant.formats.packing import pack_pairs, pack_words, unpack_pairs, unpack_words


def test_two_codes_in_a_byte_on_paper():
    codes = torch.tensor([[1, 2, 15, 0, 7]])
    assert pack_pairs(codes).tolist() == [[0x21, 0x0F, 0x07]]
    assert pack_pairs(codes, first_high=True).tolist() == [[0x12, 0xF0, 0x70]]
    assert pack_words(codes).tolist() == [[0x00070F21]]


def test_words_are_those_of_compressed_tensors_where_the_last_one_of_a_row_is_not_full():
    """Recorded from ``pack_to_int32(codes, 4)`` of compressed-tensors 0.20.1, which takes codes from -8 on."""
    codes = [[-8, -7, -1, 0, 1, 7, 3, -3, 5, -8, 2], [7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3]]
    assert pack_words(torch.tensor(codes) + 8).tolist() == [[1543079696, 2573], [-1985229329, 1383]]
    assert unpack_words(torch.tensor([[1543079696, 2573]]).int(), 11).tolist() == [[code + 8 for code in codes[0]]]


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
