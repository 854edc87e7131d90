"""What was edited in JupyterLab comes back from its source the same, or is refused in one line with nothing written."""

import os
import re

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output, new_raw_cell
from support.small_lesson import SOURCE, repository, write

from course import sources
from course.authoring import build, pull
from course.syllabus import find

NEW = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}


@pytest.fixture
def house(tmp_path, monkeypatch):
    return repository(tmp_path, monkeypatch)


@pytest.fixture
def lesson(house):
    return house / "course/lessons/small.py"


def edit(house, change):
    """Build the notebook, change its cells and save it, as JupyterLab would. Returns the cells as they were saved."""
    path = write(house)
    notebook = nbformat.read(path, as_version=4)
    change(notebook.cells)
    path.write_text(
        nbformat.writes(notebook), encoding="utf-8", errors="backslashreplace"
    )  # half a character is an escape
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def refusal(number):
    """What a pull says when it refuses; None where it does not."""
    try:
        pull.pull(number)
    except ValueError as error:
        return str(error)


def built(lesson):
    """The cells that a build gives a learner."""
    found = sources.cells(lesson)
    return list(zip([cell.kind for cell in found], build.texts(find("small"), found), strict=True))


def test_pulling_an_untouched_notebook_changes_nothing(house):
    write(house)
    assert pull.pulled("small") == SOURCE


def test_the_real_sources_come_back_from_their_notebooks_to_the_letter():
    for lesson, path in sources.sources().items():
        assert pull.pulled(lesson) == path.read_text(encoding="utf-8"), path.name


def test_an_edit_of_prose_and_of_an_exercise_comes_back_with_its_solution(house):
    def change(cells):
        cells[0].source = cells[0].source.replace("before", "long before")
        cells[2].source = cells[2].source.replace("Twice x.", "x, twice.")
        cells[2].outputs = [new_output("stream", text="left over")]
        cells.insert(1, new_markdown_cell("A new paragraph."))

    edit(house, change)
    expected = SOURCE.replace("before", "long before").replace("Twice x.", "x, twice.")
    paragraph = "[[late]].\n\n# %% [markdown]\n# A new paragraph."
    assert pull.pulled("small") == expected.replace("[[late]].", paragraph)


def test_a_link_to_no_lesson_is_refused_and_nothing_is_written(house, lesson, capsys):
    edit(house, lambda cells: cells.insert(1, new_markdown_cell("See [[later]].")))
    assert pull.main(["small"]) == 1
    assert capsys.readouterr().err == "cell 2 ('See [[later]].'): [[later]] names no lesson of syllabus.toml\n"
    assert lesson.read_text(encoding="utf-8") == SOURCE


def test_a_link_that_was_typed_and_the_title_stay_links_and_title(house, lesson):
    edit(
        house,
        lambda cells: cells.insert(1, new_markdown_cell("# A small lesson\n\nbefore [[late]], as *A late lesson*")),
    )
    assert "# # A small lesson\n#\n# before [[late]], as [[late]]\n" in pull.pulled("small")


COMES_BACK = [
    ("markdown", "# 01 · A title"),
    ("markdown", "a line break  \nbelow"),
    ("markdown", "a tab at the end\t\nbelow"),
    ("markdown", "\n\nempty lines around\n\n"),
    ("markdown", ""),
    ("markdown", " "),
    ("markdown", "# A heading\n---\n<b>html</b> \\alpha \\\n\n```python\n# %% in a fence\n```"),
    ("markdown", "grüße 你好 🙂"),
    ("markdown", "%%html\n<b>bold</b>"),
    ("raw", "a <b>raw</b> cell\n# %% [markdown]"),
    ("code", "# nothing but a comment"),
    ("code", ""),
    ("code", "\n\nx = 1   \n# spaces  "),
    ("code", "%matplotlib inline\n!ls\n?print\nfiles = !ls"),
    ("code", "%%bash\nls -l  # a comment"),
    ("code", "# %timeit a comment\n# # %timeit another"),
    ("code", 'text = """\n# %% in a string\n"""'),
    ("code", "# +\nx = 1\n# -"),
    ("code", "    indented = 1"),
]


@pytest.mark.parametrize(("kind", "text"), COMES_BACK)
def test_a_cell_comes_back_as_it_was_written(house, lesson, kind, text):
    saved = edit(house, lambda cells: cells.insert(1, NEW[kind](text)))
    assert pull.main(["small"]) == 0
    assert built(lesson) == saved


REFUSED = [
    ("code", "x = 1\n# %% a comment", "the start of a cell"),
    ("code", "x = 1\n#%%", "the start of a cell"),
    ("code", 'x = 1\n# %% tags=["a,b"]', "the start of a cell"),
    ("code", "# In[1]:\nx = 1", "the start of a cell"),
    ("code", "x = 1\n", "it ends in an empty line"),
    ("code", "x = '\u2028'", "a character that ends a line"),
    ("markdown", "a form\x0cfeed", "a character that ends a line"),
    ("markdown", "old\rline ends", "a character that ends a line"),
    ("markdown", "%% formatted", "the magic of a code cell"),
    ("code", "# BEGIN SOLUTION\nx = 1\n# END SOLUTION", "a solution is written in the source"),
    ("code", "text = '''open", "a source cannot hold it as it is"),
    ("code", "half = '\ud83d'", "a source cannot hold it as it is"),
]


