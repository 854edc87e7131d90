"""The case `quant`: one layer in every format that has a kernel, beside bfloat16 and beside bitsandbytes' layers.

One token (a step of decoding) and 512 (a prompt). Weights are cold: calls go round a ring of copies that no cache
holds, as the layers of a model are. Two layers of a pair get the same tokens and run interleaved; nothing is timed
unless the answers are as near as the format allows.
"""

import copy
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from course.measure.goals import verdict
from course.measure.versus import summary
from helpers.compare import relative_rms
from helpers.measure import Measurement, Rate, Work, measure_pair, name_of, weights_work
from helpers.quant.linear import QuantisedLinear

WIDTHS = (2048, 4096)
TOKENS = (1, 512)
REPEATS = {1: 15, 512: 5}
RING_BYTES = 2**27  # four times the cache of the machine that was measured first
BF16 = torch.bfloat16
OURS = ("int8", "int8-dynamic", "int4", "int4-affine", "nf4", "fp8")
SLOW = ("int8 kernel in float32", "int4 kernel in float32")  # a trap: torch takes such tokens, by reference code
NF4, INT8, LLM_INT8 = "bitsandbytes nf4", "bitsandbytes int8", "bitsandbytes LLM.int8"
OUTLIER = 6.0  # columns of tokens above it LLM.int8 multiplies in 16 bits: the threshold that transformers sets
BESIDE = {"int8": LLM_INT8, "int8-dynamic": LLM_INT8, "int4": NF4, "int4-affine": NF4, "nf4": NF4}
MOST_ERROR = {4: 0.15, 8: 0.03, 16: 0.005}  # relative, of the answers of a Gaussian matrix, by bits of a weight


def quant_case(device: torch.device, widths: Sequence[int] = WIDTHS) -> Iterator[Measurement]:
    """A layer in every format: one token and 512, beside bfloat16 and beside bitsandbytes."""
    if device.type != "cpu":
        raise ValueError(f"the case quant times the kernels of a CPU, and was asked for {device.type}")
    for width in widths:
        plain = plain_layer(width)
        for name in ("float32", *OURS, NF4, INT8, LLM_INT8):
            yield from beside(name, "bfloat16", plain, TOKENS)
        for name in SLOW:
            yield from beside(name, "bfloat16", plain, TOKENS[:1])
        for name, theirs in BESIDE.items():
            yield from beside(name, theirs, plain, TOKENS)


def beside(name: str, other: str, plain: nn.Linear, counts: Sequence[int]) -> Iterator[Measurement]:
    """Two layers of one matrix with so many tokens: two lines each."""
    width, rings = plain.in_features, [ring(layer_of(which, plain)) for which in (other, name)]
    for tokens in counts:
        x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(tokens)).to(BF16)
        for which, layers in zip((other, name), rings, strict=True):
            check(which, layers if tokens == 1 else layers[:1], plain, x)
        pair = measure_pair(*(run(layers, x) for layers in rings), repeats=REPEATS[tokens])
        labels = [f"{which} of {name} beside {other}, {width}, {tokens}" for which in (other, name)]
        found = verdict("quant", labels[1], labels[0], pair.ratio)
        print(summary(f"{name}, {width} wide, {tokens} tokens", other, pair, found), file=sys.stderr)
        for label, layers, timing in zip(labels, rings, (pair.a, pair.b), strict=True):
            rate = Rate(work(layers[0], tokens, width), timing)
            yield Measurement.of(label, name_of(BF16), [tokens, width, width], rate)


