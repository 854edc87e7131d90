# %% [markdown]
# # Kernels and measured speed
#
# **Which trick pays on which chip?**
#
# 60 minutes, without the stretch exercise · needs: lessons [[roofline]], [[dsa]],
# [[formats]] · runs on any laptop, without a network; kernels run on Linux, with or without a GPU
#
# You will write kernels, small programs for a GPU, and run them step by step on a CPU. Before any clock starts you
# count what they move, and say what they can gain. Then the same count answers a question about chips: which tricks
# pay more where arithmetic is scarce? Here is the whole idea.
#
# ```text
#     separate operations               one kernel
#
#     memory ==> square ==> memory      memory ==> [ load a tile            ]
#     memory ==> mean   ==> memory                 [ square, mean, multiply ]
#     memory ==> times  ==> memory                 [ store the tile         ] ==> memory
#
#     a trip for every step             one trip
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # not used: this lesson needs sizes, and no weights
device = "auto"
seed = 0

# %%
import os

import torch

from course.begin import begin

machine = begin(scale, checkpoint, device, seed)
torch.set_num_threads(1)  # a second thread would measure who else uses this machine
os.environ["TRITON_INTERPRET"] = "0" if machine.type == "cuda" else "1"  # read when triton is first imported

# %% [markdown]
# Kernels here are written in **Triton**, a language inside Python. On a GPU it compiles them. Without one, the
# variable above switches its **interpreter** on: every step runs in Python, slow and exact. It has to be set before
# triton is imported for the first time. If it says below that there is no Triton (it is made for Linux), the cells
# that run kernels stay empty, and everything else works.

# %%
from course.checks import kernels as check
from helpers.kernels.launch import INTERPRETED, kernel, launch, launched, launches, tile, tl
from helpers.plots import kernels as draw
from helpers.plots import show
from helpers.units import format_bytes, format_seconds

kernels_run = launches(torch.zeros(1, device=machine))
how = "step by step, in the interpreter" if INTERPRETED else "compiled, on the GPU"
print("kernels run here:", how if kernels_run else "not at all, there is no Triton for this system")

# %% [markdown]
# `kernel` is `triton.jit`, `tl` is `triton.language`, and `launch` starts a kernel and counts that it did.
#
# ## By hand
#
# A norm of four numbers, in separate operations. Count the trips: what does each step read, and what does it write?

# %%
x = torch.tensor([1.0, 2.0, 2.0, 4.0])
squares = x * x
mean = squares.mean()
normed = x * mean.rsqrt()
steps = {"square": (4, 4), "mean": (4, 1), "root": (1, 1), "times": (4 + 1, 4)}  # numbers read, numbers written
for name, (read, written) in steps.items():
    print(f"{name:7} reads {read}, writes {written}")
moved = sum(map(sum, steps.values()))
print(f"{moved} numbers moved; in one trip it would be 4 in and 4 out: {moved / 8:.1f} times fewer")

# %% [markdown]
# The arithmetic is the same. What changes is how often the numbers travel. Where memory decides, and left of the
# ridge it does, that is the whole difference.

# %% [markdown]
# ## Predict
#
# Weights are stored in 4 bits with a 16-bit scale for every 32 of them, 4.5 bits in all, and numbers are computed in
# 16 bits. On an H200, **how many times as fast can one matrix be at most, for one token? And for 4,096 tokens of a
# prompt?**
#
# An H20 has nearly the memory bandwidth of an H200, and less than a sixth of its arithmetic. Sparse attention of
# DeepSeek-V3.2 chooses 2,048 of 131,072 tokens. **How many times as much does it gain on an H20 as on an H100?** (1
# means: equally much.)

# %% tags=["predict:all"]
four_bits_one_token = ...
four_bits_prompt = ...
sparse_h20_over_h100 = ...
# BEGIN SOLUTION
four_bits_one_token = 3.5
four_bits_prompt = 1.5
sparse_h20_over_h100 = 1
# END SOLUTION
check.predict("kernels.one", four_bits_one_token, unit="times")
check.predict("kernels.prompt", four_bits_prompt, unit="times")
check.predict("kernels.h20", sparse_h20_over_h100, unit="times")

