"""Each rule of the house refuses a lesson that breaks it, by name, and lets a good one pass."""

import pytest

from course import sources
from course.authoring import build, check
from course.sources import Cell


def code(text: str, *tags: str) -> Cell:
    return Cell("code", text, tags)


def words(text: str, *tags: str) -> Cell:
    return Cell("markdown", text, tags)


PARAMETERS = code('scale = "laptop"\ncheckpoint = "zoo"\ndevice = "auto"\nseed = 0', "parameters")


@pytest.mark.parametrize(
    ("rule", "bad", "said"),
    [
        (check.short_cells, [code("x = 1\n" * 31)], "a cell of 31 lines"),
        (check.short_cells, [code("x = 1\n" * 9), code("x = 1\n" * 9), code("x = 1")], "median cell has 9 lines"),
        (check.no_more_than_two_code_cells_in_a_row, [code("a = 1"), code("b = 1"), code("c = 1")], "from 'a = 1'"),
        (check.short_paragraphs, [words("word " * 91)], "a paragraph of 91 words"),
        (check.plain_words, [words("It is simply a sum.")], "the word 'simply'"),
        (check.plain_words, [words("You Just add.")], "the word 'Just'"),
        (check.headings_in_order, [words("# A"), words("### B")], "level 3 under one of level 1"),
        (check.headings_in_order, [words("# A"), words("# B")], "found 2"),
        (check.headings_in_order, [words("## A")], "found 0"),
        (check.parameters_as_agreed, [code("seed = 0", "parameters")], "it must set ('scale'"),
        (check.short_setup, [PARAMETERS, code("x = 1\n" * 11)], "set-up cell has 11 lines"),
        (
            check.parameters_checked_first,
            [PARAMETERS, code("import torch")],
            "before begin(scale, checkpoint, device, ",
        ),
        (
            check.parameters_checked_first,
            [PARAMETERS, code('smoke = scale == "smoke"\ndevice = begin(scale, checkpoint, device, seed)')],
            "which refuses unknown values",
        ),
        (check.imports_known, [code("import pandas")], "imports pandas"),
        (check.imports_known, [code("from scipy.linalg import svd")], "imports scipy"),
        (check.five_exercises, [code("f = ...", "exercise:f")], "1 checked exercises and 0 in words"),
        (check.predicts_and_reveals, [code("x = 1")], "no prediction"),
        (
            check.predicts_and_reveals,
            [code('check.predict("00.a", guess)', "predict:00.a"), code('check.reveal("00.b", machine=2)')],
            "'00.a' is stored and never revealed",
        ),
    ],
)
def test_a_lesson_that_breaks_a_rule_is_named(rule, bad, said):
    assert any(said in sentence for sentence in rule(bad)), list(rule(bad))


GOOD = [
    words("# A lesson\n\nA question?\n\n```text\njust simply " + "word " * 100 + "\n```"),
    PARAMETERS,
    words("## Set-up"),
    code("from course.begin import begin\n\nmachine = begin(scale, checkpoint, device, seed)"),
    words("## Predict"),
    code('guess = ...\n# BEGIN SOLUTION\nguess = 3\n# END SOLUTION\ncheck.predict("00.a", guess)', "predict:00.a"),
    code('check.reveal("00.a", machine=2)'),
    *[cell for name in "abcd" for cell in (words(f"### {name}"), code(f"{name} = ...", f"exercise:{name}"))],
    words("*Your answer.*", "answer:why"),
]


@pytest.mark.parametrize("rule", check.RULES)
def test_a_good_lesson_passes_every_rule(rule):
    assert list(rule(GOOD)) == []


def test_comments_and_blank_lines_do_not_make_a_cell_long():
    assert check.code_lines(code("# why\n\nx = 1\n")) == 1


def test_an_unknown_lesson_is_one_line(capsys):
    assert check.main(["77"]) == 1
    assert "✗ 77: no lesson 77; there are 00 roofline" in capsys.readouterr().out


def test_checking_and_building_read_each_source_once(monkeypatch):
    read, read_text = [], sources.read_text
    monkeypatch.setattr(sources, "read_text", lambda path: read.append(path) or read_text(path))
    for work in (lambda: check.main([]), build.targets):
        read.clear()
        work()
        assert read == list(sources.sources().values())
