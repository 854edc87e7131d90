"""Which executed lessons the site shows: those of the newest run that has every lesson as its source stands today."""

import json
from dataclasses import dataclass
from pathlib import Path

import nbformat

from course.authoring.build import notebook
from course.syllabus import ready_lessons


@dataclass(frozen=True)
class Run:
    """A folder of executed lessons and what their report says of them."""

    folder: Path
    finished: str  # UTC, as 2026-11-23T20:26:31+00:00
    scale: str
    versions: dict[str, str | None]

    def lesson(self, stem: str) -> nbformat.NotebookNode:
        """An executed lesson."""
        return nbformat.read(self.folder / f"{stem}.ipynb", as_version=4)

    @property
    def in_words(self) -> str:
        """ "executed at scale smoke on 2026-11-23 (Python 3.11.7, torch 2.13.0+cpu, transformers 5.23.0)"."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)
        return f"executed at scale {self.scale} on {self.finished[:10]} ({versions})"


def newest_whole_run(root: Path) -> Run | None:
    """The newest solved run in ``root`` in which every lesson passed, made from the sources as they are now."""
    hashes = {row.stem: _cells_hash(nbformat.reads(notebook(row, solved=True), 4)) for row in ready_lessons()}
    reports = [report for path in root.glob("solved-*/report.json") if (report := _report(path, hashes))]
    return max(reports, key=lambda run: run.finished, default=None)


def _report(path: Path, hashes: dict[str, str]) -> Run | None:
    """The run of a report; None where it is not whole, not readable, or older than a source."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        passed = {lesson["name"] for lesson in report["lessons"] if lesson["passed"]}
        scale = report["parameters"]["scale"]
        versions = {"Python": report["python"], **report["versions"]}
        shown = {name: versions[name] for name in ("Python", "torch", "transformers")}
        run = Run(path.parent, report["finished"], scale, shown)
        current = passed >= set(hashes) and all(_cells_hash(run.lesson(stem)) == hashes[stem] for stem in hashes)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run if current else None


def _cells_hash(made: nbformat.NotebookNode) -> str:
    """What ``course build`` wrote into the notebook, and papermill left there."""
    return made.metadata["course"]["cells"]