# %% [markdown]
# ## Build
#
# ### 1. A program, and many of it
#
# A kernel is what **one program** does. You launch a grid of them; each asks for its number and takes its tile. Tiles
# have a power of two of places, and your data does not: a **mask** says which places are real.


# %%
@kernel
def double(x, out, length, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = at < length
    number = tl.load(x + at, mask=real)
    tl.store(out + at, 2 * number, mask=real)


# %%
if kernels_run:
    x = torch.arange(33.0, device=machine)
    out = torch.empty_like(x)
    with launched() as count:
        launch(double, (3,), x, out, 33, BLOCK=16)
    print(dict(count), "| all doubled:", torch.equal(out, 2 * x), "| programs: 3, places: 48, numbers: 33")

# %% [markdown]
# `x` arrives as an address, and `x + at` is a tile of addresses. Nothing checks them: without the mask the third
# program would write behind the end of `out`.
#
# ### 2. A norm in one trip
#
# One program takes one row of RMSNorm. Load once, do all the steps, store once.


# %%
@kernel
def norm(x, weight, out, width, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0) * width
    at = tl.arange(0, BLOCK)
    real = at < width
    number = tl.load(x + row + at, mask=real, other=0.0)
    scale = tl.load(weight + at, mask=real, other=0.0)
    size = tl.rsqrt(tl.sum(number * number, axis=0) / width + epsilon)
    tl.store(out + row + at, number * size * scale, mask=real)


def fused(x, weight, function=norm):
    out = torch.empty_like(x)
    launch(function, (len(x),), x, weight, out, x.shape[1], 1e-6, BLOCK=tile(x.shape[1]))
    return out


# %% [markdown]
# The readable version is a helper that you know since lesson [[open_a_model]]. Is the kernel equal to it, where a row
# fills its tile and where it does not?

# %%
from helpers.compare import relative_rms
from helpers.layers.norm import rms_norm

if kernels_run:
    for width in (1, 31, 32, 33):
        x, weight = torch.randn(3, width, device=machine), torch.randn(width, device=machine)
        print(f"{width:2} numbers per row: {relative_rms(fused(x, weight), rms_norm(x, weight, 1e-6)):.0e} away")

# %% [markdown]
# ### 3. Count the trips
#
# Now count, by running. `count_traffic` adds up what torch's operations read and write. `counted_traffic` does the
# same inside the interpreter: every load and store of every program, where its mask is true.

# %%
from helpers.kernels import rms_norm as norm_file
from helpers.kernels.traffic import counted_traffic
from helpers.measure.traffic import count_traffic

x, weight = torch.randn(64, 512, device=machine), torch.randn(512, device=machine)
ways = {"separate operations": count_traffic(lambda: rms_norm(x, weight, 1e-6))}
work = norm_file.cost(64, 512, number_bytes=4)
if INTERPRETED:
    with counted_traffic() as seen:
        fused(x, weight)
    ways["one kernel, counted"] = {"load": seen.loaded, "store": seen.stored}
ways["one kernel, formula"] = {"load": int(work.bytes) - x.nbytes, "store": x.nbytes}

# %%
totals = [sum(parts.values()) for parts in ways.values()]
show(draw.trips(ways, f"Separate operations move {totals[0] / totals[-1]:.1f} times as many bytes"))

# %% [markdown]
# The interpreter counts half as much again as the formula: each of the 64 programs loads the weight, as long as a row.
# The formula counts it once, since a GPU's cache serves the others. Kernels of `helpers/kernels` have such a formula,
# `cost`, and tests that count.

# %% [markdown]
# ### 4. Softmax without seeing the whole row
#
# A softmax subtracts the largest score, and the largest may come last. A row of 128k scores fits no tile. The
# **online** softmax keeps two numbers: the best so far, and the total under that best. When a better one comes, the
# old total is scaled down.

# %%
scores = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 0.0])
best, total = torch.tensor(float("-inf")), torch.tensor(0.0)
for part in scores.split(2):
    new = torch.maximum(best, part.max())
    total = total * (best - new).exp() + (part - new).exp().sum()
    best = new
    print(f"tile {part.tolist()}: best {best:.0f}, total {total:.4f}")
