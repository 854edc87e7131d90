"""Taking back what was read, on every family's cache: the next logits are those of a cache that never read it.

Float64 is the ruler, texts are longer than every window, every chosen share and every block of compression. The rows
of the batch are of different length before the checkpoint, and keep different numbers of tokens after it.
"""

import pytest
import torch

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers.checkpoints import load
from helpers.compare import max_error
from helpers.functions import exchange
from helpers.layers.compressor import Recent
from helpers.layers.delta import DeltaState, GatedDeltaNet, additive_rule
from helpers.layers.kv_cache import Cache, KeyValues, KVBuffer
from helpers.layers.ragged import arrange, padded

SAME = 1e-9
READ, GUESSED, MORE = (
    (37, 30),
    (3, 1, 4),
    9,
)  # tokens before the checkpoint, of the passes after, and after going back
KEPT = [(5, 2), (0, 0), (8, 8), (1, 7)]
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp(request.param)
    runs.save_random(request.param, folder)
    return load(folder, torch.float64)


def text(rows: int = 2, length: int = 60) -> torch.Tensor:
    return torch.randint(190, (rows, length), generator=torch.Generator().manual_seed(3))


def refusal(cache: Cache, capacity: int) -> str:
    """What is said where room cannot be taken at once; nothing where it can."""
    try:
        cache.reserve(capacity)
    except ValueError as refused:
        return str(refused)
    return ""


def begun(model, ids: torch.Tensor) -> Cache:
    """A cache of two rows of different length, and a checkpoint behind them."""
    cache = model.new_cache()
    prompts, mask = padded([row[:length].tolist() for row, length in zip(ids, READ, strict=True)])
    model(prompts, cache, mask)
    cache.checkpoint()
    return cache


def alone(model, ids: torch.Tensor, wrong: torch.Tensor, row: int, kept: int) -> tuple[torch.Tensor, Cache]:
    """One row that never read what was taken back: its last logits, and its cache."""
    right = torch.cat([ids[row, : READ[row]], wrong[row, :kept], ids[row, READ[row] :][:MORE]])[None]
    cache = model.new_cache()
    return model(right, cache)[0, -MORE:], cache


@pytest.mark.parametrize("kept", KEPT, ids=str)
@pytest.mark.parametrize("cuts", [(MORE,), (1,) * MORE], ids=["at once", "one by one"])
def test_what_was_taken_back_was_never_read(model, kept, cuts):
    ids, wrong = text(), text().flip(1)[:, : sum(GUESSED)]
    cache = begun(model, ids)
    for piece in wrong.split(GUESSED, dim=1):
        model(piece, cache)
    cache.rollback(torch.tensor(kept))
    assert cache.lengths.tolist() == [READ[0] + kept[0], READ[1] + kept[1]]
    more = torch.stack([ids[row, READ[row] :][:MORE] for row in range(2)])
    together = torch.cat([model(piece, cache) for piece in more.split(cuts, dim=1)], dim=1)
    for row in range(2):
        assert max_error(together[row], alone(model, ids, wrong, row, kept[row])[0]) <= SAME


def test_without_going_back_the_answer_is_another(model):
    ids, wrong = text(), text().flip(1)[:, : sum(GUESSED)]
    cache = begun(model, ids)
    model(wrong, cache)
    more = ids[:, READ[0] :][:, :MORE]
    assert max_error(model(more, cache)[0], alone(model, ids, wrong, 0, 0)[0]) > 1e-3


def test_as_many_bytes_are_held_as_if_it_had_never_been_read(model):
    ids, cache = text(), model.new_cache()
    model(ids[:, :20], cache)
    before = cache.bytes()
    cache.checkpoint()
    model(ids[:, 20:41], cache)
    cache.rollback(torch.tensor([0, 0]))
    assert cache.bytes() == before


def test_going_back_many_times_ends_where_reading_once_does(model):
    """Eight rounds as of speculation: five tokens read, one to five kept."""
    ids, cache = text(1), model.new_cache()
    model(ids[:, :10], cache)
    position = 10
    for n in range(8):
        kept = 1 + n % 5
        wrong = torch.cat([ids[:, position : position + kept], text(1).flip(1)[:, : 5 - kept]], dim=1)
        cache.checkpoint()
        model(wrong, cache)
        cache.rollback(torch.tensor([kept]))
        position += kept
    assert max_error(model(ids[:, position:], cache), model(ids)[:, position:]) <= SAME


