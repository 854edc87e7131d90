"""The house's few rules: steps between rooms, no circles, helpers never import course, folders that can be read.

``rooms.toml`` is the table of the steps. Nothing here copies today's imports: whatever goes down the steps is allowed.
"""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = tomllib.loads(Path(__file__).with_name("rooms.toml").read_text(encoding="utf-8"))
STEP = {
    top: {room: n for n, rooms in enumerate(HOUSE[top]["steps"]) for room in rooms} for top in ("helpers", "course")
}
APART = ("course/lessons/", "course/running/offline/")  # notebooks in the making; a sitecustomize of another process
CARRIED = {  # imported though pyproject.toml does not name it
    "packaging": "compares versions where it is there; bootstrap does without it",
    "docutils": "a part of Sphinx",
    "jupyter_client": "a part of ipykernel",
    "pygments": "a part of JupyterLab and nbconvert",
    "traitlets": "a part of nbclient and every other piece of Jupyter",
}
BEFORE_INSTALLATION = tuple(
    f"course/{name}.py" for name in ("__init__", "__main__", "bootstrap", "pip_install", "platforms", "streams")
)


def files(folder: str) -> list[Path]:
    found = (path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)
    return sorted(path for path in found if not path.relative_to(ROOT).as_posix().startswith(APART))


def name_of(path: Path) -> str:
    """``helpers/layers/norm.py`` is ``helpers.layers.norm``; a package is its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str) -> set[str]:
    """Every module that a source imports, wherever the import stands; ``from a import b`` gives ``a`` and ``a.b``."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def imports(folder: str) -> dict[str, set[str]]:
    return {name_of(path): imported_names(path.read_text(encoding="utf-8")) for path in files(folder)}


HELPERS, COURSE = imports("helpers"), imports("course")
MODULES = set(HELPERS) | set(COURSE)


def edges(modules: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Who imports whom, both by the names of files that exist (``helpers.units``, not ``helpers.units.GB``)."""
    return {(name, other) for name, names in modules.items() for other in names & MODULES if other != name}


def room(module: str) -> str:
    """``helpers.layers.norm`` is of ``layers``, ``helpers`` itself of nothing."""
    return (*module.split("."), "")[1]


def complaint(importer: str, imported: str) -> str | None:
    """Why an import within helpers or course goes against the steps; None when it goes down, or stays in its room."""
    top, a, b = importer.split(".")[0], room(importer), room(imported)
    if a == b or not a or not b or STEP[top][b] < STEP[top][a]:
        return None
    return f"{importer} (step {STEP[top][a]}) imports {imported} (step {STEP[top][b]})"


def test_the_parser_sees_an_import_wherever_it_stands():
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    import g as h\n"
    assert imported_names(source) == {"a.b", "c", "c.d", ".", "..e", "g"}


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("helpers.models.qwen3", "helpers.layers.norm", True),
        ("helpers.layers.norm", "helpers.models.qwen3", False),
        ("helpers.units", "helpers.measure", False),
        ("helpers.layers.mla", "helpers.layers.norm", True),
        ("helpers.planning", "helpers.decoding", False),
        ("course.running.run", "course.authoring.build", True),
        ("course.sources", "course.authoring.build", False),
    ],
)
def test_an_import_up_or_across_is_refused_and_one_down_is_not(importer, imported, allowed):
    assert (complaint(importer, imported) is None) == allowed


@pytest.mark.parametrize("modules", [HELPERS, COURSE], ids=["helpers", "course"])
def test_every_room_has_its_step_and_every_step_its_room(modules):
    top = next(iter(modules)).split(".")[0]
    assert {room(name) for name in modules if room(name)} == set(STEP[top])


@pytest.mark.parametrize("modules", [HELPERS, COURSE], ids=["helpers", "course"])
def test_imports_between_rooms_only_go_down(modules):
    found = [text for a, b in edges(modules) if b in modules and (text := complaint(a, b))]
    assert not found, "\n".join(sorted(found))


def test_no_folder_holds_more_files_than_a_reader_can_take_in():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    count = Counter(str(Path(line).parent) for line in listed.stdout.splitlines())
    full = {folder: n for folder, n in count.items() if n > HOUSE["files"]["most"]}
    assert not full.keys() - set(HOUSE["files"]["one_each"]), full


def test_no_two_modules_import_each_other_not_even_round_a_corner():
    graph = {name: set() for name in MODULES}
    for a, b in edges({**HELPERS, **COURSE}):
        if not a.startswith(b + "."):  # a file of a package may name its package; the package imports its files
            graph[a].add(b)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_helpers_never_import_the_course():
    guilty = {name for name, names in HELPERS.items() if any(other.split(".")[0] == "course" for other in names)}
    assert not guilty


def test_imports_are_absolute_so_that_a_search_finds_them():
    guilty = {
        name for modules in (HELPERS, COURSE) for name, names in modules.items() if any(n[0] == "." for n in names)
    }
    assert not guilty


def test_checks_of_a_lesson_import_the_exercise_and_helpers_and_nothing_else_of_the_course():
    for name, names in COURSE.items():
        if name.startswith("course.checks."):
            used = {other for other in names & MODULES if other.startswith("course.")}
            assert used <= {"course.exercise", "course.exercise.exercise", "course.checks"}, name


def test_the_exercise_engine_does_not_know_the_lessons():
    for a, b in edges(COURSE):
        assert not (a == "course.exercise.exercise" and b.startswith("course.checks")), (a, b)


def test_helpers_read_no_environment_variables():
    guilty = [path for path in files("helpers") if re.search(r"\bos\.(environ|getenv)\b", path.read_text("utf-8"))]
    assert not guilty


def test_packages_that_helpers_and_course_import_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    declared = {re.match(r"[\w.-]+", line)[0].replace("-", "_").lower() for line in wanted}
    known = set(sys.stdlib_module_names) | {"helpers", "course"} | declared | set(CARRIED)
    foreign = {(name, other) for name, names in {**HELPERS, **COURSE}.items() for other in names}
    undeclared = {
        (name, other)
        for name, other in foreign
        if other.split(".")[0] not in known and other.split(".")[0].lower() not in declared
    }
    assert not undeclared, "pyproject.toml does not ask for these"


@pytest.mark.parametrize("file", BEFORE_INSTALLATION)
def test_what_runs_before_installation_imports_the_standard_library_at_its_top(file):
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    names = set()
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= imported_names(ast.unparse(node))
    foreign = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    ours = {"course", *(file.removesuffix(".py").replace("/", ".") for file in BEFORE_INSTALLATION)}
    assert {name for name in foreign if name not in ours and name.rpartition(".")[0] not in ours - {"course"}} == set()


def test_the_commands_start_in_a_bare_python():
    """``-I -S`` leaves nothing but the standard library; what is asked there must still be answered."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from course.__main__ import main; sys.exit(main(['--help']))"
    )
    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert "python3 -m course" in answer.stdout
