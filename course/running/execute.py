"""One notebook from its first cell to its last, in one kernel, through papermill.

papermill's own word on success is not trusted: it records a cell that ran out of time as completed, takes
``exit()`` for a success and injects parameters that the notebook then overwrites. The rules are checked before the
kernel starts, and the outcome is read from the cells themselves.
"""

import ast
import os
import re
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from course.running.memory import MemoryWatch
from course.running.results import CellRecord, Failure, Settings, excerpt, first_line

OFFLINE_GUARD = Path(__file__).resolve().parent / "offline"
WIDGET_LIMIT_BYTES = 100_000  # of JavaScript in one widget's state; a FigureWidget stores 5 MB of it

# Without this the kernel prints a warning about unencrypted TCP at every start; with it the warning's cause is gone.
_ENCRYPTED = Config(KernelManager={"transport_encryption": "auto"}, AsyncKernelManager={"transport_encryption": "auto"})

Tell = Callable[[tuple[int, str] | CellRecord], None]  # (number, source) as a cell starts, its record as it ends


def execute(
    notebook: Path, output: Path, parameters: dict, cell_limit_s: int, environment: dict[str, str], tell: Tell
) -> Failure | None:
    """Run ``notebook`` with ``parameters``, write it with its outputs to ``output``; None means that it passed.

    The kernel gets exactly ``environment``. Raises nothing but KeyboardInterrupt: whatever goes wrong is the Failure.
    """
    journal = _Journal(tell)
    try:
        check_rules(nbformat.read(notebook, as_version=4), parameters)
    except (ValueError, OSError) as error:
        return Failure("refused", type(error).__name__, str(error))
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters,
            engine_name="course",
            kernel_name="python3",  # this Python, whatever kernel the notebook was last saved with
            language="python",
            cwd=notebook.parent,
            progress_bar=False,
            execution_timeout=cell_limit_s,
            environment=environment,
            journal=journal,
        )
    except PapermillExecutionError:
        pass  # an error output, which judge finds
    except CellTimeoutError:
        message = f"stopped after {cell_limit_s} s (--cell-timeout)"
        return _failure_in(journal.cell, journal.number, "cell limit", "CellTimeoutError", message)
    except DeadKernelError:
        message = "the kernel process ended; out of memory, or a crash in native code?"
        return _failure_in(journal.cell, journal.number, "kernel died", "DeadKernelError", message)
    except Exception as error:
        return Failure("machinery", type(error).__name__, str(error))
    return judge(nbformat.read(output, as_version=4))


