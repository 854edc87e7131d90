"""The commands, each in the module that does it; imported only when asked for, so that ``--help`` is quick."""

import importlib
import sys

COMMANDS = {
    "lab": "course.lab",
    "test": "course.test",
    "doctor": "course.doctor",
    "run": "course.run",
    "build": "course.build",
    "pull": "course.pull",
    "check": "course.check",
    "syllabus": "course.syllabus",
    "measure": "course.measure",
    "parity": "course.parity",
    "site": "course.site",
    "train-zoo": "course.train_zoo",
    "zoo": "course.zoo",
}


def main(argv: list[str]) -> int:
    """Run a command with its own arguments; none, or options only, opens JupyterLab. Returns the exit status."""
    name, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("lab", argv)
    if name not in COMMANDS:
        print(f"course: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(COMMANDS[name]).main(rest)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
