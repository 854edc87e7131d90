"""The commands, each in the module that does it; imported only when asked for, so that ``--help`` is quick."""

import importlib
import os
import sys
from pathlib import Path

from course.machine import home_that_can_be_written
from course.streams import lasting_output

COMMANDS = {
    "lab": "course.lab",
    "test": "course.test",
    "doctor": "course.doctor",
    "run": "course.running.run",
    "new": "course.authoring.new",
    "build": "course.authoring.build",
    "pull": "course.authoring.pull",
    "check": "course.authoring.check",
    "syllabus": "course.syllabus",
    "measure": "course.measure.__main__",
    "parity": "course.parity.compare",
    "site": "course.site",
    "lock": "course.upkeep.lock",
    "train-zoo": "course.authoring.train_zoo",
    "zoo": "course.authoring.zoo",
}


def main(argv: list[str]) -> int:
    """Run a command with its own arguments; none, or options only, opens JupyterLab. Returns the exit status."""
    name, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("lab", argv)
    if name not in COMMANDS:
        print(f"course: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if name != "doctor":  # which tells of the home folder as it is
        use_a_writable_home()
    with lasting_output() as lost:
        status = _status(name, rest)
    if lost:
        print(f"course {name}: not all of its output could be written: {lost[0].strerror}", file=sys.stderr)
    return status or (1 if lost else 0)


def _status(name: str, arguments: list[str]) -> int:
    try:
        return importlib.import_module(COMMANDS[name]).main(arguments)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except OSError as error:  # a folder or file that a command could not have known of
        where = f"{error.filename}: " if error.filename else ""
        print(f"course {name}: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def use_a_writable_home() -> None:
    """Jupyter, IPython and triton keep settings and caches in the home folder, and stop where it cannot be written."""
    home, given = home_that_can_be_written(), Path(os.path.expanduser("~"))
    if home != given:
        print(f"course: {given} cannot be written; settings and caches go to {home}", file=sys.stderr)
        os.environ["USERPROFILE" if os.name == "nt" else "HOME"] = str(home)
