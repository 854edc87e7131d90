"""The case `generate`: the same greedy tokens from the zoo's model, by transformers and by us, interleaved.

The model is so small that its weights are read at a fraction of the machine's bandwidth. The time goes to Python asking
for one small operation after another, so the case says how much each side asks for, and not how fast either is on a
large model. Ours runs twice: as it is written, and with its steps compiled, where a compiler is. transformers runs as
`generate` is by default, which compiles nothing on a CPU.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from course.measure.versus import beside, summary
from helpers import zoo
from helpers.checkpoints import load
from helpers.device import can_compile
from helpers.generate import generate
from helpers.measure import Measurement, Rate, Work, measure_pair, weights_work
from helpers.use import use

MODEL, PROMPT, NEW, REPEATS = "tiny-qwen3", 16, 64, 9
NUMBER_BYTES = 4  # float32


def generate_case(device: torch.device, new: int = NEW) -> Iterator[Measurement]:
    """Greedy tokens from the zoo's model, transformers' generate and ours, as written and compiled, batch 1."""
    model, prompt = load(zoo.folder(MODEL), device=device), prompt_of(PROMPT, device)
    a, work = their_way(prompt, new), work_of(model, new)
    for way, ours in our_models(model, PROMPT + new).items():
        b = partial(generate, ours, prompt, new)
        if not torch.equal(a(), b()):
            raise AssertionError("transformers and we continue the prompt with different tokens: nothing is timed")
        pair = measure_pair(a, b, repeats=REPEATS, device=device)
        rates = f"{new / pair.b.median_s:.0f} tokens/s beside {new / pair.a.median_s:.0f}"
        print(summary(way, "transformers", pair, rates), file=sys.stderr)
        for label, timing in ((beside(way), pair.a), (way, pair.b)):
            yield Measurement.of(f"{label} generate", "float32", [1, PROMPT, new], Rate(work, timing))


def our_models(model: nn.Module, tokens: int) -> dict[str, Callable]:
    """The model as it is written and, where a compiler is, with its steps compiled for texts of so many tokens."""
    written = {"ours": model}
    return written | {"compiled": use(model, "compiled", capacity=tokens)} if can_compile() else written


def prompt_of(length: int, device: torch.device) -> torch.Tensor:
    """Random tokens, the same every time."""
    return torch.randint(1, 2048, (1, length), generator=torch.Generator().manual_seed(0)).to(device)


def their_way(prompt: torch.Tensor, new: int) -> Callable[[], torch.Tensor]:
    """transformers' generate on the same files, as it is by default, but that no token ends the text."""
    from transformers import AutoModelForCausalLM  # takes seconds, and no other case needs it

    model = AutoModelForCausalLM.from_pretrained(zoo.folder(MODEL), dtype=torch.float32).eval().to(prompt.device)
    model.generation_config.eos_token_id = None
    real = torch.ones_like(prompt)
    return lambda: model.generate(prompt, attention_mask=real, max_new_tokens=new, do_sample=False)


def work_of(model: nn.Module, new: int) -> Work:
    """Every weight read once per call and used once per token; attention itself is left out, a few percent here."""
    count = sum(weight.numel() for weight in model.parameters())
    return weights_work(count, NUMBER_BYTES * count, tokens=PROMPT + new - 1, passes=new)
