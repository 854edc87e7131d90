"""Rows of a cache come and go, on every family's cache: each row goes on as it would alone.

A server adds the rows of a request that was read apart, and removes those that have ended. Float64 is the ruler, and
rows are of different length.
"""

import pytest
import torch

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers.checkpoints import load
from helpers.compare import max_error
from helpers.layers.kv_cache import Cache, CacheEntry, KeyValues
from helpers.layers.mla import Latents
from helpers.layers.ragged import padded

SAME = 1e-9
LENGTHS, MORE = (37, 30, 41), 9
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp(request.param)
    runs.save_random(request.param, folder)
    return load(folder, torch.float64)


def texts() -> torch.Tensor:
    return torch.randint(190, (3, 60), generator=torch.Generator().manual_seed(5))


def read(model, ids: torch.Tensor, rows: list[int]) -> Cache:
    """A cache that has read the beginnings of these rows."""
    cache = model.new_cache()
    prompts, mask = padded([ids[row, : LENGTHS[row]].tolist() for row in rows])
    model(prompts, cache, mask)
    return cache


def goes_on(model, cache: Cache, ids: torch.Tensor, rows: list[int], step: int) -> torch.Tensor:
    """The logits of the next tokens of these rows, ``step`` at a time."""
    more = torch.stack([ids[row, LENGTHS[row] :][:MORE] for row in rows])
    return torch.cat([model(piece, cache) for piece in more.split(step, dim=1)], dim=1)


def alone(model, ids: torch.Tensor, row: int) -> torch.Tensor:
    return model(ids[row : row + 1, : LENGTHS[row] + MORE])[0, -MORE:]


@pytest.mark.parametrize("step", [1, MORE])
@pytest.mark.parametrize("stay", [[0, 1], [2, 0], [1], [2, 1, 0]], ids=str)
def test_rows_that_stay_go_on_as_they_would_alone(model, stay, step):
    ids = texts()
    cache = read(model, ids, [0, 1, 2])
    cache.select_rows(torch.tensor(stay))
    assert cache.lengths.tolist() == [LENGTHS[row] for row in stay]
    logits = goes_on(model, cache, ids, stay, step)
    for place, row in enumerate(stay):
        assert max_error(logits[place], alone(model, ids, row)) <= SAME


@pytest.mark.parametrize("parts", [([0, 1], [2]), ([2], [0, 1]), ([], [1, 2])], ids=str)
def test_rows_that_were_read_apart_go_on_together(model, parts):
    ids, (first, second) = texts(), parts
    cache = read(model, ids, first) if first else model.new_cache()
    cache.add_rows(read(model, ids, second))
    rows = [*first, *second]
    logits = goes_on(model, cache, ids, rows, 4)
    for place, row in enumerate(rows):
        assert max_error(logits[place], alone(model, ids, row)) <= SAME


def test_a_row_comes_while_another_goes_and_both_are_taken_back(model):
    ids = texts()
    cache = read(model, ids, [0, 1])
    cache.select_rows(torch.tensor([1]))
    cache.add_rows(read(model, ids, [2]))
    cache.checkpoint()
    model(ids[:2, :5], cache)
    cache.rollback(torch.tensor([0, 0]))
    logits = goes_on(model, cache, ids, [1, 2], MORE)
    assert max_error(logits[0], alone(model, ids, 1)) <= SAME
    assert max_error(logits[1], alone(model, ids, 2)) <= SAME


def test_every_memory_keeps_the_protocol(model):
    def entries(entry: CacheEntry):
        yield entry
        for part in entry.parts().values():
            yield from entries(part)

    found = [part for block in model.new_cache().blocks for part in entries(block)]
    assert all(isinstance(part, CacheEntry) for part in found)
    for part in found:
        if not part.parts():  # it holds tensors, and the protocol's own answers would be those of an empty one
            for name in ("rollback", "reserve", "select_rows", "add_rows", "bytes"):
                assert getattr(type(part), name) is not getattr(CacheEntry, name), (type(part), name)


def test_rows_that_cannot_be_are_refused():
    cache = Cache([KeyValues()])
    with pytest.raises(ValueError, match=r"rows \[0\] cannot be kept"):
        cache.select_rows(torch.tensor([0]))
    cache.lengths = torch.tensor([4, 3])
    for rows in ([2], [-1], []):
        with pytest.raises(ValueError, match="the cache holds rows 0 to 1"):
            cache.select_rows(torch.tensor(rows, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\['Latents'\] cannot be added to one with \['KeyValues'\]"):
        cache.add_rows(Cache([Latents()]))
    cache.checkpoint()
    with pytest.raises(ValueError, match="the rows of a cache stay"):
        cache.select_rows(torch.tensor([0]))
    with pytest.raises(ValueError, match="the rows of a cache stay"):
        cache.add_rows(Cache([KeyValues()]))


@pytest.mark.parametrize(("empty", "ours", "theirs", "both"), [(True, False, True, True), (False, False, True, False)])
def test_what_comes_next_is_words_only_where_all_rows_say_so(empty, ours, theirs, both):
    cache, other = Cache([KeyValues()]), Cache([KeyValues()])
    cache.lengths, cache.words_only = None if empty else torch.tensor([4]), ours
    other.lengths, other.words_only = torch.tensor([3]), theirs
    cache.add_rows(other)
    assert cache.words_only is both


def test_room_that_was_taken_at_once_must_be_as_large_in_both():
    ours, theirs = KeyValues(), KeyValues()
    ours.reserve(6)
    theirs.reserve(8)
    with pytest.raises(ValueError, match="room for 6 positions here and for 8 there"):
        ours.add_rows(theirs)
