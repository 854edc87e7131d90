"""The case `speculative`: the zoo's models write with guesses and without, by turns; the same tokens, or no clock.

Two targets. DeepSeek-V3 in small writes facts, which do not repeat: with prompt lookup, with a dense model that learned
the same facts, and with its own drafter. Qwen3 in small writes Python, which repeats: with prompt lookup. Each text is
written plain and with guesses by turns, greedily, one row. A measurement's shape says what the guesses were worth:
texts, new tokens of all of them, passes of the target, tokens guessed, guesses that stayed.
"""

import sys
from collections.abc import Callable, Iterator

import torch
from tokenizers import Tokenizer
from torch import nn

from course.measure.versus import summary
from helpers import zoo
from helpers.checkpoints import load
from helpers.decoding.drafts import MTP, NGram, SmallModel
from helpers.decoding.speculative import Draft, Speculated, speculate
from helpers.generate import generate
from helpers.measure import Measurement, Rate, Work, measure_pair, weights_work

FACTS = ("\nde|FR=Frankreich\nde|m1", "\nfr|d1=lundi\nfr|m3", "\nes|m2=febrero\nes|d5", "\npl|DE=Niemcy\npl|m7")
PYTHON = (
    "def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n",
    "import os\n\n\nclass Path:\n    def __init__(self,",
)
TARGETS = {"tiny-deepseek-v3": FACTS, "tiny-qwen3": PYTHON}
NEW, REPEATS, NUMBER_BYTES = 64, 9, 4  # tokens per text; rounds by turns; float32


def speculative_case(device: torch.device, new: int = NEW) -> Iterator[Measurement]:
    """Texts of the zoo's models with guesses of three kinds and without, batch 1."""
    for name, drafts in drafts_of(device).items():
        model = load(zoo.folder(name), device=device)
        prompts = prompts_of(name, device)
        for label, draft in drafts(model).items():
            yield from two_lines(f"{name}, {label}", model, prompts, draft, new, device)


def drafts_of(device: torch.device) -> dict[str, Callable[[nn.Module], dict[str, Draft]]]:
    """Target to what makes its drafts, by name and number of guesses."""
    small = load(zoo.folder("tiny-dense-active"), device=device)

    def facts(model: nn.Module) -> dict[str, Draft]:
        drafts = {f"small model {k}": SmallModel(small, k) for k in (1, 2, 4, 8)}
        return {"lookup 4": NGram(4), **drafts, **{f"MTP {k}": MTP(model, k) for k in (1, 2)}}

    return {
        "tiny-deepseek-v3": facts,
        "tiny-qwen3": lambda model: {f"lookup {k}": NGram(k) for k in (2, 4, 8, 16)},
    }


def prompts_of(name: str, device: torch.device) -> list[torch.Tensor]:
    """The texts that this target goes on with, a row each."""
    tokenizer = Tokenizer.from_file(str(zoo.folder(name) / "tokenizer.json"))
    return [torch.tensor([tokenizer.encode(text).ids], device=device) for text in TARGETS[name]]


def two_lines(
    label: str, model: nn.Module, prompts: list[torch.Tensor], draft: Draft, new: int, device: torch.device
) -> Iterator[Measurement]:
    """Plain and with guesses; nothing is timed unless the tokens agree."""
    plain = lambda: [generate(model, ids, new) for ids in prompts]  # noqa: E731
    guessing = lambda: [speculate(model, ids, draft, new) for ids in prompts]  # noqa: E731
    runs = guessing()
    if not all(torch.equal(text, run.token_ids) for text, run in zip(plain(), runs, strict=True)):
        raise AssertionError(f"{label}: other tokens than without guesses: nothing is timed")
    pair = measure_pair(plain, guessing, repeats=REPEATS, device=device)
    print(summary(label, "plain", pair, worth(runs, new)), file=sys.stderr)
    shape = [len(runs), new * len(runs), *(sum(part) for part in zip(*map(counts, runs), strict=True))]
    for kind, passes, read, timing in (
        ("plain", shape[1], shape[1], pair.a),
        (label, shape[2], shape[1] + shape[3] - shape[4], pair.b),
    ):
        yield Measurement.of(kind, "float32", shape, Rate(work(model, passes, read), timing))


def counts(run: Speculated) -> tuple[int, int, int]:
    """Passes, guesses, guesses that stayed."""
    return run.passes, run.drafted, run.accepted


def work(model: nn.Module, passes: int, tokens: int) -> Work:
    """The target's, not the draft's: every weight read once per pass, and used once per token, refused guesses too."""
    count = sum(weight.numel() for weight in model.parameters())
    return weights_work(count, NUMBER_BYTES * count, tokens, passes)


def worth(runs: list[Speculated], new: int) -> str:
    """What the guesses were worth: tokens per pass, and the share of guesses that stayed."""
    passes, guessed, stay = (sum(part) for part in zip(*map(counts, runs), strict=True))
    return f"{new * len(runs) / passes:.2f} tokens per pass, {stay / guessed:.0%} stay"
