"""Checks of lesson `claims`, and the learner's own probabilities, kept until the end of the course."""

import random
from datetime import date, timedelta
from numbers import Real

from course.exercise.exercise import Exercise, Wrong, attempt, learner_store, predict, reveal
from helpers.claims.forecasts import decompose as decompose_here
from helpers.claims.ledger import KINDS, ledger

__all__ = ["ADVERT_PAGE", "SENTENCES", "TEN", "note", "noted", "predict", "reveal"]

# The first ten claims of the ledger that documents and arithmetic alone could settle on 23 November 2026.
TEN = (
    "posted-5-feb",
    "v4-within-days",
    "gpt4-reference",
    "code-closed",
    "kimi-partly-open",
    "glm5-dsa",
    "sparse-cuts",
    "moe-scale",
    "v4-beats-claude",
    "free-use",
)

SENTENCES = {  # all invented
    1: "Falcon was released on 3 March under the Apache licence.",
    2: "By next spring half of all law offices will run one.",
    3: "It is the most elegant design of the decade.",
    4: "A token uses 2 of its 64 experts.",
    5: "Spring sale: office chairs, 30 % off until Sunday.",
    6: "Its answers cost a tenth of its rival's at the same score.",
    7: "It understands you better than any colleague.",
    8: "The rival lab will reply within weeks.",
    9: "Our readers learn to program with Blue Course, first month free.",
    10: "The licence text has eleven clauses.",
    11: "Europe would be foolish to ignore it.",
    12: "It was trained on 4,000 chips.",
}
_NUMBERS = {"fact": (1, 4, 6, 10, 12), "forecast": (2, 8), "opinion": (3, 7, 11), "advert": (5, 9)}
_KIND = {number: kind for kind, numbers in _NUMBERS.items() for number in numbers}

ADVERT_PAGE = {  # all invented
    "A": "Falcon runs on one graphics card.",
    "B": "Its makers call it the people's engine.",
    "C": "Readers of this page get Falcon gloves at half price.",
    "D": "It needs 12 GB for its weights.",
    "E": "Whoever wants to know more can book our editor's seminar.",
    "F": "You will love it.",
    "G": "Switch your home to GreenVolt before Friday.",
    "H": "The next version is announced for autumn.",
}
_ADVERTS = {"C", "E", "G"}


def note(probabilities: dict) -> None:
    """Keep the learner's probability that each claim will turn out to hold; says nothing about the verdicts."""
    if not isinstance(probabilities, dict):
        print(f"✗ a dictionary is expected, claim: probability, and this is {repr(probabilities)[:60]}")
        return
    store, known, kept = learner_store("ledger"), {entry.id for entry in ledger()}, 0
    for id, said in probabilities.items():
        if id not in known:
            print(f"✗ {id!r} is no claim of the ledger: the names must stay as they are")
            continue
        if said is ...:
            continue
        if isinstance(said, bool) or not isinstance(said, (int, float)) or not 0 <= said <= 1:
            print(f"✗ {id}: a probability lies between 0 and 1 (70 % is 0.7), and this is {said!r}")
            continue
        store.set(id, float(said))
        kept += 1
    before = sum(id in noted() for id, said in probabilities.items() if said is ...)
    if kept + before == 0:
        print("○ no probability yet. Replace each ... by a number from 0 to 1; a wrong one teaches more than none.")
        return
    earlier = f", and {before} from an earlier run" if before else ""
    print(f"noted: {kept} of {len(probabilities)} probabilities{earlier}. No verdict yet.")


def noted() -> dict[str, float]:
    """Every probability that the learner has given so far, by claim."""
    return learner_store("ledger").all()


def _shown(answer) -> str:
    """What the learner gave, short; None is most often a function without return."""
    return "nothing: does your function end with return?" if answer is None else f"{answer!r}"[:60]


def _check_contradictions(function):
    rng = random.Random(1)
    for size in (0, 1, 2, 7, 31):
        stamp = date(2026, 2, 5) + timedelta(days=rng.randrange(40))
        events = [_event(number, stamp, rng) for number in range(size)]
        _compare_contradictions(attempt(function, events, stamp), events, stamp)
    return "every reported event after the stamp, and nothing else"


def _event(number: int, stamp: date, rng: random.Random) -> dict:
    day = stamp + timedelta(days=rng.choice((-20, -1, 0, 1, 30)))
    return {"id": f"event-{number}", "what": f"event {number}", "day": day, "reported": rng.random() < 0.6}


