"""Figures of the claim ledger: verdicts by part, dates against a stamp, sources, and how good probabilities were."""

import textwrap
from collections import Counter
from datetime import date

import plotly.graph_objects as go

from helpers.claims.forecasts import Bin, brier
from helpers.claims.ledger import OPEN, PARTS, VERDICTS, Claim, scorable, select
from helpers.plots.look import GREY, OKABE_ITO, new_figure

_LEGEND_BELOW = dict(orientation="h", yref="container", y=0.01, yanchor="bottom")
_LOOKS = {  # colour, bar pattern and marker of each verdict: colour never stands alone
    "true": (OKABE_ITO["green"], "", "circle"),
    "true with limits": (OKABE_ITO["sky"], "/", "diamond"),
    "false": (OKABE_ITO["red"], "x", "x"),
    "not settled": (OKABE_ITO["orange"], ".", "square"),
    "out of scope": (OKABE_ITO["pink"], "-", "triangle-up"),
    OPEN: (GREY, "|", "circle-open"),
}


def verdict_bars(claims: list[Claim]) -> go.Figure:
    """How many claims of each part of the article have which verdict."""
    counts = Counter((claim.part, claim.verdict) for claim in claims)
    verdicts = [verdict for verdict in (*VERDICTS, OPEN) if any(counts[part, verdict] for part in PARTS)]
    waiting = sum(claim.verdict == OPEN for claim in claims)
    figure = new_figure(
        title=f"{len(claims) - waiting} of {len(claims)} claims have a verdict, {waiting} wait for a measurement",
        alt="Claims by part of the article. " + " ".join(_part_in_words(part, verdicts, counts) for part in PARTS),
        x="claims (number)",
    )
    for verdict in verdicts:
        colour, pattern, _ = _LOOKS[verdict]
        figure.add_bar(
            y=PARTS,
            x=[counts[part, verdict] for part in PARTS],
            name=verdict,
            orientation="h",
            marker=dict(color=colour, pattern=dict(shape=pattern, fillmode="overlay", fgcolor="white", solidity=0.3)),
        )
    figure.update_layout(barmode="stack", legend=dict(_LEGEND_BELOW, traceorder="normal"))
    return figure.update_yaxes(autorange="reversed")


def timeline(events: list[dict], stamp: date) -> go.Figure:
    """Events on a line of dates, those that the article reports apart, and the stamp it carries."""
    events = sorted(events, key=lambda event: event["day"])
    late = [event for event in events if event["reported"] and event["day"] > stamp]
    figure = new_figure(
        title=f"{len(late)} reported events are later than the stamp",
        alt=f"The stamp is {stamp}. " + " ".join(f"{e['day']}: {e['what']}, {_told(e)}." for e in events),
        x="date",
    )
    for reported, colour, marker in ((True, OKABE_ITO["blue"], "circle"), (False, GREY, "circle-open")):
        rows = [event for event in events if event["reported"] == reported]
        figure.add_scatter(
            x=[event["day"] for event in rows],
            y=[event["what"] for event in rows],
            mode="markers",
            marker=dict(color=colour, symbol=marker, size=12, line=dict(width=2)),
            name="reported by the article" if reported else "not reported by it",
        )
    figure.add_vline(x=stamp.isoformat(), line=dict(color=OKABE_ITO["red"], dash="dash", width=2))
    figure.update_yaxes(categoryorder="array", categoryarray=[event["what"] for event in reversed(events)])
    return figure.update_layout(height=440, legend=_LEGEND_BELOW)


