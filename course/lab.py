"""Open JupyterLab at the first lesson."""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

from course.sources import REPOSITORY
from course.syllabus import ready_lessons


def command(port: int, browser: bool, lesson: Path) -> list[str]:
    """The JupyterLab command line that opens ``lesson``."""
    made = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={REPOSITORY}",
        f"--port={port}",
        f"--LabApp.default_url=/lab/tree/{lesson.relative_to(REPOSITORY).as_posix()}",
    ]
    if not browser:
        made.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        made.append("--allow-root")  # in a container one is often root
    return made


def variables() -> dict[str, str]:
    """The environment of JupyterLab: our configuration in front of others, which leaves its news pop-up out."""
    paths = [str(REPOSITORY / "course" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    return {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, paths))}


def has_screen() -> bool:
    """Whether a browser could show itself here."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def free_port(first: int, tries: int = 20) -> int:
    """``first``, or the next port that nobody listens on. Raises OSError when all are taken."""
    for port in range(first, first + tries):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise OSError(f"ports {first} to {first + tries - 1} are all taken: choose another with --port")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m course", description="Open JupyterLab at the first lesson.")
    parser.add_argument("--port", type=int, default=8888, help="first port to try (default 8888)")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    options = parser.parse_args(argv)
    first = ready_lessons()[0]
    try:
        port = free_port(options.port)
    except (OSError, OverflowError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 1
    lesson = REPOSITORY / "notebooks" / f"{first.stem}.ipynb"
    browser = has_screen() and not options.no_browser
    print(
        f"Opening lesson {first.number}, {first.title}. Ctrl-C twice ends JupyterLab."
        if browser
        else "JupyterLab prints its address below; open it in a browser. Ctrl-C twice ends JupyterLab.",
        flush=True,
    )
    return become(command(port, browser, lesson))


def become(command: list[str]) -> int:
    """Go on as JupyterLab: on POSIX in the same process, so that what ends this command ends the server."""
    os.chdir(REPOSITORY)
    if os.name == "posix":
        sys.stdout.flush()
        os.execve(command[0], command, variables())
    with subprocess.Popen(command, env=variables()) as server:
        try:
            return server.wait()
        finally:
            server.terminate()
