# %% [markdown]
# # Number formats
#
# **How many bits does a weight need, and which ones?**
#
# 60 minutes, without the stretch exercises · needs: lesson [[open_a_model]] · runs on any laptop,
# without a network
#
# A trillion weights of 16 bits are two terabytes. Kimi K2.5 is published in less than a third of that, and so are
# DeepSeek-V4's experts, because each weight is stored in four bits. You will build those formats from their
# definitions, until they equal the libraries bit by bit, and measure what each costs and what it loses. Here is the
# whole idea.
#
# ```text
#     weights    0.31  -0.08   1.20   0.02  |  -0.44   0.09   0.27  -0.01       16 bits each
#                      divide by the scale of the block, round
#     codes         2      0      7      0  |     -7      1      4      0        4 bits each, two in a byte
#     scale               0.171             |            0.063                  one for each block
#                      multiply again
#     back       0.34   0.00   1.20   0.00  |  -0.44   0.06   0.25   0.00
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo:tiny-qwen3"  # or a Hugging Face id, or a folder, of a model 128, 256, ... wide
device = "auto"
seed = 0

# %%
import math

import torch

from course.begin import begin
from course.checks import formats as check
from helpers.compare import sqnr
from helpers.plots import show
from helpers.plots.quant import formats as draw
from helpers.units import GB

device = begin(scale, checkpoint, device, seed)
torch.set_num_threads(1)

# %% [markdown]
# ## By hand
#
# Eight weights, and **INT4**: whole numbers from -7 to 7. The **scale** makes the largest weight a 7; every weight is
# divided by it and rounded.

# %%
weights = torch.tensor([0.31, -0.08, 1.20, 0.02, -0.44, 0.09, 0.27, -0.01])
for name, blocks in (("one scale for all", weights.view(1, 8)), ("a scale for four", weights.view(2, 4))):
    steps = blocks.abs().amax(dim=1, keepdim=True) / 7
    codes = (blocks / steps).round()
    print(f"{name}: scales {[round(s, 3) for s in steps.flatten().tolist()]}")
    print("   codes", codes.int().flatten().tolist())
    print("   back ", [round(w, 2) + 0.0 for w in (codes * steps).flatten().tolist()])

# %% [markdown]
# With one scale for all, 1.20 sets the step for everybody: -0.44 comes back as -0.51, and 0.09 as 0.17. With two blocks
# the second has steps of its own, nearly three times finer. That is the whole trade: **a smaller block has a smaller
# error, and one more scale to store.**
#
# The error is a ratio, so engineers give it in decibels. The **SQNR**, signal to quantisation noise, is 20 log10 of
# the size of the weights over the size of the error: 20 dB is an error of a tenth, 40 dB of a hundredth.

# %% [markdown]
# ## Predict
#
# Four questions in one cell.
#
# - A matrix has 262,144 normal random numbers and **one** scale for all; its largest is some 4.7 standard deviations.
#   **How many dB has INT8** (-127 to 127)? **How many more dB does one more bit give?**
# - NF4 has 16 values, and each block of 64 weights stores a float32 scale: **how many bits per weight is that?**
# - Kimi K2.5 has 1,027 billion parameters. 1,015 billion of them are routed experts in INT4, with a 16-bit scale for
#   every 32; the rest is bf16. **How many GB is the download?**

# %% tags=["predict:all"]
int8_db = ...
one_bit_db = ...
nf4_bits = ...
kimi_gb = ...
# BEGIN SOLUTION
int8_db = 48
one_bit_db = 6
nf4_bits = 4.5
kimi_gb = 560
# END SOLUTION
check.predict("formats.int8", int8_db, unit="dB")
check.predict("formats.one_bit", one_bit_db, unit="dB")
check.predict("formats.nf4", nf4_bits, unit="bits")
check.predict("formats.kimi", kimi_gb, unit="GB")

# %% [markdown]
# ## Build
#
# ### 1. A step and its noise
#
# A weight falls anywhere between two values of the grid, so the error is anything from minus half a step to half a
# step, equally likely. The RMS of that is step/√12. One bit more halves the step: 20 log10(2) = **6.02 dB a bit**.
# What is left is how far the largest number stands out, the **peak**: it takes steps that the others could use.

# %%
gaussian = torch.randn(256, 1024)
peak = (gaussian.abs().max() / gaussian.std()).item()
print(f"the largest is {peak:.2f} standard deviations")
measured = {}
for bits in range(2, 9):
    high = 2 ** (bits - 1) - 1  # -high to high
    step = gaussian.abs().max() / high
    measured[bits] = sqnr((gaussian / step).round() * step, gaussian)
    formula = 20 * math.log10(math.sqrt(12) * high / peak)
    print(f"{bits} bits: formula {formula:6.2f} dB, measured {measured[bits]:6.2f} dB")