@pytest.mark.parametrize(("kind", "text", "why"), REFUSED)
def test_what_a_source_cannot_hold_is_refused_by_cell_and_nothing_is_written(house, lesson, capsys, kind, text, why):
    edit(house, lambda cells: cells.insert(1, NEW[kind](text)))
    assert pull.main(["small"]) == 1
    assert re.fullmatch(rf"cell 2 \(.+\): .*{re.escape(why)}.*\n", capsys.readouterr().err)
    assert lesson.read_text(encoding="utf-8") == SOURCE


def test_every_cell_that_ends_in_an_empty_line_is_named_at_once(house, capsys):
    def change(cells):
        for cell in cells[2:4]:
            cell.source += "\n"

    edit(house, change)
    assert pull.main(["small"]) == 1
    said = capsys.readouterr().err
    assert "cell 3 (" in said
    assert "cell 4 (" in said


def test_a_pasted_picture_is_refused_by_name(house, lesson, capsys):
    def change(cells):
        cells[0].source += "\n![image.png](attachment:image.png)"
        cells[0].attachments = {"image.png": {"image/png": "iVBORw0KGgo="}}

    edit(house, change)
    assert pull.main(["small"]) == 1
    assert "has a pasted picture (image.png)" in capsys.readouterr().err
    assert lesson.read_text(encoding="utf-8") == SOURCE


def stub_filled_in(cells):
    cells[2].source = cells[2].source.replace('raise NotImplementedError("your turn")', "return x * 2")


def stub_moved(cells):
    cells[2].source = cells[2].source.replace("    raise", "    if x:\n        raise")


@pytest.mark.parametrize("change", [stub_filled_in, stub_moved])
def test_a_learners_answer_is_not_pulled_over_the_solution(house, lesson, capsys, change):
    edit(house, change)
    assert pull.main(["small"]) == 1
    assert "its stub" in capsys.readouterr().err
    assert lesson.read_text(encoding="utf-8") == SOURCE


def test_a_solution_is_not_lost_with_a_cell_taken_out_in_jupyterlab(house, lesson, capsys):
    edit(house, lambda cells: cells.pop(2))
    assert pull.main(["small"]) == 1
    assert "cell 'def double(x):' is not in the notebook" in capsys.readouterr().err
    assert lesson.read_text(encoding="utf-8") == SOURCE


def test_an_exercise_cut_and_pasted_has_another_id_and_keeps_its_solution(house, lesson):
    def change(cells):
        cells.append(cells.pop(2))
        cells[-1].id = "pasted"

    saved = edit(house, change)
    assert pull.main(["small"]) == 0
    assert built(lesson) == saved
    assert "y = x + x" in sources.cells(lesson)[-1].solution


def test_a_notebook_without_ids_or_with_doubled_ones_comes_back_too(house, lesson):
    path = write(house)
    for change in (lambda cell: cell.pop("id"), lambda cell: cell.update(id="same")):
        notebook = nbformat.v4.reads(path.read_text(encoding="utf-8"))
        for cell in notebook.cells:
            change(cell)
        path.write_text(nbformat.v4.writes(notebook), encoding="utf-8")
        pull.pull("small")
        assert [cell.solution for cell in sources.cells(lesson) if cell.tag("exercise") == "number"] == ["number = 3"]
        assert built(lesson) == [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_tags_come_back_and_make_an_id_that_a_notebook_may_have(house, lesson):
    edit(house, lambda cells: cells[0].metadata.update(tags=['a "quoted" tag/1 ' + "long" * 20, "zwei"]))
    assert pull.main(["small"]) == 0
    assert sources.cells(lesson)[0].tags[1] == "zwei"
    nbformat.validate(nbformat.reads(build.notebook(find("small"), solved=False), as_version=4))


def test_a_tag_that_no_notebook_may_have_is_refused_by_cell(house, lesson, capsys):
    edit(house, lambda cells: cells[0].metadata.update(tags=["twice", "twice"]))
    assert pull.main(["small"]) == 1
    assert "cell '# A small lesson' has a tag that no notebook may have" in capsys.readouterr().err
    assert lesson.read_text(encoding="utf-8") == SOURCE


def test_a_source_edited_since_its_notebook_was_built_is_kept_before_it_is_overwritten(house, lesson, capsys):
    edit(house, lambda cells: cells.insert(1, new_markdown_cell("From the notebook.")))
    lesson.write_text(SOURCE.replace("A small lesson", "A title in the editor"), encoding="utf-8")
    assert pull.main(["small"]) == 0
    (kept,) = (house / "build" / "kept").iterdir()
    assert "A title in the editor" in kept.read_text(encoding="utf-8")
    assert f"your copy is build/kept/{kept.name}" in capsys.readouterr().out


def test_a_notebook_that_does_not_say_what_it_was_built_from_is_pulled_and_the_source_kept(house, lesson):
    path = write(house)
    for course in ({}, "nothing"):
        notebook = nbformat.v4.reads(path.read_text(encoding="utf-8"))
        notebook.metadata.course = course
        notebook.cells[0].source += "\n\nMore."
        path.write_text(nbformat.v4.writes(notebook), encoding="utf-8")
        assert pull.main(["small"]) == 0
        assert built(lesson)[0] == ("markdown", notebook.cells[0].source)
    assert len(list((house / "build" / "kept").iterdir())) == 2


def test_a_source_that_was_only_pulled_into_is_not_kept(house):
    edit(house, lambda cells: cells.insert(1, new_markdown_cell("From the notebook.")))
    assert pull.main(["small"]) == 0
    assert not (house / "build" / "kept").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"cells": 3}',
        b'{"nbformat": 3, "worksheets": []}',
        b'{"cells": [{}], "nbformat": 4, "metadata": {}}',
        b'{"cells": [], "nbformat": 4}',
        b'{"cells": [{"cell_type": "raw", "source": "", "metadata": {"tags": 3}}], "nbformat": 4, "metadata": {}}',
    ],
)
def test_what_is_no_notebook_is_named_in_one_line(house, lesson, capsys, content):
    write(house).write_bytes(content)
    assert pull.main(["small"]) == 1
    assert re.fullmatch(r"\S+01_small\.ipynb is not a notebook of format 4.*\n", capsys.readouterr().err)
    assert lesson.read_text(encoding="utf-8") == SOURCE


