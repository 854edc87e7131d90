"""``python3 -m course site``: the course as a website that needs no network, in ``build/site/``.

A page a lesson, executed and with its solutions folded, the claim ledger, the tables of facts, and every record of
``notebooks/measured/``. Lessons are not run again where a whole run of today's sources is there.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from course.running import run as runner
from course.sources import REPOSITORY
from helpers.files import make_folder

SITE = REPOSITORY / "build" / "site"
NEEDED = (
    "sphinx",
    "myst_nb",
    "furo",
    "latex2mathml",
)  # the extra "site" of pyproject.toml, as it is imported
INSTALL = 'python3 -m pip install -e ".[site]"'


def main(argv: list[str]) -> int:
    """Build the site. Returns 0, 1 where a lesson or a page failed, 2 for a command that makes no sense."""
    parser = argparse.ArgumentParser(prog="python3 -m course site", description="Build the course as a website.")
    parser.add_argument("--out", type=Path, default=SITE, help="where the site goes (default: build/site)")
    parser.add_argument("--fresh", action="store_true", help="run the lessons again, at scale smoke")
    options = parser.parse_args(argv)
    if absent := missing():
        print(f"course site: {', '.join(absent)} not installed; with this environment's Python: {INSTALL}")
        return 1
    return publish(options.out, options.fresh)


def missing() -> list[str]:
    """The packages of the extra that are not here."""
    return [name for name in NEEDED if find_spec(name) is None]


def publish(target: Path, fresh: bool) -> int:
    """Find or make a run of every lesson, and the site from it. Returns the exit status."""
    from course.site.build import build_site
    from course.site.runs import newest_whole_run

    try:
        make_folder(target.parent)
        run = None if fresh else newest_whole_run(runner.RUNS)
        if run is None:
            print("no run of every solved lesson as it stands: running them at scale smoke")
            if status := runner.main(["--solved", "--scale", "smoke"]):
                return status
            run = newest_whole_run(runner.RUNS)
        if run is None:
            raise ValueError("a lesson's source changed while the lessons ran: start again")
        pages = build_site(run, target)
    except ValueError as error:
        print(f"course site: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"course site: {error.filename or target}: {error.strerror or error}", file=sys.stderr)
        return 1
    print(f"{pages} pages from {run.folder.name}; open {target / 'index.html'}")
    return 0