# %%
check.reveal("formats.int8", formula=formula, machine=measured[8], unit="dB")
check.reveal("formats.one_bit", formula=20 * math.log10(2), machine=(measured[8] - measured[5]) / 3, unit="dB")

# %% [markdown]
# From three bits on, the formula is right to a few hundredths of a dB. At two bits there are three values, nearly all
# weights become zero, and "anywhere between two values" is no longer true. A bit gives a little more than 6.02 dB, for
# 127 is a little more than twice 63: a symmetric grid leaves one code unused.
#
# ### 2. Where the scale lives
#
# Three kinds of weights from now on. The **Gaussian** one; the same with **outliers**, one number in a thousand
# made twenty times as large; and **trained** ones. Those come from a model of this course: the largest matrix of
# its last layers, and its embedding.

# %%
from helpers.checkpoints import resolve, tensors

outliers = torch.where(torch.rand_like(gaussian) < 1 / 1000, 20 * gaussian, gaussian)
stored = tensors(resolve(checkpoint, download=True))
plain = {n: t for n, t in stored.items() if t.dim() == 2 and t.dtype in (torch.bfloat16, torch.float32)}
fits = {n: t for n, t in plain.items() if t.shape[1] % 128 == 0}
names = sorted(fits, key=lambda n: (fits[n].numel(), n))  # the largest and last at the end
embedding = next((n for n in names if "embed" in n), names[0])
layer = next(n for n in reversed(names) if n != embedding)
kinds = {"Gaussian": gaussian, "with outliers": outliers}
kinds |= {"trained layer": fits[layer][:4096].float(), "trained embedding": fits[embedding][:4096].float()}
print(f"trained: {layer} {tuple(fits[layer].shape)} and {embedding} {tuple(fits[embedding].shape)}")
for name, w in kinds.items():
    print(f"{name:18} largest {w.abs().max() / w.std():5.1f} standard deviations")

# %% [markdown]
# INT4 as Kimi K2.5's files hold it, symmetric and with a 16-bit scale for each block of a row, in five sizes of block.
# `grid_of`, `round_to` and `from_codes` are the three lines of the first example, for any block and any number of bits.

# %%
from helpers.quant.formats.integers import from_codes, grid_of, round_to


def rounded(w, bits, block, **how):
    grid = grid_of(w, bits, block, **how)
    return from_codes(round_to(w, grid), grid)


sizes = [8, 16, 32, 64, 128]
lines = {
    name: [(4 + 16 / n, sqnr(rounded(w, 4, n, scale_dtype=torch.bfloat16), w)) for n in sizes]
    for name, w in kinds.items()
}
gains = [lines[name][2][1] - lines[name][4][1] for name in ("with outliers", "Gaussian")]
finding = f"Blocks of 32 instead of 128 give weights with outliers {gains[0]:.1f} dB, Gaussian ones {gains[1]:.1f}"
show(draw.block_sizes(lines, sizes, finding))

# %% [markdown]
# Read the Gaussian line first: a quarter of the block, 32 instead of 128, costs 3/8 of a bit and gives 1.7 dB. That is
# hardly worth it, for 3/8 of six dB are 2.3. With outliers it is the other way round: a block is the **fence** around
# an outlier, and a smaller one saves more neighbours. The trained matrices lie close to the Gaussian line: this small
# model has no outliers to speak of. Large ones are known for those of their inputs (step 8).
#
# ### 3. A point that floats
#
# The other way out is to let the steps grow with the number. **E4M3**, the FP8 of DeepSeek-V3, spends a byte on a
# sign, four bits of exponent and three of fraction. You can read it by hand; the smallest numbers (exponent 0) have no
# leading one.


# %%
def read_e4m3(byte):
    sign, exponent, fraction = -1 if byte >> 7 else 1, byte >> 3 & 15, byte & 7
    if exponent == 0:
        return sign * fraction / 8 * 2.0**-6
    return math.nan if exponent == fraction + 8 == 15 else sign * (1 + fraction / 8) * 2.0 ** (exponent - 7)


theirs = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
ours = torch.tensor([read_e4m3(byte) for byte in range(256)])
print("all 256 bytes as torch reads them:", torch.equal(ours.nan_to_num(), theirs.nan_to_num()))
print("largest", ours.nan_to_num().max().item(), "| smallest", read_e4m3(1), "| around 1:", ours[54:59].tolist())

# %% [markdown]
# Rounding to it needs no table: find the power of two below the number, and the step follows. The helper does this
# for any split of the bits, in five lines.

# %%
from helpers.quant.formats.floats import E4M3, round_to_kind

