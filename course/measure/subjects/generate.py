"""The case `generate`: the same greedy tokens from every model of the zoo, by transformers and by us, interleaved.

The models are so small that their weights are read at a fraction of the machine's bandwidth. The time goes to Python
asking for one small operation after another, so the case says how much each side asks for, and not how fast either is
on a large model. Ours runs twice: as it is written, and with its steps compiled, where a compiler is; what the compiler
takes is a line of its own. transformers runs as `generate` is by default, which compiles nothing on a CPU.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn
from torch._inductor.utils import fresh_cache

from course.measure.goals import verdict
from course.measure.versus import beside, summary
from helpers import zoo
from helpers.checkpoints import load
from helpers.device import can_compile, threads
from helpers.generate import generate
from helpers.measure import Measurement, Rate, Timing, Work, measure_pair, weights_work
from helpers.use import use

PROMPT, NEW, REPEATS = 16, 64, 9
ORDINARY = (1, 256)  # token ids that every model of the zoo has, and none of them is an image's place
NUMBER_BYTES = 4  # float32
ASIDE = ("vision.", "projector.", "drafters.")  # weights that no text needs


def generate_case(device: torch.device, new: int = NEW, models: Sequence[str] | None = None) -> Iterator[Measurement]:
    """Greedy tokens from the zoo's models, transformers' generate and ours, as written and compiled, batch 1."""
    for name in zoo.names() if models is None else models:
        yield from lines_of(name, prompt_of(PROMPT, device), new)


def lines_of(name: str, prompt: torch.Tensor, new: int) -> Iterator[Measurement]:
    """One model: both ways beside transformers, and before the compiled one how long its first call took."""
    model, short = load(zoo.folder(name), device=prompt.device), name.removeprefix("tiny-")
    theirs, work, shape = their_way(name, prompt, new), work_of(model, new), [1, PROMPT, new]
    for way, ours in our_models(model, PROMPT + new).items():
        b = partial(generate, ours, prompt, new)
        if way == "compiled":
            first = Rate(work_of(model, 2), first_call(partial(generate, ours, prompt, 2)))
            yield Measurement.of(f"first call, {short}", "float32", [1, PROMPT, 2], first)
        if not torch.equal(theirs(), b()):
            raise AssertionError(f"{name}: transformers and we write different tokens: nothing is timed")
        pair = measure_pair(theirs, b, repeats=REPEATS, device=prompt.device)
        labels = [f"{beside(way)}, {short}", f"{way}, {short}"]
        rates = f"{new / pair.b.median_s:.0f} tokens/s beside {new / pair.a.median_s:.0f}"
        met = verdict("generate", labels[1], labels[0], pair.a.median_s / pair.b.median_s)
        print(summary(labels[1], "transformers", pair, ", ".join(filter(None, [rates, met]))), file=sys.stderr)
        for label, timing in zip(labels, (pair.a, pair.b), strict=True):
            yield Measurement.of(label, "float32", shape, Rate(work, timing))


def our_models(model: nn.Module, tokens: int) -> dict[str, Callable]:
    """The model as it is written and, where a compiler is, with its steps compiled for texts of so many tokens."""
    written = {"ours": model}
    return written | {"compiled": use(model, "compiled", capacity=tokens)} if can_compile() else written


def first_call(call: Callable[[], object]) -> Timing:
    """How long it takes with nothing compiled before: torch looks in an empty folder for what it has compiled.

    On one thread, as all that is timed: a compiler writes for as many threads as there are.
    """
    with threads(1), fresh_cache():
        begin = time.perf_counter()
        call()
        seconds = time.perf_counter() - begin
    return Timing(seconds, seconds, seconds, 1, 1, "wall clock")


def prompt_of(length: int, device: torch.device) -> torch.Tensor:
    """Random tokens, the same every time."""
    return torch.randint(*ORDINARY, (1, length), generator=torch.Generator().manual_seed(0)).to(device)


def their_way(name: str, prompt: torch.Tensor, new: int) -> Callable[[], torch.Tensor]:
    """transformers' generate on the same files, as it is by default, but that no token ends the text."""
    from transformers import (  # seconds, for this case only
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    sees = hasattr(AutoConfig.from_pretrained(zoo.folder(name)), "vision_config")
    family = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model = family.from_pretrained(zoo.folder(name), dtype=torch.float32).eval().to(prompt.device)
    model.generation_config.eos_token_id = None
    real = torch.ones_like(prompt)
    return lambda: model.generate(prompt, attention_mask=real, max_new_tokens=new, do_sample=False)


def work_of(model: nn.Module, new: int) -> Work:
    """Every weight that a token needs, read once per call and used once per token: of the routed experts as many as are
    chosen. Attention itself is left out, a few percent here, and so are the experts that only other tokens of the
    prompt choose."""
    config = getattr(model.config, "text", model.config)
    share = config.experts_per_token / config.num_experts if getattr(config, "num_experts", 0) else 0.0
    count = sum(
        round(weight.numel() * (share if ".experts." in name else 1))
        for name, weight in model.named_parameters()
        if not name.startswith(ASIDE)
    )
    return weights_work(count, NUMBER_BYTES * count, tokens=PROMPT + new - 1, passes=new)
