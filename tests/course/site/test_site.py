"""The course as a website: pages from one tiny lesson, complete, alive and without a request."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import nbformat
import nbformat.v4 as v4
import pytest
from support import browser as lab

from course import site
from course.authoring.build import notebook
from course.measure.cases import CASES
from course.parity.compare import Line, ParityRecord, write_parity
from course.syllabus import syllabus
from helpers.claims.ledger import ledger
from helpers.facts import table as facts
from helpers.measure import Measurement, Record, write_record
from helpers.plots import bundle, new_figure

if absent := site.missing():
    pytest.skip(f"{', '.join(absent)} not installed: {site.INSTALL}", allow_module_level=True)

from course.measure.goals import GOALS
from course.site.build import build_pages
from course.site.facts import hardware_page, ledger_page, models_page
from course.site.front import front_page, lesson_tables
from course.site.lessons import lesson_page
from course.site.mathml import to_mathml
from course.site.measured import NOT_YET, measured_page, parity_page
from course.site.runs import newest_whole_run
from course.site.tables import table

# myst-parser 5.2 asks Sphinx 9 for a name that Sphinx 11 will not have; nothing of ours does
pytestmark = pytest.mark.filterwarnings("ignore:'myst_parser:PendingDeprecationWarning")

SOURCE = """# %% [markdown]
# # A line
#
# The slope is $\\frac{a}{b}$, and
#
# $$\\underbrace{a < b}_{\\text{two numbers}}$$

# %% tags=["parameters"]
scale = "laptop"

# %% [markdown]
# ## Build

# %% tags=["exercise:slope"]
def slope(a, b):
    # BEGIN SOLUTION
    return a / b
    # END SOLUTION


# %% tags=["check:slope"]
check.slope(slope)

