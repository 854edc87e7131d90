"""The repository as people expect it: what README says is so, and what a platform reads can be read."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

from course.authoring.readme import fill_readme
from course.bootstrap import OLDEST
from course.cli import COMMANDS
from course.sources import cells, sources
from course.test import STEPS
from course.upkeep.lock import RESOLUTIONS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "course" / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COMMAND = re.compile(r"\b(?:python3?|py|\$\(PYTHON\)) -m course(?: +([a-z][a-z-]*))?")
LARGEST_TREE_BYTES, LARGEST_FILE_BYTES = 20_000_000, 10_000_000

# Dependencies that no file imports: where their use can be seen, and by what words.
USED_BY_NAME = {
    "accelerate": ("helpers/quant/audit.py", "load_in_4bit=True"),  # transformers asks for it there
    "numpy": ("helpers/training/train.py", ".numpy()"),  # torch hands its tensors to it
    "jupyterlab": ("course/lab.py", '"jupyterlab"'),
    "ipykernel": ("course/authoring/build.py", '"kernelspec"'),
    "jupyterlab-execute-time": ("course/doctor.py", "jupyterlab-execute-time"),
    "jupyter-resource-usage": ("course/doctor.py", "jupyter-resource-usage"),
    "pytest-xdist": ("course/test.py", '"-n"'),
    "pytest-timeout": ("pyproject.toml", "timeout"),
    "ruff": ("course/test.py", '"ruff"'),
    "beartype": ("tests", "beartype"),
    "efficient-engines": (
        "tests/course/site/test_site.py",
        "course.site",
    ),  # itself, with the extra that the test needs
    "myst-nb": ("course/site/build.py", '"myst_nb"'),
    "furo": ("course/site/build.py", '"furo"'),
    "uv": ("course/upkeep/lock.py", 'shutil.which("uv")'),
}


def tracked() -> list[Path]:
    """The files that travel with the repository."""
    if shutil.which("git") is None:
        pytest.skip("no git here: there is no list of tracked files")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: there is no list of tracked files")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str | None:
    """The text of a file, or None where it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


# ---------------------------------------------------------------- README


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.S | re.M)


def test_the_first_screen_names_both_commands():
    first_screen = README[:2500]
    assert "git clone" in first_screen
    assert re.search(r"^python3 -m course +#", first_screen, re.M)
    assert re.search(r"^python3 -m course test +#", first_screen, re.M)


def test_the_example_is_as_short_as_it_says_and_runs_without_reaching_for_the_network(tmp_path):
    (example,) = code_blocks("python")
    assert "A model in seven lines" in README
    assert len([line for line in example.splitlines() if line.strip()]) == 7
    guarded = f"from helpers.measure.sockets import watch_sockets\nwith watch_sockets() as seen:\n{indented(example)}"
    program = f"{guarded}\nassert not seen.attempts, seen.attempts\n"
    environment = {**os.environ, "PYTHONUTF8": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment.pop("HF_HUB_OFFLINE", None)  # a learner has not set it either
    command = [sys.executable, "-W", "error", "-c", program]
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, cwd=tmp_path, timeout=300)
    assert answer.returncode == 0, answer.stderr[-2000:]
    *text, size = answer.stdout.strip().splitlines()
    assert "def __init__(self" in "\n".join(text)
    assert re.fullmatch(r"\d+ bytes of weights", size)


def indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())


def test_the_lesson_table_is_the_one_that_the_syllabus_makes():
    assert fill_readme(README) == README


@pytest.mark.parametrize("document", ["README.md", "course/CONTRIBUTING.md"])
def test_relative_links_lead_to_files_that_are_there(document):
    links = re.findall(r"\]\(([^)#\s]+)\)", (ROOT / document).read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local
    missing = [link for link in local if not ((ROOT / document).parent / link).exists()]
    assert not missing


def test_readme_names_the_python_that_the_course_really_needs():
    version = ".".join(map(str, OLDEST))
    assert f"Python {version}" in README
    assert PROJECT["requires-python"] == f">={version}"


def documents() -> dict[str, str]:
    """Every text that tells a person or a machine to run one of our commands."""
    paths = [ROOT / name for name in ("README.md", "course/CONTRIBUTING.md", "Makefile", ".pre-commit-config.yaml")]
    paths += [ROOT / ".ci" / "run", ROOT / "binder" / "postBuild", ROOT / ".devcontainer" / "devcontainer.json"]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in [*paths, *WORKFLOWS]}