x = 100 * torch.randn(10_000 if scale == "smoke" else 1_000_000)
print("equal to torch's cast:", torch.equal(round_to_kind(x, E4M3), x.to(torch.float8_e4m3fn).float()))
ordinary = outliers == gaussian
for times in (1, 10, 100, 1000, 100_000):
    w = torch.where(ordinary, gaussian, times * gaussian)
    for_all = w.abs().max() / torch.tensor([127.0, 448.0])  # the scales of one block
    eight = {"INT8": (w / for_all[0]).round() * for_all[0], "E4M3": round_to_kind(w / for_all[1], E4M3) * for_all[1]}
    errors = [f"{name} {round(sqnr(back[ordinary], w[ordinary]), 1) + 0.0:5} dB" for name, back in eight.items()]
    print(f"outliers {times:7,} times as large, ordinary numbers: {', '.join(errors)}")

# %% [markdown]
# There is the difference. INT8 is the better format while nothing stands out, and loses 15 to 20 dB with each factor
# of ten, down to 0 dB, where every ordinary number has become zero. E4M3 has eight steps in each doubling, so it keeps
# its 31 dB until the ordinary numbers come down to its smallest step, in the last line. **Integers buy precision,
# exponents buy range.** That is how DeepSeek can live with one scale for a block of 128 x 128, 16,384 numbers.
#
# ### 4. Values where the weights are
#
# Sixteen values can also be chosen freely and kept in a table. Weights are nearly normal, so **NF4** asks: where must
# the values lie so that each is used about equally often? At even steps of *probability*. Eight steps on the positive
# side and seven on the negative, so that zero is exact; and all divided by the largest.

# %%
outermost = ((1 - 1 / 32) + (1 - 1 / 30)) / 2  # half a step inside certainty, the mean of both sides


def quantiles(count):
    chances = torch.linspace(outermost, 0.5, count + 1)[:-1].double()  # from the outermost to the middle
    return torch.special.ndtri(chances)  # the inverse of the normal distribution


positive, negative = quantiles(8), -quantiles(7)
nf4 = torch.cat([negative, torch.zeros(1), positive.flip(0)]) / positive.max()
print([round(value, 4) for value in nf4.tolist()])

# %%
from helpers.quant.formats.normal_float import NF4

print(f"largest difference to the table that bitsandbytes ships: {(nf4 - NF4).abs().max():.1e}")
finding = "Sixteen values, close together where the weights are"
show(draw.bell(NF4.tolist(), 1 / torch.special.ndtri(torch.tensor(outermost)).item(), finding))

# %% [markdown]
# What is left of a difference is rounding: bitsandbytes took 0.9677083 for the outermost chance and rounded to
# float32 before it divided. `nf4_values` in the helper rounds where it does, and equals all sixteen values bit by bit.
#
# One thing looks wrong, and is worth a thought: seven values below zero and eight above, though weights lie evenly on
# both sides. Sixteen is even, zero takes one, and fifteen cannot be shared fairly.

# %%
from helpers.quant.formats.named import FORMATS

lists = {name: FORMATS[name].values().tolist() for name in ("int4", "nf4", "fp4", "mxfp4", "fp8")}
inside = sum(abs(value) <= 448 / 4 for value in lists["fp8"])
finding = f"Of E4M3's 253 values, {inside} lie within a quarter of the largest"
beside_zero = {name: min(v for v in lists[name] if v > 0) / max(lists[name]) for name in ("mxfp4", "fp4")}
print("the value next to zero, over the largest:", {name: f"1/{1 / v:.0f}" for name, v in beside_zero.items()})
show(draw.value_lines(lists, finding))

# %% [markdown]
# `mxfp4` shows **E2M1**, a float of four bits, and `fp4` the table that bitsandbytes calls FP4. Look closely at the
# values around zero: bitsandbytes has 1/192 where E2M1 has 1/12. All others agree. A value that close to zero is
# nearly a second zero.
#
# ### 5. The scale costs bits too
#
# Count NF4: four bits, and a float32 for every 64 weights. QLoRA's answer is **double quantisation**: the scales are
# numbers like others, so they are quantised in turn, to eight bits, 256 of them under one float32. (Scales are all
# positive, so their mean is taken off first: `offset`.) `encode` packs a matrix in any format of this course, and
# counts the bytes of what would lie in a file.

# %%
from helpers.quant.formats.named import encode

for name in ("nf4", "nf4-double"):
    encoded = encode(gaussian, name)
    print(f"{name}: {encoded.bits_per_weight:.4f} bits per weight, {sqnr(encoded.decode(), gaussian):.2f} dB")
    for part, tensor in encoded.tensors().items():
        print(f"   {part:12} {str(tensor.dtype).removeprefix('torch.'):9} {tuple(tensor.shape)}")
check.reveal("formats.nf4", formula=4 + 32 / 64, machine=encode(gaussian, "nf4").bits_per_weight, unit="bits")

# %%
before, after = 32 / 64, 8 / 64 + 32 / (64 * 256)
print(f"a scale costs {before:.4f} bits per weight alone and {after:.4f} quantised: {before - after:.3f} bits saved,")
print(f"on 65 billion weights {65e9 * (before - after) / 8 / GB:.1f} GB")

