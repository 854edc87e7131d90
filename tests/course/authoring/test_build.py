"""Sources to notebooks: the same bytes on every run, blanks that are blank, and rules that refuse bad sources."""

import nbformat
import pytest
from support.small_lesson import SOURCE, repository, rows, write

from course import sources, syllabus
from course.authoring import build
from course.sources import cells
from course.syllabus import find


@pytest.fixture
def house(tmp_path, monkeypatch):
    return repository(tmp_path, monkeypatch)


def _made(house, solved=False):
    return nbformat.reads(build.notebook(find("small"), solved), as_version=4)


def test_building_twice_gives_the_same_bytes(house):
    lesson = find("small")
    assert build.notebook(lesson, solved=False) == build.notebook(lesson, solved=False)
    assert build.notebook(lesson, solved=True) != build.notebook(lesson, solved=False)


def test_the_given_notebook_holds_no_solution_and_the_solved_one_no_marks(house):
    given = "\n".join(cell.source for cell in _made(house).cells)
    solved = "\n".join(cell.source for cell in _made(house, solved=True).cells)
    assert "y = x + x" not in given
    assert "number = 3" not in given
    assert 'raise NotImplementedError("your turn")' in given
    assert "y = x + x" in solved
    assert "SOLUTION" not in given + solved


def test_a_cell_put_in_at_the_top_changes_no_other_id(house):
    before = [cell.id for cell in _made(house).cells]
    path = house / "course/lessons/small.py"
    path.write_text(
        SOURCE.replace('# %% tags=["parameters"]', '# %% [markdown]\n# New words.\n\n# %% tags=["parameters"]')
    )
    after = [cell.id for cell in _made(house).cells]
    assert [name for name in after if name in before] == before
    assert len(after) == len(before) + 1


def test_outputs_and_counts_are_never_built(house):
    assert all(
        not cell.outputs and cell.execution_count is None for cell in _made(house).cells if cell.cell_type == "code"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('tags=["parameters"]', "", "one cell must have the tag 'parameters', found 0"),
        ('tags=["check:number"]', 'tags=["parameters"]', "found 2"),
        ("    # END SOLUTION\n", "", "do not pair up"),
        ("# BEGIN SOLUTION\nnumber = 3\n# END SOLUTION\n", "number = 3\n", "needs a # BEGIN SOLUTION"),
        ('tags=["check:double", "points:2"]', "", "every exercise has one id and a check"),
        ('tags=["exercise:number"]', 'tags=["exercise:double"]', "every exercise has one id and a check"),
        ("check.number(number)", "import plotly.graph_objects as go; go.FigureWidget()", "5 MB"),
        ("check.number(number)", "check.number(number", "not valid Python, line 1"),
        ("check.number(number)", "%time check.number(number)", "not valid Python, line 1"),
        ("check.number(number)", "check.number('\0')", "not valid Python"),
        ("check.number(number)", "check.number('\u2028')", "line 27: U+2028 would end the line"),
        ("# # A small lesson", "# # A small\x0clesson", "line 2: U+000C would end the line"),
        ('tags=["parameters"]', 'tags=["parameters", "a,b"]', "no notebook can be made of it"),
    ],
)
def test_a_source_against_the_rules_is_refused_by_name(house, old, new, said):
    assert old in SOURCE
    path = house / "course/lessons/small.py"
    path.write_text(SOURCE.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=r"small\.py") as refusal:
        build.notebook(find("small"), solved=False)
    assert said in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_empty_lines_and_spaces_of_a_source_reach_the_notebook(house):
    path = house / "course/lessons/small.py"
    path.write_text(
        SOURCE.replace("# # A small lesson", "# # A small lesson  \n# in two lines\n#\n#"), encoding="utf-8"
    )
    assert _made(house).cells[0].source.startswith("# 01 · A small lesson  \nin two lines\n\n")


def test_a_raw_cell_stays_raw(house):
    path = house / "course/lessons/small.py"
    path.write_text("# %% [raw]\n# <b>raw</b>\n\n" + SOURCE, encoding="utf-8")
    assert (_made(house).cells[0].cell_type, _made(house).cells[0].source) == ("raw", "<b>raw</b>")


def test_a_build_keeps_a_copy_of_what_a_learner_wrote(house, monkeypatch, capsys):
    monkeypatch.setattr(build, "targets", lambda: {house / "notebooks/01_small.ipynb": "new"})
    path = write(house)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].source = "def double(x):\n    return x + x"
    nbformat.write(notebook, path)
    build.build()
    (kept,) = (house / "build" / "kept").iterdir()
    assert "return x + x" in kept.read_text()
    assert "01_small.ipynb was edited; your copy is build/kept/01_small." in capsys.readouterr().out
    assert path.read_text() == "new"
    path.write_text("{ not a notebook any more", encoding="utf-8")
    build.build()
    assert len(list((house / "build" / "kept").iterdir())) == 2, "a copy made at once does not replace the first"


