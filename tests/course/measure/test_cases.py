"""The cases of a GPU run here, at tiny sizes and by the same code, so that no session with a GPU dies of a slip."""

import pytest
import torch
from support.kernel_tests import needs_triton

from course.measure import versus as measure_versus
from course.measure.cases import CASES, GPU_CASES, cases_for
from course.measure.goals import goals_on
from course.measure.subjects.block_sparse import Sizes
from course.measure.subjects.dsa import LAYER as GLM5_LAYER
from course.measure.subjects.experts import Size
from course.measure.subjects.linear import Matrix
from helpers.device import describe
from helpers.measure import Comparison, Measurement, Record, Timing, read_record, write_record
from helpers.measure.dsa_work import SparseSizes

CPU = torch.device("cpu")
LATENT = SparseSizes(heads=4, latent=32, rope_dim=16, key=16, value=16, index_heads=2, index_width=16, k=8)
SMALL = Size(32, 32, 4, 2)
LAYER = GLM5_LAYER | {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "index_n_heads": 2,
    "index_head_dim": 32,
    "index_topk": 8,
}
TINY = {  # every case but the one that CPUs have too
    "latent-decode": dict(sizes=(LATENT,), tokens=40, batches=(1, 2)),
    "index-scores": dict(s=LATENT, tokens=40, batches=(1, 2)),
    "sparse-decode": dict(sizes=(LATENT,), tokens=40, batch=2),
    "sparse-prompt": dict(s=LATENT, lengths=(6, 12), block=5),
    "sparse-layer": dict(layer=LAYER, length=20),
    "block-sparse-prompt": dict(s=Sizes(4, 2, 16, 16, 2), lengths=(20, 50)),
    "linear-few-tokens": dict(matrix=Matrix(16, 128), tokens=(1, 3)),
    "linear-many-tokens": dict(matrix=Matrix(16, 256), tokens=20),
    "experts-one-token": dict(size=SMALL),
    "experts-prompt": dict(size=SMALL, tokens=(12, 20)),
    "experts-four-bits": dict(size=SMALL, tokens=(1, 6)),
    "delta-prompt": dict(length=40, heads=2, width=16),
}
pytestmark = needs_triton


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Each side is called once and nothing is timed: what is tested is that it runs, agrees, and is said right."""

    def once(a, b, **_) -> Comparison:
        a(), b()
        return Comparison(Timing(2, 2, 2, 3, 1, "wall clock"), Timing(1, 1, 1, 3, 1, "wall clock"), 2, 2, 2)

    monkeypatch.setattr(measure_versus, "measure_pair", once)


def test_a_gpu_has_cases_of_its_own():
    assert cases_for("cuda") is GPU_CASES
    assert cases_for("cpu") is cases_for("mps") is CASES


def test_every_case_of_a_gpu_has_tiny_sizes_here():
    assert set(TINY) == set(GPU_CASES) - {"roofline"}


@pytest.fixture(scope="module")
def lines() -> dict[str, list[Measurement]]:
    """What the cases have yielded so far in this process."""
    return {}


@pytest.mark.parametrize("name", TINY)
def test_a_case_runs_and_its_lines_have_work_and_names_of_their_own(name, lines, tmp_path):
    lines[name] = list(GPU_CASES[name](CPU, **TINY[name]))
    labels = [line.label for line in lines[name]]
    assert len(set(labels)) == len(labels) >= 2
    assert all(line.flops > 0 and line.bytes > 0 and line.roofline_share > 0 for line in lines[name])
    record = Record(name, describe(CPU), [*measure_versus.ceilings(CPU), *lines[name]])
    assert read_record(write_record(record, tmp_path)) == record


@pytest.mark.parametrize("goal", goals_on("cuda"), ids=lambda goal: goal.says)
def test_the_lines_of_a_goal_are_those_that_the_case_gives(goal, lines):
    """A tiny run has other numbers in its labels; the words must be the goal's."""
    if goal.case not in lines:
        lines[goal.case] = list(GPU_CASES[goal.case](CPU, **TINY[goal.case]))
    words = {wordy(line.label) for line in lines[goal.case]}
    for label in filter(None, (goal.fast, goal.slow)):
        assert wordy(label) in words


def wordy(label: str) -> str:
    """The label without sizes, and without the graph that only a GPU has; "int4" is a word."""
    return " ".join(word for word in label.replace(", graph", "").replace(",", "").split() if not word.isdigit())
