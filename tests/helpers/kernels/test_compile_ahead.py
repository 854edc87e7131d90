"""Every kernel compiles for the A100 and for the H100 and H200, without either, and fits on them."""

import json
import os
import pkgutil
import subprocess
import sys

import pytest
from support.kernel_tests import needs_triton

import helpers.kernels
from helpers.kernels import compile_ahead
from helpers.kernels.launch import INTERPRETED, Variant
from helpers.recorded import moved

WALKED = pkgutil.walk_packages(helpers.kernels.__path__, "helpers.kernels.")
NOT_KERNELS = {"launch", "compile_ahead", "traffic", "dequantise", "backends", "implementations"}
NOT_KERNELS |= {"mla_decode", "sparse_attention"}  # which walk
FILES = sorted({module.name.rpartition(".")[2] for module in WALKED if not module.ispkg} - NOT_KERNELS)
pytestmark = needs_triton


def compiled(folder, *arguments: str) -> subprocess.CompletedProcess:
    """In a process of its own, since this one interprets; with a cache of its own, so that nothing is remembered."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "helpers.kernels.compile_ahead", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)


@pytest.mark.parametrize("file", FILES)
def test_it_compiles_and_puts_nothing_aside_that_it_does_not_own_up_to(file, tmp_path):
    said = compiled(tmp_path, file, "--json")
    results = json.loads(said.stdout)
    assert {r["chip"] for r in results} >= {90}
    assert all(0 < r["registers"] <= compile_ahead.REGISTERS_PER_THREAD for r in results)
    assert all(r["shared_bytes"] <= compile_ahead.SHARED_BYTES[r["chip"]] for r in results)
    if said.returncode and (note := moved(compile_ahead.RECORDED_WITH)):
        pytest.skip(f"{note}: it puts other registers aside")
    assert said.returncode == 0, said.stdout + said.stderr


def test_a_file_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="has no nothing; it has block_sparse"):
        compile_ahead.variants(["nothing"])


def test_what_does_not_fit_is_said():
    variant = Variant(print, "")
    small = compile_ahead.Compiled("k", 80, 4, 32, 0, 1024, 0, 0)
    large = compile_ahead.Compiled("k", 80, 4, 255, 8, 200 * 1024, 0, 0)
    assert not compile_ahead.complaints(small, variant)
    assert [text.split()[0] for text in compile_ahead.complaints(large, variant)] == ["8", str(200 * 1024)]


@pytest.mark.skipif(not INTERPRETED, reason="only the interpreter cannot compile")
def test_interpreted_kernels_are_not_compiled_by_mistake():
    with pytest.raises(ValueError, match="unset TRITON_INTERPRET"):
        compile_ahead.compile_for("k", Variant(print, ""), 90)


def test_a_lesson_that_interprets_can_compile_beside_itself():
    made = compile_ahead.in_a_process_of_its_own(["split_kv"])
    assert {compiled.chip for compiled in made} == {80, 90}
    with pytest.raises(ValueError, match="has no nothing"):
        compile_ahead.in_a_process_of_its_own(["nothing"])
