"""What is run, how, and what came of it: the small records that the runner, the resume and the report share."""

import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

SCALES = ("smoke", "laptop", "full")
LESSON_LIMIT_S = {"smoke": 120, "laptop": 600, "full": 600}
MEMORY_LIMIT_BYTES = 1.4e9  # two kernels and JupyterLab fit into the 4 GB of a small laptop, one into Binder's 2 GB


@dataclass(frozen=True)
class LessonFile:
    """A notebook to run. ``name`` is "03_open_a_model", the file's stem."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    def count_cells(self) -> int:
        """How many code cells it has; none for a file that is no notebook, which the run itself will report."""
        try:
            return sum(cell["cell_type"] == "code" for cell in json.loads(self.path.read_bytes())["cells"])
        except (ValueError, KeyError, TypeError):
            return 0


@dataclass(frozen=True)
class Settings:
    """How lessons are run. Parameters left at None keep the value that the lesson itself gives them."""

    root: Path  # every set of settings gets its own folder in here
    scale: str = "laptop"
    checkpoint: str | None = None
    device: str | None = None
    seed: int | None = None
    solved: bool = False
    offline: bool = False
    workers: int = 2
    cell_limit_s: int = 300
    lesson_limit_s: int | None = None  # None: LESSON_LIMIT_S of the scale
    memory_limit_gb: float | None = None  # None: MEMORY_LIMIT_BYTES for the project's own models on a CPU, else none
    fresh: bool = False

    @property
    def parameters(self) -> dict[str, str | int]:
        """What goes into the lessons' ``parameters`` cell."""
        asked = {"scale": self.scale, "checkpoint": self.checkpoint, "device": self.device, "seed": self.seed}
        return {name: value for name, value in asked.items() if value is not None}

    @property
    def lesson_limit(self) -> int:
        return LESSON_LIMIT_S[self.scale] if self.lesson_limit_s is None else self.lesson_limit_s

    @property
    def memory_limit(self) -> float:
        """Bytes that a kernel may hold. The libraries of an accelerator alone can hold more than a lesson on a CPU."""
        if self.memory_limit_gb is not None:
            return self.memory_limit_gb * 1e9
        own = self.scale != "full" and self.checkpoint in (None, "zoo")
        return MEMORY_LIMIT_BYTES if own and self.on_cpu else math.inf

    @property
    def on_cpu(self) -> bool:
        """Whether lessons compute on the CPU: asked for, or all that "auto" finds here."""
        if self.device in (None, "auto"):
            from helpers.device import pick  # brings in torch: two seconds, and only where nobody has said it

            return pick().type == "cpu"
        return self.device == "cpu"

    @property
    def name(self) -> str:
        """As a folder: "solved-smoke-offline", "given-laptop-Qwen-Qwen3.5-0.8B-cuda"."""
        parts = ["solved" if self.solved else "given", self.scale]
        parts += [str(value) for value in (self.checkpoint, self.device) if value is not None]
        parts += [f"seed{self.seed}"] * (self.seed is not None) + ["offline"] * self.offline
        return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts)).strip("-.")

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def state(self) -> Path:
        """What the next run reads after this one was cut off."""
        return self.folder / "state"

    def scratch(self, lesson: LessonFile) -> Path:
        """The folder of one lesson in one run: its log, and what it writes as a learner would."""
        return self.state / lesson.name


@dataclass(frozen=True)
class CellRecord:
    """One code cell that ran. ``number`` counts code cells from 1, as JupyterLab does after Run All."""

    number: int
    first_line: str
    seconds: float
    peak_memory_bytes: int  # resident memory of the kernel and its children, the most seen while the cell ran


@dataclass(frozen=True)
class Failure:
    """Why a lesson failed. ``kind`` is one of KINDS; ``cell`` is None where no single cell is to blame."""

    kind: str
    exception: str
    message: str
    cell: int | None = None
    lines: list[tuple[int, str]] = field(default_factory=list)  # some of the cell's lines, numbered from 1
    failing_line: int | None = None
    raised_in: str = ""  # "helpers/layers/norm.py, line 12", where that is not the cell itself

    def text(self, lesson: str) -> str:
        """The report of a few lines that a person reads in the terminal."""
        where = f", cell {self.cell}" if self.cell else ""
        rows = [f"FAILED {lesson}{where}: {KINDS[self.kind]}"]
        last = 0
        for number, line in self.lines:
            rows += ["         ..."] * (number > last + 1 and last > 0)
            rows.append(f"    {'>' if number == self.failing_line else ' '} {number:3}  {line}")
            last = number
        rows += [f"    {line}" for line in f"{self.exception}: {self.message}".splitlines()]
        rows += [f"    raised in {self.raised_in}"] * bool(self.raised_in)
        return "\n".join(rows)


def excerpt(source: str, failing: int | None) -> list[tuple[int, str]]:
    """At most the first six lines of a cell; if the failing one is further down, three and its surroundings."""
    lines = list(enumerate(source.rstrip().splitlines(), start=1))
    if failing is None or failing <= 6:
        return lines[:6]
    return lines[:3] + lines[max(3, failing - 2) : failing + 1]


def first_line(source: str) -> str:
    """What a cell is called in lists."""
    return next(iter(source.strip().splitlines()), "")[:80]


KINDS = {
    "error": "a cell raised an exception",
    "cell limit": "a cell ran over its time limit",
    "lesson limit": "the lesson ran over its time limit",
    "kernel died": "the kernel died",
    "memory": "the lesson needs too much memory",
    "stopped early": "the lesson stopped before its end",
    "refused": "the notebook is against the rules",
    "machinery": "the lesson could not be run",
}


@dataclass(frozen=True)
class Result:
    """One lesson's outcome. It passed if there is no failure."""

    name: str
    seconds: float  # wall time, start of the kernel included
    cells: list[CellRecord]
    failure: Failure | None
    key: str = ""  # of everything the outcome depends on; see course.running.resume
    kept: bool = False  # taken over from a run that was cut off

    @property
    def passed(self) -> bool:
        return self.failure is None

    @property
    def peak_memory_bytes(self) -> int:
        return max((cell.peak_memory_bytes for cell in self.cells), default=0)

    def held_to(self, memory_limit: float) -> "Result":
        """Itself; failed where it passed and a cell held more than ``memory_limit`` bytes."""
        heavy = next(
            (cell for cell in self.cells if not cell.peak_memory_bytes <= memory_limit), None
        )  # NaN allows none
        if heavy is None or self.failure:
            return self
        held, allowed = heavy.peak_memory_bytes / 1e9, memory_limit / 1e9
        held = f"{held:.2f} GB were held; {allowed:.2f} GB are allowed (--memory-limit)"
        return replace(self, failure=Failure("memory", "MemoryError", held, heavy.number, [(1, heavy.first_line)]))

    @property
    def slowest(self) -> list[CellRecord]:
        """The three slowest cells, slowest first."""
        return sorted(self.cells, key=lambda cell: cell.seconds, reverse=True)[:3]

    def to_dict(self) -> dict:
        totals = {"passed": self.passed, "peak_memory_bytes": self.peak_memory_bytes}
        return {**asdict(self), **totals}

    @staticmethod
    def from_dict(values: dict) -> "Result":
        """The result that ``to_dict`` wrote. Raises KeyError or TypeError for anything else."""
        failure = values["failure"]
        if failure is not None:
            failure = Failure(**{**failure, "lines": [tuple(line) for line in failure["lines"]]})
        cells = [CellRecord(**cell) for cell in values["cells"]]
        return Result(values["name"], values["seconds"], cells, failure, values["key"], values["kept"])
