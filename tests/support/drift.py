"""What was recorded, held against what the libraries give today."""

from collections.abc import Mapping

import pytest

from helpers.recorded import differences, moved


def hold_to_record(found: Mapping, recorded: Mapping, versions: Mapping[str, str]) -> None:
    """Entry by entry the same, where the libraries are those of the record.

    Where one of them has moved and its data with it, the test is skipped with the name of that library: nothing of ours
    is wrong, and nothing can be held to the letter.
    """
    differ = differences(found, recorded)
    if differ and (note := moved(versions)):
        pytest.skip(f"{note}: {differ}")
    assert not differ, f"{differ}, with the very versions of the record: {dict(versions)}"