def test_a_cache_whose_room_was_taken_at_once_goes_back_too(model):
    """There is nothing to cut then, and positions hide what is stale. Some caches have no fixed room."""
    ids, wrong, cache = text(1), text(1).flip(1)[:, :5], model.new_cache()
    if refused := refusal(cache, 50):
        assert "no fixed room" in refused
        return
    model(ids[:, :30], cache)
    cache.checkpoint()
    model(wrong, cache)
    cache.rollback(torch.tensor([0]))
    assert max_error(model(ids[:, 30:40], cache), model(ids[:, :40])[:, 30:]) <= SAME


def test_a_drafter_goes_back_too(tmp_path):
    runs.save_random("deepseek_v3", tmp_path)
    model = load(tmp_path, torch.float64)
    ids, cache = text(1, 40), model.new_draft_cache()
    hidden = model.read(ids[:, :-1])
    model.draft(hidden[:, :20], ids[:, 1:21], cache)
    cache.checkpoint()
    model.draft(hidden[:, 20:24].flip(1), ids[:, 21:25], cache)
    cache.rollback(torch.tensor([0]))
    assert max_error(model.draft(hidden[:, 20:], ids[:, 21:], cache), model.draft(hidden, ids[:, 1:])[:, 20:]) <= SAME


def test_a_state_goes_back_by_the_rule_that_wrote_it():
    """A layer that only adds, as lesson `deltanet` has it, must not be corrected on its way back."""
    torch.manual_seed(0)
    layer, x = GatedDeltaNet(20, 2, 4, 8, 8, 4, 1e-6).double().eval(), torch.randn(1, 30, 20, dtype=torch.float64)
    exchange(layer, {"one_token": additive_rule, "many_tokens": additive_rule})
    gone_back, never_read = DeltaState(), DeltaState()
    for state, cuts in ((gone_back, (10, 7)), (never_read, (13,))):
        for piece in x[:, : sum(cuts)].split(cuts, dim=1):
            layer(piece, arrange(torch.zeros(piece.shape[:2], dtype=torch.long), None, None), state)
            if cuts[0] == piece.shape[1]:
                state.checkpoint()
    gone_back.rollback(torch.tensor([3]), 13)
    assert max_error(gone_back.memory, never_read.memory) <= SAME
    assert max_error(gone_back.inputs, never_read.inputs) <= SAME


def test_a_window_gets_back_what_had_fallen_out_of_it():
    recent = Recent(3)
    numbers = lambda *n: torch.tensor(n, dtype=torch.float32)[None, :, None]  # noqa: E731
    recent.join(numbers(1, 2, 3, 4), torch.tensor([4]))
    recent.checkpoint()
    recent.join(numbers(5, 6, 7, 8), torch.tensor([4]))
    recent.rollback(torch.tensor([1]), 5)
    assert recent.held.flatten().tolist() == [3, 4, 5]


def test_slots_whose_room_was_taken_at_once_stay_as_they_are():
    slots = KVBuffer()
    slots.reserve(6)
    slots.write(torch.ones(1, 4, 2), torch.arange(4)[None])
    slots.rollback(torch.tensor([0]), 2)
    assert slots.held.shape == (1, 6, 2)


def test_what_cannot_be_taken_back_is_refused():
    cache = Cache([KeyValues()])
    with pytest.raises(ValueError, match="the cache is empty"):
        cache.checkpoint()
    cache.lengths = torch.tensor([4, 3])
    with pytest.raises(ValueError, match="call checkpoint before"):
        cache.rollback(torch.tensor([0, 0]))
    cache.checkpoint()
    cache.lengths = torch.tensor([6, 5])
    with pytest.raises(ValueError, match=r"\[3\] tokens cannot be kept: \[2\] were read"):
        cache.rollback(torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="a mask was given"):
        cache.begin(torch.ones(2, 1, dtype=torch.long), torch.ones(2, 1, dtype=torch.bool))
