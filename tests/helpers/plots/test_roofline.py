import pytest

from helpers.facts import table
from helpers.plots import alt_text
from helpers.plots.roofline import chips, idea, kernel, ladder, roofline

ROOFS = {"float32": (10e9, 80e9), "bfloat16": (10e9, 160e9)}
POINTS = {name: [("batch 1", 0.5, 4e9), ("batch 64", 32.0, 70e9)] for name in ROOFS}


def test_the_words_of_a_roofline_carry_its_numbers():
    words = alt_text(roofline("a finding", ROOFS, POINTS))
    assert "float32: 10 GB/s and 80 GFLOP/s, ridge at 8 FLOP per byte." in words
    assert "batch 64 70 GFLOP/s" in words


def test_series_differ_in_dash_and_marker_and_not_in_colour_alone():
    figure = roofline("a finding", ROOFS, POINTS)
    assert len({trace.line.dash for trace in figure.data if trace.mode == "lines"}) == 2
    assert len({trace.marker.symbol for trace in figure.data if "markers" in trace.mode}) == 2


def test_a_roof_turns_flat_at_its_ridge():
    xs, ys = (getattr(roofline("a finding", ROOFS, {}).data[0], axis) for axis in "xy")
    assert xs[1] == 8
    assert list(ys) == [xs[0] * 10e9, 80e9, 80e9]


@pytest.mark.parametrize(("batch", "side"), [(1, "Memory"), (7, "Memory"), (9, "Arithmetic"), (1024, "Arithmetic")])
def test_the_kernel_says_which_ceiling_decides(batch, side):
    figure = kernel(batch, 10**6, bits=16, bytes_per_s=10e9, flops_per_s=80e9)  # ridge 8, one FLOP per byte a person
    assert figure.layout.title.text.startswith(f"{side} decides")


def test_the_title_of_the_ladder_is_computed_from_its_steps():
    assert "3.0 times" in ladder({1024: 30e9, 2048: 20e9, 4096: 10e9}).layout.title.text


def test_a_ladder_without_a_step_claims_no_cache():
    assert ladder({1024: 5e9, 2048: 10e9, 4096: 10e9}).layout.title.text.startswith("No array reads faster")


def test_the_roof_of_one_layer_turns_at_its_ridge():
    ceiling = kernel(1, 4096, bits=16, bytes_per_s=10e9, flops_per_s=80e9).data[0]
    assert (ceiling.x[1], ceiling.y[1]) == (8, 80e9)


def test_the_idea_has_no_machines_numbers_on_its_axes():
    assert idea().layout.xaxis.showticklabels is False


def test_chips_are_compared_with_an_h100_that_is_in_the_table():
    rows = table("hardware")
    assert "H20: arithmetic 15%, memory bandwidth 119% to 143%" in alt_text(chips(rows))
    assert "15% of an H100's arithmetic and 119% to 143%" in chips(rows).layout.title.text
    with pytest.raises(ValueError, match="H100"):
        chips(row for row in rows if row["chip"] != "H100")


@pytest.mark.parametrize("row", table("hardware"), ids=lambda row: row["chip"])
def test_every_figure_of_a_chip_is_a_range_in_order(row):
    for key in ("tflops", "memory_tb_s", "memory_gb", *(["link_gb_s"] if "link_gb_s" in row else [])):
        low, high = row[key]
        assert 0 < low <= high
    assert ("rules" in row) == (row["made_for"] == "export")