def _compare_contradictions(answer, events: list[dict], stamp: date) -> None:
    ids = {event["id"]: event for event in events}
    if not isinstance(answer, (list, tuple, set)) or any(not isinstance(id, str) or id not in ids for id in answer):
        raise Wrong(f"a list of event ids is expected, each event['id'], and this is {_shown(answer)}")
    right = {id for id, event in ids.items() if event["reported"] and event["day"] > stamp}
    extra = [ids[id] for id in answer if id not in right]
    if any(event["day"] < stamp for event in extra):
        raise Wrong("some of these lie before the stamp: a text may report the past")
    if any(not event["reported"] for event in extra):
        raise Wrong("an event that the text does not report says nothing about when the text was written")
    if extra:
        raise Wrong("an event on the day of the stamp itself is possible: later means after that day")
    if missing := right - set(answer):
        raise Wrong(f"{len(missing)} reported event(s) after the stamp are missing, of {len(right)}")


_CHAIN = {"a": "b", "b": "c", "c": "lab", "lab": None, "mug shop": None}
_RUMOUR = {"a": "rumour", "b": "rumour", "c": "a", "rumour": None, "d": None, "e": "d"}
_CIRCLE = {"x": "y", "y": "x", "z": "x", "lab": None, "w": "lab"}
_WEBS = (  # page -> the page it cites, or None; the pages that say the sentence; where their chains end
    ({"lab": None}, ["lab"], {"lab"}),
    ({"lab": None, "blog": None, "paper": "lab"}, ["lab", "blog", "paper"], {"lab", "blog"}),
    (_CHAIN, ["a", "b"], {"lab"}),
    (_RUMOUR, ["a", "b", "c"], {"rumour"}),
    (_RUMOUR, ["c", "e"], {"rumour", "d"}),
    (_CIRCLE, ["x", "z", "w"], {"lab"}),
    ({"me": "me"}, ["me"], set()),
    ({}, [], set()),
)


def _check_origins(function):
    for pages, saying, right in _WEBS:
        _compare_origins(attempt(function, dict(pages), list(saying), seconds=1), pages, saying, right)
    return "however many pages repeat it, a sentence has as many witnesses as origins"


def _compare_origins(answer, pages: dict, saying: list[str], right: set) -> None:
    if not isinstance(answer, (set, frozenset)):
        raise Wrong(f"a set of page names is expected, and this is {_shown(answer)}")
    if None in answer:
        raise Wrong("None means that a page cites nothing: then the page itself is the origin, not None")
    if any(name not in pages for name in answer):
        raise Wrong(f"{_shown(set(answer) - set(pages))} are no pages of {set(pages)}")
    extra = answer - right
    if any(pages[name] is None for name in extra):
        raise Wrong("an origin counts only when a chain from one of the pages in `saying` ends there")
    if any(_in_circle(pages, name) for name in extra):
        raise Wrong("pages that cite each other in a circle lead to no origin at all")
    if extra:
        name = sorted(extra)[0]
        raise Wrong(f"{name!r} cites {pages[name]!r}: follow the chain until a page cites nothing")
    if answer != right:
        raise Wrong(f"missing: {sorted(right - answer)} for {saying} in {pages}; a page may be its own origin")


def _in_circle(pages: dict, name: str) -> bool:
    for _ in pages:
        name = pages[name]
        if name is None:
            return False
    return True


def _check_labels(answer):
    if not isinstance(answer, dict) or set(answer) != set(_KIND):
        raise Wrong(f"a label for each of the sentences 1 to {len(_KIND)} is expected, in a dictionary")
    left = [number for number in answer if answer[number] is ...]
    if len(left) == len(_KIND):
        raise NotImplementedError
    if left:
        raise Wrong(f"no label yet for {', '.join(map(str, left))}; the others are looked at when all have one")
    for number, label in answer.items():
        if label not in KINDS:
            raise Wrong(f"sentence {number}: {label!r} is none of {', '.join(KINDS)}")
    wrong = [number for number in sorted(_KIND) if answer[number] != _KIND[number]]
    if wrong:
        raise Wrong(_label_advice(wrong[0], answer[wrong[0]], len(_KIND) - len(wrong)))
    return "twelve of twelve"


def _label_advice(number: int, said: str, right: int) -> str:
    truth = _KIND[number]
    advice = {
        "fact": "it names something that a look could find true or false today; whether it is true is another question",
        "forecast": "it speaks of a day that has not come",
        "opinion": "which measurement could show that it is wrong? None is named",
        "advert": "take it away, and nothing that is said about the engine changes",
    }[truth]
    return f"{right} of {len(_KIND)} right. Sentence {number} is no {said}: {advice}"