def sources_strip(sources: list[dict], sentence: str) -> go.Figure:
    """Who says what: one row a page, its statement across, pages of the maker apart from the rest."""
    repeat = [row for row in sources if row["says"] == sentence]
    first_hand = sum(row["primary"] for row in repeat)
    figure = new_figure(
        title=f"{len(repeat)} pages say “{sentence}”, {first_hand} of them by the maker",
        alt=" ".join(f"{row['id']} ({_hand(row)}) says: {row['says']}." for row in sources),
        x="what the page says",
    )
    for primary, colour, marker in ((True, OKABE_ITO["green"], "star"), (False, OKABE_ITO["orange"], "circle")):
        rows = [row for row in sources if row["primary"] == primary]
        figure.add_scatter(
            x=["<br>".join(textwrap.wrap(row["says"], 16)) for row in rows],
            y=[row["id"] for row in rows],
            mode="markers",
            marker=dict(color=colour, symbol=marker, size=14),
            name=_hand(rows[0]) if rows else "",
        )
    figure.update_yaxes(categoryorder="array", categoryarray=[row["id"] for row in reversed(sources)])
    return figure.update_layout(legend=_LEGEND_BELOW)


def expected_scores(reports: list[float], expected: dict[str, list[float]], belief: float) -> go.Figure:
    """The penalty that a rule makes you expect, for each probability that you could say; smaller is better."""
    best = {rule: reports[scores.index(min(scores))] for rule, scores in expected.items()}
    figure = new_figure(
        title=f"Who believes {belief:.2f} pays least by saying "
        + ", ".join(f"{at:.2f} under the {rule} rule" for rule, at in best.items()),
        alt=" ".join(
            f"Under the {rule} rule the smallest expected penalty is {min(expected[rule]):.2f}, at {at:.2f}."
            for rule, at in best.items()
        ),
        x="probability that you say",
        y="expected penalty",
    )
    looks = zip(OKABE_ITO.values(), ("solid", "dash", "dot"), strict=False)
    for (rule, scores), (colour, dash) in zip(expected.items(), looks, strict=False):
        name = f"{rule}: best to say {best[rule]:.2f}"
        figure.add_scatter(x=reports, y=scores, mode="lines", name=name, line=dict(color=colour, dash=dash, width=3))
        figure.add_scatter(
            x=[best[rule]],
            y=[min(scores)],
            mode="markers",
            marker=dict(color=colour, size=13, symbol="diamond"),
            showlegend=False,
        )
    figure.add_vline(x=belief, line=dict(color=GREY, dash="dot"))
    return figure.update_xaxes(range=[-0.02, 1.04]).update_layout(legend=_LEGEND_BELOW)


def calibration(curves: dict[str, list[Bin]]) -> go.Figure:
    """What happened against what was said, each point with its 95 % interval; the diagonal is perfect calibration."""
    gap = {name: max(abs(step.said - step.happened) for step in curve) for name, curve in curves.items()}
    figure = new_figure(
        title="Farthest from the diagonal: " + ", ".join(f"“{name}” {worst:.2f}" for name, worst in gap.items()),
        alt=" ".join(_curve_in_words(name, curve) for name, curve in curves.items()),
        x="probability that was said",
        y="share that came true",
    )
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="perfect", line=dict(color=GREY, dash="dot"))
    looks = zip(OKABE_ITO.values(), ("circle", "square", "diamond"), strict=False)
    for (name, curve), (colour, marker) in zip(curves.items(), looks, strict=False):
        figure.add_scatter(
            x=[step.said for step in curve],
            y=[step.happened for step in curve],
            error_y=dict(
                array=[step.high - step.happened for step in curve],
                arrayminus=[step.happened - step.low for step in curve],
            ),
            mode="lines+markers",
            name=name,
            line=dict(color=colour),
            marker=dict(symbol=marker, size=9),
        )
    return figure