print(f"at once:             best {scores.max():.0f}, total {(scores - scores.max()).exp().sum():.4f}")

# %% [markdown]
# The helper's kernel does this, and reads a row twice: once to know it, once to write the shares. Flash attention is
# the same step with values mixed along the way, so it never holds a row of scores at all.

# %%
from helpers.kernels import softmax as softmax_file

if kernels_run:
    scores = 4 * torch.randn(2, 100, device=machine)
    answer = softmax_file.softmax(scores, 16)  # seven tiles of 16
    print(f"{relative_rms(answer, scores.softmax(dim=-1)):.0e} away from torch's")

# %% [markdown]
# ### 5. A matrix that is decoded on its way
#
# When a model writes one token, each weight is read for one multiplication. Store it in 8 bits with one scale per row,
# and decode it **in registers**: what travels is 8 bits. A decoded copy in memory would travel at full width again.


# %%
@kernel
def int8_row(codes, scale, x, out, width, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    real = at < width
    code = tl.load(codes + row * width + at, mask=real, other=0)
    number = tl.load(x + at, mask=real, other=0.0)
    decoded = code.to(tl.float32) * tl.load(scale + row)
    tl.store(out + row, tl.sum(decoded * number, axis=0))


# %%
from helpers.quant.formats.named import encode

weight, x = torch.randn(48, 200), torch.randn(200, device=machine)
packed = encode(weight, "int8")
codes, row_scale = (packed.tensors()[name].to(machine) for name in ("codes", "scale"))
if kernels_run:
    out = torch.empty(48, device=machine)
    launch(int8_row, (48,), codes, row_scale, x, out, 200, BLOCK=256)
    print(f"{relative_rms(out, packed.decode().to(machine) @ x):.0e} away from decoding first")
print(f"{format_bytes(packed.bytes())} stored, {format_bytes(weight.nbytes / 2)} in 16 bits")

# %% [markdown]
# ### 6. Attention that gathers
#
# Lesson [[dsa]] chose tokens and then read only those. As a kernel: load the chosen positions, and use them as
# addresses. A latent is key and value at once, so it is loaded once. One program takes one head.


# %%
@kernel
def gather(query, latents, chosen, out, k, width, scale, K: tl.constexpr, C: tl.constexpr):
    head, slot, c = tl.program_id(0), tl.arange(0, K), tl.arange(0, C)
    real = slot < k
    at = tl.load(chosen + slot, mask=real, other=0)
    asked = tl.load(query + head * width + c, mask=c < width, other=0.0)
    rows = tl.load(latents + at[:, None] * width + c, mask=real[:, None] & (c < width), other=0.0)
    scores = tl.where(real, tl.sum(rows * asked[None, :], axis=1) * scale, float("-inf"))
    share = tl.exp(scores - tl.max(scores, axis=0))
    share = share / tl.sum(share, axis=0)
    tl.store(out + head * width + c, tl.sum(rows * share[:, None], axis=0), mask=c < width)


# %%
def moved_for(length, k=16):
    """Bytes that four heads load and store, and how far the answer is from the readable one."""
    query, latents = torch.randn(4, 24, device=machine), torch.randn(length, 24, device=machine)
    chosen = torch.randperm(length, device=machine)[:k].sort().values
    out = torch.empty_like(query)
    with counted_traffic() as seen:
        launch(gather, (4,), query, latents, chosen, out, k, 24, 0.2, K=tile(k), C=tile(24))
    kept = latents[chosen]
    return seen.bytes, relative_rms(out, (0.2 * query @ kept.T).softmax(dim=-1) @ kept)


if INTERPRETED:
    for length in (64, 256, 1024):
        moved, away = moved_for(length)
        print(f"{length:5} tokens remembered, 16 read: {format_bytes(moved)} moved, {away:.0e} away")

# %% [markdown]
# The bytes do not grow with the text. Here each head is a program and loads the same rows; the helper's kernel
# takes up to 64 heads at once, and multiplies tiles where you added up products. Exercise 4 walks over a choice that
# does not fit one tile.

# %% [markdown]
# ## Check
#
# ### Against the siblings, at awkward sizes
#
# Plant the classic mistake: divide by the size of the **tile** instead of the row. Where is it seen?


# %%
@kernel
def norm_with_a_bug(x, weight, out, width, epsilon, BLOCK: tl.constexpr):
    row, at = tl.program_id(0) * width, tl.arange(0, BLOCK)
    number = tl.load(x + row + at, mask=at < width, other=0.0)
    scale = tl.load(weight + at, mask=at < width, other=0.0)
    size = tl.rsqrt(tl.sum(number * number, axis=0) / BLOCK + epsilon)
    tl.store(out + row + at, number * size * scale, mask=at < width)


if kernels_run:
    for width in (16, 32, 64, 33):
        x, weight = torch.randn(3, width, device=machine), torch.randn(width, device=machine)
        away = relative_rms(fused(x, weight, norm_with_a_bug), rms_norm(x, weight, 1e-6))
        print(f"{width:2} numbers per row: {away:.0e} away", "<- seen" if away > 1e-3 else "")

# %% [markdown]
# Powers of two never see it. Every kernel of this course is tested at 1, 31, 33 and other sizes that no tile fits, in
# 32 and 16 bits, against float64. One dtype is left out in the interpreter: it gets **bfloat16 wrong without a word**,
# so the wrappers refuse it there.
#
# ### Compiled for chips that are not here
#
# The interpreter accepts things that a GPU does not. So each kernel is also compiled for an A100 and an H100, which
# needs no GPU, and the assembler says what a program takes: registers for each thread, what it puts aside for want of
# them, shared memory.

# %%
from helpers.kernels import compile_ahead


def compiled() -> list:
    """What the compiler made, or nothing and the reason."""
    try:
        return compile_ahead.in_a_process_of_its_own(["rms_norm" if scale == "smoke" else "flash"])
    except ValueError as why:
        print(why)
        return []


if kernels_run:
    for made in compiled():
        takes = f"{made.registers:3} registers, {made.spilled_bytes} bytes put aside"
        print(f"{made.name:26} sm_{made.chip}: {takes}, {format_bytes(made.shared_bytes):>7} shared")

# %% [markdown]
# A thread has 255 registers at most; a program shares at most 163 KiB on an A100 and 227 KiB on an H100. A kernel
# that puts nothing aside **may** be fast. No compiler says that it is.

# %% [markdown]
# ## Measure
#
# ### First on paper
#
# A trick changes two numbers: operations and bytes. The floor of each version is the larger of two times, and their
# quotient is what the trick can gain **at most**. Here is the matrix of your first prediction, 16 bits before and 4.5
# after.

# %%
from helpers.facts import table
from helpers.measure import matmul_work
from helpers.measure.chips import gain, ridge

chips = {row["chip"]: row for row in table("hardware")}


def four_bits(tokens, bits=4.5):
    """Work before and after."""
    return matmul_work(tokens, 4096, 11008, 16), matmul_work(tokens, 4096, 11008, bits, activation_bits=16)


for tokens in (1, 128, 4096):
    print(
        f"{tokens:5} tokens on an H200: at most {draw.in_words(gain(*four_bits(tokens), chips['H200']))} times as fast"
    )

# %%
counts = [2**power for power in range(13)]
curves = {name: [gain(*four_bits(tokens), chips[name]) for tokens in counts] for name in ("H200", "H100", "H20")}
gone = {
    name: next(n for n, ends in zip(counts, curve, strict=True) if ends[1] < 1.05) for name, curve in curves.items()
}
finding = f"What four bits gain is gone by {gone['H20']} tokens on an H20, by {gone['H100']} on an H100"
show(draw.gain_by_tokens(curves, counts, finding))

# %% [markdown]
# The curves bend where arithmetic begins to take longer than reading, which weights of fewer bits reach with fewer
# tokens. Where both versions wait for arithmetic nothing is gained: it is done in 16 bits before and after.

# %% [markdown]
# ### Then on your machine
#
# The same experiment here: a layer of 4,096 x 4,096 in 16 bits and in 4, several copies, so that none waits in a cache.
# On a CPU torch brings the kernel that decodes; on a GPU it is ours.

# %%
from itertools import cycle

from torch import nn

from helpers.kernels.quant import packed_linear as packed_file
from helpers.measure import measure_pair
from helpers.quant.linear import QuantisedLinear

side = 512 if scale == "smoke" else 4096
plain = [nn.Linear(side, side, bias=False).to(machine, torch.bfloat16) for _ in range(3)]


def four_bit(linear):
    if machine.type != "cuda":
        return QuantisedLinear.of(linear, "int4")
    laid = {name: part.to(machine) for name, part in packed_file.lay(encode(linear.weight.cpu(), "int4")).items()}
    return lambda x: packed_file.multiply(x, laid, "int4")


narrow = [four_bit(linear) for linear in plain]

# %% [markdown]
# Both sides in turn, in one process, for more and more tokens.

# %%
measured = {}
for tokens in (1, 4) if scale == "smoke" else (1, 4, 16, 64, 256):
    x, a, b = torch.randn(tokens, side, device=machine, dtype=torch.bfloat16), cycle(plain), cycle(narrow)
    pair = measure_pair(lambda x=x, a=a: next(a)(x), lambda x=x, b=b: next(b)(x), repeats=3, device=machine)
    measured[tokens] = pair.ratio
    wide, packed = format_seconds(pair.a.median_s), format_seconds(pair.b.median_s)
    print(f"{tokens:4} tokens: 16 bits {wide:>8}, 4 bits {packed:>8}: {pair.ratio:.2f} times as fast")

# %%
check.reveal("kernels.one", formula=gain(*four_bits(1), chips["H200"])[0], machine=measured[1], unit="times")
check.reveal("kernels.prompt", formula=gain(*four_bits(4096), chips["H200"])[0], unit="times")

# %% [markdown]
# For one token the bytes say it, and a machine with a good kernel comes near. (At smoke scale the matrices fit a
# cache, and where a processor has no such kernel the matrix is decoded each time: then nothing is gained.) With many
# tokens the same trick **costs**: the arithmetic is the same, and decoding comes on top.

# %% [markdown]
# ### Recorded on a GPU
#
# These kernels are made for a GPU. A speed of theirs enters this course in one way: `python3 -m course measure` runs
# both sides in one process on one GPU and writes a record. Where there is none, this is what stands here.

# %%
from helpers.measure import recorded, recorded_text

CASES = ["latent-decode", "index-scores", "sparse-decode", "sparse-prompt", "linear-few-tokens", "linear-many-tokens"]
CASES += ["sparse-layer", "block-sparse-prompt", "experts-one-token", "experts-prompt", "experts-four-bits"]
CASES += ["delta-prompt"]
records = [record for case in CASES for record in recorded(case).values()]
print(recorded_text(*CASES))
print("What was expected stands in helpers/kernels/LOG.md, with its date.")

# %% [markdown]
# A prediction that nobody has measured is a prediction. The log says what each kernel should reach and why, so that
# a miss can be seen as one.

# %% [markdown]
# ### The same question for chips that you cannot buy
#
# Since October 2022 the United States restrict which chips may be sold to China. Two were made to stay within those
# rules: the **H800**, an H100 with a slower link between chips, and the **H20**, with much less arithmetic. The Ascend
# chips are made in China. Sources disagree about some of them, so they are ranges.

# %%
for name, row in chips.items():
    tflops, memory, bend = (draw.in_words(ends) for ends in (row["tflops"], row["memory_tb_s"], ridge(row)))
    made = {"export": f"for export, rules of {row.get('rules')}", "home": "in China"}.get(row["made_for"], "")
    print(f"{name:12} {tflops:>10} TFLOP/s {memory:>11} TB/s, ridge {bend:>10} FLOP per byte  {made}")
print(f"helpers/facts/hardware.toml names the sources; looked up on {chips['H20']['as_of']}")

# %% [markdown]
# Now five tricks of this course, each as work before and after: the sizes are DeepSeek-V3.2's, a text has 131,072
# tokens.

# %%
from helpers.measure import Work
from helpers.measure.dsa_work import SparseSizes, dense_decode, sparse_decode
from helpers.planning.plan import published

s, text = SparseSizes.of(published("deepseek_v32")), 131072
pair = s.heads * (s.key + s.rope_dim + s.value)  # numbers of a token's keys and values, and products of a pair
heads_of_their_own = Work(2 * pair * text, 2 * pair * text)


def experts(tokens, all_of_them=257, used=9):
    """A dense layer as wide as all experts; and experts, of which a batch reads 1 - (1 - share)^tokens."""
    read = 1 + (all_of_them - 1) * (1 - (1 - (used - 1) / (all_of_them - 1)) ** tokens)
    return Work(2 * tokens * all_of_them, 2 * all_of_them), Work(2 * tokens * used, 2 * read)


# %%
pairs = {
    "4 bits, 1 token": four_bits(1),
    "4 bits, 128 tokens": four_bits(128),
    "latents for keys and values": (heads_of_their_own, dense_decode(s, text)),
    "sparse attention": (dense_decode(s, text), sparse_decode(s, text)),
    "experts, 256 tokens": experts(256),
}
tricks = {name: {chip: gain(*works, row) for chip, row in chips.items()} for name, works in pairs.items()}
for name, by_chip in tricks.items():
    print(f"{name:28}", *(f"{chip} {draw.in_words(by_chip[chip]):12}" for chip in ("H100", "H800", "H20")))
print(f"dense attention over latents does {dense_decode(s, text).intensity:.0f} operations per byte")

# %% [markdown]
# Before you look at the picture: which marks will move to the left on the H20, and which to the right?

# %%
sparse, latents = tricks["sparse attention"], tricks["latents for keys and values"]
more = sparse["H20"][0] / sparse["H100"][0]
show(
    draw.gains(
        tricks, f"Sparse attention gains {more:.1f} times as much on an H20 as on an H100;<br>a latent cache far less"
    )
)
check.reveal("kernels.h20", formula=more, unit="times")

# %% [markdown]
# Read the row of the H20. What saves **arithmetic** pays more there: sparse attention, and experts for a full batch.
# What saves **bytes** pays less: 4 bits stop helping at a few dozen tokens, and latent attention buys a small cache
# with more operations, which an H20 lacks. And the H800 stands exactly where the H100 does: what was cut is its link,
# and none of these five sees a link.

# %% [markdown]
# ### Two lines of the ledger

# %%
from helpers.claims.ledger import claim

h20, h100 = ({name: by_chip[chip] for name, by_chip in tricks.items()} for chip in ("H20", "H100"))
more = sum(h20[name][0] > 1.05 * h100[name][1] for name in tricks)
less = sum(1.05 * h20[name][1] < h100[name][0] for name in tricks)
mine = {
    "bans-made-efficiency": f"of {len(tricks)} tricks {more} pay more on an H20 than on an H100, and {less} pay less",
    "gpu-speedups": f"{len(records)} records of these kernels on a GPU",
}
for id, found in mine.items():
    entry = claim(id)
    print(f"{entry.says}\n    you found: {found}\n    the ledger says: {entry.verdict}")
    print("       ", entry.verdicts[-1].because.replace("; ", ";\n        "))

# %% [markdown]
# A roofline says where a trick pays. It does not say why somebody built it. And a kernel that nobody has timed on a
# GPU has no speed.

# %% [markdown]
# ## Play
#
# ### A trick on every chip
#
# Choose a trick, and how many tokens are computed together.

# %%
from helpers.plots.widgets import Choice, Slider, explore

PLAY = {"4 bits": four_bits, "8 bits": lambda tokens: four_bits(tokens, 8.5), "experts": experts}


def by_tokens(trick, tokens):
    found = {chip: gain(*PLAY[trick](tokens), row) for chip, row in chips.items()}
    best = max(found, key=lambda chip: found[chip][1])
    worst = min(found, key=lambda chip: found[chip][0])
    same = found[best][1] < 1.01 * found[worst][0]
    ends = f"{found[best][1]:.3g} times on " + (
        "every chip" if same else f"the {best}, {found[worst][0]:.3g} on the {worst}"
    )
    return draw.gains({trick: found}, f"{trick}, {tokens:,} tokens together: at most {ends}")


explore(by_tokens, trick=Choice(list(PLAY), "trick"), tokens=Slider(1, 8192, 64, "tokens together", log=True))

# %% [markdown]
# Three things to try:
#
# - 4 bits: at how many tokens does the H20 stop gaining? And the H100? Divide the two numbers: which numbers of their
#   datasheets have the same quotient?
# - Experts at 1 token, at 64 and at 8,192. Where is the gain smallest, and what is read there?
# - Ascend 910B: why is its line so long? Look for the range in the table above that makes it.

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: the floor (4 minutes, difficulty 1)
#
# Return the least seconds that this work can take: `flops` operations and `moved` bytes, on a chip of `tflops` TFLOP/s
# and `tb_s` TB/s.


# %% tags=["exercise:floor", "points:1"]
def floor(flops, moved, tflops, tb_s):
    # BEGIN SOLUTION
    return max(flops / (tflops * 1e12), moved / (tb_s * 1e12))
    # END SOLUTION


# %% tags=["check:floor"]
check.floor(floor)

# %% [markdown]
# ### 2. Core: four bits, decoded on the way (12 minutes, difficulty 2)
#
# Write the kernel: one program per row. `codes` has two of them in a byte, the **first in the lower half**, so a row
# has `width // 2` bytes; a code of 8 stands for zero. `scale` has one number for every 32 columns. Add up decoded
# weight times `x` over the row, and store it at `out + row`. `BLOCK` is a power of two that holds the width.


# %% tags=["exercise:int4", "points:2"]
@kernel
def int4_row(codes, scale, x, out, width, BLOCK: tl.constexpr):
    # BEGIN SOLUTION
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    real = at < width
    pair = tl.load(codes + row * (width // 2) + at // 2, mask=real, other=0)
    code = (pair >> (4 * (at % 2))) & 15
    share = tl.load(scale + row * (width // 32) + at // 32, mask=real, other=0.0)
    number = tl.load(x + at, mask=real, other=0.0)
    decoded = (code.to(tl.float32) - 8) * share
    tl.store(out + row, tl.sum(decoded * number, axis=0))
    # END SOLUTION


# %% tags=["check:int4"]
check.int4(int4_row)

# %% [markdown]
# ### 3. Core: until how many tokens? (8 minutes, difficulty 2)
#
# A wide matrix, so wide that only its weights are worth counting. It is stored in `bits` instead of 16. Return two
# numbers of tokens for this chip: from which on the gain **falls** below 16 / bits, and from which on it is **gone**.


# %% tags=["exercise:until", "points:2"]
def pays_until(bits, tflops, tb_s):
    # BEGIN SOLUTION
    ridge = tflops / tb_s  # FLOP per byte; a weight of 16 bits gives 2 FLOP per token for 2 bytes
    return ridge * bits / 16, ridge
    # END SOLUTION


# %% tags=["check:until"]
check.until(pays_until)

# %% [markdown]
# ### 4. Stretch: gather in tiles (20 minutes, difficulty 3)
#
# The kernel of step 6 for a choice of any length. Walk over `k` chosen positions, `K` at a time; a position of **-1**
# is none. Keep the best, the total and the mixture, and scale the last two when a better score comes, as in step 4.
# Some position is always real, but a tile may hold none.


# %% tags=["exercise:tiles", "points:3"]
@kernel
def gather_tiles(query, latents, chosen, out, k, width, scale, K: tl.constexpr, C: tl.constexpr):
    # BEGIN SOLUTION
    head, c = tl.program_id(0), tl.arange(0, C)
    asked = tl.load(query + head * width + c, mask=c < width, other=0.0)
    best, total, mixed = float("-inf"), 0.0, tl.zeros((C,), tl.float32)
    for start in range(0, k, K):
        slot = start + tl.arange(0, K)
        at = tl.load(chosen + slot, mask=slot < k, other=-1)
        rows = tl.load(latents + at[:, None] * width + c, mask=(at[:, None] >= 0) & (c < width), other=0.0)
        scores = tl.where(at >= 0, tl.sum(rows * asked[None, :], axis=1) * scale, float("-inf"))
        new = tl.maximum(best, tl.max(scores, axis=0))
        safe = tl.where(new == float("-inf"), 0.0, new)
        share, shrink = tl.exp(scores - safe), tl.exp(best - safe)
        total = total * shrink + tl.sum(share, axis=0)
        mixed = mixed * shrink + tl.sum(rows * share[:, None], axis=0)
        best = new
    tl.store(out + head * width + c, mixed / total, mask=c < width)
    # END SOLUTION


# %% tags=["check:tiles"]
check.tiles(gather_tiles)

# %% [markdown]
# ### 5. In words: where is my factor of four? (8 minutes, difficulty 2)
#
# A colleague stored a model in 4 bits. One user writes three times as fast as before; reading in long prompts became
# slower, and with a hundred users there is hardly a difference. "The kernel must be broken." Answer in four or five
# sentences.

# %% [markdown] tags=["answer:factor"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# Nothing need be broken. With one token each weight is read for one multiplication: memory decides, and 4.5 bits
# instead of 16 are up to 3.6 times as fast. A prompt has thousands of tokens for each weight that is read: arithmetic
# decides, it is done in 16 bits as before, and decoding comes on top. A hundred users stand near the ridge, where the
# gain of the bytes ends. Faster prompts need fewer operations or narrower arithmetic, such as products in FP8.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A kernel loads a tile, computes and stores; what it saves is trips to memory.
# 2. I count bytes and operations first; the larger of two times is a floor that no version passes.
# 3. Fewer bits for weights pay for few tokens and cost for many.
# 4. Where arithmetic is scarce, tricks that save operations gain more, and tricks that save bytes less.
# 5. A kernel is right when it equals its sibling at awkward sizes, and fast only when a record says so.
#
# | idea | formula | cost |
# |---|---|---|
# | fused norm | read once, write once | 2 N D numbers |
# | online softmax | total x exp(best - new) + Σ exp(part - new) | rows read twice, scores never stored |
# | decoding in registers | code x scale, then times x | bits / 16 of the bytes, a few instructions per weight |
# | gather attention | rows at chosen positions | k (C + R) numbers per query |
# | what a trick gains | max(F, B r) before / after, r the ridge | paper |

# %% [markdown]
# ## In the real models
#
# - **DeepSeek** publishes kernels for this attention: FlashMLA (its README at github.com/deepseek-ai/FlashMLA, seen
#   in November 2026) has separate ones for dense decoding, sparse decoding and sparse prefill.
# - **DeepSeek-V3.2** and **GLM-5** choose 2,048 tokens per query; a row of their cache is 512 + 64 numbers, 1,152 bytes
#   in 16 bits.
# - A surprise: DeepSeek-V3.2 decodes with 128 heads, so that its dense attention does 242 operations per byte, left of
#   an H100's ridge and far right of an H20's: one model, two bottlenecks.
# - **Kimi K2.5** stores its experts in 4 bits with a scale for 32 weights, the format of exercise 2.
#
# Sizes are read from `helpers/facts/configs`, looked up on 23 November 2026.

# %% [markdown]
# ## Roads not taken
#
# - **CUDA C++.** It reaches what Triton cannot: copies that run beside the arithmetic, warps with different jobs. The
#   fastest kernels for these models use it. A first kernel that is right is easier in Triton.
# - **`torch.compile`.** It fuses a norm by itself, and you should let it. It does not invent an online softmax for
#   your attention, or a gather in place of a mask.
# - **Timing the interpreter.** It says how fast Python is.
#
# **Next: [[engine]].** Kernels make one step fast. Who decides what is in the step?
