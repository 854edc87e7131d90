"""The claim ledger: what the article asserts, how each claim is tested, and what came of it.

Claims stand in ``helpers/facts/claims.toml`` and never change; verdicts stand in ``helpers/facts/verdicts.toml``, and
a lesson that judges a claim adds a row there with its own numbers. ``ledger()`` joins the two. Built in lesson
`claims`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from helpers.facts import table

PARTS = ("dates", "openness", "techniques", "economics", "uses")
KINDS = ("fact", "forecast", "opinion", "advert")
VERDICTS = ("true", "true with limits", "false", "not settled", "out of scope")
OPEN = "open"  # what a claim is until a lesson has judged it

_OUTCOME = {"true": 1, "true with limits": 1, "false": 0}


@dataclass(frozen=True)
class Verdict:
    """One judgement: ``because`` gives the numbers, ``source`` the page, the record or the table they come from."""

    id: str
    verdict: str
    because: str
    lesson: str
    source: str
    as_of: date

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.id}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}")
        for name in ("because", "source"):
            if not getattr(self, name).strip():
                raise ValueError(f"{self.id}: a verdict needs {name}, and it is empty")


@dataclass(frozen=True)
class Claim:
    """One claim, its test and its verdicts, oldest first. ``prior`` is None where documents had already settled it."""

    id: str
    part: str
    kind: str
    says: str
    who: str
    lesson: str
    test: str
    source: str
    as_of: date
    prior: float | None = None
    out_of_scope: str = ""
    verdicts: tuple[Verdict, ...] = ()

    def __post_init__(self):
        for name, allowed in (("part", PARTS), ("kind", KINDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{self.id}: {name} {getattr(self, name)!r} is none of {', '.join(allowed)}")
        if self.prior is not None and not 0 <= self.prior <= 1:
            raise ValueError(f"{self.id}: a prior lies between 0 and 1, got {self.prior}")

    @property
    def verdict(self) -> str:
        """The last verdict, or "open"."""
        return self.verdicts[-1].verdict if self.verdicts else OPEN

    @property
    def outcome(self) -> int | None:
        """1 for true and true with limits, 0 for false, None for what cannot be scored (yet)."""
        return _OUTCOME.get(self.verdict)


def ledger() -> list[Claim]:
    """Every claim with its verdicts, in the order of the article's subjects."""
    verdicts = [Verdict(**row) for row in table("verdicts")]
    claims = [
        Claim(**row, verdicts=tuple(verdict for verdict in verdicts if verdict.id == row["id"]))
        for row in table("claims")
    ]
    _require_known_ids(claims, verdicts)
    return claims


def claim(id: str) -> Claim:
    """One claim of the ledger. Raises ValueError that names the claims there are."""
    found = {entry.id: entry for entry in ledger()}
    if id not in found:
        raise ValueError(f"no claim {id!r} in the ledger; there are {', '.join(found)}")
    return found[id]


def judge(id: str, verdict: str, because: str, lesson: str, source: str, as_of: date) -> Verdict:
    """A new verdict on a claim of the ledger, checked as a row of verdicts.toml is. Raises ValueError."""
    return Verdict(claim(id).id, verdict, because, lesson, source, as_of)


def scorable(claims: Iterable[Claim]) -> list[Claim]:
    """The claims whose verdict says that they hold or that they do not."""
    return [entry for entry in claims if entry.outcome is not None]


def select(claims: Iterable[Claim], part: str = "all", verdict: str = "all") -> list[Claim]:
    """The claims of one part and one verdict ("open" included); "all" takes every one."""
    return [entry for entry in claims if part in ("all", entry.part) and verdict in ("all", entry.verdict)]


def as_text(claims: Iterable[Claim]) -> str:
    """The claims in words: what the browser's picture shows, for reading aloud or printing."""
    return "\n".join(_in_words(entry) for entry in claims) or "no claim here"


def _in_words(entry: Claim) -> str:
    lines = [f"{entry.id} ({entry.kind}, lesson {entry.lesson}): {entry.says}", f"    test: {entry.test}"]
    if entry.verdicts:
        lines.append(f"    {entry.verdict}: {entry.verdicts[-1].because}")
    else:
        lines.append(f"    open; our prior {entry.prior:.0%}" if entry.prior is not None else "    open")
    return "\n".join(lines)


def _require_known_ids(claims: list[Claim], verdicts: list[Verdict]) -> None:
    ids = [entry.id for entry in claims]
    twice = {id for id in ids if ids.count(id) > 1}
    unknown = {verdict.id for verdict in verdicts} - set(ids)
    if twice:
        raise ValueError(f"claims.toml has these ids twice: {', '.join(sorted(twice))}")
    if unknown:
        raise ValueError(f"verdicts.toml judges what claims.toml does not have: {', '.join(sorted(unknown))}")
