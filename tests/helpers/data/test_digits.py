"""Drawn numbers: the picture holds its digits and nothing else does, and the patches are those of the family."""

import random

import pytest
import torch

from helpers.data.digits import ADVANCE, GLYPHS, HIGH, WIDE, Pictures, draw, numbers, patches, shown
from helpers.training.train import Stream
from helpers.zoo.recipes.seeing import TINY_KIMI_K25, digit_tokenizer

TOKENIZER = digit_tokenizer()


def found(picture: torch.Tensor) -> str:
    """The number in a picture without noise, found by laying each glyph over each place."""
    ink = picture.mean(dim=0)
    ink = (ink - ink.median()).abs() > 0.05  # paper is what most of it is
    top, left = (int(ink.any(dim=1 - axis).nonzero()[0]) for axis in (0, 1))
    said = ""
    for start in range(left - WIDE, ink.shape[1] - WIDE + 1):
        if start < 0:
            continue
        window = ink[top : top + HIGH, start : start + WIDE].float()
        same = [bool((window == glyph).all()) for glyph in GLYPHS]
        said += str(same.index(True)) if any(same) else ""
    return said


@pytest.mark.parametrize("number", ["0", "42", "1234567890", "888", "0000"])
def test_the_picture_holds_the_number(number):
    for seed in range(5):
        assert found(draw(number, torch.Generator().manual_seed(seed), noise=0.0)) == number


def test_digits_differ_and_do_not_touch():
    assert len({tuple(glyph.flatten().tolist()) for glyph in GLYPHS}) == 10
    assert ADVANCE > WIDE


def test_pictures_of_one_length_are_of_one_size_and_the_digits_move():
    made = [draw("77", torch.Generator().manual_seed(seed), 0.0) for seed in range(20)]
    assert {tuple(picture.shape) for picture in made} == {(3, 16, 24)}
    assert len({tuple((p.mean(0) - p.mean(0).median()).abs().gt(0.05).nonzero()[0].tolist()) for p in made}) > 5


def test_only_digits_can_be_drawn():
    for wrong in ("", "1a", "-1", "١"):
        with pytest.raises(ValueError, match="cannot be drawn; 0 to 9 can"):
            draw(wrong, torch.Generator(), 0.0)


def test_patches_put_together_again_are_the_picture():
    picture = draw("305", torch.Generator().manual_seed(0), 0.5)
    cut, grid = patches(picture, 4)
    _, rows, columns = grid[0].tolist()
    assert cut.shape == (rows * columns, 3, 4, 4)
    lines = [torch.cat([*cut[r * columns : (r + 1) * columns]], dim=2) for r in range(rows)]
    assert torch.equal(torch.cat(lines, dim=1), picture)


def test_a_text_has_a_placeholder_for_each_cell_and_answers_with_the_number():
    batch = shown(["12", "90"], TOKENIZER, seed=0, noise=0.1)
    placeholders = (batch.rows.token_ids == TINY_KIMI_K25.config.image_token).sum(dim=1)
    assert placeholders.tolist() == [int(grid.prod()) // 4 for grid in batch.images["image_grid_thw"]]
    said = [TOKENIZER.decode(ids[answer].tolist()) for ids, answer, _ in zip(*batch.rows, strict=True)]
    assert said == ["12\n", "90\n"]


def test_a_step_is_the_same_whenever_it_is_asked_for():
    batches = Pictures(TOKENIZER, 3, ((6, (1,)), (2, (3, 4))), 0.2, seed=0)
    assert isinstance(batches, Stream)
    assert torch.equal(batches[5].images["pixel_values"], batches[5].images["pixel_values"])
    assert not torch.equal(batches[5].rows.token_ids[0], batches[6].rows.token_ids[0])
    assert batches.identity() != Pictures(TOKENIZER, 3, batches.phases, 0.2, seed=1).identity()
    lengths = [int(batches[step].rows.answer.sum(dim=1)[0]) - 1 for step in range(12)]
    assert set(lengths[:6]) == {1}
    assert set(lengths[6:]) == {3, 4}


def test_numbers_have_as_many_digits_as_asked_and_may_begin_with_zero():
    made = numbers(random.Random(0), 300, 3)
    assert {len(number) for number in made} == {3}
    assert any(number[0] == "0" for number in made)
