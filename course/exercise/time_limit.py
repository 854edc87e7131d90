"""Run a function for at most so many seconds, on every platform, inside a notebook kernel or a test."""

import ctypes
import threading
import time
from collections.abc import Callable


class TimeLimit(Exception):
    """The function was still running when its time was over."""


class _Stop(BaseException):
    """Raised inside the runaway thread; no ``except Exception`` of a learner catches it."""


def run_limited(function: Callable, seconds: float):
    """``function()``, or TimeLimit after ``seconds``.

    The function runs in a thread of its own, which is stopped by an exception raised in it: that ends any loop
    of Python. A single call into C that never returns cannot be ended; it is left behind as a daemon thread.
    """
    outcome = {}
    thread = threading.Thread(target=_keep_outcome, args=(function, outcome), daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        _stop(thread)
        raise TimeLimit(f"no answer within {seconds:g} s")
    if "error" in outcome:
        raise outcome["error"]
    return outcome.get("value")


def _keep_outcome(function: Callable, outcome: dict) -> None:
    try:
        outcome["value"] = function()
    except _Stop:
        pass
    except BaseException as error:  # even SystemExit of a learner's exit() is an answer, not the end of the kernel
        outcome["error"] = error if isinstance(error, Exception) else RuntimeError(f"it called {type(error).__name__}")


def _stop(thread: threading.Thread) -> None:
    """Ask until the thread ends: a ``finally`` or a bare ``except`` of the learner may swallow the first request."""
    for _ in range(20):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stop))
        thread.join(0.05)
        if not thread.is_alive():
            return
        time.sleep(0)
