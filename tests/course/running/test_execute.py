"""One notebook in one kernel: what passes, what fails, and the traps that papermill leaves open."""

import copy
import os
from importlib.util import find_spec
from pathlib import Path

import nbformat
import nbformat.v4 as v4
import papermill
import pytest
from nbclient.exceptions import CellTimeoutError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from support.lesson_files import lesson, settings

from course.running.execute import WIDGET_LIMIT_BYTES, check_rules, execute, heavy_widgets, judge, kernel_environment
from course.running.results import CellRecord, excerpt


def run(folder, *cells, limit_s=60, parameters=None, **changed):
    """Execute a small lesson; returns its failure, its cell records and the executed notebook."""
    told = []
    path, output = lesson(folder, "00_small", *cells).path, folder / "executed.ipynb"
    environment = kernel_environment(settings(folder, **changed), folder / "scratch")
    failure = execute(path, output, parameters or {"scale": "smoke"}, limit_s, environment, told.append)
    return failure, [record for record in told if isinstance(record, CellRecord)], nbformat.read(output, 4)


MANY = """import os
print(scale, seed, os.environ["COURSE_STRICT"], os.environ["OMP_WAIT_POLICY"], os.environ["COURSE_LEARNER"])
# Who listens on this kernel's ports? An encrypted transport needs a key in the connection file.
import json, ipykernel
print("curve" in open(ipykernel.get_connection_file()).read())"""

HEAVY = """import ipywidgets, traitlets
class Heavy(ipywidgets.DOMWidget):
    _model_name = traitlets.Unicode("HeavyModel").tag(sync=True)
    _esm = traitlets.Unicode("x" * 200_000).tag(sync=True)
heavy = Heavy()"""


@pytest.fixture(scope="module")
def passing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passing")
    cells = [MANY, "# words", "block = b'x' * 200_000_000", "del block", "small = 1"]
    return folder, *run(folder, *cells, solved=True, parameters={"scale": "smoke", "seed": 7})


def test_a_lesson_that_passes_got_its_parameters_and_a_kernel_of_its_own(passing):
    folder, failure, _, executed = passing
    assert failure is None
    printed, encrypted = next(c for c in executed.cells if c.source == MANY).outputs[0].text.splitlines()
    learner = str(folder / "scratch" / "learner")
    assert printed == f"smoke 7 1 {os.environ['OMP_WAIT_POLICY']} {learner}"
    assert encrypted == "True"


def test_every_cell_is_counted_as_in_jupyterlab_and_timed(passing):
    _, _, cells, _ = passing
    assert [cell.number for cell in cells] == [1, 2, 3, 4, 5]  # the cell that papermill puts in does not count
    assert cells[0].first_line == 'scale = "laptop"'
    assert all(cell.seconds > 0 for cell in cells)


def test_the_peak_of_a_cell_shows_what_it_allocated_and_only_there(passing):
    _, _, cells, _ = passing
    before, allocating, after = cells[1], cells[2], cells[4]
    assert allocating.peak_memory_bytes > before.peak_memory_bytes + 190e6
    assert after.peak_memory_bytes < allocating.peak_memory_bytes - 150e6


def test_a_failing_cell_is_reported_in_a_few_lines_with_the_line_marked(tmp_path):
    cell = "a = 1\nb = 2\nc = 3\nd = 4\ne = 5\nf = 6\ng = 7\nimport json\njson.loads('{')\nh = 8"
    failure, cells, _ = run(tmp_path, "good = 1", cell, "never = 1")
    assert (failure.kind, failure.exception, failure.cell, failure.failing_line) == ("error", "JSONDecodeError", 3, 9)
    text = failure.text("00_small")
    assert "FAILED 00_small, cell 3" in text
    assert ">   9  json.loads('{')" in text
    assert "raised in" in text
    assert "json/decoder.py, line" in text
    assert len(text.splitlines()) < 15
    assert [record.number for record in cells] == [1, 2, 3]


def test_papermill_calls_a_cell_that_ran_out_of_time_completed_and_we_do_not(tmp_path):
    path, output = lesson(tmp_path, "00_slow", "import time\ntime.sleep(60)", "y = 1").path, tmp_path / "trap.ipynb"
    with pytest.raises(CellTimeoutError):
        papermill.execute_notebook(path, output, kernel_name="python3", execution_timeout=2, progress_bar=False)
    trap = nbformat.read(output, 4)
    assert trap.metadata.papermill.exception is None  # this is the trap
    assert {cell.metadata.papermill.status for cell in trap.cells} == {"completed"}
    assert judge(trap) is not None

    failure, _, executed = run(tmp_path, "import time\ntime.sleep(60)", limit_s=2)
    assert executed.metadata.papermill.exception is None
    assert (failure.kind, failure.cell) == ("cell limit", 2)
    assert "2 s (--cell-timeout)" in failure.message