# %% [markdown]
# In dB that costs nothing that you can see. QLoRA set out to train a model of 65 billion weights on one card of 48 GB
# (Dettmers and others, 2023, arXiv 2305.14314), and there such a sum decides.
#
# ### 6. What kind of scale?
#
# Hardware wants small scales that multiply easily. **MXFP4** puts 32 numbers of E2M1 under a power of two, which is
# one byte of exponent (E8M0). **NVFP4** puts 16 under an E4M3, with a float32 for the whole matrix. Two things
# changed at once, so take them apart: two sizes of block, three kinds of scale.

# %%
from helpers.quant.formats.blocks import largest, spread
from helpers.quant.formats.floats import E2M1
from helpers.quant.formats.fp4 import power_of_two


def e2m1_under(w, block, kind):
    most = largest(w, (1, block)) / 6  # 6 is the largest of E2M1
    outer = most.max() / 448
    scales = {"float32": most, "E8M0": power_of_two(6 * most), "E4M3": round_to_kind(most / outer, E4M3) * outer}
    wide = spread(scales[kind], w.shape, (1, block))
    return round_to_kind(w / wide, E2M1) * wide


# %%
print(f"{'':22}" + "".join(f"{name:>19}" for name in kinds))
for block in (32, 16):
    for kind, bits in (("E8M0", 8), ("E4M3", 8), ("float32", 32)):
        errors = "".join(f"{sqnr(e2m1_under(w, block, kind), w):16.2f} dB" for w in kinds.values())
        print(f"{block}, {kind:8} {4 + bits / block:.2f} bits {errors}")

# %% [markdown]
# Both scales take a byte. E4M3 is some 0.2 dB or less behind float32; the power of two loses more than a dB, because
# the largest number of a block lands anywhere between half of the range and all of it. And smaller blocks give the
# Gaussian 0.2 dB under powers of two, 0.6 dB under E4M3: **the gain of NVFP4 comes from its scale first.**
#
# Here the power was rounded up, so that nothing is cut off. MXFP4's standard (OCP Microscaling Formats 1.0, 2023)
# rounds it down: numbers of more than six times the scale become six times the scale. On these
# weights that comes out about even, as the table under Measure shows.
#
# ### 7. Two in a byte
#
# Four-bit codes do not exist in memory until somebody packs them. Which one comes first is a convention, and there are
# two.

# %%
from helpers.quant.formats.packing import pack_pairs, unpack_pairs

codes = torch.tensor([[1, 2, 15, 0]])
low, high = pack_pairs(codes), pack_pairs(codes, first_high=True)
print("first in the lower half (MXFP4, Kimi):     ", [f"{byte:08b}" for byte in low[0].tolist()])
print("first in the upper half (bitsandbytes):    ", [f"{byte:08b}" for byte in high[0].tolist()])
print("read the wrong way round:", unpack_pairs(low, first_high=True).tolist())

# %% [markdown]
# Nothing crashes when a reader takes the other convention. Neighbours are swapped, the values still look like weights,
# and the model talks nonsense.
#
# ### 8. When the input has the outliers
#
# Weights are half of a product. To multiply *integers*, a chip needs the layer's input in INT8 as well, and inputs of
# large language models have a few columns that are huge for nearly every token. **LLM.int8()** (Dettmers and others,
# 2022, arXiv 2208.07339) takes those columns out: they are multiplied as they are, the rest in INT8. Three such columns
# are made by hand here.

# %%
from helpers.quant.formats.integers import vectorwise
from helpers.quant.formats.outliers import mixed_product, outlier_columns

x, w = torch.randn(64, 1024), gaussian / 32
x[:, [3, 500, 801]] *= 40  # three columns of 1,024
codes, steps = vectorwise(w)  # one scale an output
small, tokens = vectorwise(x)  # one scale per token
alone = (small.int() @ codes.int().T).float() * tokens[:, None] * steps
exact = x @ w.T
print(f"columns with outliers: {outlier_columns(x).tolist()}")
print(f"INT8 alone:        {sqnr(alone, exact):.1f} dB")
print(f"with columns out:  {sqnr(mixed_product(x, codes, steps), exact):.1f} dB")
usual = x.clone()
usual[:, [3, 500, 801]] = 0
came_back = (small.float() * tokens[:, None] * (usual != 0)) @ w.T
print(f"the 1,021 other columns, INT8 alone: {sqnr(came_back, usual @ w.T):.1f} dB")

# %% [markdown]
# The last line says what hid in the first: measured on all columns, the huge ones dominate the result and flatter the
# number. What the 1,021 others had to say came through far worse.

# %% [markdown]
# ## Check
#
# ### Against the libraries
#
# Bit by bit: codes and scales of bitsandbytes, and torch's casts. Hard weights: rows of every size, zeros, one huge
# number.

# %%
import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a warning that is for GPUs
import bitsandbytes.functional as bnb

