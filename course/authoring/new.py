"""``python3 -m course new``: the few files and lines of a new lesson, family or measured case, in their places.

Everything that is written works at once and is to be changed: a lesson's tests pass with the template's exercises, a
family begins as a copy of one that is proved, a case times a product. ``WRITE:`` marks what only a person can say, and
``course check`` refuses a lesson in which it is left.
"""

import argparse
import keyword
import re
import subprocess
import sys
from pathlib import Path
from string import Template

from course.sources import REPOSITORY
from course.syllabus import FILE, syllabus
from helpers.files import read_text, write_texts

TEMPLATES = Path(__file__).with_name("templates")
NAME = re.compile(r"[a-z][a-z0-9_]*")
ROW = """[[lesson]]
name = "$name"
part = "$part"
title = "$title"
question = "$question"
minutes = $minutes
needs = []
objectives = [
  "WRITE: what a learner can do afterwards.",
  "WRITE: and what shows it.",
  "WRITE: three to five of them.",
]
claims = []
models = []

"""


def lesson(name: str, after: str, title: str, question: str, minutes: int) -> dict[Path, str]:
    """The texts that make a lesson: its row behind ``after``'s, its source, its checks and their wrong answers.

    Raises ValueError for a name that is taken or that no module may have, and for an ``after`` that is not there.
    """
    rows = {row.name: row for row in syllabus()}
    _check_name(name, rows)
    if after not in rows:
        raise ValueError(f"no lesson {after!r} to stand after; there are {', '.join(rows)}")
    words = {"name": name, "title": title, "question": question, "minutes": minutes, "part": rows[after].part}
    return {
        FILE: _behind(f'name = "{after}"', Template(ROW).substitute(words), read_text(FILE)),
        FILE.parent / f"{name}.py": _template("lesson", words),
        REPOSITORY / "course" / "checks" / f"{name}.py": _template("checks", words),
        REPOSITORY / "tests" / "course" / "checks" / "wrong" / f"{name}.py": _template("wrong", words),
    }


def _behind(line: str, row: str, text: str) -> str:
    """``text`` of the syllabus with ``row`` behind the row that has this line."""
    head, found, tail = text.partition(line)
    own, following, rest = tail.partition("[[lesson]]\n")
    return f"{head}{found}{own.rstrip()}\n\n{row}{following}{rest}"


def case(name: str) -> dict[Path, str]:
    """The texts that make a measured case: its subject's file, its lines in the list of cases. ValueError as above."""
    subjects, file = REPOSITORY / "course" / "measure" / "subjects", REPOSITORY / "course" / "measure" / "cases.py"
    _check_name(name, [path.stem for path in subjects.glob("*.py")])
    words = {"name": name, "label": name.replace("_", "-")}
    text = _before(
        "from helpers.measure ", f"from course.measure.subjects.{name} import {name}_case\n", read_text(file)
    )
    last = text.index("}\n", text.index("CASES: dict[str, Case] = {"))
    text = f'{text[:last]}    "{words["label"]}": {name}_case,\n{text[last:]}'
    return {subjects / f"{name}.py": _template("case", words), file: text}


def family(name: str, like: str, model: str, config: str) -> dict[Path, str]:
    """The texts that make a family: two files that begin as ``like``'s, its line in the table, its tiny config.

    ``name`` and ``like`` are model_types; ``model`` and ``config`` are transformers' classes. Raises ValueError as
    above.
    """
    models = REPOSITORY / "helpers" / "models"
    files = models / f"{like}.py", models / "configs" / f"{like}.py"
    there = sorted(
        {path.stem for path in models.glob("*.py")} & {path.stem for path in (models / "configs").glob("*.py")}
    )
    there.remove("__init__")
    _check_name(name, there)
    if like not in there:
        raise ValueError(f"no family {like!r} to begin as; there are {', '.join(there)}")
    table = REPOSITORY / "helpers" / "checkpoints" / "families.py"
    tiny = REPOSITORY / "course" / "parity" / "configs.py"
    ours = re.search(rf"from helpers\.models\.{like} import (\w+)", read_text(table))[1]
    names = {like: name, ours: "".join(word.capitalize() for word in name.split("_")), theirs_of(like): model}
    return {
        **{file.with_name(f"{name}.py"): _renamed(read_text(file), names) for file in files},
        table: _with_twin_lines(read_text(table), names),
        tiny: _with_config(read_text(tiny), like, name, model, config),
    }


