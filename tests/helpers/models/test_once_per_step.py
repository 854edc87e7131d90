"""What follows from the positions is worked out once per step, for all layers, and without asking a device for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers.checkpoints import load
from helpers.layers import attention, compressed, compressor, dsa, gated_attention, mla, ragged
from helpers.layers.compressor import EntryIndexer
from helpers.layers.dsa import Indexer
from helpers.models.qwen3_5_vision import Qwen3_5Vision
from helpers.moe.experts import Experts

IDS = torch.randint(190, (1, 24), generator=torch.Generator().manual_seed(3))
MASKS = {  # where each rule is asked for
    "causal_mask": (attention, gated_attention, mla, dsa),
    "in_window": (compressed,),
    "complete": (compressed, compressor),
}
# One token's waits for a device, which no position explains: a dispatch looks whether its experts are there and then
# which they are; a choice looks whether equal scores were at its edge; placeholders of images are counted twice.
WAITS = {Experts: 2, Indexer: 1, EntryIndexer: 1, Qwen3_5Vision: 2}
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory) -> torch.nn.Module:
    folder = tmp_path_factory.mktemp(request.param)
    runs.save_random(request.param, folder)
    return load(folder)


@pytest.fixture
def built(monkeypatch) -> list[tuple]:
    """The masks that were made, by their rules and sizes."""
    made: list[tuple] = []

    def noted(name: str, rule: Callable) -> Callable:
        def make(positions: torch.Tensor, *sizes: int) -> torch.Tensor:
            made.append((name, *sizes))
            return rule(positions, *sizes)

        return make

    for name, users in MASKS.items():
        rule = noted(name, getattr(users[0], name))
        for user in users:
            monkeypatch.setattr(user, name, rule)
    return made


def test_each_mask_is_made_once_for_all_layers(model, built):
    cache = model.new_cache()
    for tokens in IDS.split([20, 3, 1], dim=1):
        built.clear()
        model(tokens, cache=cache)
        assert len(built) == len({*built})
        assert sum(name == "causal_mask" for name, *_ in built) <= 1  # of V4 none; of sparse attention for several
        if tokens.shape[1] > 1:
            assert built


def said_by(model: torch.nn.Module) -> int:
    """The waits of the parts that read a token: a drafter does not."""
    parts = [part for name, part in model.named_modules() if not name.startswith("drafters")]
    return sum(WAITS.get(type(part), 0) for part in parts)


class Waits(TorchDispatchMode):
    """How often a number is read on the host."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default or func is torch.ops.aten.nonzero.default
        return func(*args, **(kwargs or {}))


@contextmanager
def waits(monkeypatch) -> Iterator[Waits]:
    """Counted as on a GPU, where nothing is looked at that need not be; ``tolist`` passes no dispatcher on a CPU."""
    plain, looks = torch.Tensor.tolist, Waits()

    def tolist(tensor: torch.Tensor) -> list:
        looks.count += 1
        return plain(tensor)

    with monkeypatch.context() as changed, looks:
        changed.setattr(torch.Tensor, "tolist", tolist)
        changed.setattr(ragged, "looking_is_free", lambda _: False)
        yield looks


def test_a_token_waits_for_the_device_only_where_its_layers_say_so(model, monkeypatch):
    cache = model.new_cache()
    model(IDS[:, :20], cache=cache)
    cache.words_only = True
    with waits(monkeypatch) as looks:
        model(IDS[:, 20:21], cache=cache)
    assert looks.count == said_by(model)


def test_waiting_is_seen_where_nobody_has_counted_the_text(model, monkeypatch):
    cache = model.new_cache()
    model(IDS[:, :20], cache=cache)
    cache.words_only, cache.lengths = True, cache.lengths.clone()
    with waits(monkeypatch) as looks:
        model(IDS[:, 20:21], cache=cache)
    assert looks.count == 1 + said_by(model)
