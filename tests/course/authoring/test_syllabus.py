"""The syllabus is the one list: lessons, claims, README and Binder follow it."""

import pytest

from course.authoring import syllabus as module
from course.authoring.build import NOTEBOOKS
from course.authoring.syllabus import fill_readme, fill_requirements, readme_table, syllabus
from course.sources import REPOSITORY, sources


def test_lessons_are_numbered_in_order_without_a_gap():
    assert [lesson.id for lesson in syllabus()] == [f"{n:02d}" for n in range(len(syllabus()))]


def test_every_source_is_the_lesson_that_the_syllabus_names():
    named = {lesson.id: lesson.stem for lesson in syllabus()}
    assert {lesson: path.stem for lesson, path in sources().items()} == {key: named[key] for key in sources()}


def test_a_lesson_needs_only_earlier_ones():
    for lesson in syllabus():
        assert all(need < lesson.id for need in lesson.needs), lesson.id


def test_every_lesson_has_a_question_time_and_objectives():
    for lesson in syllabus():
        assert lesson.question.endswith("?"), lesson.id
        assert 10 <= lesson.minutes <= 240, lesson.id
        assert 3 <= len(lesson.objectives) <= 5, lesson.id


def test_every_claim_of_a_lesson_is_in_the_ledger_and_names_that_lesson():
    from helpers.facts import table

    claims = {row["id"]: row["lesson"] for row in table("claims")}
    for lesson in syllabus():
        for claim in lesson.claims:
            assert claims.get(claim) == lesson.id, (lesson.id, claim)


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
    with pytest.raises(ValueError, match=r"lesson 00: missing \['claims'"):
        module._lesson({"id": "00", "name": "roofline"})


def test_binder_installs_what_pyproject_asks_for():
    made = fill_requirements()
    assert made == (REPOSITORY / "binder" / "requirements.txt").read_text()
    assert "torch==2.13.0\n" in made
