"""``python3 -m course run [LESSON ...]``: lessons headless, and a report: what passed, how fast, in how much memory."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from course.numbers import above_zero, whole
from course.running import report, resume
from course.running.results import MEMORY_LIMIT_BYTES, SCALES, LessonFile, Result, Settings
from course.running.schedule import Progress, run_side_by_side
from course.sources import REPOSITORY
from course.syllabus import means, no_lesson, ready_lessons
from helpers.files import not_written
from helpers.units import format_bytes, format_seconds

RUNS = REPOSITORY / "build" / "run"
INTERRUPTED = 130  # what a shell reports after Ctrl-C


def main(argv: list[str]) -> int:
    """Run the lessons asked for. Returns 0 if all passed, 1 if one failed, 2 for a command that makes no sense."""
    try:
        options = _parser().parse_args(argv)
        lessons = choose(_lesson_files(options.solved), options.lessons)
    except SystemExit as exit_:  # argparse has said what is wrong
        return int(exit_.code or 0)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(not_written(error, RUNS), file=sys.stderr)
        return 1
    return report_on(lessons, _settings(options))


def report_on(lessons: list[LessonFile], settings: Settings) -> int:
    """Run, write the reports, say how it went. Returns the exit status."""
    try:
        results = run_lessons(lessons, settings)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command carries on with what is missing", file=sys.stderr)
        return INTERRUPTED
    except resume.RunInProgress as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(not_written(error, settings.folder), file=sys.stderr)
        return 1
    where = _reported(results, settings)
    failed = [result for result in results if not result.passed]
    for result in failed:
        print(f"\n{result.failure.text(result.name)}")
    print(f"\n{len(results) - len(failed)} of {len(results)} lessons passed; {where or 'no report'}")
    return 1 if failed or not where else 0


def _reported(results: list[Result], settings: Settings) -> str:
    """Where the reports are; empty, and said in a line, where they cannot be written."""
    try:
        report.write(results, settings)
    except OSError as error:
        print(not_written(error, settings.folder), file=sys.stderr)
        return ""
    return _shown(settings.folder / "report.html")


def run_lessons(lessons: list[LessonFile], settings: Settings) -> list[Result]:
    """The results of ``lessons``, in their order; executed notebooks and pages go to ``settings.folder``.

    A run that was cut off is carried on: what passed is not run again. Raises resume.RunInProgress, OSError.
    """
    carry_on = resume.begin(settings) and not settings.fresh
    results = {}
    for lesson in lessons:
        if carry_on and (result := resume.kept(lesson, settings)):
            results[lesson.name] = replace(result, kept=True)
        else:
            resume.forget(lesson, settings)
    if results:
        print(f"carrying on: {', '.join(results)} passed before the last run was cut off")
    keys = {lesson.name: resume.key(lesson, settings) for lesson in lessons}
    for result in _finished([lesson for lesson in lessons if lesson.name not in results], settings):
        results[result.name] = replace(result, key=keys[result.name])
        resume.keep(results[result.name], settings)
    resume.end(settings)
    return [results[lesson.name] for lesson in lessons]


def _finished(lessons: list[LessonFile], settings: Settings) -> Iterator[Result]:
    """Results as lessons end. On a terminal a bar counts their cells; a log gets one line a lesson."""
    total = {lesson.name: lesson.count_cells() for lesson in lessons}
    done, under_way, limit = dict.fromkeys(total, 0), {}, settings.memory_limit
    bar = tqdm(total=sum(total.values()), unit="cell", disable=not sys.stderr.isatty(), leave=False)
    with bar, closing(run_side_by_side(lessons, settings)) as events:
        for event in events:
            if isinstance(event, Progress):
                done[event.lesson], under_way[event.lesson] = event.cell - 1, event.cell
            else:
                event = event.held_to(limit)
                done[event.name], _ = total[event.name], under_way.pop(event.name, None)
                bar.write(_line(event), file=sys.stdout)
                sys.stdout.flush()
                yield event
            bar.set_postfix_str(", ".join(f"{name[:2]} in cell {cell}" for name, cell in under_way.items()), False)
            bar.update(max(0, sum(done.values()) - bar.n))


def _line(result: Result) -> str:
    verdict = "passed" if result.passed else "FAILED"
    memory = format_bytes(result.peak_memory_bytes)
    return f"{verdict}  {result.name:<32} {format_seconds(result.seconds):>9}  {memory:>9}"


def _lesson_files(solved: bool) -> list[LessonFile]:
    """The lessons there are. Only the solved ones are made here: a build would overwrite what a learner has filled in.

    Raises ValueError for a source against the rules.
    """
    if solved:
        return [LessonFile(path) for path in _solved_notebooks()]
    there = (REPOSITORY / "notebooks" / f"{lesson.stem}.ipynb" for lesson in ready_lessons())
    return [LessonFile(path) for path in there if path.exists()]


def _solved_notebooks() -> Iterator[Path]:
    from course.authoring.build import SOLVED, notebook

    SOLVED.mkdir(parents=True, exist_ok=True)
    for lesson in ready_lessons():
        path, text = SOLVED / f"{lesson.stem}.ipynb", notebook(lesson, solved=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        yield path


def choose(lessons: list[LessonFile], asked: list[str]) -> list[LessonFile]:
    """The lessons asked for ("dsa", "7", "07" or "07_dsa"), in the course's order; all for an empty list.

    Raises ValueError that names what there is.
    """
    if not lessons:
        raise ValueError("there are no lessons: python3 -m course build makes notebooks/ from course/lessons/")
    names = [lesson.name for lesson in lessons]
    if unknown := [word for word in asked if not any(means(word, name) for name in names)]:
        raise ValueError(no_lesson(unknown, names))
    return [lesson for lesson in lessons if not asked or any(means(word, lesson.name) for word in asked)]


def _settings(options: argparse.Namespace) -> Settings:
    asked = {name: value for name, value in vars(options).items() if name != "lessons"}
    return Settings(root=RUNS, **asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m course run", description="Run lessons headless.")
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="names or numbers; all of them if none is given")
    parser.add_argument("--solved", action="store_true", help="with solutions, and every check must pass")
    parser.add_argument("--offline", action="store_true", help="block the network for the kernels")
    parser.add_argument("--fresh", action="store_true", help="run everything again, even after a run that was cut off")
    given = parser.add_argument_group("parameters of the lessons")
    given.add_argument("--scale", choices=SCALES, default="laptop")
    given.add_argument("--checkpoint", help="a Hugging Face id or a folder, in place of the project's own model")
    given.add_argument("--device", help="cpu, cuda, mps ...")
    given.add_argument("--seed", type=whole(least=0, most=2**32 - 1))  # what NumPy takes
    limits = parser.add_argument_group("limits")
    limits.add_argument("--workers", type=whole(), default=2, metavar="N", help="lessons side by side (2)")
    limits.add_argument("--cell-timeout", type=whole(), default=300, metavar="S", dest="cell_limit_s")
    own = f"{MEMORY_LIMIT_BYTES / 1e9:g} for the project's own models on a CPU"
    limits.add_argument("--memory-limit", type=above_zero, metavar="GB", dest="memory_limit_gb", help=own)
    limits.add_argument(
        "--lesson-timeout", type=whole(), metavar="S", dest="lesson_limit_s", help="600, and 120 at scale smoke"
    )
    return parser


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
