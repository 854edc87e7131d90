"""Figures of the ledger: what they show is what the data say, and their words say it too."""

from datetime import date, timedelta

import pytest

from helpers.claims.forecasts import calibration_curve
from helpers.claims.ledger import ledger, scorable, select
from helpers.plots import alt_text, claims

CLAIMS = ledger()
STAMP = date(2026, 2, 5)


def event(days, reported, name="x"):
    return {"id": name, "what": name, "day": STAMP + timedelta(days=days), "reported": reported}


def test_the_bars_count_every_claim_once():
    figure = claims.verdict_bars(CLAIMS)
    assert sum(sum(bar.x) for bar in figure.data) == len(CLAIMS)
    waiting = len(select(CLAIMS, verdict="open"))
    assert f"{len(CLAIMS) - waiting} of {len(CLAIMS)}" in figure.layout.title.text


def test_every_verdict_has_a_pattern_or_marker_of_its_own_so_that_colour_is_not_needed():
    bars = claims.verdict_bars(CLAIMS).data
    assert len({bar.marker.pattern.shape for bar in bars}) == len(bars)
    points = claims.claim_browser(CLAIMS, 0.5).data
    assert len({trace.marker.symbol for trace in points}) == len(points)


def test_the_timeline_counts_reported_events_after_the_stamp_only():
    events = [event(-3, True, "a"), event(0, True, "b"), event(1, True, "c"), event(9, False, "d")]
    figure = claims.timeline(events, STAMP)
    assert figure.layout.title.text.startswith("1 reported")
    assert all(name in alt_text(figure) for name in "abcd")


def test_the_sources_strip_counts_pages_and_pages_of_the_maker():
    rows = [dict(id=str(n), primary=n == 0, says="yes" if n < 3 else "no", cites="") for n in range(5)]
    assert claims.sources_strip(rows, "yes").layout.title.text == "3 pages say “yes”, 1 of them by the maker"


def test_the_browser_says_the_score_of_one_number_for_all_and_the_best_one():
    chosen = select(CLAIMS, part="dates")
    outcomes = [claim.outcome for claim in scorable(chosen)]
    share = sum(outcomes) / len(outcomes)
    title = claims.claim_browser(chosen, 0.5).layout.title.text
    assert "scores 0.250" in title
    assert f"is {share:.2f}" in title


def test_the_browser_shows_each_claim_once_at_its_outcome():
    figure = claims.claim_browser(CLAIMS, 0.3)
    assert sum(len(trace.x) for trace in figure.data) == len(CLAIMS)
    assert sum(x == 1 for trace in figure.data for x in trace.x) == sum(c.outcome == 1 for c in CLAIMS)
    assert all(claim.says in alt_text(figure) for claim in CLAIMS)


def test_the_browser_without_a_judged_claim_has_no_score():
    assert "none of them to be scored" in claims.browse(CLAIMS, "uses", "open", 0.5).layout.title.text


def test_an_empty_choice_is_refused_in_one_line():
    with pytest.raises(ValueError, match="no claim of part 'dates' has the verdict 'true'"):
        claims.browse(CLAIMS, "dates", "true", 0.5)


def test_the_lowest_expected_score_is_named():
    figure = claims.expected_scores([0.0, 0.5, 1.0], {"squared": [0.7, 0.2, 0.3]}, belief=0.6)
    assert "squared rule the smallest expected penalty is 0.20, at 0.50" in alt_text(figure)
    assert "0.50 under the squared rule" in figure.layout.title.text


def test_the_calibration_figure_names_the_farthest_point():
    curve = calibration_curve([0.9] * 10, [1] * 5 + [0] * 5)
    figure = claims.calibration({"too sure": curve})
    assert "“too sure” 0.40" in figure.layout.title.text
    assert "said 0.90, came 0.50" in alt_text(figure)


def test_the_best_score_stands_first():
    figure = claims.brier_bars({"shrug": 0.25, "you": 0.2}, claims=10)
    assert list(figure.data[0].y) == ["you", "shrug"]
    assert figure.layout.title.text.endswith("you")