from helpers.quant.formats.floats import E5M2

hard = torch.randn(33, 256) * torch.logspace(-4, 4, 33)[:, None]
hard[0], hard[1, :70], hard[2, 5] = 0, 0, 1e4
for name in ("nf4", "fp4"):
    packed, state = bnb.quantize_4bit(hard, quant_type=name)
    mine = encode(hard, name).tensors()
    assert torch.equal(mine["codes"].flatten(), packed.flatten())
    assert torch.equal(mine["scale"].flatten(), state.absmax)
    assert torch.equal(encode(hard, name).decode(), bnb.dequantize_4bit(packed, state))
    print(f"{name}: codes, scales and numbers are bitsandbytes'")

# %%
codes, most, _ = bnb.int8_vectorwise_quant(hard[1:].clone())
assert torch.equal(vectorwise(hard[1:])[0], codes)
assert torch.equal(vectorwise(hard[1:])[1], most / 127)
for kind, dtype in ((E4M3, torch.float8_e4m3fn), (E5M2, torch.float8_e5m2)):
    numbers = hard[hard.abs() <= kind.largest]
    assert torch.equal(round_to_kind(numbers, kind), numbers.to(dtype).float())
print("INT8 codes and scales are bitsandbytes'; both FP8 casts are torch's")

# %% [markdown]
# Now plant the classic mistake: read bitsandbytes' bytes with the other convention of step 7. The sizes agree and no
# error is raised. Does the check see it?

# %%
packed, state = bnb.quantize_4bit(gaussian, quant_type="nf4")
swapped = NF4[unpack_pairs(packed.view(256, -1)).int()] * state.absmax.view(256, -1).repeat_interleave(64, dim=1)
right = encode(gaussian, "nf4").decode()
print(f"halves swapped: {sqnr(swapped, gaussian):.1f} dB instead of {sqnr(right, gaussian):.1f}")
assert sqnr(swapped, gaussian) < 0  # the error is larger than the weights

# %% [markdown]
# ## Measure
#
# ### All formats, four matrices
#
# The bits are counted from the bytes of the Gaussian matrix, scales included. A name without an ending has the scale of
# its makers: a row for INT8, 32 numbers for INT4, 128 x 128 for FP8. `-tensor` has one for all, `-group` one for 128.
# `-affine` grids run from the least to the largest weight, and store a **zero point**: which code stands for 0.
# `e5m2` is FP8 with five bits of exponent and two of fraction.

# %%
table = {}
print(" " * 24 + "".join(f"{kind:>18}" for kind in kinds))
for name in FORMATS:
    if name != "bf16":  # the trained weights are bf16 already: no error at all
        encoded = {kind: encode(w, name) for kind, w in kinds.items()}
        errors = {kind: sqnr(e.decode(), kinds[kind]) for kind, e in encoded.items()}
        table[name] = (encoded["Gaussian"].bits_per_weight, errors)
        print(f"{name:12} {table[name][0]:6.3f} bits" + "".join(f"{db:15.2f} dB" for db in errors.values()))

# %%
four = {name: row[1] for name, row in table.items() if row[0] < 5}
best = max(four, key=lambda name: four[name]["trained layer"])
safest = max(four, key=lambda name: four[name]["with outliers"])
finding = f"In four bits {best} is best on the trained layer, and {safest} loses least to outliers"
show(draw.all_formats(table, finding))

# %% [markdown]
# Read it as it falls. In eight bits, integers with a scale per row beat FP8 by more than 10 dB on all that looks
# Gaussian and lose 3 dB to it on outliers; with a scale for 128 numbers they win everywhere here. What speaks for FP8
# is not in this table: inputs and gradients, whose range nobody knows beforehand, and chips that multiply it.
#
# In four bits all formats lie within three dB on Gaussian and trained weights, and **the size of the block and the kind
# of scale matter as much as the values**. NF4's derived values lead INT4's even ones by half a dB at equal bits, and by
# next to nothing where there are outliers: the derivation pays, and does not pay much.
#
# An error of weights is not yet an error of a model. A tenth in every weight, in random directions, may hurt little or
# much; lessons [[gptq_awq]] and [[quantise_moe]] measure answers.

# %% [markdown]
# ### On disk
#
# Formula against the published size. Kimi K2.5: its routed experts in INT4, groups of 32 with a bf16 scale, all else
# in bf16. DeepSeek-V4-Flash: experts in MXFP4, embedding and head in bf16, the rest in FP8.

# %%
from helpers.facts import table as facts
from helpers.planning.plan import plan, published

disk = {row["model"]: row for row in facts("models") if "disk_gb" in row}
bits_of = {name: bits for name, (bits, _) in table.items()}
kimi = plan(published("kimi_k25"))
experts = kimi.parts["routed experts"]
kimi_bytes = (experts * bits_of["int4"] + (kimi.total - experts) * 16) / 8
check.reveal("formats.kimi", formula=kimi_bytes / GB, unit="GB")
print(f"published: {disk['Kimi-K2.5']['disk_gb']:.0f} GB, looked up {disk['Kimi-K2.5']['as_of']}")

