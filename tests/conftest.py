"""For every test: OpenMP that sleeps while it waits, one thread, helpers' signatures checked at every call."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see course/__init__.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in a test asks the network
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels step by step on the CPU; 0 runs their tests on a GPU

import pytest
import torch
from jaxtyping import install_import_hook

# Shapes (jaxtyping) and types of every annotated function in helpers, held by beartype, in the tests only.
# An int may stand where a float is asked for, as PEP 484 says.
install_import_hook("helpers", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def no_gradients():
    """For tests that ask models for their answers: a gradient is wanted where the test says so."""
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def _learner(tmp_path_factory, monkeypatch):
    """No test touches what a learner left behind."""
    monkeypatch.setenv("COURSE_LEARNER", str(tmp_path_factory.mktemp("learner")))
