"""Lesson `training_bill`: the verdict's numbers follow from the facts, and the course's own bill is the lab's."""

from helpers.claims.ledger import claim
from helpers.facts import table
from helpers.planning.plan import plan, published
from helpers.training.bill import attention_flops, published_run, six_nd, utilisation

because = claim("cheap-training").verdicts[-1].because
v3 = published_run("DeepSeek-V3")


def test_hours_and_their_ratio_in_the_verdict_are_those_of_the_tables():
    dense = published_run("Llama 3.1 405B")
    hours = sum(v3.hours.values())
    assert f"{hours / 1e6:.2f} M GPU-hours" in because
    assert f"{sum(dense.hours.values()) / hours:.1f} times fewer" in because
    assert abs(dense.tokens / v3.tokens - 1) < 0.02  # "on as many tokens"


def test_the_utilisation_in_the_verdict_is_computed_from_the_config():
    sizes = plan(published("deepseek_v3"))
    between = attention_flops(61, 128, 128 + 64, 128, v3_length(), causal=True)
    flops = (six_nd(sizes.active_without_embedding, 1) + 3 * between) * v3.tokens
    peak = next(row["tflops"][0] for row in table("hardware") if row["chip"] == v3.chip)
    assert f"{100 * utilisation(flops, v3.hours['pre-training'], peak):.0f} % of peak" in because


def v3_length() -> int:
    return next(row["length"] for row in table("training_runs") if row["model"] == "DeepSeek-V3")


def test_the_sum_and_what_fuller_sums_come_to_are_those_of_the_lesson():
    printed = sum(v3.usd.values())
    beyond = {row["id"]: row.get("value") for row in table("beyond_the_bill")}
    with_experiments = printed * (1 + beyond["experiments"][0])
    owned = v3.gpus * beyond["gpu"][0] + beyond["people"][0]
    assert f"{printed / 1e6:.2f} M USD" in because
    assert f"{with_experiments / printed:.0f} to {owned / printed:.0f} times as much" in because
