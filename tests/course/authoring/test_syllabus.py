"""The syllabus is the one list: lessons, claims, README and Binder follow it."""

import pytest
from support.small_lesson import rows

from course import syllabus as module
from course.authoring.build import NOTEBOOKS
from course.authoring.readme import fill_readme, fill_requirements, readme_table
from course.sources import REPOSITORY, sources
from course.syllabus import syllabus


def test_a_number_is_a_place():
    assert [lesson.number for lesson in syllabus()] == [f"{n:02d}" for n in range(len(syllabus()))]


def test_every_source_and_its_checks_are_a_lesson_of_the_syllabus():
    names = [lesson.name for lesson in syllabus()]
    assert list(sources()) == [name for name in names if name in sources()]
    checks = {path.stem for path in (REPOSITORY / "course" / "checks").glob("*.py")} - {"__init__"}
    assert checks == set(sources())


def test_a_lesson_needs_only_earlier_ones():
    before = set()
    for lesson in syllabus():
        assert set(lesson.needs) <= before, lesson.name
        before.add(lesson.name)


def test_every_lesson_has_a_question_time_and_objectives():
    for lesson in syllabus():
        assert lesson.question.endswith("?"), lesson.name
        assert 10 <= lesson.minutes <= 240, lesson.name
        assert 3 <= len(lesson.objectives) <= 5, lesson.name


def test_every_claim_of_a_lesson_is_in_the_ledger_and_names_that_lesson():
    from helpers.facts import table

    claims = {row["id"]: row["lesson"] for row in table("claims")}
    for lesson in syllabus():
        for claim in lesson.claims:
            assert claims.get(claim) == lesson.name, (lesson.name, claim)


def test_the_readme_holds_the_table_of_the_syllabus():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert fill_readme(text) == text


def test_the_table_links_each_ready_lesson_to_a_notebook_that_exists():
    table = readme_table()
    for lesson in syllabus():
        if lesson.ready:
            assert f"(notebooks/{lesson.stem}.ipynb)" in table
            assert (NOTEBOOKS / f"{lesson.stem}.ipynb").exists()
        assert lesson.title in table


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match="must stand around the lesson table"):
        fill_readme("# Efficient Engines")


def test_a_row_without_a_field_is_refused_by_name():
    with pytest.raises(ValueError, match=r"lesson roofline: missing \['claims'"):
        module._lesson(0, {"name": "roofline"})


def test_a_name_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "syllabus.toml").write_text(rows("dsa", "mla", "dsa"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^syllabus\.toml: dsa stands there twice$"):
        module._read(tmp_path / "syllabus.toml")


def test_binder_installs_what_pyproject_asks_for():
    made = fill_requirements()
    assert made == (REPOSITORY / "binder" / "requirements.txt").read_text()
    assert "torch==2.13.0\n" in made