def kernel_environment(settings: Settings, scratch: Path) -> dict[str, str]:
    """The environment of a lesson's kernel: no learner's state, no settings of the person who runs it.

    ``scratch`` is a folder of this lesson and run alone.
    """
    environment = {
        key: value for key, value in os.environ.items() if key not in ("COURSE_STRICT", "NBGRADER_EXECUTION")
    }
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see course/__init__.py
    environment |= {"COURSE_LEARNER": str(scratch / "learner"), "IPYTHONDIR": str(scratch / "ipython")}
    environment["PLOTLY_RENDERER"] = "plotly_mimetype"
    if settings.solved:
        environment["COURSE_STRICT"] = "1"
    if settings.offline:
        path = [str(OFFLINE_GUARD), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return environment


# The rules, before a kernel starts


def check_rules(notebook: nbformat.NotebookNode, parameters: dict) -> None:
    """Raises ValueError unless ``parameters`` reach the notebook: one tagged cell that knows them all, and no other
    cell that sets one of them to a constant."""
    tagged = [cell for cell in notebook.cells if "parameters" in _tags(cell)]
    if len(tagged) != 1:
        raise ValueError(
            f"exactly one cell must have the tag 'parameters', found {len(tagged)}: "
            "without it the values given are silently overwritten"
        )
    known = {name for name, _ in _assignments(tagged[0].source)}
    if unknown := sorted(set(parameters) - known):
        raise ValueError(f"no parameter {', '.join(unknown)}; the parameters cell sets {', '.join(sorted(known))}")
    for number, cell in _code_cells(notebook):
        constants = {name for name, value in _assignments(cell.source) if isinstance(value, ast.Constant)}
        if cell is not tagged[0] and (again := sorted(constants & set(parameters))):
            raise ValueError(f"cell {number} sets {', '.join(again)} again: the value given would be lost")


def _assignments(source: str) -> list[tuple[str, ast.expr | None]]:
    """Names bound at top level, each with its value; none for a cell that is not plain Python."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return []
    pairs = [(target, s.value) for s in statements if isinstance(s, ast.Assign) for target in s.targets]
    pairs += [(s.target, s.value) for s in statements if isinstance(s, ast.AnnAssign)]
    return [(target.id, value) for target, value in pairs if isinstance(target, ast.Name)]


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _runs(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip()) and "skip-execution" not in _tags(cell)


def _code_cells(notebook: nbformat.NotebookNode) -> list[tuple[int, nbformat.NotebookNode]]:
    """Cells that run, counted from 1; the one that papermill puts in is number 0."""
    own = [cell for cell in notebook.cells if _runs(cell) and "injected-parameters" not in _tags(cell)]
    injected = [cell for cell in notebook.cells if "injected-parameters" in _tags(cell)]
    return [(0, cell) for cell in injected] + list(enumerate(own, start=1))


# The outcome, from the cells themselves


def judge(executed: nbformat.NotebookNode) -> Failure | None:
    """None if every cell ran to its end and nothing in the notebook is against the rules."""
    cells = _code_cells(executed)
    for number, cell in cells:
        for output in cell.outputs:
            if output.output_type == "error" and output.ename != "SystemExit":
                return _failure_in(cell, number, "error", output.ename, output.evalue)
    for number, cell in cells:
        if cell.execution_count is None:
            return _failure_in(cell, number, "stopped early", "SystemExit", "this cell and the cells below never ran")
    if heavy := heavy_widgets(executed):
        advice = "show a plain go.Figure instead (helpers.plots.show, helpers.plots.widgets.explore)"
        return Failure("refused", "ValueError", f"{'; '.join(heavy)}: {advice}")
    return None


def heavy_widgets(executed: nbformat.NotebookNode) -> list[str]:
    """The widgets that carry their JavaScript into the notebook, as "FigureWidget stores 5.0 MB of JavaScript"."""
    from helpers.units import format_bytes

    widgets = executed.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    sizes = {
        widget.get("model_name", model): len(str(widget.get("state", {}).get("_esm", "")))
        for model, widget in widgets.get("state", {}).items()
    }
    heavy = {name: size for name, size in sizes.items() if size > WIDGET_LIMIT_BYTES}
    return [f"{name} stores {format_bytes(size)} of JavaScript" for name, size in heavy.items()]


def _failure_in(cell: nbformat.NotebookNode, number: int, kind: str, exception: str, message: str) -> Failure:
    trace = "\n".join(line for output in cell.outputs if output.output_type == "error" for line in output.traceback)
    trace = re.sub(r"\x1b\[[0-9;]*m", "", trace)
    failing = re.search(rf"Cell In\[{cell.execution_count}\], line (\d+)", trace)
    failing = int(failing[1]) if failing else None
    return Failure(
        kind, exception, shortened(message), number, excerpt(cell.source, failing), failing, _raised_in(trace)
    )


def shortened(message: str, lines: int = 4, characters: int = 400) -> str:
    """A message of at most so many lines and characters, with an ellipsis where something is left out."""
    kept = "\n".join(message.strip().splitlines()[:lines])[:characters]
    return kept if len(kept) == len(message.strip()) else f"{kept} ..."


def _raised_in(trace: str) -> str:
    """The innermost frame in a file, by its path inside the repository or inside its package."""
    frames = re.findall(r"^File (.+?):(\d+), in ", trace, flags=re.MULTILINE)
    if not frames:
        return ""
    path, line = Path(frames[-1][0]).expanduser(), frames[-1][1]
    for top in (OFFLINE_GUARD.parents[2], *(parent for parent in path.parents if parent.name == "site-packages")):
        if path.is_relative_to(top):
            path = path.relative_to(top)
    return f"{path.as_posix()}, line {line}"


# The engine


class _Journal:
    """Where the kernel is, told on as it happens. ``cell`` and ``number`` are those of the cell that ran last."""

    def __init__(self, tell: Tell):
        self.tell, self.cell, self.number = tell, nbformat.v4.new_code_cell(), 0

    def starts(self, cell: nbformat.NotebookNode) -> None:
        injected = "injected-parameters" in _tags(cell)
        self.cell, self.number = cell, self.number + (not injected)
        self.tell((0 if injected else self.number, cell.source))

    def ends(self, seconds: float, peak_memory_bytes: int) -> None:
        if "injected-parameters" not in _tags(self.cell):
            self.tell(CellRecord(self.number, first_line(self.cell.source), seconds, peak_memory_bytes))


class _MeasuredClient(PapermillNotebookClient):
    """papermill's client; it measures each cell and tells the journal."""

    def __init__(self, nb_man, journal: _Journal, **traits):
        super().__init__(nb_man, **traits)
        self._journal = journal

    @cached_property
    def _memory(self) -> MemoryWatch:
        return MemoryWatch(self.km.provisioner.pid)

    def execute_cell(self, cell, cell_index, **options):
        if not _runs(cell):
            return super().execute_cell(cell, cell_index, **options)
        self._journal.starts(cell)
        self._memory.take()
        start = time.perf_counter()
        try:
            return super().execute_cell(cell, cell_index, **options)
        finally:
            self._journal.ends(time.perf_counter() - start, self._memory.take())


class _CourseEngine(NBClientEngine):
    """papermill's engine with a client that measures, a kernel environment of ours and an encrypted transport."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man, kernel_name, *, journal, environment, execution_timeout, start_timeout, **_ignored
    ):
        client = _MeasuredClient(
            nb_man,
            journal,
            kernel_name=kernel_name,
            config=_ENCRYPTED,
            timeout=execution_timeout,
            startup_timeout=start_timeout,
            iopub_timeout=60,  # the default of 4 s fails a cell that prints much on a busy machine
        )
        return client.execute(env=environment)


papermill_engines.register("course", _CourseEngine)
