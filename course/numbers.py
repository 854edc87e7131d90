"""The numbers that commands take: each option says what it allows, and refuses the rest in one line."""

import argparse
import math


def whole(least: int = 1, most: int | None = None):
    """An argparse type: a whole number from ``least`` to ``most``."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            allowed = f"of {least} or more" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {allowed}")
        return number

    return read


def above_zero(text: str) -> float:
    """An argparse type: a finite number above zero. With nan as a limit nothing would ever be over it."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:  # false for nan as well
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above 0")
    return number
