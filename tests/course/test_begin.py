"""A parameter that nobody knows ends a lesson in its first cell, in one line that says what is allowed."""

import re

import pytest
import torch

from course.begin import begin
from course.sources import cells, sources

KNOWN = {"scale": "smoke", "checkpoint": "zoo", "device": "cpu", "seed": 0}
UNKNOWN = [
    *[("scale", value, "smoke, laptop, full") for value in ("larger", "Laptop", "smoke ", "", None, 3, ["smoke"])],
    *[("checkpoint", value, "a folder") for value in ("", "nowhere", "/no/such/folder", "two\nlines", None, 3)],
    ("checkpoint", "zoo:nobody", "tiny-qwen3"),
    *[("device", value, "auto, cpu, cuda") for value in ("gpu", "CPU", "", None, 3)],
    *[("seed", value, "a whole number from 0") for value in ("x", "0", -1, 1.5, True, None, 2**63)],
]


@pytest.mark.parametrize(("name", "value", "allowed"), UNKNOWN)
def test_an_unknown_parameter_is_refused_in_one_line_that_says_what_is_allowed(name, value, allowed):
    with pytest.raises(ValueError, match=re.escape(allowed)) as refusal:
        begin(**{**KNOWN, name: value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("lesson", sources())
def test_every_lesson_refuses_an_unknown_parameter_in_its_first_cell(lesson):
    found = cells(sources()[lesson])
    position = next(i for i, cell in enumerate(found) if "parameters" in cell.tags)
    first = next(cell for cell in found[position + 1 :] if cell.kind == "code")
    for name, value, allowed in UNKNOWN:
        names = {}
        exec(found[position].text, names)
        with pytest.raises(ValueError, match=allowed):
            exec(first.solved, {**names, name: value})


def test_the_seed_is_torchs_and_the_device_is_given_back():
    assert begin(**KNOWN) == torch.device("cpu")
    first = torch.rand(3)
    begin(**KNOWN)
    assert torch.equal(torch.rand(3), first)
    begin(**{**KNOWN, "seed": 1})
    assert not torch.equal(torch.rand(3), first)


def test_a_model_of_the_hub_is_not_looked_up_yet():
    assert begin(**{**KNOWN, "checkpoint": "Nobody/no-such-model"}) == torch.device("cpu")


def test_a_set_up_cell_may_run_twice_on_the_device_that_it_made():
    assert begin(**{**KNOWN, "device": begin(**KNOWN)}) == torch.device("cpu")
