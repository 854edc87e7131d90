"""A padded batch is its rows alone: in every family, padded left, right or in between, whoever writes the tokens."""

import pytest
import torch

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers.checkpoints import load
from helpers.decoding import compiled
from helpers.decoding.compiled import Compiled
from helpers.decoding.drafts import SmallModel
from helpers.decoding.speculative import speculate
from helpers.generate import generate

LENGTHS, WIDTH, NEW = (30, 23, 9), 33, 6  # longer than windows and chosen shares; a column of padding in every row
SIDES = ("left", "right", "holes")
COMPILED = ("qwen3",)  # of parity's configs, those without experts and with a cache of fixed shapes


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp(request.param)
    runs.save_random(request.param, folder)
    return load(folder, torch.float64)


def rows(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(190, (length,), generator=generator) for length in LENGTHS]


def padded(side: str, filler: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """``rows`` in one batch, and the mask of a tokenizer: 1 for real tokens, 0 for padding."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = torch.full((len(LENGTHS), WIDTH), filler), torch.zeros(len(LENGTHS), WIDTH, dtype=torch.long)
    for n, row in enumerate(rows(seed)):
        places = {
            "left": torch.arange(WIDTH - len(row), WIDTH),
            "right": torch.arange(len(row)),
            "holes": torch.randperm(WIDTH, generator=generator)[: len(row)].sort().values,
        }[side]
        ids[n, places], mask[n, places] = row, 1
    return ids, mask


def alone(model: torch.nn.Module) -> list[list[int]]:
    written = [generate(model, row[None], NEW)[0, len(row) :].tolist() for row in rows()]
    assert len({token for row in written for token in row}) > 3  # one token for ever would prove little
    return written


def test_each_row_of_a_padded_batch_writes_what_it_writes_alone(model):
    wanted = alone(model)
    for side in SIDES:
        ids, mask = padded(side)
        for given in (mask, mask.bool()):
            assert generate(model, ids, NEW, mask=given)[:, WIDTH:].tolist() == wanted, side


def test_guesses_change_no_token_of_a_padded_batch(model):
    wanted, draft = alone(model), SmallModel(model, 2)
    for side in SIDES:
        ids, mask = padded(side)
        assert speculate(model, ids, draft, NEW, mask=mask).token_ids[:, WIDTH:].tolist() == wanted, side


def test_the_prompt_is_given_back_as_it_was_and_padding_may_hold_any_id(model):
    for side in SIDES:
        ids, mask = padded(side)
        strange = ids.masked_fill(mask == 0, -100)
        got = generate(model, strange, NEW, mask=mask)
        assert torch.equal(got[:, :WIDTH], strange)
        assert torch.equal(got[:, WIDTH:], generate(model, ids, NEW, mask=mask)[:, WIDTH:])


def test_draws_do_not_depend_on_the_side_of_the_padding(model):
    drawn = [generate(model, *_named(side), NEW, 1.0, seed=3) for side in SIDES]
    assert torch.equal(drawn[0][:, WIDTH:], drawn[1][:, WIDTH:])
    assert torch.equal(drawn[0][:, WIDTH:], drawn[2][:, WIDTH:])
    assert not torch.equal(drawn[0][:, WIDTH:], generate(model, *_named("left"), NEW, 1.0, seed=4)[:, WIDTH:])


def _named(side: str) -> tuple[dict[str, torch.Tensor]]:
    """As a tokenizer returns it."""
    ids, mask = padded(side)
    return ({"input_ids": ids, "attention_mask": mask},)


@pytest.mark.parametrize("model", COMPILED, indirect=True)
def test_a_reserved_cache_counts_real_tokens_and_not_padding(model, monkeypatch):
    monkeypatch.setattr(compiled, "can_compile", lambda: False)
    room = max(LENGTHS) + NEW - 1  # less than the columns of the batch and the new tokens
    for side in SIDES:
        ids, mask = padded(side)
        assert generate(Compiled(model, room), ids, NEW, mask=mask)[:, WIDTH:].tolist() == alone(model), side


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model", ["qwen3_5", "deepseek_v4"], indirect=True)
def test_random_prompts_with_random_holes_are_as_alone(model, seed):
    """A state that is summed up, and a window with entries beside it: the two caches that padding could spoil."""
    ids, mask = padded("holes", filler=7, seed=seed)
    wanted = [generate(model, row[None], 3)[0, len(row) :].tolist() for row in rows(seed)]
    assert generate(model, ids, 3, mask=mask)[:, WIDTH:].tolist() == wanted