@pytest.mark.parametrize("name", documents())
def test_every_command_that_is_named_exists(name):
    named = {command for command in COMMAND.findall(documents()[name]) if command}
    assert named <= set(COMMANDS), f"{name} names a command that course/cli.py does not have"


@pytest.mark.parametrize("name", documents())
def test_every_step_of_the_tests_that_is_named_exists(name):
    assert set(re.findall(r"--only ([a-z]+)", documents()[name])) <= set(STEPS)


# ---------------------------------------------------------------- licence and citation


def test_the_licence_states_mit_for_code_and_cc_by_for_text():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Permission is hereby granted, free of charge, to any person obtaining a copy" in licence
    assert 'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND' in licence
    assert "Creative Commons Attribution 4.0 International (CC BY 4.0)" in licence
    assert "https://creativecommons.org/licenses/by/4.0/" in licence
    assert PROJECT["license"] == "MIT AND CC-BY-4.0"
    assert PROJECT["license-files"] == ["LICENSE"]


def test_the_citation_has_what_the_format_requires_and_agrees_with_pyproject():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # required by CFF 1.2.0
    allowed = {"cff-version", "message", "title", "authors", "abstract", "type", "version", "license", "keywords"}
    assert citation.keys() <= allowed
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The Efficient Engines authors"}]
    assert citation["type"] == "software"
    assert citation["version"] == PROJECT["version"]
    assert " AND ".join(citation["license"]) == PROJECT["license"]
    assert len(set(citation["keywords"])) == len(citation["keywords"])


# ---------------------------------------------------------------- CI


def workflow(path: Path) -> dict:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {("on" if key is True else key): value for key, value in content.items()}  # YAML 1.1 reads `on` as true


def steps(path: Path) -> list[dict]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