def test_nothing_is_built_where_a_source_cannot_be_read(house):
    path = write(house)
    path.write_text("edited", encoding="utf-8")
    (house / "course/lessons/small.py").write_bytes(SOURCE.encode() + b"# \xe9\n")
    with pytest.raises(ValueError, match=r"small\.py is not UTF-8 text: byte 0xe9"):
        build.build()
    assert path.read_text(encoding="utf-8") == "edited"


def test_a_notebook_in_another_encoding_is_kept_and_built_anew(house, monkeypatch):
    monkeypatch.setattr(build, "targets", lambda: {house / "notebooks/01_small.ipynb": "new"})
    path = write(house)
    path.write_bytes(b"caf\xe9")
    build.build()
    (kept,) = (house / "build" / "kept").iterdir()
    assert kept.read_bytes() == b"caf\xe9"
    assert path.read_text(encoding="utf-8") == "new"


def test_a_notebook_whose_lesson_is_gone_is_removed_and_what_a_learner_wrote_in_it_is_kept(house, monkeypatch):
    monkeypatch.setattr(build, "targets", dict)
    path = write(house)
    path.write_text(path.read_text().replace("A small lesson", "My own title"))
    (house / "course/lessons/small.py").unlink()
    assert build.build() == [path]
    assert not path.exists()
    (kept,) = (house / "build" / "kept").iterdir()
    assert "My own title" in kept.read_text()


def test_a_notebook_that_only_was_run_is_not_kept(house, monkeypatch):
    monkeypatch.setattr(build, "targets", lambda: {house / "notebooks/01_small.ipynb": "new"})
    path = write(house)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="out")]
    nbformat.write(notebook, path)
    build.build()
    assert not (house / "build" / "kept").exists()


def test_every_committed_notebook_is_what_its_source_builds():
    assert [str(path) for path in build.differing()] == []


def test_an_unknown_lesson_is_refused_with_the_ones_there_are(house):
    with pytest.raises(ValueError, match=r"^no lesson 99; there are 01 small$"):
        find("99")
    with pytest.raises(ValueError, match=r"^no lesson late \(in preparation\); there are 01 small$"):
        find("late")


@pytest.mark.parametrize("word", ["small", "1", "01", "01_small"])
def test_a_lesson_is_found_by_name_number_and_notebook(house, word):
    assert find(word).name == "small"


def test_links_become_titles_and_the_title_gets_its_number(house):
    (house / "course/lessons/early.py").write_text(SOURCE, encoding="utf-8")
    said = _made(house).cells[0].source
    assert said == "# 01 · A small lesson\n\nAfter [A early lesson](00_early.ipynb), before *A late lesson*."


def test_a_link_to_no_lesson_is_refused(house):
    path = house / "course/lessons/small.py"
    path.write_text(SOURCE.replace("[[late]]", "[[later]]"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^small\.py: \[\[later\]\] names no lesson of syllabus\.toml$"):
        build.notebook(find("small"), solved=False)


def test_a_source_without_a_row_is_refused(house):
    (house / "course/lessons/lost.py").write_text(SOURCE, encoding="utf-8")
    with pytest.raises(ValueError, match=r"^course/lessons/lost\.py has no row in syllabus\.toml"):
        sources.sources()


def test_a_lesson_that_moves_takes_its_notebook_along_and_what_was_written_in_it_is_kept(house, monkeypatch):
    path = write(house)
    path.write_text(path.read_text().replace("A small lesson", "My own title"))
    (house / "course/new.toml").write_text(rows("early", "put_in", "small"), encoding="utf-8")
    monkeypatch.setattr(syllabus, "FILE", house / "course/new.toml")
    monkeypatch.setattr(build, "REPOSITORY", house)
    for made in ("README.md", "binder/requirements.txt"):
        (house / made).parent.mkdir(exist_ok=True)
        (house / made).write_text("<!-- lessons --><!-- /lessons -->", encoding="utf-8")
    (house / "course/lessons/small.py").write_text(SOURCE.replace("[[late]]", "all"), encoding="utf-8")
    build.build()
    assert not path.exists()
    assert "# 02 · A small lesson" in (house / "notebooks/02_small.ipynb").read_text()
    (kept,) = (house / "build" / "kept").iterdir()
    assert "My own title" in kept.read_text()


def test_the_solution_of_an_exercise_is_its_solved_cell(house):
    sources.exercise_cells.cache_clear()
    try:
        assert "y = x + x" in sources.solution_of("small", "double")
        with pytest.raises(ValueError, match="it has double, number"):
            sources.solution_of("small", "triple")
    finally:
        sources.exercise_cells.cache_clear()


def test_cells_know_their_tags(house):
    found = cells(house / "course/lessons/small.py")
    assert [cell.tag("exercise") for cell in found if cell.tag("exercise")] == ["double", "number"]
    assert found[3].tag("points") == "2"