def ring(layer: nn.Module) -> list[nn.Module]:
    """Copies of a layer that has not been called, as many as no cache holds."""
    return [layer, *(copy.deepcopy(layer) for _ in range(max(1, -(-RING_BYTES // held(layer)) - 1)))]


def run(layers: list[nn.Module], x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The next copy at each call."""
    around = itertools.cycle(layers)
    return lambda: next(around)(x)


def check(name: str, layers: list[nn.Module], plain: nn.Linear, x: torch.Tensor) -> None:
    """AssertionError unless each of these copies gives the answer of the plain layer, up to what its format loses."""
    bits = 4 if "4" in name.replace("32", "") and "bfloat16" not in name else 8 if "8" in name else 16
    with torch.inference_mode():
        wanted = plain(x)
        for layer in layers:
            error = relative_rms(layer(x), wanted)
            assert error <= MOST_ERROR[bits], f"{name}, {len(x)} tokens: off by {error:.1%}"


def plain_layer(width: int) -> nn.Linear:
    """A Gaussian matrix in bfloat16: the layer that all others are made of."""
    layer = nn.Linear(width, width, bias=False).to(BF16).eval().requires_grad_(False)
    layer.weight.copy_(torch.randn(width, width, generator=torch.Generator().manual_seed(width)) / width**0.5)
    return layer


def layer_of(name: str, plain: nn.Linear) -> nn.Module:
    """The same matrix held in another way."""
    if name == "bfloat16":
        return plain
    if name == "float32":
        return In32(copy.deepcopy(plain).float())
    if name in SLOW:
        return KernelIn32(plain, name.partition(" ")[0])
    if name in OURS:
        return QuantisedLinear.of(plain, name).eval()
    return bitsandbytes_layer(name, plain)


class In32(nn.Module):
    """A layer of float32 for bfloat16 tokens."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.float()).to(x.dtype)


class KernelIn32(nn.Module):
    """torch's kernel with tokens and scales in float32."""

    def __init__(self, plain: nn.Linear, name: str):
        super().__init__()
        packed = QuantisedLinear.of(plain, name).packed
        self.way, self.tensors = packed.way, packed.tensors()
        for part in {"scale_and_shift", "scale"} & set(self.tensors):
            self.tensors[part] = self.tensors[part].float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.way.multiply(x.float(), self.tensors).to(x.dtype)


def bitsandbytes_layer(name: str, plain: nn.Linear) -> nn.Module:
    """bitsandbytes' own layer, as transformers puts it into a model."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it asks for kernels, and tells of float16
    import bitsandbytes

    sizes = dict(input_features=plain.in_features, output_features=plain.out_features, bias=False)
    given, weight = dict(requires_grad=False), plain.weight.clone()
    if name == NF4:
        kind = dict(quant_type="nf4", compress_statistics=False)
        layer = bitsandbytes.nn.Linear4bit(**sizes, **kind, compute_dtype=BF16)
        layer.weight = bitsandbytes.nn.Params4bit(weight, **given, **kind)
    else:
        threshold = OUTLIER if name == LLM_INT8 else 0.0
        layer = bitsandbytes.nn.Linear8bitLt(**sizes, has_fp16_weights=False, threshold=threshold)
        layer.weight = bitsandbytes.nn.Int8Params(weight, **given, has_fp16_weights=False)
    return layer.to("cpu").eval()  # in training mode it would be quantised anew at every step, which takes far longer


def held(layer: nn.Module) -> int:
    """Bytes of the weights and of their scales; those of bitsandbytes are neither parameters nor buffers."""
    tensors = layer.tensors.values() if isinstance(layer, KernelIn32) else [*layer.parameters(), *layer.buffers()]
    weight = layer._parameters.get("weight")
    places = [(getattr(weight, "quant_state", None), "absmax"), (getattr(layer, "state", None), "SCB"), (weight, "SCB")]
    scales = [scale for place, name in places if (scale := getattr(place, name, None)) is not None]
    return sum(tensor.nbytes for tensor in [*tensors, *scales[:1]])


def work(layer: nn.Module, tokens: int, width: int) -> Work:
    """What is held is read once, and so are the tokens; the answers are written."""
    return weights_work(width * width, held(layer), tokens) + Work(0, 2 * tokens * width * BF16.itemsize)