def brier_bars(scores: dict[str, float], claims: int) -> go.Figure:
    """Brier scores side by side, best first."""
    ranked = sorted(scores.items(), key=lambda pair: pair[1])
    figure = new_figure(
        title=f"Best on {claims} judged claims: {ranked[0][0]}",
        alt=f"Brier scores over {claims} claims: " + "; ".join(f"{name} {score:.3f}" for name, score in ranked) + ".",
        x="Brier score (0 is perfect; smaller is better)",
    )
    figure.add_bar(
        y=[name for name, _ in ranked],
        x=[score for _, score in ranked],
        text=[f"{score:.3f}" for _, score in ranked],
        textposition="outside",
        cliponaxis=False,
        orientation="h",
        marker=dict(
            color=[OKABE_ITO["orange" if name == "you" else "blue"] for name, _ in ranked],
            pattern=dict(shape=["/" if name == "you" else "" for name, _ in ranked], fillmode="overlay"),
        ),
    )
    return figure.update_yaxes(autorange="reversed").update_layout(height=120 + 50 * len(ranked))


def claim_browser(claims: list[Claim], probability: float) -> go.Figure:
    """The claims one below the other at their verdict, and your one ``probability`` for all of them as a line.

    Claims that hold stand at 1, claims that do not at 0, all others in a column of their own at the left.
    """
    finding = _finding(claims, probability)
    listed = " ".join(f"{claim.says} Verdict: {claim.verdict}." for claim in claims)
    figure = new_figure(title=finding, alt=f"{finding.replace('<br>', ' ')}. {listed}")
    for verdict, (colour, _, marker) in _LOOKS.items():
        rows = [claim for claim in claims if claim.verdict == verdict]
        if rows:
            figure.add_scatter(
                x=[-0.35 if claim.outcome is None else claim.outcome for claim in rows],
                y=[_wrapped(claim) for claim in rows],
                mode="markers",
                name=verdict,
                marker=dict(color=colour, symbol=marker, size=13, line=dict(width=2)),
            )
    figure.add_vline(x=probability, line=dict(color=OKABE_ITO["blue"], dash="dash", width=3))
    figure.update_xaxes(
        range=[-0.55, 1.15], tickvals=[-0.35, 0, 0.5, 1], ticktext=["no score", "0<br>does not", "0.5", "1<br>holds"]
    )
    figure.update_yaxes(
        categoryorder="array", categoryarray=[_wrapped(claim) for claim in reversed(claims)], tickfont=dict(size=12)
    )
    return figure.update_layout(height=220 + 40 * len(claims), margin=dict(t=80), legend=_LEGEND_BELOW)


def browse(claims: list[Claim], part: str, verdict: str, probability: float) -> go.Figure:
    """``claim_browser`` over a part and a verdict. Raises ValueError when no claim is both."""
    chosen = select(claims, part, verdict)
    if not chosen:
        raise ValueError(f"no claim of part {part!r} has the verdict {verdict!r}")
    return claim_browser(chosen, probability)


def _finding(claims: list[Claim], probability: float) -> str:
    outcomes = [claim.outcome for claim in scorable(claims)]
    if not outcomes:
        return f"{len(claims)} claim{'s'[: len(claims) > 1]}, none of them to be scored yet"
    score, best = brier([probability] * len(outcomes), outcomes), sum(outcomes) / len(outcomes)
    return (
        f"Saying {probability:.2f} to all {len(outcomes)} judged claims scores {score:.3f};"
        f"<br>the best single number for them is {best:.2f}"
    )


def _wrapped(claim: Claim) -> str:
    return "<br>".join(textwrap.wrap(claim.says, 48))


def _curve_in_words(name: str, curve: list[Bin]) -> str:
    return f"{name}: " + ", ".join(f"said {step.said:.2f}, came {step.happened:.2f}" for step in curve) + "."


def _part_in_words(part: str, verdicts: list[str], counts: Counter) -> str:
    return f"{part}: " + ", ".join(f"{counts[part, v]} {v}" for v in verdicts if counts[part, v]) + "."


def _told(event: dict) -> str:
    return "reported by the article" if event["reported"] else "not reported by it"


def _hand(row: dict) -> str:
    return "written by the maker" if row["primary"] else "written by others"
