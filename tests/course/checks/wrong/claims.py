"""Known wrong answers of lesson `claims`: each with a fragment of the message that it must get."""

from collections import defaultdict


def _mean(values):
    return sum(values) / len(values)


def _groups(forecasts, outcomes):
    groups = defaultdict(list)
    for said, came in zip(forecasts, outcomes, strict=True):
        groups[said].append(came)
    return groups


def _parts(forecasts, outcomes):
    groups, n, base = _groups(forecasts, outcomes), len(outcomes), _mean(outcomes)
    reliability = sum(len(came) * (said - _mean(came)) ** 2 for said, came in groups.items()) / n
    resolution = sum(len(came) * (_mean(came) - base) ** 2 for came in groups.values()) / n
    return reliability, resolution, base * (1 - base)


def _unweighted(forecasts, outcomes):
    groups, (_, resolution, uncertainty) = _groups(forecasts, outcomes), _parts(forecasts, outcomes)
    return _mean([(said - _mean(came)) ** 2 for said, came in groups.items()]), resolution, uncertainty


def _swapped(forecasts, outcomes):
    reliability, resolution, uncertainty = _parts(forecasts, outcomes)
    return resolution, reliability, uncertainty


def _negative(forecasts, outcomes):
    reliability, resolution, uncertainty = _parts(forecasts, outcomes)
    return reliability, -resolution, uncertainty


def _of_the_forecasts(forecasts, outcomes):
    reliability, resolution, _ = _parts(forecasts, outcomes)
    return reliability, resolution, _mean(forecasts) * (1 - _mean(forecasts))


def _around_a_half(forecasts, outcomes):
    reliability, _, uncertainty = _parts(forecasts, outcomes)
    groups = _groups(forecasts, outcomes)
    return reliability, sum(len(c) * (_mean(c) - 0.5) ** 2 for c in groups.values()) / len(outcomes), uncertainty


def _one_step(pages, saying):
    return {pages[page] or page for page in saying}


def _forever(pages, saying):
    ends = set()
    for page in saying:
        while pages[page] is not None:
            page = pages[page]
        ends.add(page)
    return ends


def _stops_anywhere(pages, saying):
    ends = set()
    for page in saying:
        seen = set()
        while pages[page] is not None and page not in seen:
            seen.add(page)
            page = pages[page]
        ends.add(page)
    return ends


_TRUTH = {1: "fact", 2: "forecast", 3: "opinion", 4: "fact", 5: "advert", 6: "fact"}
_TRUTH |= {7: "opinion", 8: "forecast", 9: "advert", 10: "fact", 11: "opinion", 12: "fact"}

WRONG = {
    "contradictions": [
        (lambda events, stamp: [e["id"] for e in events if e["day"] > stamp], "does not report"),
        (lambda events, stamp: [e["id"] for e in events if e["reported"] and e["day"] >= stamp], "after that day"),
        (lambda events, stamp: [e["id"] for e in events if e["reported"] and e["day"] < stamp], "before the stamp"),
        (lambda events, stamp: [e for e in events if e["reported"] and e["day"] > stamp], "list of event ids"),
        (lambda events, stamp: [e["id"] for e in events if e["reported"] and e["day"] > stamp][:1], "missing"),
    ],
    "origins": [
        (lambda pages, saying: set(saying), "follow the chain"),
        (_one_step, "'b' cites 'c'"),
        (lambda pages, saying: {page for page in pages if pages[page] is None}, "only when a chain"),
        (lambda pages, saying: {pages[page] for page in saying}, "None means"),
        (_forever, "never ends"),
        (_stops_anywhere, "circle"),
        (lambda pages, saying: sorted(saying), "a set of page names"),
        (lambda pages, saying: None, "end with return"),
    ],
    "labels": [
        ({**_TRUTH, 6: "opinion"}, "whether it is true is another question"),
        ({**_TRUTH, 2: "fact"}, "a day that has not come"),
        ({**_TRUTH, 11: "fact"}, "which measurement"),
        ({**_TRUTH, 9: "opinion"}, "take it away"),
        ({**_TRUTH, 1: "true"}, "is none of"),
        ({**_TRUTH, 3: ...}, "no label yet for 3"),
    ],
    "adverts": [
        ({"B", "C", "E", "G"}, "praise"),
        ({"E", "G"}, "borrows the engine's name"),
        ({"C", "G"}, "who is paid"),
        ({"C", "E", "G", "H"}, "belongs in the ledger"),
        ({"C", "E"}, "the plainest"),
        (["C", "E", "G"], "a set of letters"),
        (set(), "empty"),
    ],
    "decompose": [
        (_unweighted, "weight it by its size"),
        (_swapped, "swapped"),
        (_negative, "never negative"),
        (_of_the_forecasts, "outcomes alone"),
        (_around_a_half, "overall base rate"),
    ],
}
