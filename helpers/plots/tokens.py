"""Pictures of a tokenizer: what a language pays, tokens against bytes, who gains from balance, a text in pieces."""

import statistics
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from helpers.plots import GREY, OKABE_ITO, new_figure

# group of scripts -> colour and symbol: two marks, so that no group is told by colour alone
SCRIPT_LOOK = {
    "Latin": ("blue", "circle"),
    "Cyrillic": ("orange", "square"),
    "Arabic": ("green", "diamond"),
    "Brahmic": ("red", "triangle-up"),
    "Han, Kana, Hangul": ("pink", "star"),
    "other": ("sky", "hexagon"),
}
_ENGLISH = dict(dash="dash", width=2, color=GREY)
_LINES = [
    ("red", "solid", "circle"),
    ("blue", "dash", "square"),
    ("green", "dot", "diamond"),
    ("orange", "dashdot", "x"),
]
_ABOVE = dict(y=1, yref="paper", yanchor="bottom", showarrow=False)
_TICKS = [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16]


def price_by_script(
    before: Mapping[str, float],
    after: Mapping[str, float],
    scripts: Mapping[str, str],
    title: str,
    labels: Sequence[str],
) -> go.Figure:
    """Tokens relative to English, a mark a language, a row a script: above before balancing, below after it.

    ``before`` and ``after`` are language -> ratio, ``scripts`` language -> group, ``labels`` the two lanes in words.
    """
    rows = [script for script in SCRIPT_LOOK if script in scripts.values()]
    figure = new_figure(
        title, _price_words(before, after, scripts, rows, labels), x="tokens relative to English (log scale)"
    )
    for row, script in enumerate(rows):
        colour, symbol = SCRIPT_LOOK[script]
        members = [language for language in before if scripts[language] == script]
        for lane, (ratios, mark) in enumerate(((before, f"{symbol}-open"), (after, symbol))):
            values = [ratios[language] for language in members]
            middle = row + (-0.2, 0.2)[lane]
            figure.add_scatter(
                x=values,
                y=[middle + _spread(number) for number in range(len(members))],
                mode="markers",
                marker=dict(color=OKABE_ITO[colour], symbol=mark, size=8, opacity=0.8),
                text=members,
                hovertemplate="%{text}: %{x:.2f} times English<extra>" + labels[lane] + "</extra>",
                showlegend=False,
            )
            median = dict(symbol="line-ns", size=24, line=dict(width=3, color=GREY))
            figure.add_scatter(
                x=[statistics.median(values)], y=[middle], mode="markers", marker=median, showlegend=False
            )
    for symbol, label in (("circle-open", labels[0]), ("circle", labels[1]), ("line-ns", "median of the row")):
        marker = dict(symbol=symbol, size=10, color=GREY, line=dict(width=2, color=GREY))
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=label)
    figure.add_vline(x=1, line=_ENGLISH)
    figure.add_annotation(x=0, text="English", **_ABOVE)  # on a log axis, text stands at exponents
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, autorange="reversed", showgrid=False)
    return _log_ticks(figure).update_layout(height=160 + 75 * len(rows), **_legend())


def tokens_against_bytes(
    sizes: Mapping[str, int], tokens: Mapping[str, int], scripts: Mapping[str, str], title: str
) -> go.Figure:
    """A mark a language: bytes of UTF-8 across, tokens upward, and the line on which every byte is a token."""
    share = statistics.median(tokens[language] / sizes[language] for language in sizes)
    alt = (
        f"Tokens against bytes of the same text in {len(sizes)} languages: {min(sizes.values())} to "
        f"{max(sizes.values())} bytes, {min(tokens.values())} to {max(tokens.values())} tokens; "
        f"in the median language {share:.2f} tokens per byte."
    )
    figure = new_figure(title, alt, x="bytes of the text in UTF-8", y="tokens")
    end = max(sizes.values())
    figure.add_scatter(x=[0, end], y=[0, end], mode="lines", line=_ENGLISH, name="every byte a token", hoverinfo="skip")
    for script, (colour, symbol) in SCRIPT_LOOK.items():
        members = [language for language in sizes if scripts[language] == script]
        figure.add_scatter(
            x=[sizes[language] for language in members],
            y=[tokens[language] for language in members],
            mode="markers",
            marker=dict(color=OKABE_ITO[colour], symbol=symbol, size=8, opacity=0.8),
            text=members,
            name=script,
            hovertemplate="%{text}: %{x} bytes, %{y} tokens<extra></extra>",
        )
    figure.update_xaxes(rangemode="tozero").update_yaxes(rangemode="tozero")
    return figure.update_layout(height=480, **_legend())


