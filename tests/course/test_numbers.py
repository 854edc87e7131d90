"""No option of a command takes a number that would switch its limit off or make no sense."""

import pytest

from course.authoring import train_zoo
from course.measure import __main__ as measure
from course.running import run

NO_LIMIT = ("nan", "inf", "-inf", "0", "-1", "soon", "")
COMMANDS = {
    "--memory-limit": (run, NO_LIMIT),
    "--minutes": (measure, NO_LIMIT),
    "--seconds": (train_zoo, NO_LIMIT),
    "--workers": (run, ("nan", "inf", "0", "-1", "1.5", "two")),
    "--cell-timeout": (run, ("nan", "inf", "0", "-1", "1.5", "soon")),
    "--lesson-timeout": (run, ("nan", "inf", "0", "-1", "1.5", "soon")),
    "--seed": (run, ("nan", "-1", "1.5", "4294967296")),
    "--steps": (train_zoo, ("nan", "inf", "1.5")),
}


def status(command, arguments: list[str]) -> int:
    try:
        return command.main(arguments)
    except SystemExit as refused:  # argparse's own way
        return refused.code


@pytest.mark.parametrize(
    ("option", "text"), [(option, text) for option, (_, texts) in COMMANDS.items() for text in texts]
)
def test_a_number_that_makes_no_sense_is_refused_by_name(option, text, capsys):
    assert status(COMMANDS[option][0], [f"{option}={text}"]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert f"argument {option}: " in last
    assert repr(text) in last


@pytest.mark.parametrize(
    ("option", "text", "value"), [("--memory-limit", "1.5", 1.5), ("--workers", "1", 1), ("--seed", "0", 0)]
)
def test_the_least_number_that_makes_sense_is_taken(option, text, value):
    assert value in vars(run._parser().parse_args([option, text])).values()
