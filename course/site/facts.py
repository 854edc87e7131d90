"""The claim ledger and the tables of facts as pages."""

from course.site.tables import Html, Row, small, table
from course.syllabus import syllabus
from helpers.claims.ledger import PARTS, Claim, ledger
from helpers.facts import table as facts

_PARTS = {
    "dates": "Dates",
    "openness": "Openness",
    "techniques": "Techniques",
    "economics": "Economics",
    "uses": "Uses",
}


def ledger_page() -> str:
    """Every claim of the article by subject, each with its test and its verdict."""
    claims = ledger()
    judged = sum(bool(claim.verdicts) for claim in claims)
    text = f"""# The claim ledger

A newspaper article makes {len(claims)} claims that a course can look at; here they are in our words, each with the test
that would settle it. {judged} have a verdict so far. The others are open: the lesson named in the table will
judge them. A prior is how likely we thought a claim before anything was measured.
"""
    return "\n".join([text, *(_claims(part, [c for c in claims if c.part == part]) for part in PARTS)])


def _claims(part: str, claims: list[Claim]) -> str:
    rows = [_claim(claim) for claim in claims]
    columns = ("claim", "kind", "lesson", "what would settle it", "verdict", "because")
    judged = sum(bool(claim.verdicts) for claim in claims)
    caption = f"{_PARTS[part]}: {len(claims)} claims, {judged} with a verdict"
    made = table(caption, columns, rows, [f"claim-{claim.id}" for claim in claims])
    return f"## {_PARTS[part]}\n\n{made}\n"


def _claim(claim: Claim) -> Row:
    says = small(claim.says, f"{claim.id}; says {claim.who}")
    if claim.verdicts:
        last = claim.verdicts[-1]
        because = small(last.because, f"{last.source}; {last.as_of}")
    else:
        because = "" if claim.prior is None else f"our prior: {claim.prior:.0%}"
    return says, claim.kind, lesson_link(claim.lesson), claim.test, Html(f"<b>{claim.verdict}</b>"), because


def lesson_link(lesson: str) -> Html:
    """The number of a lesson, given by name, as a link where there is a page."""
    found = next(row for row in syllabus() if row.name == lesson)
    return Html(f'<a href="lessons/{found.stem}.html">{found.number}</a>' if found.ready else found.number)


def models_page() -> str:
    """What makers state about their models."""
    columns = (
        "model",
        "parameters",
        "active",
        "context",
        "attention",
        "licence",
        "released",
        "on disk",
        "source",
    )
    return f"""# Models

What the makers of open-weight models publish, or the source named in the row; rounding is theirs. The counts that this
course computes itself are in the lessons.

{table("Published figures of open-weight models", columns, map(_model, facts("models")))}
"""


def _model(row: dict) -> Row:
    counts = "text part" if row.get("total_counts") == "text" else ""
    disk = f"{row['disk_gb']:g} GB, {row['disk_format']}" if "disk_gb" in row else None
    context = f"{row['context']:,}".replace(",", " ") if "context" in row else None
    return (
        _with_source(row["model"], row),
        f"{_billion(row.get('total_billion'))} {counts}".strip(),
        _billion(row.get("active_billion")),
        context,
        row.get("attention"),
        row.get("licence"),
        row.get("released"),
        disk,
    )


def _with_source(name: str, row: dict) -> Html:
    return small(name, f"{row['source']}; looked up {row['as_of']}")


def _billion(number: float | None) -> str:
    return "–" if number is None else f"{number:g} B"


def hardware_page() -> str:
    """What makers state about accelerators."""
    columns = ("chip", "dense 16-bit", "memory", "bandwidth", "link", "made for")
    return f"""# Hardware

Rates that makers state for dense products of 16-bit numbers, as a range where sources differ. No program reaches a rate
of a data sheet; what ours reached is under [measured](measured.md), for the machines we had.

{table("Published figures of accelerators", columns, map(_chip, facts("hardware")))}
"""


def _chip(row: dict) -> Row:
    made_for = row["made_for"] + (f", rules of {row['rules']}" if "rules" in row else "")
    return (
        _with_source(row["chip"], row),
        _range(row.get("tflops"), "TFLOP/s"),
        _range(row.get("memory_gb"), "GB"),
        _range(row.get("memory_tb_s"), "TB/s"),
        _range(row.get("link_gb_s"), "GB/s"),
        made_for,
    )


def _range(ends: list[float] | None, unit: str) -> str:
    if ends is None:
        return "–"
    low, high = ends
    return f"{low:g} {unit}" if low == high else f"{low:g} to {high:g} {unit}"
