"""Imports go one way: notebooks -> course.checks -> course.exercise -> helpers, and inside helpers only down the steps.

The steps are the picture of the library. A new module gets its step here first; an import between two modules of one
step stands in WITHIN_A_STEP with its reason, and an import between two files of one folder in SIBLINGS.
"""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

STEPS = (
    ("shapes", "units", "files", "device", "precision", "facts", "recorded", "inside", "parts"),  # words
    # evidence
    (
        "compare",
        "reference",
        "measure",
        "data",
        "bpe",
        "sockets",
        "plots",
        "widgets",
        "ledger",
        "calibration",
        "scaling",
        "training_bill",
    ),
    ("layers", "moe", "quant"),  # parts
    ("kernels",),  # fast parts
    ("models", "vision", "video"),  # models
    # what models are trained for, and to choose
    ("losses", "dsa_training", "csa_training", "budgets", "indexed_qwen3"),
    (
        "checkpoints",
        "prompts",
        "sampling",
        "stopping",
        "generate",
        "compiled",
        "recall",
        "train",
        "optim",
        "zoo",
        "drafts",
        "speculative",
        "acceptance",
    ),  # using them
)
STEP = {name: number for number, names in enumerate(STEPS) for name in names}

WITHIN_A_STEP = {
    ("widgets", "plots"): "a widget shows a figure, with its text alternative",
    ("moe", "layers"): "the expert that every token goes to is a dense feed-forward layer",
    ("quant", "moe"): "experts and routers are packed too",
    ("quant", "layers"): "a norm shrinks what AWQ stretches behind it",
    ("models", "vision"): "a model that reads images has a tower",
    ("plots", "ledger"): "figures of claims know the verdicts that there are",
    ("plots", "calibration"): "figures of probabilities draw bins and scores",
    ("recall", "generate"): "what a model remembers is what it writes",
    ("stopping", "sampling"): "whole numbers are told from others one way",
    ("generate", "prompts"): "it reads what people give",
    ("generate", "sampling"): "it draws the next token",
    ("generate", "stopping"): "it ends where it is told",
    ("drafts", "sampling"): "a draft draws from chances as generate does",
    ("speculative", "generate"): "the same tokens in fewer passes",
    ("speculative", "prompts"): "it reads what generate reads",
    ("speculative", "sampling"): "its tokens have the distribution of generate's",
    ("speculative", "stopping"): "it ends where generate ends",
    ("speculative", "drafts"): "it takes guesses",
    ("acceptance", "drafts"): "guesses are counted where they are made",
    ("csa_training", "losses"): "the same over entries",
    ("csa_training", "dsa_training"): "an indexer imitates the same way, whatever it chooses among",
    ("dsa_training", "losses"): "sparse training is the language loss, and an indexer's beside it",
    ("budgets", "dsa_training"): "the layer's own indexer is one rule among others",
    ("indexed_qwen3", "budgets"): "an indexer beside a dense model is a rule",
    ("indexed_qwen3", "dsa_training"): "it learns by the same imitation",
    ("zoo", "train"): "a recipe holds the settings of its training",
    ("zoo", "generate"): "a card shows what its model writes",
    ("zoo", "recall"): "a card counts the facts that its model knows",
    ("checkpoints", "zoo"): "the checkpoint called zoo is the one that ships with the course",
    ("zoo", "checkpoints"): "a trained model is written as every other checkpoint is",
}
KERNELS = (
    "rms_norm",
    "softmax",
    "matmul",
    "flash",
    "split",
    "latent_walk",
    "mla_decode",
    "sparse_attention",
    "index_scores",
    "top_k",
    "delta_rule",
    "unpack",
    "packed_linear",
    "eight_bit",
    "experts",
    "block_sparse",
)  # one kernel a file; all launch the same way
SIBLINGS = {  # folders of one mechanism a file: who may use whom
    "data": {("python", "corpus"), ("languages", "corpus"), ("parallel", "languages"), ("digits", "tasks")},
    "layers": {
        ("attention", "norm"),
        ("attention", "rope"),
        ("attention", "cache"),
        ("cache", "rows"),
        ("gated_attention", "attention"),
        ("gated_attention", "norm"),
        ("gated_attention", "rope"),
        ("gated_attention", "cache"),
        ("block_sparse", "attention"),
        ("block_sparse", "dsa"),
        ("delta", "norm"),
        ("delta", "rows"),
        ("mla", "attention"),
        ("mla", "norm"),
        ("mla", "rope"),
        ("mla", "cache"),
        ("dsa", "attention"),
        ("dsa", "cache"),
        ("dsa", "mla"),
        ("compressor", "cache"),
        ("compressor", "dsa"),
        ("compressor", "norm"),
        ("compressor", "rope"),
        ("compressor", "rows"),
        ("compressed", "compressor"),
        ("compressed", "norm"),
        ("compressed", "rope"),
        ("compressed", "rows"),
    },
    "moe": {
        ("specialists", "experts"),
        ("mixture", "router"),
        ("mixture", "experts"),
        ("experts", "dispatch"),
        ("balance", "router"),
        ("balance", "experts"),
    },
    "quant": {
        ("integers", "blocks"),
        ("integers", "packing"),
        ("floats", "blocks"),
        ("fp4", "blocks"),
        ("fp4", "floats"),
        ("fp4", "packing"),
        ("normal_float", "blocks"),
        ("normal_float", "integers"),
        ("normal_float", "packing"),
        ("outliers", "integers"),
        *(("cache", name) for name in ("integers", "packing")),
        *(("qat", name) for name in ("blocks", "integers")),
        *(("audit", name) for name in ("linear", "parts")),
        *(("formats", name) for name in ("blocks", "floats", "fp4", "integers", "normal_float", "packing")),
        *(("ways", name) for name in ("formats", "integers")),
        *(("cpu", name) for name in ("formats", "integers", "normal_float", "packing", "ways")),
        *(("linear", name) for name in ("cpu", "formats", "ways")),
        *(("experts", name) for name in ("cpu", "linear", "ways")),
        ("parts", "linear"),
        *(("model", name) for name in ("blocks", "cpu", "experts", "formats", "linear", "parts", "ways")),
        *((method, name) for method in ("gptq", "awq") for name in ("inputs", "integers")),
        ("smooth", "integers"),
        *(("calibrate", name) for name in ("awq", "blocks", "gptq", "inputs", "integers", "parts", "undo")),
    },
    "models": {
        *((family, "published") for family in ("qwen3", "qwen3_5", "deepseek_v3_config", "deepseek_v32", "glm5")),
        *((family, "published") for family in ("deepseek_v4_config", "qwen3_5_vision", "kimi_k25")),
        *(
            (family, "text_only")
            for family in ("qwen3", "qwen3_5", "deepseek_v3", "deepseek_v32", "deepseek_v4", "glm5")
        ),
        ("glm5", "deepseek_v32"),
        ("deepseek_v3", "deepseek_v3_config"),
        ("deepseek_v4", "deepseek_v4_config"),
        ("kimi_k25", "deepseek_v3"),
        ("qwen3_5_vision", "qwen3_5"),
    },
    "kernels": {
        ("ahead", "launch"),
        ("traffic", "launch"),
        *((file, "launch") for file in KERNELS),
        *((file, "softmax") for file in ("flash", "latent_walk", "block_sparse")),  # fold a tile into a mixture
        ("latent_walk", "split"),
        *((file, "latent_walk") for file in ("mla_decode", "sparse_attention")),  # all rows, or chosen ones
        *((file, "unpack") for file in ("packed_linear", "experts")),  # weights of few bits, in registers
        *(("ways", file) for file in ("launch", "unpack", "packed_linear", "eight_bit")),  # layers by kernels
    },
}
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
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


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


