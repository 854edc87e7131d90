"""A record knows its libraries: which of them has moved is named, and a comparison says no more than it can."""

import platform
from importlib.metadata import version

import pytest
from support.drift import hold_to_record

from helpers.recorded import differences, moved

HERE = {"babel": version("babel"), "python": platform.python_version()}


def test_a_library_that_has_moved_is_named_with_both_versions():
    assert moved({**HERE, "babel": "1.0"}) == f"babel {HERE['babel']} here, recorded with 1.0"
    assert moved({"babel": "1.0", "python": "2.7"}).count(" here, recorded with ") == 2


def test_nothing_is_said_where_all_are_as_recorded_and_a_build_is_no_other_version():
    assert moved(HERE) == moved({}) == ""
    assert moved({"torch": version("torch").partition("+")[0] + "+cu999"}) == ""


def test_a_library_that_is_absent_has_moved_too():
    assert moved({"no-such-library": "1"}) == "no-such-library (not installed) here, recorded with 1"


def test_differences_are_counted_by_kind():
    assert differences({"a": 1, "b": 2, "d": 4}, {"a": 1, "b": 3, "c": 4}) == "1 more, 1 fewer, 1 other"
    assert differences({"a": 1}, {"a": 1}) == ""
    assert differences({n: n for n in range(1500)}, {}) == "1,500 more"


def test_other_data_of_another_version_is_a_skip_that_names_it_and_of_the_same_a_failure():
    with pytest.raises(pytest.skip.Exception, match=r"babel .* here, recorded with 1\.0: 1 other"):
        hold_to_record({"a": 1}, {"a": 2}, {"babel": "1.0"})
    with pytest.raises(AssertionError, match="1 other, with the very versions of the record"):
        hold_to_record({"a": 1}, {"a": 2}, HERE)
    hold_to_record({"a": 1}, {"a": 1}, {"babel": "1.0"})  # the same data passes, whatever version brings it
