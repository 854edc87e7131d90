"""Tables of facts: every row has its source and its date, and a bad row is named."""

from datetime import date

import pytest

from helpers import facts
from helpers.facts import table, tables


def write(folder, text):
    (folder / "prices.toml").write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", tables())
def test_every_row_of_every_table_has_a_source_and_a_date_that_has_come(name):
    rows = table(name)
    assert rows
    for row in rows:
        assert row["source"].strip()
        assert date(2026, 1, 1) < row["as_of"] <= date.today()


@pytest.mark.parametrize("name", tables())
def test_ids_of_a_table_are_unique(name):
    ids = [row["id"] for row in table(name) if "id" in row]
    assert name == "verdicts" or len(set(ids)) == len(ids)


def test_an_unknown_table_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"'claim'.*claims, .*events"):
        table("claim")


def test_values_above_the_rows_count_for_every_row_unless_it_says_otherwise(folder):
    write(folder, 'source = "a page"\nas_of = 2026-05-01\n[[row]]\nid = "a"\n[[row]]\nid = "b"\nsource = "other"\n')
    assert [row["source"] for row in table("prices")] == ["a page", "other"]


def test_a_date_may_be_written_with_or_without_quotes(folder):
    write(folder, 'source = "a page"\n[[row]]\nas_of = 2026-05-01\n[[row]]\nas_of = "2026-05-01"\n')
    assert {row["as_of"] for row in table("prices")} == {date(2026, 5, 1)}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('as_of = 2026-05-01\nid = "a"', "row 1: every row says where it comes from"),
        ('as_of = 2026-05-01\nsource = "  "', "row 1: every row says where it comes from"),
        ('source = "a page"', "row 1: every row says when"),
        ('source = "a page"\nas_of = "May"', "row 1: every row says when"),
        ('source = "a page"\nas_of = 2026', "row 1: every row says when"),
    ],
)
def test_a_row_without_source_or_date_is_refused(folder, row, said):
    write(folder, f"[[row]]\n{row}\n")
    with pytest.raises(ValueError, match=said):
        table("prices")


def test_events_stand_in_the_order_of_their_days():
    days = [event["day"] for event in table("events")]
    assert days == sorted(days)


def test_what_the_ascend_pages_say_is_one_of_four_sentences_and_cites_a_page_of_the_table_or_nothing():
    rows = table("ascend_sources")
    ids = {row["id"] for row in rows}
    says = {"trained on Ascend alone", "mostly domestic chips", "runs on Ascend", "adapted to seven chip families"}
    assert {row["says"] for row in rows} <= says
    assert all(row["cites"] in ids | {""} for row in rows)