def theirs_of(family: str) -> str:
    """The class in transformers that a family is compared with."""
    from course.parity.configs import CONFIGS

    return CONFIGS[family].model


def _renamed(text: str, names: dict[str, str]) -> str:
    """``text`` with these whole words in the place of others."""
    return re.sub(rf"\b({'|'.join(names)})\b", lambda word: names[word[1]], text)


def _with_twin_lines(text: str, names: dict[str, str]) -> str:
    """``text`` in which each line with one of these words is followed by the same line with the others."""
    lines = ((line, _renamed(line, names)) for line in text.splitlines(keepends=True))
    return "".join(line if line == twin else line + twin for line, twin in lines)


def _with_config(text: str, like: str, name: str, model: str, config: str) -> str:
    """The tiny configs with one more, of the sizes of ``like``."""
    row = re.search(rf'^    "{like}": Tiny\(".*?", ".*?", (.*)\),$', text, re.M)
    return text.replace(row[0], f'{row[0]}\n    "{name}": Tiny("{model}", "{config}", {row[1]}),', 1)


def _before(line: str, new: str, text: str) -> str:
    """``text`` with ``new`` before the first line that begins so."""
    head, found, tail = text.partition(line)
    return head + new + found + tail


def _template(kind: str, words: dict) -> str:
    return Template(read_text(TEMPLATES / f"{kind}.txt")).substitute(words)


def _check_name(name: str, taken) -> None:
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name for a module: use small letters, digits and _, and begin with a letter")
    if name in taken:
        raise ValueError(f"{name!r} is there already")


def write(texts: dict[Path, str]) -> None:
    """Write all of them or none, imports in order and lines as ruff lays them. Raises OSError."""
    write_texts(texts)
    files = [str(path) for path in texts if path.suffix == ".py" and path.parent.name != "lessons"]
    for rule in (["check", "--fix", "--select", "I"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *rule, "--quiet", *files], cwd=REPOSITORY, check=False)


def main(argv: list[str]) -> int:
    """The command. Returns 2 where a name is refused, 1 where nothing can be written."""
    given = vars(_parser().parse_args(argv))
    make, then = given.pop("make"), given.pop("then")
    try:
        texts = make(**given)
        write(texts)
    except (ValueError, OSError) as error:
        print(f"course new: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    for path in texts:
        print(path.relative_to(REPOSITORY))
    print(f"next: {then.format(**given)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m course new", description="Begin a lesson, a family or a case.")
    kinds = parser.add_subparsers(required=True, metavar="lesson | family | case")
    made = kinds.add_parser("lesson", help="a row, a source, its checks and their wrong answers")
    made.add_argument("name", help="such as paged_cache: its files and all that refers to it have this name")
    made.add_argument("--after", required=True, metavar="LESSON", help="its place: behind this one")
    made.add_argument("--title", default="WRITE: a title")
    made.add_argument("--question", default="WRITE: the question that it answers?")
    made.add_argument("--minutes", type=int, default=60)
    made.set_defaults(make=lesson, then="python3 -m course build, then look for WRITE: in course/lessons/{name}.py")
    made = kinds.add_parser("family", help="a model, its config, its line in the table, a tiny config for parity")
    made.add_argument("name", help="the model_type of its config.json")
    made.add_argument("--like", default="qwen3", metavar="FAMILY", help="begins as a copy of this one (qwen3)")
    made.add_argument("--model", required=True, help="transformers' class, such as LlamaForCausalLM")
    made.add_argument("--config", required=True, help="transformers' class, such as LlamaConfig")
    made.set_defaults(make=family, then="python3 -m course parity {name}, and change the copy until it holds")
    made = kinds.add_parser("case", help="a subject's file and its line in the list")
    made.add_argument("name", help="such as paged_cache; measured as paged-cache")
    made.set_defaults(make=case, then="python3 -m course measure --list, and look for WRITE: in its file")
    return parser