# %%
v4 = plan(published("deepseek_v4-flash"))
experts, ends = v4.parts["routed experts"], v4.parts["embedding"] + v4.parts["head"]
v4_bytes = (experts * bits_of["mxfp4"] + ends * 16 + (v4.total - experts - ends) * bits_of["fp8"]) / 8
print(f"DeepSeek-V4-Flash: formula {v4_bytes / GB:.0f} GB, published {disk['DeepSeek-V4-Flash']['disk_gb']:.0f} GB")
print(f"in bf16 the two would take {2 * kimi.total / GB:,.0f} and {2 * v4.total / GB:,.0f} GB")

# %% [markdown]
# Kimi's size is met to a gigabyte. V4's formula lacks the layers that guess further tokens ahead, which `plan` does
# not count, and some parts that are kept in 16 bits.

# %% [markdown]
# ### Recorded: layers in these formats
#
# Fewer bytes are fewer bytes to read, if unpacking is cheap. Recorded on a CPU, beside the same layer in bfloat16 and
# in the same process: how many times as fast, for one token and for 512. Lesson [[kernels]] tells why.

# %%
from helpers.measure import recorded, recorded_text

for place, record in recorded("quant").items():
    print(f"{place}, {record.machine['name']}, recorded {record.date}; columns: width, tokens, times as fast")
    for plain, ours in zip(record.measurements[::2], record.measurements[1::2], strict=True):
        if plain.label.startswith("bfloat16") and "float32" not in ours.label:
            tokens, width = ours.shape[:2]
            print(f"  {ours.label.split(' of ')[0]:22} {width:5} {tokens:4} {plain.median_s / ours.median_s:6.2f}")
print(recorded_text("linear-few-tokens", "linear-many-tokens"))

# %% [markdown]
# ## Play
#
# ### One row
#
# A row of 128 Gaussian weights, one of them an outlier of the size that you choose. The circle is the weight, the cross
# what came back, the red line between them the error.

# %%
from helpers.plots.widgets import Choice, Slider, explore
from helpers.quant.formats.fp4 import pack_fp4, pack_nvfp4, unpack_fp4, unpack_nvfp4
from helpers.quant.formats.normal_float import pack_table, unpack_table

ways = {  # format -> bits of a code, bits of a scale, there and back
    "INT4": (4, 16, lambda w, n: rounded(w, 4, n, scale_dtype=torch.bfloat16)),
    "INT4 with a zero point": (4, 20, lambda w, n: rounded(w, 4, n, symmetric=False, scale_dtype=torch.bfloat16)),
    "NF4": (4, 32, lambda w, n: unpack_table(*pack_table(w, NF4, n), NF4)),
    "E2M1 under powers of two (MXFP4)": (4, 8, lambda w, n: unpack_fp4(*pack_fp4(w, n, cut=True), group=n)),
    "E2M1 under E4M3 (NVFP4)": (4, 8, lambda w, n: unpack_nvfp4(*pack_nvfp4(w, n), group=n)),
    "INT8": (8, 16, lambda w, n: rounded(w, 8, n, scale_dtype=torch.bfloat16)),
}


# %%
one_row = gaussian[:1, :128].clone()


def row_picture(format, block, outlier):
    code_bits, scale_bits, there_and_back = ways[format]
    w = one_row.clone()
    w[0, 37] = outlier
    back = there_and_back(w, block)
    others = torch.arange(128) != 37
    db = round(sqnr(back[:, others], w[:, others]), 1) + 0.0
    said = f"{format}: {code_bits + scale_bits / block:.2f} bits, {db} dB without the outlier"
    return draw.row(w[0], back[0], block, said)


explore(
    row_picture,
    format=Choice(list(ways), "format"),
    block=Slider(8, 128, 32, "block", log=True),
    outlier=Slider(1, 64, 8, "outlier", log=True),
)

# %% [markdown]
# Three things to try:
#
# - INT4 in one block of 128, and the outlier from 1 to 64. How large must it be until nearly all others are zero?
# - Shrink the block at that outlier. Which weights come back to life, and which never?
# - NF4 against MXFP4 at the same block and outlier 16. Which of them keeps the small numbers, and why?

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: bits per weight (5 minutes, difficulty 1)
#
# A matrix of `rows` x `columns` in codes of `code_bits`, with one scale of `scale_bits` for every block of
# `block_rows` x `block_columns`. Blocks at the edge may be smaller, and need a whole scale. Return the bits per weight,
# everything included.


