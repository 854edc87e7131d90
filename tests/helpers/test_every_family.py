"""What must hold for every family alike, on the tiny random models of `course parity`: float64 is a ruler.

Nothing casts to float32 inside, so that every way to read a text agrees to 1e-9; a mistake of one part in a million,
which float32 would hide in its rounding, is seen.
"""

from pathlib import Path

import pytest
import torch

from course import parity
from course.parity_configs import CONFIGS
from helpers.checkpoints import load
from helpers.compare import max_error
from helpers.generate import generate

CPU = torch.device("cpu")
SAME = 1e-9  # float64 against itself
ONE_BY_ONE = (1,) * (parity.LENGTH + parity.TAIL)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=CONFIGS)
def family(request, tmp_path_factory) -> tuple[str, Path]:
    """A family and the folder of its tiny model, every number random."""
    folder = tmp_path_factory.mktemp(request.param)
    parity.save_random(request.param, folder)
    return request.param, folder


def texts(name: str) -> torch.Tensor:
    return torch.stack(parity.random_rows(CONFIGS[name].sizes))


@pytest.mark.parametrize("cuts", [ONE_BY_ONE, (44,), (17, 1, 26)], ids=["one by one", "one prefill", "chunks"])
def test_in_float64_any_split_with_a_cache_is_the_whole(family, cuts):
    name, folder = family
    model, ids = load(folder, torch.float64), texts(name)
    whole, cache = model(ids), model.new_cache()
    parts = [model(part, cache=cache) for part in ids.split(cuts, dim=1)]
    assert whole.dtype == torch.float64
    assert max_error(torch.cat(parts, dim=1), whole) <= SAME


@pytest.mark.parametrize("padding", ["left", "right"])
def test_in_float64_padding_changes_nothing(family, padding):
    name, folder = family
    model, rows = load(folder, torch.float64), parity.random_rows(CONFIGS[name].sizes)
    together = parity.run(model, rows, "split", padding)
    for row, found in zip(rows, together, strict=True):
        assert max_error(found, model(row[None])[0, : len(found)]) <= SAME


def test_in_float64_a_row_does_not_know_its_neighbours(family):
    name, folder = family
    model, ids = load(folder, torch.float64), texts(name)
    assert max_error(model(ids)[1:], model(ids[1:])) <= SAME


def test_in_float64_no_position_sees_a_later_one(family):
    name, folder = family
    model, ids = load(folder, torch.float64), texts(name)
    changed = torch.cat([ids[:, :25], ids[:, 25:].roll(1, dims=1)], dim=1)
    before, after = model(ids), model(changed)
    assert max_error(before[:, :25], after[:, :25]) <= SAME
    assert max_error(before[:, 25:], after[:, 25:]) > 0.1


def test_in_float64_logits_are_transformers(family):
    """Which casts to float32 in norms, angles, routers and memories: no closer than 1e-4."""
    name, folder = family
    rows = parity.random_rows(CONFIGS[name].sizes)
    expected = parity.reference(name, folder, torch.float64, CPU, rows)
    model = load(folder, torch.float64)
    for row, wanted in zip(rows, expected, strict=True):
        assert max_error(model(row[None])[0], wanted) <= 1e-4


def test_float64_sees_what_float32_rounds_away(family):
    """A weight that is off by a part in a million: the ruler is finer than the difference."""
    name, folder = family
    model, ids = load(folder, torch.float64), texts(name)
    right = model(ids)
    getattr(model, "text", model).norm.weight[0] *= 1 + 1e-6
    assert SAME < max_error(model(ids), right) < 1e-4


def test_images_that_a_model_cannot_read_are_refused_in_words(family):
    name, folder = family
    model, ids, images = load(folder), texts(name), {"pixel_values": torch.zeros(4, 8)}
    sees = "vision_config" in CONFIGS[name].sizes
    words = "it must hold pixel_values and image_grid_thw" if sees else f"{type(model).__name__} reads text only, and"
    for ask in (lambda: model(ids, images=images), lambda: generate(model, ids, images=images)):
        with pytest.raises(ValueError, match=words):
            ask()
    assert torch.equal(model(ids, images=None), model(ids))
