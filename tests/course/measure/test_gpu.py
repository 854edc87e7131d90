"""The cases of a GPU run here, at tiny sizes and by the same code, so that no session with a GPU dies of a slip."""

import pytest
import torch
from support.kernel_tests import needs_triton

from course.measure import __main__ as measure
from course.measure import goals
from course.measure import gpu as measure_gpu
from course.measure import gpu_attention as attention
from course.measure import gpu_blocks as sparse_blocks
from course.measure import gpu_experts as experts
from course.measure import gpu_linear as linear
from course.measure.moe import Size
from helpers.device import describe
from helpers.measure import Comparison, Measurement, Rate, Record, Roofline, Timing, Work, read_record, write_record
from helpers.measure.dsa_work import SparseSizes

CPU = torch.device("cpu")
LATENT = SparseSizes(heads=4, latent=32, turned=16, key=16, value=16, index_heads=2, index_width=16, k=8)
SMALL = Size(32, 32, 4, 2)
LAYER = attention.LAYER | {
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
    "block-sparse-prompt": dict(s=sparse_blocks.Sizes(4, 2, 16, 16, 2), lengths=(20, 50)),
    "linear-few-tokens": dict(matrix=linear.Matrix(16, 128), tokens=(1, 3)),
    "linear-many-tokens": dict(matrix=linear.Matrix(16, 256), tokens=20),
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

    monkeypatch.setattr(measure_gpu, "measure_pair", once)


def test_every_case_of_a_gpu_has_tiny_sizes_here():
    assert set(TINY) == set(measure.GPU_CASES) - {"roofline"}


@pytest.fixture(scope="module")
def lines() -> dict[str, list[Measurement]]:
    """What the cases have yielded so far in this process."""
    return {}


@pytest.mark.parametrize("name", TINY)
def test_a_case_runs_and_its_lines_have_work_and_names_of_their_own(name, lines, tmp_path):
    lines[name] = list(measure.GPU_CASES[name](CPU, **TINY[name]))
    labels = [line.label for line in lines[name]]
    assert len(set(labels)) == len(labels) >= 2
    assert all(line.flops > 0 and line.bytes > 0 and line.roofline_share > 0 for line in lines[name])
    record = Record(name, describe(CPU), [*measure_gpu.ceilings(CPU), *lines[name]])
    assert read_record(write_record(record, tmp_path)) == record


def test_every_goal_names_a_case_of_a_gpu():
    assert {goal.case for goal in goals.GOALS} <= set(measure.GPU_CASES)
    assert {goal.case for goal in goals.GOALS if goal.slow is None} == {
        "latent-decode",
        "index-scores",
        "experts-prompt",
    }


@pytest.mark.parametrize("goal", goals.GOALS, ids=lambda goal: goal.says)
def test_the_lines_of_a_goal_are_those_that_the_case_gives(goal, lines):
    """A tiny run has other numbers in its labels; the words must be the goal's."""
    if goal.case not in lines:
        lines[goal.case] = list(measure.GPU_CASES[goal.case](CPU, **TINY[goal.case]))
    words = {wordy(line.label) for line in lines[goal.case]}
    for label in filter(None, (goal.fast, goal.slow)):
        assert wordy(label) in words


def wordy(label: str) -> str:
    """The label without sizes, and without the graph that only a GPU has; "int4" is a word."""
    return " ".join(word for word in label.replace(", graph", "").replace(",", "").split() if not word.isdigit())


def test_sides_that_disagree_are_not_timed():
    right, wrong = (
        measure_gpu.Way(name, [lambda x=x: torch.full((3,), x)], Work(1, 1)) for name, x in (("a", 1.0), ("b", 2.0))
    )
    with pytest.raises(AssertionError, match="b beside a"):
        list(measure_gpu.versus(right, wrong, [3], CPU, 1e-3, Roofline("cpu", "float32", 1, 1)))


def test_copies_hold_more_than_the_cache_and_never_less_than_two():
    gpu = torch.device("cuda")
    for one in (10**6, 10**8, 10**10):
        count = measure_gpu.copies(one, gpu)
        assert count >= 2
        assert count * one >= measure_gpu.COLD_BYTES
    assert measure_gpu.copies(10**6, CPU) == 2


# ---------------------------------------------------------------- goals


def h200_record(case: str, pairs: dict[str, tuple[Work, float]]) -> Record:
    """A record of an H200 that nobody measured: every line takes its least time, so many times over."""
    timing = lambda seconds: Timing(seconds, seconds, seconds, 9, 1, "CUDA events")  # noqa: E731
    roof = goals.H200
    least = [
        Measurement.of("copy", "float32", [1], Rate(Work(0, roof.bytes_per_s), timing(1))),
        Measurement.of("matmul", "bfloat16", [1], Rate(Work(roof.flops_per_s, 1), timing(1))),
    ]
    for label, (work, times) in pairs.items():
        half = 0.5 if "on both sides" in label else 1.0
        seconds = max(half * work.flops / roof.flops_per_s, work.bytes / roof.bytes_per_s)
        least.append(Measurement.of(label, "bfloat16", [1], Rate(work, timing(seconds * times)), roof))
    machine = {"device": "cuda", "name": "NVIDIA H200"}
    return Record(case, machine, least)


def works() -> dict[str, dict[str, Work]]:
    """The work of both sides of every goal with a floor, by the formulas of the cases at their own sizes."""
    s, glm, tokens = attention.V32, attention.GLM5_SIZES, attention.CONTEXT
    matrix, size = linear.Matrix(), experts.QWEN
    token = matrix.width, matrix.rows
    few = {f"{n}, 1, graph": linear.packed_linear.cost(1, *token, bits) for n, bits in (("int4", 4.5), ("int8", 8.01))}
    few |= {f"16 bits beside {n}, 1, graph": linear.matmul_work(1, *token, 16) for n in ("int4", "int8")}
    many = {f"{n} on both sides": linear.eight_bit.cost(4096, *token) for n in ("int8", "fp8")}
    many |= {f"16 bits beside {n}": linear.matmul_work(4096, *token, 16) for n in ("int8", "fp8")}
    touched = 256 * (1 - (1 - 8 / 256) ** 32)  # of 256 experts, by 32 tokens with 8 each
    four = {
        f"{name}, 32, graph": experts.experts.cost(32, size.width, size.hidden, size.chosen, touched, bits)
        for name, bits in (("16 bits", 16), ("int4", 4.5))
    }
    decode = {
        "dense, 128 heads, graph": attention.mla_decode.cost(32, tokens, s.heads, s.latent, s.turned),
        "sparse, 128 heads, graph": attention.sparse_work(s, 32, tokens, 2),
        "sparse, keys of 8 bits, 128 heads, graph": attention.sparse_work(s, 32, tokens, 2, packed=True),
    }
    decode["dense beside 8 bits, 128 heads, graph"] = decode["dense, 128 heads, graph"]
    nsa = sparse_blocks.NSA
    blocks = {"flash, 65536": sparse_blocks.dense_work(nsa, 65536)}
    blocks |= {"block-sparse, 65536": sparse_blocks.sparse_work(nsa, 65536)}
    prompt = {f"dense, {n}": attention.dense_prompt(glm, n) for n in (32768, 131072)}
    prompt |= {f"sparse, {n}": attention.sparse_prompt(glm, n) for n in (32768, 131072)}
    named = (
        "sparse-decode",
        "block-sparse-prompt",
        "sparse-prompt",
        "linear-few-tokens",
        "linear-many-tokens",
        "experts-four-bits",
    )
    return dict(zip(named, (decode, blocks, prompt, few, many, four), strict=True))


@pytest.mark.parametrize("goal", [g for g in goals.GOALS if g.floor], ids=lambda goal: goal.says)
def test_the_floor_on_paper_is_what_the_formulas_give_on_an_h200(goal):
    record = h200_record(goal.case, {label: (work, 1.0) for label, work in works()[goal.case].items()})
    found = goals.result(goal, record)
    assert found.reached == pytest.approx(goal.floor, rel=0.02)
    assert found.possible == pytest.approx(found.reached)
    assert goal.least <= goal.floor


def test_a_result_is_what_the_two_medians_say_and_a_share_is_the_lines_own(tmp_path):
    case, work = "linear-few-tokens", works()["linear-few-tokens"]
    slow, fast = "16 bits beside int4, 1, graph", "int4, 1, graph"
    write_record(h200_record(case, {slow: (work[slow], 1.0), fast: (work[fast], 2.0)}), tmp_path)
    shares = {"ours, 128 heads, batch 32, graph": (works()["sparse-decode"]["dense, 128 heads, graph"], 1.25)}
    write_record(h200_record("latent-decode", shares), tmp_path)
    printed = goals.goals_table(tmp_path / "nvidia-h200").splitlines()
    (row,) = [line for line in printed if line.startswith("INT4 over 16 bits")]
    assert row.split()[-5:] == ["3.6", "x", "1.8", "x", "missed"]
    (row,) = [line for line in printed if line.startswith("dense latent decode")]
    assert row.split()[-3:] == ["80%", "80%", "reached"]
    (row,) = [line for line in printed if line.startswith("INT8 over 16 bits")]
    assert row.endswith("not yet")


def test_without_a_record_the_table_says_so_in_every_line(tmp_path):
    assert all(line.endswith("not yet") for line in goals.goals_table(tmp_path).splitlines()[1:])
    assert len(goals.goals_table(tmp_path).splitlines()) == 1 + len(goals.GOALS)
