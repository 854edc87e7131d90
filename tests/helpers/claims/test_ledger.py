"""The claim ledger: each claim has a lesson, a kind and a test; each verdict has numbers, a source and a date."""

import re
import tomllib
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from helpers.claims.ledger import KINDS, PARTS, VERDICTS, as_text, claim, judge, ledger, scorable, select
from helpers.facts import table

CLAIMS = ledger()
SYLLABUS = Path(__file__).parents[3] / "course" / "lessons" / "syllabus.toml"
LESSONS = {lesson["name"]: lesson for lesson in tomllib.loads(SYLLABUS.read_text(encoding="utf-8"))["lesson"]}
JUDGED = [(entry, verdict) for entry in CLAIMS for verdict in entry.verdicts]


def verdict_of(id):
    return claim(id).verdicts[0].because


@pytest.mark.parametrize("entry", CLAIMS, ids=lambda entry: entry.id)
def test_each_claim_names_a_lesson_of_the_syllabus_which_names_it(entry):
    assert entry.id in LESSONS[entry.lesson]["claims"]


def test_the_syllabus_names_no_claim_that_the_ledger_lacks():
    assert {id for lesson in LESSONS.values() for id in lesson["claims"]} == {entry.id for entry in CLAIMS}


@pytest.mark.parametrize("entry", CLAIMS, ids=lambda entry: entry.id)
def test_each_claim_is_short_and_has_one_line_of_test(entry):
    assert 3 <= len(entry.says.split()) <= 20
    assert entry.says.endswith(".")
    assert entry.test.strip()
    assert len(entry.test) < 120
    assert "\n" not in entry.says + entry.test
    assert not set('“”"„«»') & set(entry.says), "a quotation would be the article's text"
    assert re.fullmatch(r"[a-z0-9-]+", entry.id)


@pytest.mark.parametrize("entry", CLAIMS, ids=lambda entry: entry.id)
def test_a_claim_has_a_prior_exactly_when_documents_had_not_settled_it(entry):
    first_hand = [verdict for verdict in entry.verdicts if verdict.lesson == "claims"]
    assert (entry.prior is None) == bool(first_hand)


@pytest.mark.parametrize("entry", CLAIMS, ids=lambda entry: entry.id)
def test_a_claim_that_is_out_of_scope_says_why(entry):
    assert bool(entry.out_of_scope) == (entry.verdict == "out of scope")


@pytest.mark.parametrize(("entry", "verdict"), JUDGED, ids=lambda value: value.id)
def test_each_verdict_has_its_reason_its_source_and_its_date_after_the_claim(entry, verdict):
    assert len(verdict.because.split()) >= 6
    assert verdict.source.strip()
    assert verdict.lesson in LESSONS
    assert verdict.as_of >= entry.as_of
    assert "[?]" not in verdict.because + verdict.source


@pytest.mark.parametrize(("_", "verdict"), JUDGED, ids=lambda value: getattr(value, "id", ""))
def test_a_source_inside_this_repository_exists(_, verdict):
    for path in re.findall(r"\b(?:helpers|notebooks|course)/[\w./-]+\.\w+", verdict.source):
        assert (SYLLABUS.parents[2] / path).is_file(), path


def test_every_part_and_every_kind_occurs_and_the_size_is_that_of_the_article():
    assert {entry.part for entry in CLAIMS} == set(PARTS)
    assert {entry.kind for entry in CLAIMS} == set(KINDS)
    assert 40 <= len(CLAIMS) <= 60


def test_only_true_and_false_verdicts_are_scored():
    assert {entry.verdict for entry in scorable(CLAIMS)} <= {"true", "true with limits", "false"}
    assert {entry.outcome for entry in scorable(CLAIMS) if entry.verdict == "false"} == {0}
    assert {entry.outcome for entry in scorable(CLAIMS) if entry.verdict != "false"} == {1}


def test_the_last_verdict_counts():
    later = replace(claim("glm5-dsa").verdicts[0], verdict="true with limits", lesson="dsa")
    again = replace(claim("glm5-dsa"), verdicts=(*claim("glm5-dsa").verdicts, later))
    assert (claim("glm5-dsa").verdict, again.verdict) == ("true", "true with limits")


def test_a_claim_without_verdict_is_open_and_not_scored():
    entry = replace(claim("glm5-dsa"), verdicts=())
    assert (entry.verdict, entry.outcome) == ("open", None)


def test_select_takes_the_claims_of_a_part_and_a_verdict():
    assert select(CLAIMS) == CLAIMS
    chosen = select(CLAIMS, part="dates", verdict="false")
    assert {(entry.part, entry.verdict) for entry in chosen} == {("dates", "false")}
    assert sum(len(select(CLAIMS, verdict=verdict)) for verdict in (*VERDICTS, "open")) == len(CLAIMS)


def test_the_text_form_says_what_the_picture_shows():
    text = as_text(CLAIMS)
    assert all(entry.says in text and entry.test in text for entry in CLAIMS)
    assert all(entry.verdicts[-1].because in text for entry in CLAIMS if entry.verdicts)
    assert as_text([]) == "no claim here"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"id": "nonsense"}, "no claim 'nonsense'.*posted-5-feb"),
        ({"verdict": "maybe"}, "'maybe' is none of true, true with limits"),
        ({"because": " "}, "needs because"),
        ({"source": ""}, "needs source"),
    ],
)
def test_a_judgement_that_breaks_a_rule_is_refused(changed, said):
    given = dict(
        id="glm5-dsa", verdict="true", because="counted", lesson="dsa", source="a record", as_of=date(2026, 12, 1)
    )
    with pytest.raises(ValueError, match=said):
        judge(**given | changed)


@pytest.mark.parametrize(
    ("changed", "said"), [({"part": "x"}, "part 'x'"), ({"kind": "y"}, "kind 'y'"), ({"prior": 7.0}, "prior")]
)
def test_a_claim_that_breaks_a_rule_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        replace(CLAIMS[0], **changed)


# The arithmetic in the first verdicts, done again from the numbers that they name.


def test_the_days_in_the_verdicts_follow_from_the_events():
    day = {event["id"]: event["day"] for event in table("events")}
    assert (day["qwen3.5"] - day["stamp"]).days == 11
    assert "eleven days" in verdict_of("posted-5-feb")
    assert f"{(day['deepseek-v4'] - day['stamp']).days} days after" in verdict_of("v4-within-days")


@pytest.mark.parametrize(("heads", "index_heads"), [(128, 64), (64, 32)])  # DeepSeek-V3.2 and GLM-5
def test_sparse_attention_costs_more_below_2200_tokens_and_13_times_less_at_128k(heads, index_heads):
    main, index, kept = heads * (576 + 512), index_heads * 128, 2048
    ratio = {length: main * length / (index * length + main * kept) for length in (2100, 2200, 8192, 131072)}
    assert ratio[2100] < 1 < ratio[2200]
    assert f"{ratio[8192]:.1f} times at 8k and {ratio[131072]:.0f} times at 128k" in verdict_of("sparse-cuts")


def test_sizes_and_prices_in_the_verdicts_follow_from_the_figures_they_name():
    assert f"{744 / 40:.1f} parameters" in verdict_of("moe-scale")
    assert f"takes {35.1e9 * 4.25 / 8 / 1e9:.0f} GB and fits" in verdict_of("workstation")
    assert f"takes {743.9e9 * 4.25 / 8 / 1e9:.0f} GB and does not" in verdict_of("workstation")
    assert f"{0.7 * 0.1902:.2f} EUR an hour" in verdict_of("free-use")
