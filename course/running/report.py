"""The report of a run, three times: a page for people, JUnit XML for CI, JSON for everything else."""

import json
import platform
from datetime import UTC, datetime
from html import escape
from xml.etree import ElementTree

from course.machine import installed
from course.running.results import CellRecord, Result, Settings
from helpers.files import write_whole
from helpers.units import format_bytes, format_seconds

VERSIONS_OF = ("torch", "transformers", "papermill", "ipykernel", "plotly")


def write(results: list[Result], settings: Settings) -> None:
    """report.html, report.xml and report.json into the run's folder. Raises OSError."""
    texts = {"html": html(results, settings), "xml": junit(results, settings), "json": as_json(results, settings)}
    for ending, text in texts.items():
        write_whole(settings.folder / f"report.{ending}", text)


def as_json(results: list[Result], settings: Settings) -> str:
    """Everything that was measured: seconds, bytes, cell by cell."""
    content = {
        "settings": settings.name,
        "parameters": settings.parameters,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in VERSIONS_OF},
        "lessons": [result.to_dict() for result in results],
    }
    return json.dumps(content, indent=1)


def junit(results: list[Result], settings: Settings) -> str:
    """One test case a lesson, in the form that CI systems read."""
    failures = sum(not result.passed for result in results)
    seconds = sum(result.seconds for result in results)
    counts = {"tests": str(len(results)), "failures": str(failures), "time": f"{seconds:.3f}"}
    suite = ElementTree.Element("testsuite", name=f"lessons {settings.name}", errors="0", skipped="0", **counts)
    for result in results:
        case = ElementTree.SubElement(suite, "testcase", classname="lessons", name=result.name)
        case.set("time", f"{result.seconds:.3f}")
        if result.failure:
            summary = _xml_text(f"{result.failure.exception}: {result.failure.message}".splitlines()[0])
            failure = ElementTree.SubElement(case, "failure", message=summary, type=result.failure.kind)
            failure.text = _xml_text(result.failure.text(result.name))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _xml_text(text: str) -> str:
    """XML 1.0 has no place for control characters, and an exception's message can hold any."""
    return "".join(c if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff") else "\ufffd" for c in text)


def html(results: list[Result], settings: Settings) -> str:
    """One page without a request: a table, and below it what failed."""
    failed = [result for result in results if not result.passed]
    title = f"{len(results) - len(failed)} of {len(results)} lessons passed"
    errors = "".join(_error(result) for result in failed)
    return PAGE.format(
        title=title,
        settings=escape(settings.name),
        rows="".join(_row(result, settings) for result in results),
        errors=f"<h2>What failed</h2>{errors}" if failed else "",
        python=platform.python_version(),
        versions=escape(", ".join(f"{name} {installed(name)}" for name in VERSIONS_OF)),
        finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _row(result: Result, settings: Settings) -> str:
    status = "✓ passed" if result.passed else f'<a href="#{result.name}">✗ failed</a>'
    status += " <small>before the run was cut off</small>" * result.kept
    slowest = "".join(_slow_cell(cell) for cell in result.slowest)
    cells = [
        f'<th scope="row">{_link(result.name, settings)}</th>',
        f'<td class="{"passed" if result.passed else "failed"}">{status}</td>',
        f'<td class="number">{format_seconds(result.seconds)}</td>',
        f'<td class="number">{format_bytes(result.peak_memory_bytes) if result.cells else "–"}</td>',
        f"<td><ol>{slowest}</ol></td>",
    ]
    return f"<tr>{''.join(cells)}</tr>\n"


def _slow_cell(cell: CellRecord) -> str:
    time, line = format_seconds(cell.seconds), escape(cell.first_line)
    return f"<li><span>{time}</span><span>cell {cell.number}: <code>{line}</code></span></li>"


def _link(name: str, settings: Settings) -> str:
    """The lesson's page; of a lesson that was killed there is only the notebook, and of one refused nothing."""
    for ending in (".html", ".ipynb"):
        if (settings.folder / f"{name}{ending}").exists():
            return f'<a href="{name}{ending}">{name}</a>'
    return name


def _error(result: Result) -> str:
    return f'<section id="{result.name}"><pre>{escape(result.failure.text(result.name))}</pre></section>\n'


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<style>
:root {{ --text: #1d2129; --soft: #5c6370; --line: #d9dce1; --good: #00664a; --bad: #a83c00; --link: #0056a3;
  --shade: #f4f5f7; --page: #fff; }}
@media (prefers-color-scheme: dark) {{ :root {{ --text: #e4e6ea; --soft: #a2a9b4; --line: #3a3f47; --good: #4fc79c;
  --bad: #ff9a62; --link: #7ab8ff; --shade: #23272d; --page: #16191d; }} }}
body {{ max-width: 68rem; margin: 2.5rem auto; padding: 0 1.25rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--text); background: var(--page); }}
h1 {{ font-size: 1.6rem; margin: 0; }} h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .75rem; }}
p, small, footer {{ color: var(--soft); }} a {{ color: var(--link); }}
.scroll {{ overflow-x: auto; margin-top: 1.5rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ padding: .6rem 1rem .6rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }}
thead th {{ color: var(--soft); font-weight: 500; white-space: nowrap; }} tbody th {{ font-weight: 600; }}
.number {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
.passed, .failed {{ white-space: nowrap; }}
.passed {{ color: var(--good); }} .failed, .failed a {{ color: var(--bad); font-weight: 600; }}
td small {{ display: block; white-space: normal; }}
ol {{ list-style: none; margin: 0; padding: 0; font-size: .875rem; color: var(--soft); }}
li {{ display: grid; grid-template-columns: 4.5rem 1fr; gap: .5rem; }}
li span:first-child {{ text-align: right; font-variant-numeric: tabular-nums; }}
code, pre {{ font: .8125rem/1.55 ui-monospace, "DejaVu Sans Mono", monospace; }}
pre {{ background: var(--shade); border-left: 3px solid var(--bad); padding: 1rem; overflow-x: auto; }}
footer {{ margin-top: 2.5rem; font-size: .875rem; }}
</style></head><body>
<h1>{title}</h1><p>{settings}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Lessons"><table>
<thead><tr><th scope="col">Lesson</th><th scope="col">Status</th><th scope="col" class="number">Time</th>
<th scope="col" class="number">Peak memory</th><th scope="col">Slowest cells</th></tr></thead>
<tbody>
{rows}</tbody></table></div>
{errors}<footer>{finished} · Python {python} · {versions}</footer>
</body></html>
"""