def who_pays(shares: Sequence[float], lines: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """Tokens relative to the first point, a line a text, against the share of balanced text in training (0 to 1)."""
    words = "; ".join(f"{name} {values[0]:.2f} to {values[-1]:.2f}" for name, values in lines.items())
    alt = f"Tokens relative to training without balanced text, shares of {shares[0]:.0%} to {shares[-1]:.0%}: {words}."
    figure = new_figure(title, alt, x="share of balanced text in training (%)", y="tokens, relative to the first point")
    for (name, values), (colour, dash, symbol) in zip(lines.items(), _LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=10))
        figure.add_scatter(x=[100 * share for share in shares], y=list(values), name=name, mode="lines+markers", **look)
    figure.update_traces(hovertemplate="%{x:.0f} % balanced: %{y:.2f}<extra>%{fullData.name}</extra>")
    figure.update_yaxes(rangemode="tozero")
    return figure.update_layout(height=440, **_legend())


def pieces_of(pieces: Sequence[bytes], title: str) -> go.Figure:
    """A text cut into its tokens: one bar a token, as long as its bytes. What is no whole character stands in hex."""
    names = [piece_name(piece) for piece in pieces]
    figure = new_figure(title, f"{title}: {' | '.join(names)}.", x="bytes")
    starts = [sum(map(len, pieces[:number])) for number in range(len(pieces))]
    colours = [OKABE_ITO[("blue", "red")[number % 2]] for number in range(len(pieces))]
    figure.add_bar(
        x=[len(piece) for piece in pieces],
        y=[""] * len(pieces),
        base=starts,
        orientation="h",
        marker=dict(color=colours, pattern_shape=["", "/"] * (len(pieces) // 2) + [""] * (len(pieces) % 2)),
        hovertext=[f"{name}: {piece.hex(' ')}" for name, piece in zip(names, pieces, strict=True)],
        hoverinfo="text",
        showlegend=False,
    )
    for start, piece, name in zip(starts, pieces, names, strict=True):
        text = dict(text=name, x=start + len(piece) / 2, y=0.55, yanchor="bottom", showarrow=False)
        figure.add_annotation(**text, textangle=-90 if len(name) > 2 * len(piece) or len(pieces) > 20 else 0)
    figure.update_yaxes(visible=False, range=[-0.5, 2.2])
    return figure.update_layout(barmode="overlay", height=300)


def piece_name(piece: bytes) -> str:
    """The text of a token, its blank made visible; hex where its bytes are no whole characters."""
    try:
        return piece.decode().replace(" ", "␣").replace("\n", "⏎")
    except UnicodeDecodeError:
        return piece.hex(" ")


def _price_words(before, after, scripts, rows, labels) -> str:
    def median(ratios: Mapping[str, float], script: str) -> float:
        return statistics.median(ratio for language, ratio in ratios.items() if scripts[language] == script)

    words = "; ".join(f"{script} {median(before, script):.2f} and {median(after, script):.2f}" for script in rows)
    worst = [max(ratios, key=ratios.get) for ratios in (before, after)]
    return (
        f"Tokens for the same text relative to English, {labels[0]} and {labels[1]}. Medians: {words}. "
        f"Highest: {worst[0]} {before[worst[0]]:.2f}, {worst[1]} {after[worst[1]]:.2f}."
    )


def _spread(number: int) -> float:
    """Marks of one lane a little above one another, in a pattern that never repeats a step."""
    return 0.26 * (number * 0.618 % 1 - 0.5)


def _log_ticks(figure: go.Figure) -> go.Figure:
    return figure.update_xaxes(type="log", tickvals=_TICKS, ticktext=[f"{tick:g}" for tick in _TICKS])


def _legend() -> dict:
    """A row below, grown upward into a margin that is kept free for it."""
    legend = dict(orientation="h", yref="container", yanchor="bottom", y=0.01, x=0, traceorder="normal")
    return dict(legend=legend, margin_b=110, xaxis_title_standoff=6)
