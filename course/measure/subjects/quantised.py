"""The case `quantised-model`: whole models in every format: bytes, tokens per second, and what they can still do.

Three models of the zoo are packed by one call each. What they can do is asked with float32 arithmetic on the packed
weights, so that nothing but the format counts: bits per byte of held-out Python (tiny-qwen3), facts said by heart
(tiny-qwen3_5-moe, whose experts are full), right answers (tiny-glm5, which has an indexer and room to spare). Tokens
are written in bfloat16, each format interleaved with plain bfloat16.
The zoo's models are so small that Python's time hides the bytes; a random model of wider layers stands beside them to
show what is left of the speed of a layer in a whole model. It knows nothing, so nothing is asked of it.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from tokenizers import Tokenizer
from torch import nn

from course.measure.versus import summary
from helpers import zoo
from helpers.checkpoints import load
from helpers.data import python_corpus, tasks
from helpers.data.tasks import share_right
from helpers.generate import generate
from helpers.measure import Measurement, Rate, Work, measure_pair, weights_work
from helpers.models.components import part_of
from helpers.models.configs import qwen3
from helpers.models.qwen3 import Qwen3
from helpers.quant.audit import stored_by_part
from helpers.quant.backends import DYNAMIC, stored_as
from helpers.quant.cpu import CPU
from helpers.quant.formats.named import FORMATS, format_of
from helpers.quant.model import KEPT, quantise
from helpers.quant.parts import layers_of, weights_of
from helpers.training.recall import share_recalled
from helpers.training.train import bits_per_byte
from helpers.zoo import fact_data
from helpers.zoo.evidence.tasks import examples

PLAIN = "bf16"
NAMES = (*FORMATS, DYNAMIC)
PROMPT, NEW, REPEATS = 16, 16, 7
BPB, FACTS, RIGHT = "bits per byte", "facts recalled", "right answers"
WIDE = "wide random"
WIDE_CONFIG = qwen3.Config(2048, 1024, 8, num_heads=16, num_kv_heads=8, head_dim=64, mlp_width=3072)

Ask = Callable[[nn.Module], dict[str, float]]


def quantised_case(
    device: torch.device, models: Sequence[str] | None = None, names: Sequence[str] = NAMES
) -> Iterator[Measurement]:
    """Whole models in every format: bytes, tokens per second, bits per byte or right answers."""
    if device.type != "cpu":
        raise ValueError(f"the case quantised-model times the kernels of a CPU, and was asked for {device.type}")
    for name in MODELS if models is None else models:
        plain, ask = MODELS[name]()
        wanted = [form for form in names if divides(plain, form)]
        wanted = [form for form in wanted if name != WIDE or form in (PLAIN, *CPU)]  # the others take minutes there
        yield from of_model(name, plain, ask, [PLAIN, *(form for form in wanted if form != PLAIN)])


def of_model(name: str, plain: nn.Module, ask: Ask | None, names: Sequence[str]) -> Iterator[Measurement]:
    """One model: a line for each format, the plain one first. Without ``ask`` only its bytes and its speed."""
    written = copy.deepcopy(plain).bfloat16()
    for form in names:
        packed = in_format(written, form)
        scores = held(packed) | ({} if ask is None else ask(in_format(plain, form)))
        pair = measure_pair(*(partial(write, model) for model in (written, packed)), repeats=REPEATS)
        scores |= {"tokens per second": NEW / pair.b.median_s, "times plain": pair.ratio}
        known = ", ".join(f"{value:.3g} {what}" for what, value in scores.items() if what != "times plain")
        print(summary(f"{name} in {form}", "plain", pair, known), file=sys.stderr)
        rate = Rate(work(packed, scores["bytes held"]), pair.b)
        yield Measurement.of(f"{form}, {name}", "bfloat16", [1, PROMPT, NEW], rate, scores=scores)


def divides(model: nn.Module, form: str) -> bool:
    """Whether the groups of the format cut every matrix that is packed evenly, if not each of its rows."""
    group = format_of(stored_as(form)).divides
    layers = [layer for at, layer in layers_of(model) if part_of(at) not in KEPT]
    sizes = [weight.shape[-2] * weight.shape[-1] for layer in layers for weight in weights_of(layer)]
    return all(size % group == 0 for size in sizes)


def in_format(model: nn.Module, form: str) -> nn.Module:
    """A copy of the model, packed; the plain one as it is."""
    copied = copy.deepcopy(model)
    if form != PLAIN:
        quantise(copied, form, wrap=True)
    return copied


def write(model: nn.Module) -> torch.Tensor:
    """Greedy tokens after a prompt of random ones, one text."""
    prompt = torch.randint(1, 200, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    return generate(model, prompt, NEW)


def held(model: nn.Module) -> dict[str, float]:
    """Bytes in memory as the kernels want them, and bits for each number of the model."""
    parts = stored_by_part(model).values()
    size = sum(part.bytes for part in parts)
    return {"bytes held": float(size), "bits per number": 8 * size / sum(part.weights for part in parts)}


def work(model: nn.Module, size: float) -> Work:
    """Everything held is read once per call, and used once per token."""
    count = sum(part.weights for part in stored_by_part(model).values())
    return weights_work(count, size, tokens=PROMPT + NEW - 1, passes=NEW)


def reader_of_python() -> tuple[nn.Module, Ask]:
    """tiny-qwen3, and its bits per byte of every third of the held-out files that its card is about."""
    texts, tokenizer = [text for text in python_corpus().held_out.values() if text], tokenizer_of("tiny-qwen3")
    return load("zoo:tiny-qwen3"), lambda model: {BPB: bits_per_byte(model, tokenizer, texts[::3])}


def knower_of_facts() -> tuple[nn.Module, Ask]:
    """tiny-qwen3_5-moe, and the share that it says to the letter of every tenth fact of its training."""
    facts, tokenizer = fact_data.facts()[::10], tokenizer_of("tiny-qwen3_5-moe")
    return load("zoo:tiny-qwen3_5-moe"), lambda model: {FACTS: share_recalled(model, tokenizer, facts)}


def solver_of_tasks() -> tuple[nn.Module, Ask]:
    """tiny-glm5, and its share of right answers to the recall of 32 pairs and to needles in 256 words."""
    tokenizer = tokenizer_of("tiny-glm5")
    asked = [*examples(lambda rng: tasks.recall(rng, 32)), *examples(lambda rng: tasks.needle(rng, 256))]
    return load("zoo:tiny-glm5"), lambda model: {RIGHT: share_right(model, tokenizer, asked)}


def wide_model() -> tuple[nn.Module, None]:
    """A Qwen3 with layers of 1024 and 3072 numbers: 102 million, all random."""
    torch.manual_seed(0)
    return Qwen3(WIDE_CONFIG).eval().requires_grad_(False), None


def tokenizer_of(name: str) -> Tokenizer:
    return Tokenizer.from_file(str(zoo.folder(name) / "tokenizer.json"))


MODELS: dict[str, Callable[[], tuple[nn.Module, Ask | None]]] = {
    "tiny-qwen3": reader_of_python,
    "tiny-glm5": solver_of_tasks,
    "tiny-qwen3_5-moe": knower_of_facts,
    WIDE: wide_model,
}