# %% tags=["exercise:bits", "points:1"]
def bits_per_weight(rows, columns, code_bits, scale_bits, block_rows, block_columns):
    # BEGIN SOLUTION
    scales = -(-rows // block_rows) * -(-columns // block_columns)
    return code_bits + scale_bits * scales / (rows * columns)
    # END SOLUTION


# %% tags=["check:bits"]
check.bits(bits_per_weight)

# %% [markdown]
# ### 2. Core: INT8 in groups (8 minutes, difficulty 2)
#
# Return `(codes, scales)` of `weight` [O, I]: codes int8 [O, I] from -127 to 127, scales float32 [O, I / group], one
# for each `group` numbers of a row. A group of zeros must not become NaN.


# %% tags=["exercise:int8", "points:2"]
def int8_groups(weight, group):
    # BEGIN SOLUTION
    groups = weight.unflatten(1, (-1, group))
    scales = groups.abs().amax(dim=-1) / 127
    safe = torch.where(scales == 0, 1.0, scales)
    return (groups / safe[..., None]).round().flatten(1).to(torch.int8), scales
    # END SOLUTION


# %% tags=["check:int8"]
check.int8(int8_groups)

# %% [markdown]
# ### 3. Core: values for other weights (8 minutes, difficulty 2)
#
# NF4 is made for normal weights. Make the recipe general: `inverse` turns chances (a float64 tensor, 0 to 1) into
# numbers, for a distribution that is even around zero. Return the sixteen values, sorted: seven below zero, zero, eight
# above, at even steps of chance from `outermost` to the middle on each side, divided by the largest.


# %% tags=["exercise:values", "points:2"]
def sixteen_values(inverse, outermost):
    # BEGIN SOLUTION
    positive = inverse(torch.linspace(outermost, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -inverse(torch.linspace(outermost, 0.5, 8, dtype=torch.float64)[:-1])
    return torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive.flip(0)]) / positive.max()
    # END SOLUTION


# %% tags=["check:values"]
check.values(sixteen_values)

# %% [markdown]
# ### 4. Core: pack Kimi's way (5 minutes, difficulty 2)
#
# `codes` [rows, columns] are whole numbers from -7 to 7, `columns` even. Return uint8 [rows, columns / 2]: each code
# plus 8, the first of a pair in the lower half of the byte.


# %% tags=["exercise:pack", "points:2"]
def pack(codes):
    # BEGIN SOLUTION
    positive = (codes + 8).to(torch.uint8)
    return positive[:, ::2] | positive[:, 1::2] << 4
    # END SOLUTION


# %% tags=["check:pack"]
check.pack(pack)

# %% [markdown]
# ### 5. Core: the scale of MXFP4 (6 minutes, difficulty 2)
#
# The standard's scale of a group is 2 to the power of floor(log2(largest)) - 2, the largest in size; the 2 is the
# exponent of E2M1's 6. Given `groups` [n, 32], return the byte of each group, uint8 [n]: the power plus 127, between 0
# and 254, and 0 for a group of zeros. It must be right for a largest of exactly 2^k, too.


# %% tags=["exercise:power", "points:2"]
def scale_bytes(groups):
    # BEGIN SOLUTION
    most = groups.abs().amax(dim=1)
    power = most.frexp().exponent - 1 - 2  # frexp: most = m x 2^exponent with m from 1/2 to 1
    return torch.where(most == 0, 0, (power + 127).clamp(0, 254)).to(torch.uint8)
    # END SOLUTION


# %% tags=["check:power"]
check.power(scale_bytes)

# %% [markdown]
# ### 6. Stretch: round to E4M3 (12 minutes, difficulty 3)
#
# Without a cast to a float8 type: the number of E4M3 nearest to each of `x`, float32. Halfway goes to the even fraction
# (`torch.round` does that to whole numbers), below 2^-6 the steps are 2^-9, and what is above 448 becomes 448.


# %% tags=["exercise:e4m3", "points:3"]
def to_e4m3(x):
    # BEGIN SOLUTION
    exponent = (x.abs().frexp().exponent - 1).clamp(min=-6)
    step = (exponent - 3).float().exp2()
    return ((x / step).round() * step).clamp(-448, 448)
    # END SOLUTION


# %% tags=["check:e4m3"]
check.e4m3(to_e4m3)

# %% [markdown]
# ### 7. Stretch: four bits inside eight (10 minutes, difficulty 3)
#
# DeepSeek-V4's experts are MXFP4, and many chips multiply FP8 only. Can an FP8 block with **one** power of two for all
# hold the same numbers exactly? `back` [rows, columns] are decoded MXFP4 weights, not all zero. Return the scale (a
# number, a power of two) with which `(back / scale).to(torch.float8_e4m3fn)` loses nothing, or `None` where there is
# none.


# %% tags=["exercise:lossless", "points:3"]
def lossless_scale(back):
    # BEGIN SOLUTION
    scale = (back.abs().max() / 448).log2().ceil().exp2()  # the smallest with which nothing is above 448
    same = (back / scale).to(torch.float8_e4m3fn).float() * scale
    return scale.item() if torch.equal(same, back) else None
    # END SOLUTION


# %% tags=["check:lossless"]
check.lossless(lossless_scale)

# %% [markdown]
# Every E2M1 number fits: one bit of fraction goes into three. A power of two in the scale moves only exponents. So all
# that can go wrong is range, and E4M3 has room for powers that differ by a factor of 2^14 within a block.

# %% [markdown]
# ### 8. In words: four times smaller (5 minutes, difficulty 2)
#
# A colleague says: "Four bits are a quarter of sixteen, so the four-bit model is four times smaller, and its weights
# are off by at most half a step." Answer in three to five sentences: how much smaller is it really, what decides how
# large a step is, and what would you ask before you ship it?

# %% [markdown] tags=["answer:smaller"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# Scales cost between an eighth of a bit and half a bit per weight, so the quantised part is 3.6 to 3.9 times smaller;
# embeddings, head, router and norms often stay in 16 bits, so the whole file less.
#
# A step is the scale of the block, set by its largest weight: beside an outlier half a step can be more than the
# weights themselves, and what is above the largest value (MXFP4) is cut off by more.
#
# Ask for the block size and the kind of scale, for the parts that were left out, whether the model was trained for the
# format, and for its score on your own task.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A format is a list of values, a way to scale them, and a way to lay their codes into bytes.
# 2. An even grid has 6.02 dB a bit, less what the largest number stands out.
# 3. A small block fences outliers in, and pays with its scale: 4 bits are 4.13 to 4.5.
# 4. Integers buy precision, exponents buy range; NF4's table puts values where normal weights are.
# 5. A power of two for a scale costs more than a dB; an E4M3 in its place costs a tenth or two.
#
# | idea | formula | cost |
# |---|---|---|
# | even grid | SQNR = 10.8 + 20 log10(high) - 20 log10(peak) dB | b bits per weight |
# | scale for a block of n | largest / high | its bits / n |
# | E4M3 | 1.fff x 2^(e - 7), to 448 | 8 bits |
# | NF4 | quantiles of a normal distribution | 4 + 32/64 bits |
# | double quantisation | scales in 8 bits, 256 under a float32 | 4 + 8/64 + 32/16,384 bits |
# | MXFP4, NVFP4 | E2M1 under E8M0 or E4M3 | 4 + 8/32, 4 + 8/16 bits |
# | LLM.int8() | few columns as they are | a second, thin product |

# %% [markdown]
# ## In the real models
#
# The table of facts, with the bits that you counted above.

# %%
for row in facts("weight_formats"):
    print(f"{row['model']}: {row['format']}, {bits_of[row['format']]:.3f} bits; {row['parts']}")
    print(f"   scale: {row['scale']}; met the format in: {row['trained']}")
    print(f"   source: {row['source']}; looked up {row['as_of']}")

# %% [markdown]
# - **DeepSeek-V3** was trained in FP8 from the start, and its 128 x 128 blocks are the coarsest here: exponents make up
#   for them.
# - **DeepSeek-V4** keeps experts in MXFP4 and most else in FP8, with powers of two for both. The surprise is your
#   exercise 7: an open pull request of vLLM turns those experts into FP8 blocks at load time and calls it bit-exact
#   (vllm-project/vllm 53709, 25 August 2026), for chips that cannot multiply FP4.
# - **Kimi K2.5** uses plain INT4, neither a table nor a float. It was trained with its rounding (lesson
#   [[quantise_moe]]), so the weights were free to move onto the grid. How the codes were chosen is not published. In
#   one layer's experts others found your rule, largest / 7 and codes -7 to 7
#   (huggingface.co/eatang/Kimi-K2.5-2layer-BF16); the library that names the files, compressed-tensors 0.20.1, itself
#   takes largest / 7.5 and -8 to 7.
# - **gpt-oss** was post-trained with MXFP4 in its experts, and keeps attention and the router out of it.
#
# Wherever there are four bits, the experts have them, for that is where the parameters are.

# %% [markdown]
# ## Roads not taken
#
# - **K-quants of GGUF.** Blocks of 16 or 32 inside blocks of 256, whose scales have few bits themselves: double
#   quantisation, often with a zero point for each small block. Q4_K packs 256 weights in 144 bytes, 4.5 bits per weight
#   (llama.cpp, ggml-common.h).
# - **Three values.** Ternary models (-1, 0, 1; 1.58 bits) work when they are trained so from the start. Rounding a
#   trained model to three values does not: look at the first line of step 1.
# - **Tables by training.** Sixteen values can be fitted to the weights of each layer by k-means, at the price of a
#   look-up table of its own.
# - **Turning first.** A rotation of the input and the opposite one of the weights spreads outliers over all columns
#   before anything is rounded.
#
# **Next: [[gptq_awq]].** So far every weight went to its nearest value. That is the best choice for each weight
# alone, and not the best one for the layer.