def test_a_file_that_cannot_be_read_is_named_in_one_line(house, lesson, capsys):
    path = write(house)
    path.write_bytes(path.read_bytes().replace(b"A small", b"Une le\xe7on"))
    assert pull.main(["small"]) == 1
    assert re.fullmatch(r"\S+01_small\.ipynb is not UTF-8 text: byte 0xe7 at .*\n", capsys.readouterr().err)
    path.unlink()
    assert pull.main(["small"]) == 1
    assert re.fullmatch(r".*No such file.*01_small\.ipynb'\n", capsys.readouterr().err)
    path.mkdir()
    assert pull.main(["small"]) == 1
    assert re.fullmatch(r".*01_small\.ipynb'\n", capsys.readouterr().err)
    lesson.write_bytes(SOURCE.encode() + b"# \xe7\n")
    assert pull.main(["small"]) == 1
    assert re.fullmatch(r"\S+small\.py is not UTF-8 text: byte 0xe7 at .*\n", capsys.readouterr().err)


def test_a_byte_order_mark_and_line_ends_of_windows_are_read_over(house, lesson):
    path = write(house)
    for file in (path, lesson):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert pull.pulled("small") == SOURCE


def test_a_source_that_cannot_be_written_is_as_it_was_and_nothing_lies_beside_it(house, lesson, capsys, monkeypatch):
    edit(house, lambda cells: cells.insert(1, new_markdown_cell("From the notebook.")))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write to every file
    assert pull.main(["small"]) == 1
    assert re.fullmatch(r".*Permission denied.*small\.py'\n", capsys.readouterr().err)
    assert sorted(file.name for file in lesson.parent.iterdir()) == [lesson.name, "syllabus.toml"]
    assert lesson.read_text(encoding="utf-8") == SOURCE


PIECES = st.sampled_from(
    [
        *[text for _, text in COMES_BACK],
        *[text for _, text, _ in REFUSED],
        *[
            "x = 1",
            "def f():\n    pass",
            "class A: ...",
            "'''",
            '"""',
            "# ",
            "#",
            "\\",
            "\n",
            "\n\n",
            "  ",
            "\t",
            "---",
        ],
        *['raise NotImplementedError("your turn")', "# your answer above, in place of ...", "# %% [raw]", "ls", "%"],
        *["```", "~~~", "# %%%", "# <codecell>", "# region", "# endregion", "'''# %%'''", "\x85", "\0", "\ufeff"],
    ]
)
CELLS = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from(sorted(NEW)),
        st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=4),
        st.sampled_from(["", "\n", " "]),
    ),
    max_size=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CELLS, st.permutations(range(6)), st.integers(0, 6))
def test_any_notebook_comes_back_or_is_refused_in_one_line_with_nothing_written(house, lesson, put_in, order, edited):
    def change(cells):
        cells[:] = [cells[n] for n in order]
        if edited < 6:
            cells[edited].source += "".join(put_in[0][2]) if put_in else "  "
        for place, kind, pieces, joint in put_in:
            cells.insert(place, NEW[kind](joint.join(pieces)))

    lesson.write_text(SOURCE, encoding="utf-8")
    saved = edit(house, change)
    said = refusal("small")
    text = lesson.read_text(encoding="utf-8")
    assert (text == SOURCE and len(said.splitlines()) == 1) if said else built(lesson) == saved
    assert {"y = x + x", "number = 3"} <= {line.strip() for line in text.split("\n")}
