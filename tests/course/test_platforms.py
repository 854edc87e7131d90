"""Systems and Pythons without a build of torch are named in one line, before anything is fetched."""

import re
from pathlib import Path

import pytest

from course.pip_install import PINS
from course.platforms import in_words, read, this_python, this_system, unsupported

WHEELS = PINS / "torch-wheels.txt"
README = Path(__file__).resolve().parents[2] / "README.md"


def test_this_machine_has_a_build():
    assert unsupported(WHEELS) is None
    assert re.fullmatch(r"cp3\d+t?", this_python())
    assert in_words(this_system()) != this_system()


@pytest.mark.parametrize(
    "system", ["manylinux_2_28_x86_64", "manylinux_2_41_aarch64", "macosx_14_0_arm64", "macosx_26_0_arm64", "win_amd64"]
)
def test_a_system_as_new_as_the_build_will_do(system):
    assert unsupported(WHEELS, system, "cp312") is None


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("macosx_15_0_x86_64", "macOS 15 on an Intel processor"),
        ("macosx_13_0_arm64", "macOS 13 on Apple silicon"),
        ("win_arm64", "Windows on ARM"),
        ("win32", "32-bit Windows"),
        ("manylinux_2_17_x86_64", "Linux on x86_64 with glibc 2.17"),
        ("manylinux_2_36_ppc64le", "Linux on ppc64le"),
        ("musllinux_x86_64", "without glibc, such as Alpine"),
        ("freebsd_14_1_release_amd64", "freebsd_14_1_release_amd64"),
    ],
)
def test_another_system_is_named_with_those_there_are(system, words):
    refusal = unsupported(WHEELS, system, "cp312")
    assert words in refusal
    assert "macOS 14 or newer on Apple silicon" in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize("python", ["cp315", "cp310", "cp313t", "pypy311"])
def test_another_python_is_named_with_those_there_are(python):
    refusal = unsupported(WHEELS, "win_amd64", python)
    assert f"({python})" in refusal
    assert "CPython 3.11 to 3.14" in refusal


def test_readme_names_the_systems_and_the_pythons_that_torch_is_built_for():
    _, builds = read(WHEELS)
    text = " ".join(README.read_text(encoding="utf-8").split())
    newest = max(int(abi[3:]) for abi, _ in builds if abi[3:].isdigit())
    assert f"Python 3.11 to 3.{newest}" in text
    for words in ("Intel Mac", "macOS before 14", "Windows on ARM"):
        assert words in text
