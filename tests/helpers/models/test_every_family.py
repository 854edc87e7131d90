"""What must hold for every family alike, on the tiny random models of `course parity`: float64 is a ruler.

Nothing casts to float32 inside, so that every way to read a text, images or to draft agrees to 1e-9; a mistake of one
part in a million, which float32 would hide in its rounding, is seen.
"""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from course.parity import runs
from course.parity.configs import CONFIGS
from course.parity.runs import (
    CACHES,
    DRAFT,
    IMAGES,
    LENGTH,
    PADDINGS,
    PICTURE,
    SHORT,
    TAIL,
    TEXT,
    Prompts,
    call,
    prompts,
    run,
)
from helpers import models
from helpers.checkpoints import load
from helpers.compare import max_error
from helpers.generate import generate

CPU = torch.device("cpu")
SAME = 1e-9  # float64 against itself
ONE_BY_ONE = (1,) * (LENGTH + TAIL)
SPLITS = pytest.mark.parametrize("cuts", [ONE_BY_ONE, (LENGTH + TAIL,), (17, 1, 26)], ids=["1", "all", "chunks"])
TASKS = [(family, task) for family in CONFIGS for task in runs.tasks(family)]
pytestmark = pytest.mark.usefixtures("no_gradients")


class Case(NamedTuple):
    """A family, what is asked of it, and its tiny model in float64, every number random."""

    family: str
    task: str
    folder: Path
    model: torch.nn.Module
    given: Prompts


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {}


def case_of(family: str, task: str, folders: dict[str, Path], factory: pytest.TempPathFactory) -> Case:
    if family not in folders:
        folders[family] = factory.mktemp(family)
        runs.save_random(family, folders[family])
    return Case(family, task, folders[family], load(folders[family], torch.float64), prompts(family, task))


@pytest.fixture(params=TASKS, ids="-".join)
def case(request, folders, tmp_path_factory) -> Case:
    return case_of(*request.param, folders, tmp_path_factory)


@pytest.fixture(params=[(family, task) for family, task in TASKS if task != IMAGES], ids="-".join)
def words(request, folders, tmp_path_factory) -> Case:
    """Without images, which no call may cut in two."""
    return case_of(*request.param, folders, tmp_path_factory)


@pytest.fixture(params=CONFIGS)
def text(request, folders, tmp_path_factory) -> Case:
    return case_of(request.param, TEXT, folders, tmp_path_factory)


def real(columns: torch.Tensor) -> torch.Tensor:
    """The mask of a batch without padding."""
    return torch.ones(len(columns), columns.shape[2], dtype=torch.bool)


def whole(case: Case, columns: torch.Tensor) -> torch.Tensor:
    return call(case.model, columns, real(columns), case.given.pictures, case.task)


def alone(case: Case, row: int) -> torch.Tensor:
    return whole(case, case.given.rows[row][None])[0]


@SPLITS
def test_in_float64_any_split_with_a_cache_is_the_whole(words, cuts):
    columns, model = torch.stack(words.given.rows), words.model
    memory, drafts = model.new_cache(), model.new_draft_cache() if words.task == DRAFT else None
    pieces = columns.split(cuts, dim=2)
    parts = [call(model, piece, real(piece), [], words.task, memory, drafts) for piece in pieces]
    assert parts[0].dtype == torch.float64
    assert max_error(torch.cat(parts, dim=1), whole(words, columns)) <= SAME


def test_in_float64_each_row_of_a_batch_gets_what_it_gets_alone(case):
    wanted = [alone(case, row) for row in range(2)]
    for cache in CACHES:
        for padding in PADDINGS:
            together = run(case.model, case.given, case.task, cache, padding)
            for found, whole_row in zip(together, wanted, strict=True):
                assert max_error(found, whole_row[: len(found)]) <= SAME, (cache, padding)
            assert len(together[1]) == len(wanted[1]) - (0 if padding == "none" else LENGTH - SHORT)


def test_in_float64_no_position_sees_a_later_one(words):
    columns = torch.stack(words.given.rows)
    changed = torch.cat([columns[..., :25], columns[..., 25:].roll(1, dims=2)], dim=2)
    before, after = whole(words, columns), whole(words, changed)
    assert max_error(before[:, :25], after[:, :25]) <= SAME
    assert max_error(before[:, 25:], after[:, 25:]) > 0.1


def test_in_float64_logits_are_transformers(case):
    """Which casts to float32 in norms, angles, routers and memories: no closer than 1e-4."""
    expected = runs.reference(case.family, case.folder, case.task, torch.float64, CPU, case.given)
    for row, wanted in enumerate(expected):
        assert max_error(alone(case, row), wanted) <= 1e-4


def test_float64_sees_what_float32_rounds_away(text):
    """A weight that is off by a part in a million: the ruler is finer than the difference."""
    right = alone(text, 0)
    getattr(text.model, "text", text.model).norm.weight[0] *= 1 + 1e-6  # of a model that sees, the text model's
    assert SAME < max_error(alone(text, 0), right) < 1e-4


def test_images_that_a_model_cannot_read_are_refused_in_words(text):
    model, ids, images = text.model, text.given.rows[0][None, 0], {"pixel_values": torch.zeros(4, 8)}
    sees = "vision_config" in CONFIGS[text.family].sizes
    refusal = "it must hold pixel_values and image_grid_thw" if sees else f"{type(model).__name__} reads text only, and"
    for ask in (lambda: model(ids, images=images), lambda: generate(model, ids, images=images)):
        with pytest.raises(ValueError, match=refusal):
            ask()
    assert torch.equal(model(ids, images=None), model(ids))


def test_every_family_that_sees_or_drafts_is_asked_to():
    assert [family for family, task in TASKS if task == IMAGES] == ["qwen3_5", "qwen3_5_moe", "kimi_k25"]
    assert "deepseek_v3" in [family for family, task in TASKS if task == DRAFT]
    for family in ("qwen3_5", "kimi_k25"):
        assert torch.stack(prompts(family, IMAGES).rows)[:, PICTURE].max() == 4


def test_a_family_is_a_file_that_is_read_at_one_sitting():
    files = sorted(Path(models.__file__).parent.glob("*.py"))
    assert {f"{name}.py" for name in ("qwen3", "qwen3_5", "deepseek_v4", "glm5", "kimi_k25")} <= {f.name for f in files}
    for file in files:
        assert len(file.read_text(encoding="utf-8").splitlines()) < 300, file.name
