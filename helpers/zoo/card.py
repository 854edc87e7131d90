"""What is said of a model of the zoo: ``card.json`` holds every number, and README.md is written from it."""

from datetime import date
from importlib.metadata import version
from pathlib import Path

from helpers.device import describe
from helpers.training.train import Run
from helpers.zoo.follow import Made
from helpers.zoo.recipe import Recipe

TEMPLATES = Path(__file__).with_name("cards")
COMPARED = ("date", "parameters", "can", "loss", "tables", "training")  # of another model's card


def facts(recipe: Recipe, made: Made, others: dict[str, dict] | None = None) -> dict:
    """Every number of the card. The model holds the weights as they are shipped.

    ``others`` are cards of models to compare with, by name: what is compared is kept, without their curves.
    """
    model = made.model.eval()
    return {
        "name": recipe.name,
        "date": date.today().isoformat(),
        "recipe": recipe.said(),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "vocabulary": made.tokenizer.get_vocab_size(),
        "training": {name: training(run, recipe) for name, run in made.runs.items()},
        **recipe.evidence(made),
        "beside": {name: compared(other) for name, other in (others or {}).items()},
        "machine": describe(next(model.parameters()).device),
        "versions": {name: version(name) for name in ("torch", "tokenizers", "safetensors", "transformers")},
    }


def compared(other: dict) -> dict:
    """What a card keeps of another: all of COMPARED but the curves."""
    stages = {name: {key: run[key] for key in run if key != "curve"} for name, run in other["training"].items()}
    return {**{key: other[key] for key in COMPARED}, "training": stages}


def training(run: Run, recipe: Recipe) -> dict:
    """How one stage went: its time, and its loss as means over so many steps."""
    every = max(1, run.step // 50)
    curve = [sum(run.losses[i : i + every]) / len(run.losses[i : i + every]) for i in range(0, run.step, every)]
    return {
        "steps": run.step,
        "wall_s": run.wall_s,
        "cpu_s": run.cpu_s,
        "threads": recipe.threads,
        "loss_at_last": curve[-1],
        "curve_every": every,
        "curve": curve,
    }


def table(columns: list[str], rows: list[list], note: str = "") -> dict:
    """A table of a card: numbers as they were measured, and a sentence on how to read them."""
    return {"columns": columns, "rows": rows, "note": note}


def readme(card: dict) -> str:
    """The model card: the model's own template with the numbers of ``card.json`` in it, tables as Markdown.

    A model that has no template of its own gets the one that shows all its tables.
    """
    own = TEMPLATES / f"{card['name']}.md"
    template = (own if own.is_file() else TEMPLATES / "any.md").read_text(encoding="utf-8")
    tables = {name: markdown(value) for name, value in card.get("tables", {}).items()}
    both = {name: markdown(side_by_side(card, name)) for name in tables if _in_all(card, name)}
    written = {"tables": tables, "side": both, "all": "\n\n".join(tables.values()), "made": _made(card)}
    return template.format(**{**card, **written})


def _in_all(card: dict, name: str) -> bool:
    """Whether there are other models, and each was measured in this too, row by row."""
    others, rows = card["beside"].values(), [row[0] for row in card["tables"][name]["rows"]]
    return bool(others) and all(rows == [row[0] for row in _rows(other, name)] for other in others)


def _rows(card: dict, name: str) -> list[list]:
    return card["tables"].get(name, {"rows": []})["rows"]


def side_by_side(card: dict, name: str) -> dict:
    """A table of ``card`` with its first measure only, and beside it that of each model which it is compared with."""
    own, others = card["tables"][name], card["beside"]
    columns = [own["columns"][0], card["name"], *others]
    rows = [
        [row[0], row[1], *(other["tables"][name]["rows"][n][1] for other in others.values())]
        for n, row in enumerate(own["rows"])
    ]
    return table(columns, rows, own["note"])


def markdown(table: dict) -> str:
    """A table of ``card.json`` as Markdown, with its note below."""
    rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    lines = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines + (["", table["note"]] if table["note"] else []))


def _cell(value) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _made(card: dict) -> str:
    """How the model was made, as the rows of a table."""
    machine, versions = card["machine"], card["versions"]
    rows = [
        (
            f"Training, {name}",
            f"{run['steps']:,} steps, {run['cpu_s']:,.0f} s of CPU, {run['wall_s']:,.0f} s on the clock",
        )
        for name, run in card["training"].items()
    ]
    rows.append(
        ("Machine", f"{machine['name']}, {machine['cores']} cores, {machine['instructions']}, {machine['system']}")
    )
    libraries = ", ".join(f"{name} {number}" for name, number in versions.items())
    rows.append(("Versions", f"Python {machine['python']}, {libraries}"))
    rows.append(("Date", card["date"]))
    return "\n".join(f"| {name} | {said} |" for name, said in rows)
