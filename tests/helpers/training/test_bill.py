"""The bill: each step of the chain beside the one that goes back, and the published sums beside ours."""

import pytest

from helpers.facts import table
from helpers.measure import training_flops
from helpers.models.configs import qwen3
from helpers.models.qwen3 import Qwen3
from helpers.planning.plan import plan, published
from helpers.training.bill import (
    affordable_flops,
    attention_flops,
    energy_kwh,
    gpu_hours,
    published_run,
    six_nd,
    utilisation,
)


@pytest.mark.parametrize("length", [2, 31, 33, 200])
def test_six_n_and_three_times_attention_are_what_is_counted_in_a_dense_model(length):
    c = qwen3.Config(97, 32, 3, 6, 2, 10, 50, tied=True)
    model = Qwen3(c)
    matrices = sum(weight.numel() for weight in model.parameters() if weight.dim() > 1)
    attention = attention_flops(c.num_blocks, c.num_heads, c.head_dim, c.head_dim, length)
    assert training_flops(model, length).per_token == six_nd(matrices, 1) + 3 * attention


def test_half_of_the_pairs_are_left_where_the_masked_ones_are_skipped():
    assert attention_flops(2, 3, 4, 5, 64, causal=True) == attention_flops(2, 3, 4, 5, 64) / 2
    assert attention_flops(1, 1, 1, 1, 1) == 4


def test_hours_and_utilisation_undo_each_other():
    hours = gpu_hours(3e24, 989, 0.4)
    assert utilisation(3e24, hours, 989) == pytest.approx(0.4)
    assert affordable_flops(hours * 2.5, 2.5, 989, 0.4) == pytest.approx(3e24)
    assert gpu_hours(1e15, 1000, 1.0) == pytest.approx(1 / 3600)  # 1 PFLOP at 1 PFLOP/s is one second


def test_the_stages_of_the_published_bill_add_up_to_what_the_lab_prints():
    v3 = published_run("DeepSeek-V3")
    assert sum(v3.hours.values()) == 2_788_000
    assert sum(v3.usd.values()) == 5_576_000


def test_the_flop_a_token_of_deepseek_v3_from_its_config_are_those_that_the_lab_states():
    v3, sizes = published_run("DeepSeek-V3"), plan(published("deepseek_v3"))
    c = sizes.config
    key_width = c.qk_nope_head_dim + c.qk_rope_head_dim
    attention = attention_flops(c.num_hidden_layers, c.num_attention_heads, key_width, c.v_head_dim, 4096, causal=True)
    counted = six_nd(sizes.active_without_embedding, 1) + 3 * attention
    assert counted == pytest.approx(v3.flops_per_token, rel=0.01)


def test_a_run_without_hours_has_no_sum_and_says_so():
    glm5 = published_run("GLM-5")
    assert glm5.hours is None
    with pytest.raises(ValueError, match="GLM-5: hours and rent"):
        _ = glm5.usd
    with pytest.raises(ValueError, match=r"GPT-9.*DeepSeek-V3"):
        published_run("GPT-9")


def test_energy_grows_with_hours_power_and_the_building():
    assert energy_kwh(1000, 700, 1.0) == pytest.approx(700)
    assert energy_kwh(1000, 700, 1.3) == pytest.approx(910)
    with pytest.raises(ValueError, match=r"1 or more, got 0\.9"):
        energy_kwh(1, 700, 0.9)


@pytest.mark.parametrize("share", [0, -0.1, 1.2])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        gpu_hours(1e20, 989, share)


def test_what_is_not_positive_is_refused_by_name():
    with pytest.raises(ValueError, match="gpu_hours must be positive"):
        utilisation(1e20, 0, 989)
    with pytest.raises(ValueError, match="usd must be positive"):
        affordable_flops(0, 2, 989, 0.4)


def test_a_chip_of_a_published_run_stands_in_the_table_of_hardware():
    chips = {row["chip"] for row in table("hardware")}
    assert {row["chip"] for row in table("training_runs") if "chip" in row} <= chips


def test_a_range_of_a_price_begins_at_its_low_end_and_no_figure_has_none():
    for row in [*table("running_prices"), *table("beyond_the_bill")]:
        assert ("value" in row) != (row.get("kind") == "no figure")
        if "value" in row:
            low, high = row["value"]
            assert 0 < low <= high
            assert low <= row.get("middle", low) <= high
