"""``python3 -m course``: set up what is missing, then do what was asked. The standard library only."""

import os
import subprocess
import sys

from course import bootstrap

USAGE = """python3 -m course [COMMAND]

  (none)      set up what is missing and open JupyterLab at the first lesson   [--port N] [--no-browser]
  test        set up what is missing and pass the tests, every notebook included
  doctor      tell what this machine can do, and what is wrong with it
  run         run lessons headless                        run dsa --scale smoke --solved
  new         begin a lesson, a family or a measured case new lesson paged_cache --after engine
  build       make the notebooks from course/lessons      build --check
  pull        bring an edit made in JupyterLab back       pull dsa
  check       check every lesson against the rules of the house
  syllabus    list the lessons
  measure     measure this machine into notebooks/measured
  parity      compare every family with transformers      parity qwen3 --device cpu
  site        build the course as a website that needs no network
  lock        pin every package in course/pins, from pyproject.toml
  zoo         list the models that the course trained itself
  train-zoo   train a model of the zoo again              train-zoo tiny-qwen3

Every command but doctor explains itself with --help."""


def main(argv):
    command = argv[0] if argv and not argv[0].startswith("-") else "lab"
    if argv[:1] in (["-h"], ["--help"], ["help"]):
        print(USAGE)
        return 0
    if command == "doctor" and sys.version_info >= bootstrap.OLDEST and not environment_is_ready():
        from course import cli

        return cli.main(argv)  # it tells what is wrong in whatever Python is here, and installs nothing
    try:
        python = bootstrap.ensure(test=command == "test")
    except bootstrap.SetupError as error:
        print(f"course: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncourse: interrupted; the same command carries on where it stopped", file=sys.stderr)
        return 130
    if os.path.abspath(python) == os.path.abspath(sys.executable):
        from course import cli

        return cli.main(argv)
    return hand_over(python, argv)


def environment_is_ready():
    return not bootstrap.missing(test=False) or bootstrap.stamp_is_current(bootstrap.environment(), test=False)


def hand_over(python, argv):
    """Go on in the environment that has everything; on POSIX as the same process, so that signals reach it."""
    command = [python, "-m", "course", *argv]
    os.chdir(str(bootstrap.REPOSITORY))
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(python, command)
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
