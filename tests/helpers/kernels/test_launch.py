"""Kernels run where they can and never where they would be wrong."""

import subprocess
import sys

import pytest
import torch
from support.kernel_tests import WHERE, needs_triton, numbers

from helpers.kernels.launch import (
    INTERPRETED,
    blocks,
    kernel,
    launch,
    launched,
    launches,
    refuse_scattered,
    refuse_unreadable,
    tile,
    tl,
)


@kernel
def _double(x, out, length, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, 2 * tl.load(x + at, mask=at < length), mask=at < length)


@needs_triton
def test_every_launch_is_counted_by_its_name_and_only_inside_the_block():
    x = numbers(33, seed=0)
    out = torch.empty_like(x)
    with launched() as outer:
        launch(_double, (3,), x, out, 33, BLOCK=16)
        with launched() as inner:
            launch(_double, (3,), x, out, 33, BLOCK=16)
    launch(_double, (3,), x, out, 33, BLOCK=16)
    assert (outer, inner) == ({"_double": 1}, {"_double": 1})
    assert torch.equal(out, 2 * x)


@needs_triton
def test_a_grid_that_no_gpu_takes_is_refused_in_the_interpreter_too():
    x = numbers(1, seed=0)
    with pytest.raises(ValueError, match="end at 65535"):
        launch(_double, (1, 65536), x, x, 1, BLOCK=16)


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU bfloat16 is right")
def test_bfloat16_is_refused_where_it_would_be_silently_wrong():
    with pytest.raises(ValueError, match="interpreter gets wrong"):
        refuse_unreadable(x=torch.ones(3, dtype=torch.bfloat16))


def test_rows_may_stand_apart_but_must_be_whole():
    every_other = torch.ones(4, 8)[::2]
    refuse_unreadable(x=every_other)
    with pytest.raises(ValueError, match="x has strides"):
        refuse_scattered(x=every_other)
    with pytest.raises(ValueError, match="x has strides"):
        refuse_unreadable(x=torch.ones(4, 8).T)


def test_tensors_of_two_devices_are_refused():
    with pytest.raises(ValueError, match="move one of them"):
        refuse_unreadable(x=torch.ones(3), weight=torch.ones(3, device="meta"))


def test_without_triton_the_helpers_import_and_answer():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from helpers.kernels.rms_norm import rms_norm; from helpers.kernels.launch import launches\n"
        "from helpers.kernels.launch import kernel, launch\n"
        "assert not launches(torch.ones(1))\n"
        "try: launch(kernel(lambda x: x), (1,), 3)\n"
        "except ValueError as error: assert 'no Triton' in str(error)\n"
        "else: raise AssertionError\n"
        "print(rms_norm(torch.ones(1, 4), torch.ones(4), 0.0).tolist())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert said.stdout.strip() == "[[1.0, 1.0, 1.0, 1.0]]", said.stderr


@needs_triton
def test_an_interpreter_that_is_switched_on_too_late_is_told():
    code = "import os; os.environ.pop('TRITON_INTERPRET', 0); import triton\n"
    code += "os.environ['TRITON_INTERPRET'] = '1'; import helpers.kernels.launch"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "set it before the imports" in said.stderr


@needs_triton
def test_a_kernel_runs_where_its_tensors_are():
    assert launches(torch.ones(1, device=WHERE))
    assert launches(torch.ones(1)) == INTERPRETED


@pytest.mark.parametrize(("length", "least", "side"), [(1, 1, 1), (1, 16, 16), (31, 1, 32), (32, 1, 32), (33, 1, 64)])
def test_a_tile_has_a_power_of_two_on_its_side(length, least, side):
    assert tile(length, least) == side


def test_blocks_hold_all_and_no_more_than_needed():
    assert [blocks(n, 16) for n in (1, 16, 17, 32)] == [1, 1, 2, 2]
