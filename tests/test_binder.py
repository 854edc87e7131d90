"""The image for Binder and JupyterHub: what can be said of it without building it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course.authoring.readme import fill_requirements
from course.pip_install import CPU_WHEELS as CPU_INDEX
from course.pip_install import PINS

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / "binder"


def requirements() -> list[str]:
    return (BINDER / "requirements.txt").read_text(encoding="utf-8").splitlines()


def test_requirements_are_those_that_the_build_makes_from_pyproject():
    assert "\n".join(requirements()) + "\n" == fill_requirements()


def test_torch_comes_from_the_index_of_cpu_builds_and_keeps_to_the_pins():
    index, pins, torch = (line for line in requirements() if not line.startswith("#"))
    assert index == f"--extra-index-url {CPU_INDEX}"
    assert (BINDER / pins.removeprefix("--constraint ")).resolve() == PINS / "constraints.txt"
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", torch)  # exact: an open bound could take the CUDA build


def test_all_else_is_installed_with_its_hash():
    lines = (BINDER / "postBuild").read_text(encoding="utf-8").splitlines()
    (install,) = (line for line in lines if "--require-hashes" in line)
    assert "--no-deps" in install
    assert install.endswith("course/pins/hashes.txt")
    variables = next(line for line in lines if "PIP_CONSTRAINT=" in line)  # setuptools, where a package is built
    assert variables.count("course/pins/constraints.txt") == 2


def test_the_image_leaves_jupyterlabs_news_out():
    configuration = json.loads((ROOT / "course/jupyter/labconfig/page_config.json").read_text(encoding="utf-8"))
    assert configuration["disabledExtensions"]["@jupyterlab/apputils-extension:announcements"]
    assert "/course/jupyter" in (BINDER / "start").read_text(encoding="utf-8")
    devcontainer = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert devcontainer["containerEnv"]["JUPYTER_CONFIG_PATH"].endswith("/course/jupyter")


def test_the_python_of_the_image_is_one_that_the_course_supports():
    major, minor = re.fullmatch(r"python-(\d+)\.(\d+)", (BINDER / "runtime.txt").read_text().strip()).groups()
    assert (3, 11) <= (int(major), int(minor)) <= (3, 14)


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_scripts_have_an_interpreter_and_unix_line_ends(name):
    content = (BINDER / name).read_bytes()
    assert content.startswith(b"#!/bin/bash")
    assert b"\r" not in content


@pytest.mark.parametrize("name", ["postBuild", "start"])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
def test_scripts_are_executable(name):
    assert os.access(BINDER / name, os.X_OK)


def test_the_start_script_hands_over_to_the_server_as_its_last_act():
    lines = (BINDER / "start").read_text(encoding="utf-8").strip().splitlines()
    assert "export OMP_WAIT_POLICY=PASSIVE" in lines
    assert lines[-1] == 'exec "$@"'


@pytest.mark.skipif(os.name == "nt", reason="the script is for Linux")
def test_the_start_script_sets_the_policy_and_passes_arguments_on_untouched():
    code = "import json, os, sys; print(json.dumps([os.environ['OMP_WAIT_POLICY'], sys.argv[1:]]))"
    command = [BINDER / "start", sys.executable, "-c", code, "two words", "*"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert json.loads(answer.stdout) == ["PASSIVE", ["two words", "*"]]


def test_after_the_build_the_course_is_installed_and_the_doctor_looks_at_the_image():
    lines = (BINDER / "postBuild").read_text(encoding="utf-8").splitlines()
    install = next(number for number, line in enumerate(lines) if "pip install" in line and "--editable ." in line)
    assert "--no-deps" in lines[install]  # requirements.txt has brought them; asking again could change them
    assert lines.index("python3 -m course doctor") > install
    assert any(line.startswith("set -e") for line in lines)


def test_repo2docker_reads_the_folder_as_meant(tmp_path):
    tool = shutil.which("jupyter-repo2docker")
    if tool is None:
        pytest.skip("jupyter-repo2docker is not installed (pip install jupyter-repo2docker, in its own environment)")
    shutil.copytree(BINDER, tmp_path / "course" / "binder")
    command = [tool, "--no-build", "--debug", str(tmp_path / "course")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr[-2000:]
    dockerfile = answer.stdout + answer.stderr
    for expected in ("binder/requirements.txt", "RUN ./binder/postBuild", 'R2D_ENTRYPOINT="${REPO_DIR}/binder/start"'):
        assert expected in dockerfile
