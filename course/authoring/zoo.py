"""The models that the course ships: ``python3 -m course zoo [NAME]`` lists them, or shows the card of one."""

import argparse

from helpers.units import format_bytes, format_count, format_seconds
from helpers.zoo import folder, names, read_card


def main(argv: list[str] | None = None) -> int:
    """Print every model, or one model's card; 0, or 2 for a name that is not there."""
    name = _parser().parse_args(argv).name
    try:
        print((folder(name) / "README.md").read_text(encoding="utf-8") if name else listed())
    except ValueError as error:
        print(f"zoo: {error}")
        return 2
    return 0


def listed() -> str:
    """What the zoo holds: for each model its size, its loss, what it can do, and who made it when."""
    cards = [read_card(folder(name)) for name in names()]
    total = sum(path.stat().st_size for name in names() for path in folder(name).iterdir())
    return "\n\n".join([*map(entry, cards), f"{len(cards)} models, {format_bytes(total)} in all"])


def entry(card: dict) -> str:
    """One model in four lines."""
    weights = (folder(card["name"]) / "model.safetensors").stat().st_size
    took = sum(run["cpu_s"] for run in card["training"].values())
    return "\n".join(
        [
            f"{card['name']:<20} {format_count(card['parameters'])} parameters, {format_bytes(weights)}",
            f"    {card['loss']['value']:.3f} {card['loss']['what']}",
            f"    {card['can']}",
            f"    made {card['date']} on {card['machine']['name']}, {format_seconds(took)} of CPU",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m course zoo", description="The models that the course ships.")
    parser.add_argument("name", nargs="?", help="one model, for its card (all, in short)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
