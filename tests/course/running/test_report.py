"""The report of a run, as page, as JUnit XML and as JSON."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from support.lesson_files import settings

from course.running import report
from course.running.results import CellRecord, Failure, Result

CELLS = [CellRecord(number, f"step_{number}(a < b)", seconds, number * 10**8) for number, seconds in
         enumerate([0.5, 4.0, 0.1, 2.0, 3.0], start=1)]  # fmt: skip
FAILURE = Failure(
    "error", "ValueError", "1 < 2 & \x1b[31mred", 2, [(1, "a = '<b>'"), (2, "f(a)")], 2, "helpers/units.py, line 3"
)
GOOD = Result("00_good", 12.0, CELLS, None)
BAD = Result("01_bad", 3.0, CELLS[:1], FAILURE)


class _Page(HTMLParser):
    """The text of a page, what it links to, and what a browser would load for it."""

    def __init__(self, html):
        super().__init__()
        self.text, self.links, self.loads = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values.get("href")] * (tag == "a")
        self.loads += [values[name] for name in ("src", "data", "srcset") if values.get(name)]
        self.loads += [values.get("href")] * (tag == "link")

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(tmp_path):
    asked = settings(tmp_path)
    asked.folder.mkdir(parents=True)
    (asked.folder / "00_good.html").touch()
    (asked.folder / "01_bad.ipynb").touch()
    return _Page(report.html([GOOD, BAD, replace(GOOD, name="02_kept", kept=True)], asked))


def test_the_page_says_how_many_passed_and_shows_each_lesson(page):
    text = "".join(page.text)
    assert "2 of 3 lessons passed" in text
    for expected in ("✓ passed", "✗ failed", "12 s", "500 MB", "before the run was cut off"):
        assert expected in text


def test_the_page_lists_the_three_slowest_cells_slowest_first(page):
    text = "".join(page.text)
    found = [text.index(f"step_{number}(a < b)") for number in (2, 5, 4)]
    assert found == sorted(found)
    assert "step_3" not in text


def test_the_page_shows_what_failed_with_nothing_taken_for_markup(page):
    text = "".join(page.text)
    assert "a = '<b>'" in text
    assert "ValueError: 1 < 2 & " in text
    assert "raised in helpers/units.py, line 3" in text


def test_the_page_links_to_what_there_is_of_a_lesson_and_loads_nothing(page):
    assert page.links == ["00_good.html", "01_bad.ipynb", "#01_bad"]
    assert page.loads == []


def test_ci_reads_one_case_a_lesson_with_its_failure(tmp_path):
    suite = ElementTree.fromstring(report.junit([GOOD, BAD], settings(tmp_path)))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    good, bad = suite.findall("testcase")
    assert good.find("failure") is None
    assert bad.find("failure").get("message") == "ValueError: 1 < 2 & \ufffd[31mred"
    assert "FAILED 01_bad, cell 2" in bad.find("failure").text


def test_an_empty_message_still_makes_a_report(tmp_path):
    silent = replace(BAD, failure=replace(FAILURE, message=""))
    assert "FAILED 01_bad" in report.junit([silent], settings(tmp_path))


def test_the_json_holds_every_cell(tmp_path):
    content = json.loads(report.as_json([GOOD, BAD], settings(tmp_path, scale="smoke")))
    assert content["parameters"] == {"scale": "smoke"}
    good, bad = content["lessons"]
    assert len(good["cells"]) == 5
    assert good["cells"][1]["seconds"] == 4.0
    assert (good["passed"], bad["passed"], bad["failure"]["kind"]) == (True, False, "error")
    assert good["peak_memory_bytes"] == 5 * 10**8


def test_write_makes_the_three_of_them(tmp_path):
    report.write([GOOD], settings(tmp_path))
    assert {path.name for path in settings(tmp_path).folder.iterdir()} == {"report.html", "report.xml", "report.json"}
