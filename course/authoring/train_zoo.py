"""Make a model of the zoo again: ``python3 -m course train-zoo [NAME] [--seconds N] [--steps N] [--device D]``.

A run that was stopped, by Ctrl-C or by a power cut, goes on with the same command from its last checkpoint.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from course.authoring.publish import publish
from course.numbers import above_zero
from helpers.device import pick, threads
from helpers.files import make_folder, not_written
from helpers.training.train import Run
from helpers.zoo import ZOO, read_card
from helpers.zoo.follow import follow
from helpers.zoo.recipe import Recipe, Stage
from helpers.zoo.recipes.named import RECIPES, recipe

BUILD = Path(__file__).parents[2] / "build" / "zoo"
RECENT = 25  # steps whose mean loss the bar shows


def main(argv: list[str] | None = None, build: Path = BUILD) -> int:
    """Train one model and write its folder; 0 when it is whole, 1 when there is more to train, 2 for bad input."""
    args = _parser().parse_args(argv)
    try:
        return make(_chosen(args), build, args.seconds, args.device, args.out)
    except ValueError as error:
        print(f"train-zoo: {error}")
        return 2
    except OSError as error:
        print(f"train-zoo: {not_written(error, args.out or build)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the last checkpoint.")
        return 130


def make(chosen: Recipe, build: Path, seconds: float | None, device: str, out: Path | None) -> int:
    """Follow a recipe, or the rest of it, and write the model's folder. Raises OSError where that cannot be."""
    make_folder(build)
    folder = out or build / chosen.name / "model"
    make_folder(folder)
    others = {name: _card(name, build) for name in chosen.beside}
    with Bars(chosen) as bars:
        made = follow(chosen, build, seconds, bars.report, pick(device))
    if not made.whole:
        stage, run = list(made.runs.items())[-1]
        print(f"{run.step} of {_steps(chosen)[stage]} steps of the stage {stage!r} are done. The same command goes on.")
        return 1
    with threads(chosen.threads):  # a card's numbers are summed in the order in which its model was trained
        card = publish(folder, chosen, made, others)
    print(f"{folder}: {card['loss']['value']:.3f} {card['loss']['what']}; {card['can']}")
    return 0


def _card(name: str, build: Path) -> dict:
    """The card of a model that was made here, or else of the one that ships; ValueError where there is neither."""
    for folder in (build / name / "model", ZOO / name):
        if (folder / "card.json").is_file():
            return read_card(folder)
    raise ValueError(f"the card compares with {name}, which is not here: make it first, train-zoo {name}")


class Bars:
    """A progress bar for the stage at hand."""

    def __init__(self, chosen: Recipe):
        self.name, self.steps, self.bar, self.stage = chosen.name, _steps(chosen), None, ""

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_error) -> None:
        if self.bar is not None:
            self.bar.close()

    def report(self, stage: Stage, run: Run) -> None:
        """After each step."""
        if stage.name != self.stage:
            self.__exit__()
            self.stage = stage.name
            self.bar = tqdm(total=self.steps[stage.name], desc=f"{self.name}, {stage.name}", unit="step", mininterval=1)
        recent = run.losses[-RECENT:]
        self.bar.set_postfix({"loss": f"{sum(recent) / len(recent):.3f}"}, refresh=False)
        self.bar.update(run.step - self.bar.n)


def _steps(chosen: Recipe) -> dict[str, int]:
    return {stage.name: stage.settings.steps for stage in chosen.stages}


def _chosen(args: argparse.Namespace) -> Recipe:
    chosen = recipe(args.name)
    return chosen if args.steps is None else shortened(chosen, args.steps)


def shortened(chosen: Recipe, steps: int) -> Recipe:
    """The recipe with at most so many steps in each stage; ValueError for none."""
    if steps < 1:
        raise ValueError(f"--steps {steps}: at least one step is needed in each stage")
    stages = [(stage, replace(stage.settings, steps=min(steps, stage.settings.steps))) for stage in chosen.stages]
    return replace(chosen, stages=tuple(replace(stage, settings=settings) for stage, settings in stages))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m course train-zoo", description="Make a model of the zoo again.")
    parser.add_argument("name", nargs="?", default="tiny-qwen3", help=f"one of: {', '.join(RECIPES)}")
    parser.add_argument("--seconds", type=above_zero, help="stop after so many seconds; the same command goes on")
    parser.add_argument("--steps", type=int, help="at most so many steps in each stage")
    parser.add_argument("--device", default="auto", help="cpu, cuda, …; auto takes a GPU where there is one (auto)")
    parser.add_argument("--out", type=Path, help="the folder to write (build/zoo/NAME/model)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