def test_a_dead_kernel_is_a_failure_of_the_cell_that_killed_it(tmp_path):
    failure, cells, _ = run(tmp_path, "fine = 1", "import os\nos._exit(3)")
    assert (failure.kind, failure.cell) == ("kernel died", 3)
    assert failure.lines == [(1, "import os"), (2, "os._exit(3)")]
    assert len(cells) == 3


def test_leaving_with_system_exit_is_no_success(tmp_path):
    path, output = lesson(tmp_path, "00_exit", "raise SystemExit", "never = 1").path, tmp_path / "trap.ipynb"
    papermill.execute_notebook(path, output, kernel_name="python3", progress_bar=False)  # no error: the trap
    failure = judge(nbformat.read(output, 4))
    assert (failure.kind, failure.cell) == ("stopped early", 3)


def test_a_real_widget_that_carries_its_javascript_is_refused(tmp_path):
    failure, _, executed = run(tmp_path, HEAVY)
    assert failure.kind == "refused"
    assert "HeavyModel stores 200 kB of JavaScript" in failure.message
    assert len(executed.metadata.widgets) == 1


def test_a_figure_widget_would_be_refused_for_its_five_megabytes():
    script = Path(find_spec("plotly").origin).parent / "package_data" / "widgetbundle.js"
    notebook = v4.new_notebook()
    state = {"a": {"model_name": "AnyModel", "state": {"_esm": script.read_text(encoding="utf-8")}}}
    state["b"] = {"model_name": "OwnModel", "state": {"_esm": "x" * WIDGET_LIMIT_BYTES}}
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    (found,) = heavy_widgets(notebook)
    assert found.startswith("AnyModel stores 4.9")
    assert judge(notebook).kind == "refused"


def test_parameters_without_their_tag_would_be_overwritten_in_silence_and_are_refused(tmp_path):
    untagged = lesson(tmp_path, "00_trap", "print(scale)", tag="other").path
    trap = parameterize_notebook(
        load_notebook_node(str(untagged)), {"scale": "smoke"}, kernel_name="python3", language="python"
    )
    first, second = [cell.source for cell in trap.cells if "scale =" in cell.source]
    assert 'scale = "smoke"' in first
    assert 'scale = "laptop"' in second  # this is the trap: the notebook's own value comes last
    with pytest.raises(ValueError, match="exactly one cell must have the tag 'parameters', found 0"):
        check_rules(nbformat.read(untagged, 4), {"scale": "smoke"})


def test_two_parameters_cells_are_refused(tmp_path):
    notebook = nbformat.read(lesson(tmp_path, "00_two").path, 4)
    notebook.cells.append(copy.deepcopy(notebook.cells[1]))
    with pytest.raises(ValueError, match="found 2"):
        check_rules(notebook, {})


def test_an_unknown_parameter_is_refused_with_the_names_there_are(tmp_path):
    notebook = nbformat.read(lesson(tmp_path, "00_plain").path, 4)
    with pytest.raises(ValueError, match="no parameter colour; the parameters cell sets checkpoint, device, scale, se"):
        check_rules(notebook, {"scale": "smoke", "colour": "red"})


def test_a_later_cell_may_use_a_parameter_but_not_set_it_to_a_constant(tmp_path):
    kept = nbformat.read(lesson(tmp_path, "00_kept", "%time x = 1", "device = str(device)").path, 4)
    check_rules(kept, {"device": "cpu"})
    lost = nbformat.read(lesson(tmp_path, "00_lost", "x = 1", 'device = "cpu"').path, 4)
    with pytest.raises(ValueError, match="cell 3 sets device again"):
        check_rules(lost, {"device": "cuda"})


def test_a_refused_notebook_never_starts_a_kernel(tmp_path):
    path = lesson(tmp_path, "00_trap", tag="other").path
    told = []
    assert execute(path, tmp_path / "executed.ipynb", {}, 60, {}, told.append).kind == "refused"
    assert told == []
    assert not (tmp_path / "executed.ipynb").exists()


def test_a_file_that_is_no_notebook_is_a_failure_and_no_traceback(tmp_path):
    (tmp_path / "00_broken.ipynb").write_text("{", encoding="utf-8")
    assert execute(tmp_path / "00_broken.ipynb", tmp_path / "executed.ipynb", {}, 60, {}, print).kind == "refused"


@pytest.mark.parametrize(
    ("failing", "numbers"),
    [(None, [1, 2, 3, 4, 5, 6]), (6, [1, 2, 3, 4, 5, 6]), (7, [1, 2, 3, 6, 7, 8]), (9, [1, 2, 3, 8, 9])],
)
def test_the_excerpt_of_a_cell_shows_its_head_and_the_failing_line(failing, numbers):
    source = "\n".join(f"line_{number}" for number in range(1, 10))
    assert [number for number, _ in excerpt(source, failing)] == numbers
