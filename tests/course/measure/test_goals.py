"""Goals: each of a case that is there, with a floor that the formulas give, and a verdict that the medians give."""

import pytest

from course.measure import goals
from course.measure.cases import cases_for
from course.measure.subjects import block_sparse, dsa_kernels, experts, linear
from helpers.measure import Measurement, Rate, Record, Timing, Work, write_record


def test_every_goal_names_a_case_of_its_device():
    assert all(goal.case in cases_for(goal.on) for goal in goals.GOALS)
    assert {goal.case for goal in goals.GOALS if goal.slow is None} == {
        "latent-decode",
        "index-scores",
        "experts-prompt",
    }


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
    s, glm, tokens = dsa_kernels.V32, dsa_kernels.GLM5_SIZES, dsa_kernels.CONTEXT
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
        "dense, 128 heads, graph": dsa_kernels.mla_decode.cost(32, tokens, s.heads, s.latent, s.rope_dim),
        "sparse, 128 heads, graph": dsa_kernels.kernels_work(s, 32, tokens, 2),
        "sparse, keys of 8 bits, 128 heads, graph": dsa_kernels.kernels_work(s, 32, tokens, 2, packed=True),
    }
    decode["dense beside 8 bits, 128 heads, graph"] = decode["dense, 128 heads, graph"]
    nsa = block_sparse.NSA
    blocks = {"flash, 65536": block_sparse.dense_work(nsa, 65536)}
    blocks |= {"block-sparse, 65536": block_sparse.sparse_work(nsa, 65536)}
    prompt = {f"dense, {n}": dsa_kernels.dense_prompt(glm, n) for n in (32768, 131072)}
    prompt |= {f"sparse, {n}": dsa_kernels.sparse_prompt(glm, n) for n in (32768, 131072)}
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
    printed = goals.goals_table(tmp_path / "nvidia-h200", "cuda").splitlines()
    (row,) = [line for line in printed if line.startswith("INT4 over 16 bits")]
    assert row.split()[-5:] == ["3.6", "x", "1.8", "x", "missed"]
    (row,) = [line for line in printed if line.startswith("dense latent decode")]
    assert row.split()[-3:] == ["80%", "80%", "reached"]
    (row,) = [line for line in printed if line.startswith("INT8 over 16 bits")]
    assert row.endswith("not yet")


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_without_a_record_the_table_says_so_in_every_line(kind, tmp_path):
    _, *rows = goals.goals_table(tmp_path, kind).splitlines()
    assert len(rows) == len(goals.goals_on(kind))
    assert all(row.endswith("not yet") for row in rows)


def test_a_goal_of_two_lines_is_met_or_missed_and_others_have_no_verdict():
    goal = goals.goals_on("cpu")[0]
    pair = goal.case, goal.fast, goal.slow
    assert goals.verdict(*pair, goal.least) == f"the goal of {goal.least:g} is met"
    assert goals.verdict(*pair, goal.least - 0.1) == f"the goal of {goal.least:g} is missed"
    assert goals.verdict("quant", goal.slow, goal.fast, 9.0) == ""