def part(module: str) -> str:
    """The step's word: ``helpers.layers.norm`` is of ``layers``, ``helpers`` itself of nothing."""
    return (*module.split("."), "")[1]


def file_in(module: str, folder: str) -> str | None:
    """The file's name when the module lies in ``helpers/<folder>``."""
    match = re.fullmatch(rf"helpers\.{folder}\.(\w+)", module)
    return match[1] if match else None


def complaint(importer: str, imported: str) -> str | None:
    """Why an import inside helpers goes against the steps; None when it goes down."""
    a, b = part(importer), part(imported)
    if a == b or (a, b) in WITHIN_A_STEP:
        return None
    if not a:
        return f"{importer} itself imports {imported}: the package's front page imports nothing"
    if not b or STEP[b] < STEP[a]:
        return None
    return f"{importer} (step {STEP[a]}) imports {imported} (step {STEP[b]})"


def test_the_parser_sees_an_import_wherever_it_stands():
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    import g as h\n"
    assert imported_names(source) == {"a.b", "c", "c.d", ".", "..e", "g"}


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("helpers.models.qwen3", "helpers.layers.norm", True),
        ("helpers.layers.norm", "helpers.models.qwen3", False),
        ("helpers.units", "helpers.measure", False),
        ("helpers.data", "helpers.compare", False),
        ("helpers.widgets", "helpers.plots", True),
        ("helpers.plots", "helpers.widgets", False),
    ],
)
def test_an_import_up_or_across_is_refused_and_one_down_is_not(importer, imported, allowed):
    assert (complaint(importer, imported) is None) == allowed


def test_every_module_of_helpers_has_its_step():
    assert {part(name) for name in HELPERS if part(name)} <= set(STEP)


def test_imports_inside_helpers_only_go_down():
    found = [text for a, b in edges(HELPERS) if b in HELPERS and (text := complaint(a, b))]
    assert not found, "\n".join(sorted(found))


def test_every_exception_to_the_steps_is_still_used():
    used = {(part(a), part(b)) for a, b in edges(HELPERS)}
    assert set(WITHIN_A_STEP) <= used
    inside = {folder: {(file_in(a, folder), file_in(b, folder)) for a, b in edges(HELPERS)} for folder in SIBLINGS}
    assert all(SIBLINGS[folder] <= inside[folder] for folder in SIBLINGS)


@pytest.mark.parametrize("folder", SIBLINGS)
def test_files_of_one_mechanism_each_do_not_import_each_other_unless_the_picture_says_so(folder):
    pairs = {(file_in(a, folder), file_in(b, folder)) for a, b in edges(HELPERS)}
    assert {pair for pair in pairs if all(pair)} <= SIBLINGS[folder]


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
            assert used <= {"course.exercise", "course.checks"}, name


def test_the_exercise_engine_does_not_know_the_lessons():
    for a, b in edges(COURSE):
        assert not (a == "course.exercise" and b.startswith("course.checks")), (a, b)


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