# %%
show(figure)
"""
FIGURE = new_figure("a line that rises", alt="a line from 1 to 3").add_scatter(y=[1, 2, 3])
MACHINE = {"device": "cpu", "name": "A <small> machine", "cores": 2, "threads": 1, "memory_bytes": 8 * 10**9}


def tiny_lesson(folder: Path) -> SimpleNamespace:
    """A lesson whose source lies in ``folder``."""
    source = folder / "line.py"
    source.write_text(SOURCE, encoding="utf-8")
    return SimpleNamespace(number="00", name="line", title="A line", stem="00_line", source=source)


def executed(folder: Path) -> tuple[nbformat.NotebookNode, SimpleNamespace]:
    """The tiny lesson as papermill leaves it, and its row."""
    lesson = tiny_lesson(folder)
    made = nbformat.reads(notebook(lesson, solved=True), as_version=4)
    made.metadata.papermill = {"output_path": "somebody's folder"}
    made.cells[-1].outputs = [v4.new_output("display_data", data=bundle(FIGURE))]
    made.cells[-2].outputs = [v4.new_output("stream", text="✓ slope\n")]
    return made, lesson


def build(folder: Path, name: str) -> Path:
    lesson = lesson_page(*executed(folder), "executed at scale smoke on a machine")
    words = "# Course\n\n## Lessons\n\n{}\n\n```{{toctree}}\nlessons/00_line\nparity\nmeasured\n```\n"
    empty = {"parity": parity_page(folder / "nothing"), "measured": measured_page(folder / "nothing")}
    assert build_pages({"00_line": lesson}, {"index": words.format(lesson_tables()), **empty}, folder / name) == 4
    return folder / name


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("site"), "site")


class Page(HTMLParser):
    """What a page loads, its links, headings, plots and ids."""

    def __init__(self, path: Path):
        super().__init__()
        self.loads, self.links, self.headings, self.plots, self.images, self.ids = [], [], [], [], [], set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [values[name] for name in ("src", "srcset", "data", "poster", "action") if values.get(name)]
        self.loads += [values.get("href")] * (tag == "link")
        self.links += [values.get("href")] * (tag == "a" and "href" in values)
        self.headings += map(int, re.findall(r"^h([1-6])$", tag))
        self.plots += [values] * (values.get("class") == "plotly-figure")
        self.images += [values] * (tag == "img")
        self.ids |= {values.get("id")}


def every(pages: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(pages.rglob("*.html"))}


def lesson(pages: Path) -> Page:
    return Page(pages / "lessons" / "00_line.html")


def test_no_page_and_no_style_loads_anything_from_a_host(pages):
    for path, page in every(pages).items():
        assert page.loads
        assert not [address for address in page.loads if re.match(r"(\w+:)?//", address)], path
    for style in pages.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_everything_that_a_page_loads_or_links_to_is_there(pages):
    outside = ("https://", "http://", "#", "data:", "lessons/", "../notebooks/00_line", "javascript")
    for path, page in every(pages).items():
        local = [address for address in page.loads + page.links if not address.startswith(outside)]
        missing = [a for a in local if not (path.parent / re.split("[?#]", a)[0]).exists()]
        assert not missing, path


def test_a_figure_is_a_plot_with_its_words_and_one_plotly_for_all_pages(pages):
    page = lesson(pages)
    assert [(plot["role"], plot["aria-label"]) for plot in page.plots] == [("img", "a line from 1 to 3")]
    loads = [address.split("?")[0] for address in page.loads]
    assert {"../_static/plotly.min.js", "../_static/plots.js"} <= set(loads)
    assert len(list(pages.rglob("plotly*.js"))) == 1
    assert "plotly" not in "".join(Page(pages / "index.html").loads)  # five megabytes only where they draw


def test_every_image_says_what_it_shows(pages):
    assert all(image.get("alt") is not None for page in every(pages).values() for image in page.images)


def test_formulas_are_mathml_with_their_source_as_words(pages):
    text = lesson(pages).text
    assert text.count("<math ") == 2
    assert 'display="block"' in text
    assert "<mfrac>" in text
    assert 'alttext="\\frac{a}{b}"' in text
    assert "MathJax" not in text


@pytest.mark.parametrize(
    ("tex", "words"),
    [(r"\frac{a}{\nosuch b}", r"not known, \\nosuch"), (r"\left( x", "not complete"), ("x_", "not complete")],
)
def test_a_formula_that_cannot_be_drawn_is_refused(tex, words):
    with pytest.raises(ValueError, match=words):
        to_mathml(tex, block=False)


def test_lines_of_a_formula_are_aligned():
    assert to_mathml(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", block=True).count("<mtr>") == 2


def test_an_exercise_is_blank_and_its_solution_is_folded(pages):
    text = lesson(pages).text
    before, folded = text.split("<details", 1)
    folded, after = folded.split("</details>", 1)
    assert "NotImplementedError" in before
    assert "NotImplementedError" not in folded
    assert "Show the solution" in folded
    assert re.search(r"return</span>.*/", folded)
    assert "✓ slope" in after
    assert "SOLUTION" not in text


def test_a_page_says_how_it_was_executed_and_names_no_path(pages):
    assert "executed at scale smoke on a machine" in lesson(pages).text
    for path, page in every(pages).items():
        assert "somebody" not in page.text, path
        assert str(pages.parent) not in page.text, path


def test_every_page_has_one_title_and_no_heading_is_skipped(pages):
    for path, page in every(pages).items():
        assert page.headings.count(1) == 1 or path.name == "search.html", path
        steps = [below - above for above, below in zip(page.headings, page.headings[1:], strict=False)]
        assert all(step <= 1 for step in steps), path


def test_two_builds_are_the_same_byte_for_byte(pages):
    again = build(pages.parent, "again")

    def digests(folder: Path) -> dict[str, str]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert digests(again) == digests(pages)


def test_a_broken_page_leaves_the_site_that_is_there(pages, tmp_path):
    with pytest.raises(ValueError, match="not right"):
        build_pages({}, {"index": "# Course\n\n[nowhere](no_such_page.md)\n"}, pages)
    assert lesson(pages).plots
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a site"):
        build_pages({}, {"index": "# Course\n"}, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_where_nothing_is_measured_the_page_says_so(pages):
    for name in ("parity", "measured"):
        assert NOT_YET in Page(pages / f"{name}.html").text


def test_a_record_is_a_table_and_a_case_without_one_is_not_measured_yet(tmp_path):
    timing = {"clock": "wall time", "repeats": 9, "calls": 1, "median_s": 0.002, "q1_s": 0.001, "q3_s": 0.003}
    line = Measurement("read <fast>", "float32", [4, 5], **timing, flops=0, bytes=2e6, roofline_share=0.5)
    write_record(Record("roofline", MACHINE, [line]), tmp_path)
    text = measured_page(tmp_path)
    for shown in ("read &lt;fast&gt;", "4 × 5", "2 ms", "1 ms to 3 ms", "1 GB/s", "50%", "A &lt;small&gt; machine"):
        assert shown in text
    assert text.count(NOT_YET) == len(CASES) - 1 + len(GOALS)


def test_parity_shows_every_line_and_what_has_none(tmp_path):
    numbers = {"kl": 0.0, "top1": 1.0, "logit_rms": 1.0}

    def lines(dtype: str, cache: str, error: float, rounding: float) -> list[Line]:
        way = [("qwen3", "text", dtype, cache, padding) for padding in ("none", "left", "right")]
        return [Line(*one, error, error / 2, **numbers, rounding=rounding) for one in way]

    good, bad = lines("float32", "none", 2e-6, 0.0), lines("float32", "split", 1.5, 0.0)
    near, far = lines("bfloat16", "none", 0.28, 0.1), lines("bfloat16", "split", 0.29, 0.1)[:1]
    write_parity(ParityRecord(MACHINE, [*good, *bad, *near, *far]), tmp_path)
    text = parity_page(tmp_path)
    rows = [row for row in text.splitlines() if ">qwen3<" in row]
    assert len(rows) == 4
    assert rows[0].count("2.0e-06") == 3
    assert [re.findall("[✓✗]", row) for row in rows] == [["✓"], ["✗"], ["✓"], ["✗"]]
    assert rows[3].count(NOT_YET) == 2
    assert f'<tr><th scope="row" class="short">deepseek_v3</th><td class="short">{NOT_YET}</td>' in text


@pytest.mark.parametrize("page", [parity_page, measured_page])
def test_a_record_that_cannot_be_read_is_named(tmp_path, page):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / ("parity.json" if page is parity_page else "roofline.json")).write_text("{}")
    with pytest.raises(ValueError, match=r"(parity|roofline)\.json"):
        page(tmp_path)


def test_the_tables_have_every_claim_model_and_chip():
    claims = ledger_page()
    assert all(f'id="claim-{claim.id}"' in claims for claim in ledger())
    assert claims.count("<tr id=") == len(ledger())
    assert models_page().count('scope="row"') == len(facts("models"))
    assert hardware_page().count('scope="row"') == len(facts("hardware"))


def test_the_front_page_has_the_commands_and_every_lesson_in_order():
    text = front_page()
    assert text.startswith("# Efficient Engines")
    assert "python3 -m course test" in text
    assert re.findall(r'scope="row" class="short">(\d\d)<', text) == [lesson.number for lesson in syllabus()]
    for entry in syllabus():
        assert (f"lessons/{entry.stem}.html" in text) == entry.ready


def test_a_table_has_a_caption_scopes_and_no_unescaped_cell():
    text = table("two <rows>", ("a", "b"), [("<i>", None), ("x", "  y\n\n z ")])
    assert "<caption>two &lt;rows&gt;</caption>" in text
    assert text.count('scope="col"') == text.count('scope="row"') == 2
    assert "<i>" not in text
    assert "\n\n" not in text
    assert ">y z<" in text
    assert 'tabindex="0"' in text  # a table that scrolls can be scrolled by keyboard


# ---------------------------------------------------------------- which run


def whole_run(root: Path, name: str, finished: str, lesson: SimpleNamespace, passed: bool = True) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / f"{lesson.stem}.ipynb").write_text(notebook(lesson, solved=True), encoding="utf-8")
    report = {"finished": finished, "parameters": {"scale": "smoke"}, "python": "3.11", "versions": {"torch": "2"}}
    report["lessons"] = [{"name": lesson.stem, "passed": passed}]
    (folder / "report.json").write_text(json.dumps({**report, "versions": {"torch": "2", "transformers": "5"}}))


def test_the_newest_whole_run_of_todays_sources_is_shown(tmp_path, monkeypatch):
    lesson = tiny_lesson(tmp_path)
    monkeypatch.setattr("course.site.runs.ready_lessons", lambda: (lesson,))
    assert newest_whole_run(tmp_path) is None
    whole_run(tmp_path, "solved-laptop", "2026-11-01", lesson)
    whole_run(tmp_path, "solved-smoke", "2026-11-02", lesson)
    whole_run(tmp_path, "solved-full", "2026-11-03", lesson, passed=False)
    (tmp_path / "solved-cut").mkdir()
    (tmp_path / "solved-cut" / "report.json").write_text("{")
    found = newest_whole_run(tmp_path)
    assert found.folder.name == "solved-smoke"
    assert found.in_words == "executed at scale smoke on 2026-11-02 (Python 3.11, torch 2, transformers 5)"
    lesson.source.write_text(SOURCE.replace("a / b", "b / a"), encoding="utf-8")
    assert newest_whole_run(tmp_path) is None  # its sources have changed since


def test_without_its_packages_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(site, "NEEDED", ("no_such_package",))
    assert site.main([]) == 1
    assert 'no_such_package not installed; with this environment\'s Python: python3 -m pip install -e ".[site]"' in (
        capsys.readouterr().out
    )


def test_without_a_whole_run_the_lessons_run_at_scale_smoke_and_a_failure_stops_the_site(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(site.runner, "RUNS", tmp_path / "run")
    monkeypatch.setattr(site.runner, "main", lambda arguments: asked.append(arguments) or 1)
    assert site.main(["--out", str(tmp_path / "site")]) == 1
    assert asked == [["--solved", "--scale", "smoke"]]
    monkeypatch.setattr(site.runner, "main", lambda arguments: 0)  # passed, and yet there is no run: sources changed
    assert site.main(["--out", str(tmp_path / "site")]) == 1
    assert "changed while the lessons ran" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


# ---------------------------------------------------------------- in a browser


@pytest.mark.skipif(lab.chromium() is None, reason="no Chromium on this machine (Debian: apt install chromium)")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 420)])
def test_a_browser_draws_the_page_without_a_request_or_a_complaint(pages, scheme, width):
    from playwright.sync_api import sync_playwright

    asked, complaints = [], []
    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=lab.chromium(), args=lab.CHROMIUM_OPTIONS)
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((pages / "lessons" / "00_line.html").as_uri())
        page.wait_for_selector(".js-plotly-plot .scatterlayer path")
        assert page.locator("math").first.bounding_box()["height"] > 10
        assert not page.get_by_text("return a / b").is_visible()
        page.get_by_text("Show the solution").click()
        assert page.get_by_text("return a / b").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        chromium.close()
    assert complaints == []
    assert not [address for address in asked if not address.startswith(("file:", "data:", "blob:"))]