def _check_adverts(answer):
    if not isinstance(answer, (set, frozenset)) or not answer <= set(ADVERT_PAGE):
        raise Wrong(f"a set of letters from A to H is expected, such as {{'A', 'H'}}, and this is {_shown(answer)}")
    if not answer:
        raise Wrong("the set is empty, and there is at least one advert on the page")
    if {"B", "F"} & answer:
        raise Wrong("praise of the engine itself is an opinion about it; an advert sells something else")
    if answer - _ADVERTS:
        raise Wrong(f"{sorted(answer - _ADVERTS)[0]} asserts something about the engine, so it belongs in the ledger")
    if "C" not in answer:
        raise Wrong("one advert borrows the engine's name: does the offer tell anything about the engine?")
    if "E" not in answer:
        raise Wrong("one advert sounds like a service to the reader: who is paid when you follow it?")
    if answer != _ADVERTS:
        raise Wrong("one advert is still in the text, the plainest of them")
    return "three offers out, five sentences left"


def _check_decompose(function):
    rng = random.Random(3)
    for size in (1, 2, 9, 31, 200):
        forecasts = [rng.choice((0.1, 0.3, 0.5, 0.8, 1.0)) for _ in range(size)]
        outcomes = [int(rng.random() < 0.7 * said + 0.1) for said in forecasts]
        _compare_decomposition(attempt(function, forecasts, outcomes), forecasts, outcomes)
    return "reliability - resolution + uncertainty is the Brier score, to the last digit"


def _compare_decomposition(answer, forecasts: list[float], outcomes: list[int]) -> None:
    if not isinstance(answer, (tuple, list)) or len(answer) != 3 or not all(_is_number(part) for part in answer):
        raise Wrong(f"expected: the numbers (reliability, resolution, uncertainty); this is {_shown(answer)}")
    right = decompose_here(forecasts, outcomes)
    reliability, resolution, uncertainty = answer
    if not _near(uncertainty, right.uncertainty):
        raise Wrong("uncertainty comes from the outcomes alone: base rate times one minus base rate")
    if _near(resolution, -right.resolution) and right.resolution > 0:
        raise Wrong("resolution is a mean of squares, so never negative; the minus stands in the sum")
    swapped = _near(reliability, right.resolution) and _near(resolution, right.reliability)
    if swapped and not _near(reliability, right.reliability):
        raise Wrong("reliability and resolution are swapped: reliability compares with what was said")
    if not _near(reliability, right.reliability):
        raise Wrong("reliability: each group counts as often as it was said, so weight it by its size")
    if not _near(resolution, right.resolution):
        raise Wrong("resolution compares each group's share with the overall base rate, weighted by the group's size")


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _near(a: float, b: float) -> bool:
    return abs(a - b) < 1e-9


contradictions = Exercise(
    "contradictions",
    lesson="claims",
    check=_check_contradictions,
    hints=[
        "Two conditions must both hold for an event: the article reports it, and its day is after the stamp.",
        "Dates compare with > like numbers: event['day'] > stamp.",
    ],
    minutes=4,
    difficulty=1,
)
origins = Exercise(
    "origins",
    lesson="claims",
    check=_check_origins,
    hints=[
        "For each page in saying: while the page cites another, go there. Where you stop is the origin.",
        "A circle never ends: keep the pages that you have been to, and give up when you come back to one.",
        "Collect the ends in a set: ten pages that end at one page add it once.",
    ],
    minutes=7,
    difficulty=2,
)
labels = Exercise(
    "labels",
    lesson="claims",
    check=_check_labels,
    hints=[
        "Ask two questions of each sentence: could a look decide it, and could it decide it today?",
        "A wrong statement of fact is still a statement of fact. Label what kind it is, not whether you believe it.",
    ],
    minutes=4,
    difficulty=1,
)
adverts = Exercise(
    "adverts",
    lesson="claims",
    check=_check_adverts,
    hints=[
        "Cross a sentence out. Do you know less about the engine? If not, what was it for?",
        "There are three: a plain one, one with a borrowed name, one that sounds helpful.",
    ],
    minutes=2,
    difficulty=1,
)
decompose = Exercise(
    "decompose",
    lesson="claims",
    check=_check_decompose,
    hints=[
        "Group the outcomes by what was said: a dictionary from forecast to the list of its outcomes.",
        "A group of n outcomes with share s adds n * (said - s)**2 to reliability, n * (s - base)**2 to resolution.",
        "Divide both sums by the number of all forecasts; uncertainty is base * (1 - base).",
    ],
    minutes=10,
    difficulty=3,
)