def jobs(path: Path) -> list[dict]:
    return list(workflow(path)["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_a_trigger_and_bounded_jobs_with_few_rights(path):
    content = workflow(path)
    assert content["name"] == path.stem
    assert content["on"]
    assert content["permissions"] == {"contents": "read"}
    assert "concurrency" in content
    for job in jobs(path):
        assert 0 < job["timeout-minutes"] <= 120
        assert job["runs-on"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_step_does_one_thing_and_actions_are_pinned_by_their_commit(path):
    text = path.read_text(encoding="utf-8")
    for step in steps(path):
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
            assert re.search(rf"{step['uses']} # v\d+\.\d+\.\d+$", text, re.M), "the version, for a reader"


def test_an_action_has_one_commit_in_every_workflow():
    pairs = {step["uses"] for path in WORKFLOWS for step in steps(path) if "uses" in step}
    assert len({pair.split("@")[0] for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_the_test_command_and_keeps_the_report_even_of_a_failure(path):
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert any(re.fullmatch(r"python3 -m course test( --scale laptop)?", command) for command in commands)
    uploads = [step for step in steps(path) if step.get("uses", "").startswith("actions/upload-artifact@")]
    (report,) = [step for step in uploads if step["with"]["name"].startswith("report-")]
    assert report["if"] == "always()"
    assert report["with"]["path"] == "build/"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_step_hides_its_failure(path):
    text = path.read_text(encoding="utf-8")
    assert "continue-on-error" not in text
    assert "|| true" not in text


def test_every_push_is_tested_on_three_systems_with_the_oldest_and_the_newest_python():
    content = workflow(ROOT / ".github/workflows/push.yml")
    (job,) = content["jobs"].values()
    assert {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.14"]
    assert job["strategy"]["fail-fast"] is False
    assert content["concurrency"]["cancel-in-progress"] is True


def test_every_night_runs_with_the_pins_the_lowest_and_the_newest_versions_on_the_oldest_and_newest_python():
    content = workflow(ROOT / ".github/workflows/nightly.yml")
    job = content["jobs"]["lessons"]
    rows = [(row["versions"], row["python"]) for row in job["strategy"]["matrix"]["include"]]
    assert content["on"]["schedule"]
    assert job["env"]["COURSE_NIGHTLY"] == "1"
    assert job["strategy"]["fail-fast"] is False
    assert {versions for versions, _ in rows} == set(RESOLUTIONS)
    assert {("locked", "3.11"), ("locked", "3.14")} <= set(rows)


def test_a_night_is_told_in_one_issue_by_a_job_that_may_do_no_more():
    content = workflow(ROOT / ".github/workflows/nightly.yml")
    record = next(
        step for step in content["jobs"]["lessons"]["steps"] if "course.upkeep.nightly record" in step.get("run", "")
    )
    assert record["if"] == "always()"
    job = content["jobs"]["issue"]
    assert job["needs"] == "lessons"
    assert "always()" in job["if"]  # a night that passed closes the issue
    assert job["permissions"] == {"contents": "read", "issues": "write"}
    assert "course.upkeep.nightly issue" in job["steps"][-1]["run"]


def test_every_week_the_pins_are_renewed_and_offered_by_a_job_that_runs_nobodys_code():
    content = workflow(ROOT / ".github/workflows/renew.yml")
    assert content["on"]["schedule"]
    pins, offer = content["jobs"]["pins"], content["jobs"]["offer"]
    assert any("course lock --upgrade" in step.get("run", "") for step in pins["steps"])
    assert "permissions" not in pins
    assert offer["needs"] == "pins"
    assert not any(word in step.get("run", "") for step in offer["steps"] for word in ("pip ", "-m course"))


CI = ROOT / ".ci" / "run"
needs_bash = pytest.mark.skipif(os.name == "nt", reason="the script is for Linux machines")


def test_ci_ends_with_the_test_command_of_readme():
    lines = CI.read_text(encoding="utf-8").strip().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[-1] == "exec python3 -m course test"
    assert lines[-1].removeprefix("exec ") in [
        line.split("  #")[0].strip() for line in code_blocks("bash")[0].splitlines()
    ]


def run_ci(folder: Path, programs: dict[str, str]) -> tuple[subprocess.CompletedProcess, str]:
    """Run .ci/run where only the named programs exist; each writes its call into a log. Returns answer and log."""
    programs = {"dirname": 'exec /usr/bin/env -i /usr/bin/dirname "$@"', "timeout": 'shift; "$@"', **programs}
    log = folder / "log"
    log.write_text("")
    for name, does in programs.items():
        record = "" if name in ("dirname", "id", "timeout") else f'echo "{name} $*" >> {shlex.quote(str(log))}\n'
        (folder / name).write_text(f"#!/bin/sh\n{record}{does}\n")
        (folder / name).chmod(0o755)
    answer = subprocess.run(["/bin/bash", CI], capture_output=True, text=True, env={"PATH": str(folder)}, timeout=60)
    return answer, log.read_text()


@needs_bash
@pytest.mark.parametrize("status", [0, 1, 3])
def test_ci_keeps_the_exit_status_of_the_tests(tmp_path, status):
    answer, log = run_ci(tmp_path, {"chromium": "", "python3": f"exit {status}", "id": "echo 0", "apt-get": ""})
    assert answer.returncode == status
    assert log == "python3 -m course test\n"  # a browser is here, so nothing is installed
    assert "ci: python3 -m course test" in answer.stdout


@needs_bash
def test_ci_installs_a_browser_where_it_may_and_one_is_missing(tmp_path):
    answer, log = run_ci(tmp_path, {"python3": "", "id": "echo 0", "apt-get": ""})
    assert answer.returncode == 0
    assert log.splitlines()[0] == "apt-get update -q"
    assert "chromium" in log.splitlines()[1]
    assert log.splitlines()[2] == "python3 -m course test"


@needs_bash
def test_ci_goes_on_without_a_browser_when_the_package_manager_fails(tmp_path):
    answer, log = run_ci(tmp_path, {"python3": "", "id": "echo 0", "apt-get": "exit 100"})
    assert answer.returncode == 0
    assert "the browser tests will skip" in answer.stdout
    assert log.splitlines()[-1] == "python3 -m course test"


@needs_bash
def test_ci_installs_nothing_for_a_person_who_is_not_root(tmp_path):
    answer, log = run_ci(tmp_path, {"python3": "", "id": "echo 1000", "apt-get": ""})
    assert (answer.returncode, log) == (0, "python3 -m course test\n")


# ---------------------------------------------------------------- editors and hooks


def test_the_devcontainer_sets_up_with_the_courses_own_commands():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["image"].startswith("python:3.")
    assert container["containerEnv"]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "python3 -m course" in container["postCreateCommand"]
    assert container["forwardPorts"] == [8888]


def test_hooks_are_local_and_call_commands_that_exist():
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in content["repos"]] == ["local"]
    for hook in content["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert shlex.split(hook["entry"])[0] == "python3"


@needs_bash
def test_the_hook_against_large_files_names_the_large_one_alone(tmp_path):
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    (entry,) = [hook["entry"] for hook in hooks if hook["id"] == "large-files"]
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x")
    with large.open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    command = [sys.executable, *shlex.split(entry)[1:]]
    assert subprocess.run([*command, small], timeout=60).returncode == 0
    answer = subprocess.run([*command, small, large], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert str(large) in answer.stderr
    assert str(small) not in answer.stderr


def test_makefile_holds_aliases_of_our_commands_and_nothing_else():
    recipes = re.findall(r"^\t(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert recipes
    assert all(re.fullmatch(r"\$\(PYTHON\) -m course[ a-z-]*", recipe) for recipe in recipes)


# ---------------------------------------------------------------- every tracked file


def test_the_tree_is_small_enough_to_travel_and_no_file_is_large():
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked()}
    assert sum(sizes.values()) < LARGEST_TREE_BYTES
    assert not {name: size for name, size in sizes.items() if size > LARGEST_FILE_BYTES}


def test_no_file_names_a_path_of_somebodys_machine():
    private = re.compile(r"(?<![\w.$}/*])/(?:work|root|home|Users)/[\w.]+")
    found = {}
    for path in tracked():
        text = text_of(path)
        if text and (paths := private.findall(text)):
            found[path.relative_to(ROOT).as_posix()] = paths
    assert not found


def test_no_file_names_a_package_registry_except_torchs_own_index_where_it_is_needed():
    registries = ("pypi" + ".org", "pythonhosted" + ".org", "anaconda" + ".org", "registry.npmjs" + ".org")
    index = "download." + "pytorch.org"
    may_name_index = {
        "binder/requirements.txt",
        "course/pip_install.py",
        "course/authoring/readme.py",
        ".github/workflows/nightly.yml",
        "tests/test_binder.py",
    }
    found = set()
    for path in tracked():
        name, text = path.relative_to(ROOT).as_posix(), text_of(path) or ""
        found |= {(name, host) for host in registries if host in text}
        if index in text and name not in may_name_index and not name.startswith("tests/course/"):
            found.add((name, index))
    assert not found


def test_no_file_can_be_a_pickle():
    suffixes = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
    assert not [path for path in tracked() if path.suffix in suffixes]


# ---------------------------------------------------------------- dependencies


def requirement_lines() -> list[str]:
    """The lines of pyproject.toml that ask for a package, with their comments."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = text[text.index("dependencies = [") : text.index("[tool.")]
    return [line.strip() for line in lists.splitlines() if re.match(r'\s+"', line)]


def test_every_dependency_has_its_reason_beside_it():
    lines = requirement_lines()
    assert len(lines) == len(PROJECT["dependencies"]) + sum(map(len, PROJECT["optional-dependencies"].values()))
    assert not [line for line in lines if not re.search(r"#\s*\S+ \S+", line)]


def imported_by_us() -> set[str]:
    """Top names of every import in helpers, course, tests and the lessons' code."""
    code = [
        path.read_text("utf-8") for folder in ("helpers", "course", "tests") for path in (ROOT / folder).rglob("*.py")
    ]
    code += [cell.solved for path in sources().values() for cell in cells(path) if cell.kind == "code"]
    names = set()
    for node in (node for text in code for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
        elif (
            isinstance(node, ast.Call)
            and node.args
            and getattr(node.func, "attr", "") in ("importorskip", "import_module")
        ):
            names |= {node.args[0].value.split(".")[0]} if isinstance(node.args[0], ast.Constant) else set()
    return names


def test_every_dependency_is_imported_or_its_use_is_shown():
    imported = imported_by_us()
    unused = []
    for line in [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]:
        name = re.match(r"[\w.-]+", line)[0]
        if name.replace("-", "_") not in {module.lower() for module in imported} and not shown_in_use(name):
            unused.append(name)
    assert not unused


def shown_in_use(name: str) -> bool:
    if name not in USED_BY_NAME:
        return False
    place, words = USED_BY_NAME[name]
    files = (ROOT / place).rglob("*.py") if (ROOT / place).is_dir() else [ROOT / place]
    return any(words in path.read_text(encoding="utf-8") for path in files if path != Path(__file__).resolve())
