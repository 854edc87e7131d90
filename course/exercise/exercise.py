"""Exercises: a check that names the classic mistake, hints in steps, the solution last; predictions, kept.

A checks module (``course/checks/NAME.py``) makes one ``Exercise`` for each ``exercise:ID`` of its lesson.
A check prints ✓, ✗ with the mistake named, or ○ for a blank, and never stops a learner's run. With COURSE_STRICT=1
(CI) or under nbgrader anything but ✓ raises ``NotPassed``, so that a red check is a red run.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from course.exercise.learner import learner_store, stored_prediction
from course.exercise.time_limit import TimeLimit, run_limited

__all__ = ["Exercise", "NotPassed", "Wrong", "attempt", "learner_store", "predict", "returned", "reveal", "tensor"]

_SECONDS_PER_CALL = 5.0


class Wrong(Exception):
    """An answer is not right; the message names the mistake and points the way."""


class NotAttempted(Exception):
    """The answer is still the blank of the notebook."""


class NotPassed(Exception):
    """Raised for anything but ✓ under strict checking."""


def attempt(function: Callable, *args, seconds: float = _SECONDS_PER_CALL, **kwargs):
    """Call a learner's function as a check must: with a time limit, and every failure in one line.

    Raises Wrong for an endless loop, an exception or a thing that cannot be called; NotAttempted for the blank.
    """
    if not callable(function):
        raise Wrong(f"a function is expected here, and this is {_brief(function)}")
    try:
        return run_limited(lambda: function(*args, **kwargs), seconds)
    except NotImplementedError as error:
        raise NotAttempted from error
    except TimeLimit:
        raise Wrong(f"no answer within {seconds:g} s: is there a loop that never ends?") from None
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(f"your function stopped with {type(error).__name__}: {_first_line(error)}") from error


def returned(function: Callable, *args, **kwargs):
    """``attempt`` where an answer is expected: None, a function without a return, is Wrong as well."""
    got = attempt(function, *args, **kwargs)
    if got is None:
        raise Wrong("your function gave None back: is its last line a return?")
    return got


def tensor(got, shape: tuple[int, ...], what: str):
    """``got`` where it is a tensor of this shape; Wrong says what it is instead."""
    import torch  # here alone: the engine itself starts without it

    if not isinstance(got, torch.Tensor):
        raise Wrong(f"{what} is a tensor, and this is a {type(got).__name__}")
    if tuple(got.shape) != tuple(shape):
        raise Wrong(f"{what} has the shape {tuple(shape)}, and this has {tuple(got.shape)}")
    return got


@dataclass
class Exercise:
    """One exercise of one lesson. ``check(answer)`` raises Wrong, and may return a sentence for the ✓ line."""

    id: str
    lesson: str
    check: Callable[[object], str | None]
    hints: list[str] = field(default_factory=list)
    minutes: int = 5
    difficulty: int = 1
    _hints_shown: int = field(default=0, init=False, repr=False)

    def judge(self, answer) -> tuple[str, str]:
        """("✓" | "✗" | "○", message). A check that itself fails counts as ✗."""
        if answer is ...:
            return "○", "not attempted yet"
        try:
            return "✓", run_limited(lambda: self.check(answer), 60.0) or ""
        except (NotAttempted, NotImplementedError):
            return "○", "not attempted yet"
        except Wrong as wrong:
            return "✗", str(wrong)
        except TimeLimit:
            return "✗", "no answer within 60 s: is there a loop that never ends?"
        except Exception as error:
            return (
                "✗",
                f"this answer cannot be checked ({type(error).__name__}: {_first_line(error)}); it is {_brief(answer)}",
            )

    def __call__(self, answer) -> None:
        mark, message = self.judge(answer)
        print(f"{mark} {self.id}" + (f": {message}" if message else ""))
        if mark == "✗" and self.hints:
            print(f"  stuck? check.{self.id}.hint()")
        if mark != "✓" and _strict():
            raise NotPassed(f"{self.lesson}/{self.id}: {mark} {message}")

    def hint(self) -> None:
        """Print the next hint; after the last one, say where the solution is."""
        if self._hints_shown >= len(self.hints):
            print(f"No more hints. check.{self.id}.solution() shows one solution.")
            return
        print(f"Hint {self._hints_shown + 1} of {len(self.hints)}: {self.hints[self._hints_shown]}")
        self._hints_shown += 1

    def solution(self, now: bool = False) -> None:
        """Print the lesson's solution, once every hint was read (``now=True`` does not wait)."""
        left = len(self.hints) - self._hints_shown
        if left and not now:
            print(f"{left} hint(s) left: check.{self.id}.hint(). To see the solution at once: .solution(now=True)")
            return
        from course.sources import (
            solution_of,  # brings in jupytext: two seconds that no lesson pays for its checks
        )

        print(solution_of(self.lesson, self.id))


def predict(name: str, guess, unit: str = "") -> None:
    """Store a prediction until ``reveal(name, ...)`` meets it with a measurement; says nothing about the truth.

    ``name`` is "lesson.what". A guess of ``...`` is a blank and is not stored; a guess that is no number is refused.
    """
    store, earlier = learner_store("predictions"), stored_prediction(name)
    if guess is ... and earlier:
        print(f"○ {name}: your earlier prediction stays: {earlier['guess']:g} {earlier['unit']}".rstrip())
    elif guess is ...:
        print(f"○ {name}: no prediction yet. Replace ... by a number; a wrong one teaches more than none.")
    elif isinstance(guess, bool) or not isinstance(guess, (int, float)) or not math.isfinite(guess):
        print(f"✗ {name}: a prediction is one finite number, and this is {_brief(guess)}")
    else:
        store.set(name, {"guess": guess, "unit": unit})
        print(f"noted: {guess:g} {unit}".rstrip() + ". The measurement comes later in this lesson.")


def reveal(name: str, machine: float | None = None, formula: float | None = None, unit: str | None = None) -> None:
    """Print what the learner said beside what the formula and this machine say, each with its distance."""
    stored = stored_prediction(name) or {}
    guess, unit = stored.get("guess"), stored.get("unit", "") if unit is None else unit
    truth = machine if machine is not None else formula
    rows = [("you said", guess), ("the formula says", formula), ("the machine says", machine)]
    for label, value in rows:
        if value is None:
            if label == "you said":
                print(f"{label:>17}: nothing yet")
            continue
        distance = f"  ({_times(value, truth)})" if label == "you said" and truth else ""
        print(f"{label:>17}: {value:.4g} {unit}{distance}".rstrip())


def _times(guess: float, truth: float) -> str:
    if guess == 0 or (guess > 0) != (truth > 0):
        return f"off by {abs(guess - truth):.3g}"
    ratio = guess / truth
    if 0.9 <= ratio <= 1.1:
        return "within 10 %"
    return f"{ratio:.2g} times too high" if ratio > 1 else f"{1 / ratio:.2g} times too low"


def _strict() -> bool:
    return os.environ.get("COURSE_STRICT") == "1" or "NBGRADER_EXECUTION" in os.environ


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _brief(value) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
