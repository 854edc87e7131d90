# %% [markdown]
# # Your machine, your roofline
#
# **What is fast on this machine, and why does writing one token cost as much as reading the whole model?**
#
# 45 minutes, without the stretch exercise · needs: Python, and a first look at PyTorch tensors · runs on any laptop,
# without a network
#
# A language model writes one token at a time, a word or a piece of one. For each of them it walks through all of
# its weights, the numbers that it has learned. In this lesson you measure the two speeds that decide how long such
# a walk takes: how fast numbers come out of memory, and how fast they are multiplied. Nearly every speed-up in this
# course eases one of the two.

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # or a Hugging Face id, or a folder: the same cells on a real model
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import roofline as check
from helpers import measure
from helpers.device import describe, synchronize
from helpers.facts import table
from helpers.plots import roofline as plots
from helpers.plots import show
from helpers.units import GB, format_bytes, format_flops, format_rate, format_seconds

machine = begin(scale, checkpoint, device, seed)

# %% [markdown]
# Here is the whole idea. A machine has two ceilings, and the shape they make is called a *roofline*. Where a
# piece of work stands from left to right is its *arithmetic intensity*: how many additions and multiplications
# (floating-point operations, FLOP) it does for each byte that it moves.

# %%
show(plots.idea())

# %% [markdown]
# You will put your own machine's numbers on both axes. First, which machine is it, and how large may the arrays
# be? On a CPU you use one thread: other programs share the cores, and a second thread measures how busy they are.

# %%
torch.set_num_threads(1)
smoke = scale == "smoke"
on_cpu, large = machine.type == "cpu", machine.type == "cuda"
big = 2**24 if smoke else 2**30 if large else 2**27  # bytes: must not fit into a cache (smoke gives that up)
side = 256 if smoke else 8192 if large else 1024  # of a square matrix
for name, value in describe(machine).items():
    if value is not None:
        print(f"{name:>13}: {format_bytes(value) if name == 'memory_bytes' else value}")

# %% [markdown]
# ## By hand
#
# The smallest useful example: a matrix of 2 rows and 3 columns times a vector. A layer of a model that writes one
# token for one person is this, larger.

# %%
weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
x = torch.tensor([1.0, 0.0, 2.0])
for row, result in zip(weights.tolist(), (weights @ x).tolist(), strict=True):
    print(" + ".join(f"{w:g}·{v:g}" for w, v in zip(row, x.tolist(), strict=True)), "=", result)
operations = 2 * weights.numel()
moved = weights.nbytes + x.nbytes + (weights @ x).nbytes
print(f"{operations} FLOP, {moved} bytes: {operations / moved:.3f} FLOP per byte")

# %% [markdown]
# Six weights, and each one is multiplied once and added once: 12 FLOP. (The first addition of a row is to zero;
# everybody counts it.) The bytes are 6 weights, 3 inputs and 2 outputs of 4 bytes each.
#
# Less than one operation for each byte that moves. Keep that in mind for the next two questions.

# %% [markdown]
# ## Predict
#
# A large matrix times another large matrix, and the same matrix times one vector. Both are measured in operations
# per second. **How many times faster is the first?** Write your guess. It is stored; nothing is revealed yet.

# %% tags=["predict:ratio"]
guess_ratio = ...
# BEGIN SOLUTION
guess_ratio = 10
# END SOLUTION
check.predict("roofline.ratio", guess_ratio, unit="times")

# %% [markdown]
# A model with 20 GB of weights writes for one person on this machine, on one thread, and all 20 GB are in memory.
# **How many tokens per second can it write at most?**

# %% tags=["predict:tokens"]
guess_tokens = ...
# BEGIN SOLUTION
guess_tokens = 1.5
# END SOLUTION
check.predict("roofline.tokens", guess_tokens, unit="tokens/s")

# %% [markdown]
# ## Build
#
# ### 1. Count before you time
#
# A time says nothing alone. You need the work beside it: the operations, and the fewest bytes that must move,
# each input read once and each output written once. `batch` is the number of people whose tokens are computed
# together.


# %%
def count(batch, inputs, outputs, bytes_each=4):
    """FLOP and bytes of activations [batch, inputs] times weights [inputs, outputs]."""
    flops = 2 * batch * inputs * outputs
    moved = bytes_each * (inputs * outputs + batch * (inputs + outputs))
    return flops, moved


for batch in (1, 4, 16, 64, 256, 1024):
    flops, moved = count(batch, 4096, 4096)
    print(f"batch {batch:4}: {format_flops(flops):>12} {format_bytes(moved):>10} {flops / moved:8.2f} FLOP per byte")

# %% [markdown]
# 1024 people need 1024 times the operations and one and a half times the bytes, because they share one reading of
# the weights. Intensity grows with the batch, and ever more slowly once the activations (the inputs and outputs of
# the layer) weigh as much as the weights.

# %% [markdown]
# ### 2. A clock you can trust
#
# The naive way is to look at the clock, do the work, and look again. Try it five times.

# %%
import time

matrix, vector = torch.randn(side, side, device=machine), torch.randn(side, device=machine)
for attempt in range(5):
    start = time.perf_counter()
    matrix @ vector
    print(f"attempt {attempt + 1}: {format_seconds(time.perf_counter() - start)}")

# %% [markdown]
# Five different answers to one question. The first call pays for things that happen once: memory is allocated,
# code is chosen, caches fill. The others depend on what else this machine does. So: warm up, repeat, take the
# *median*.
#
# And on a CPU take the *thread's own time*, which stands still while another program has the core. (A GPU works
# on after the call returns; `synchronize` waits for it.)

# %%
fine = time.get_clock_info("thread_time").resolution < 1e-4  # not so on Windows
clock = time.thread_time if on_cpu and fine else time.perf_counter


def seconds(function, repeats=7):
    """Median seconds of one call, after a warm-up."""
    function()
    samples = []
    for _ in range(repeats):
        synchronize(machine)
        start = clock()
        function()
        synchronize(machine)
        samples.append(clock() - start)
    return sorted(samples)[repeats // 2]


# %% [markdown]
# ### 3. A meter for memory
#
# To measure how fast memory delivers, do the least possible with each number: add it up. The array is far larger
# than any cache of the processor, so that each pass has to fetch it anew.


# %%
def read_rate(array_bytes):
    """Bytes per second of a sum over an array of this size."""
    array = torch.rand(array_bytes // 4, device=machine)
    return array_bytes / seconds(array.sum)


bandwidth = read_rate(big)
print(f"{format_bytes(big)} read at {format_rate(bandwidth, 'B/s')}")

# %% [markdown]
# ### 4. A meter for arithmetic
#
# Now the opposite: as many operations as possible on each number. A square matrix product uses every number
# `side` times, and torch hands it to a library that people have tuned for decades.


# %%
def product_rate(n):
    """FLOP per second of an [n, n] by [n, n] product, in 32-bit numbers."""
    a, b = torch.randn(n, n, device=machine), torch.randn(n, n, device=machine)
    flops, _ = count(n, n, n)
    return flops / seconds(lambda: a @ b)


arithmetic = product_rate(side)
print(f"{side} x {side} x {side} at {format_rate(arithmetic, 'FLOP/s')}")

# %% [markdown]
# ### 5. The ridge and the roof
#
# Divide one by the other. The result, in FLOP per byte, is the intensity at which both ceilings meet: the
# *ridge*. Below it the processor waits for bytes; above it the memory waits for the processor.

# %%
ridge = arithmetic / bandwidth


def attainable(intensity):
    """The most FLOP/s that work of this intensity can reach here."""
    return min(arithmetic, intensity * bandwidth)


print(f"ridge: {ridge:.2f} FLOP per byte, {4 * ridge:.0f} for each number of 4 bytes")
for batch in (1, 16, 256):
    flops, moved = count(batch, 4096, 4096)
    print(f"batch {batch:3}: at most {format_rate(attainable(flops / moved), 'FLOP/s')}")

# %% [markdown]
# The first line says how many operations this machine could do with each number while it fetches the next one. One
# token for one person asks for two. The rest of the arithmetic stands idle.

# %% [markdown]
# ## Check
#
# ### Against torch
#
# Two references. `FlopCounterMode` counts the operations that torch runs, also at awkward sizes.
# `torch.utils.benchmark` is torch's own stopwatch. It reads the wall clock unless you give it another; give it
# yours, so that both leave out what other programs do. The two ratios should be near 1.

# %%
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

for shape in [(1, 1, 1), (1, 3, 2), (7, 31, 33), (64, 100, 1)]:
    with FlopCounterMode(display=False) as counter:
        torch.ones(shape[0], shape[1]) @ torch.ones(shape[1], shape[2])
    assert counter.get_total_flops() == count(*shape)[0], shape
print("counted FLOP: the same as torch's at all four shapes")


# %%
def against_torch(name, statement, mine_s):
    """Print my seconds beside those of torch.utils.benchmark."""
    theirs = Timer("f(); wait()", timer=clock, globals={"f": statement, "wait": lambda: synchronize(machine)})
    theirs_s = theirs.blocked_autorange(min_run_time=0.05 if smoke else 0.3).median
    both = f"mine {format_seconds(mine_s)}, torch's {format_seconds(theirs_s)}"
    print(f"{name:>8}: {both}, ratio {mine_s / theirs_s:.2f}")


array = torch.rand(big // 4, device=machine)
square = torch.randn(side, side, device=machine)
against_torch("read", array.sum, seconds(array.sum))
against_torch("product", lambda: square @ square, seconds(lambda: square @ square))

# %% [markdown]
# ### A bug that looks like a good result
#
# Here is the same meter with one small change: the array has 1 MB. Look at what it says about "memory".

# %%
flattering = read_rate(2**20)
print(f"1 MB array: {format_rate(flattering, 'B/s')}, {flattering / bandwidth:.1f} times the rate of the large array")

# %% [markdown]
# A CPU shows a higher rate, and nothing is wrong with the clock. After the warm-up the array sits in a cache next to
# the processor, and memory is never asked. (On a GPU the cost of starting the sum hides this; the small array looks
# slower.) A check has to tell the two apart: read **one** array again and again, and read **many** arrays of that
# size in turn. If memory is what you measure, both take the same time.


# %%
def warm_over_cold(array_bytes):
    """How many times longer a read takes when the array was not read just before."""
    arrays = [torch.rand(array_bytes // 4, device=machine) for _ in range(max(2, 2 * big // array_bytes))]
    turn = iter(range(10**9))
    cold, warm = lambda: arrays[next(turn) % len(arrays)].sum(), arrays[0].sum
    return measure.measure_pair(cold, warm, device=machine, repeats=5 if smoke else 9)


for array_bytes in (2**20, big):
    pair = warm_over_cold(array_bytes)
    verdict = "honest" if pair.ratio < 1.25 else "measures a cache"
    print(f"{format_bytes(array_bytes):>8}: {pair.ratio:.2f} ({pair.ratio_q1:.2f} to {pair.ratio_q3:.2f}): {verdict}")

# %% [markdown]
# `measure_pair` runs both sides in turn, a b, b a, a b, and gives the median of the ratios with its quartiles. On
# a machine that others use too, a ratio of neighbours in time is worth more than any number of seconds. You meet
# it in every lesson.

# %% [markdown]
# ## Measure
#
# ### The ladder
#
# What did the 1 MB array find? Read arrays of every size, from smaller than the first cache to far larger than
# the last.

# %%
sizes = [2**power for power in range(15, 25 if smoke else 31 if large else 28)]
steps = measure.cache_ladder(machine, sizes, repeats=3 if smoke else 5)
show(plots.ladder({size: rate.bytes_per_s for size, rate in steps.items()}))

# %% [markdown]
# Read it from the right. The flat end is memory. Where the line climbs to the left, the array begins to fit into a
# cache, smaller and nearer. At the far left the line falls again: there the fixed cost of asking torch for a sum, a
# microsecond or more, is longer than the sum.
#
# No model of interest fits into a cache. The right end is the rate that counts.

# %% [markdown]
# ### Climbing the roof
#
# Now one layer of a model, at growing batch, in 32-bit and in 16-bit numbers (`bfloat16`). Every call takes
# another weight matrix, as a model does, so that no cache helps. The ceilings are measured again beside the points,
# because on a shared machine they move. (`float16`, the other 16-bit format, is left out: many CPUs do not multiply
# it.)

# %%
dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
batches = (1, 2, 8, 32) if smoke else (1, 2, 4, 8, 16, 32, 64, 128)
width, repeats = (512, 3) if smoke else (4096, 5)
memory = measure.bandwidth(machine, big // 2, repeats)["read"].bytes_per_s
roofs, sweeps = {}, {}
for name, dtype in dtypes.items():
    product = measure.matmul_rate(machine, dtype, side, repeats).flops_per_s
    roofs[name] = measure.Roofline(machine.type, name, memory, product)
    sweeps[name] = measure.batch_sweep(machine, dtype, width, batches, weights_bytes=big, repeats=repeats)

# %%
points = {
    name: [(f"batch {batch}", rate.work.intensity, rate.flops_per_s) for batch, rate in sweep.items()]
    for name, sweep in sweeps.items()
}
ceilings = {name: (roof.bytes_per_s, roof.flops_per_s) for name, roof in roofs.items()}
climb = sweeps["float32"][batches[-1]].flops_per_s / sweeps["float32"][1].flops_per_s
finding = f"At batch {batches[-1]} a layer gets {climb:.1f} times more out of fp32 than at batch 1"
show(plots.roofline(finding, ceilings, points))

# %% [markdown]
# Each point is one batch size, the smallest at the left, in both rows. A point near its line does about what the
# machine can do (a few per cent above it are the spread of the ceiling itself). A point far below has another reason
# to be slow than the two ceilings; most often the library has no good code for that shape. This course will look for
# such gaps. The same as numbers:

# %%
for name, sweep in sweeps.items():
    for batch, rate in sweep.items():
        share = rate.flops_per_s / roofs[name].attainable(rate.work.intensity)
        step, each = format_seconds(rate.timing.median_s), format_seconds(rate.timing.median_s / batch)
        print(f"{name:>9} batch {batch:3}: a step {step:>8}, {each:>8} a person, {share:4.0%} of the roofline")

# %% [markdown]
# By the formula a second person costs next to nothing while memory decides. Look where your machine disagrees: a step
# that takes twice as long for two people as for one, or even less time. Neither comes from the ceilings. The library
# picks other code for another shape; where two are served sooner than one, padding your one token to two would be
# faster.

# %% [markdown]
# Now your first prediction. The formula: at batch 1 the intensity of 32-bit weights is about 0.5 FLOP per byte,
# so the product is faster by the ridge over 0.5.

# %%
roof, one = roofs["float32"], sweeps["float32"][1]
check.reveal(
    "roofline.ratio", formula=roof.ridge / one.work.intensity, machine=roof.flops_per_s / one.flops_per_s, unit="times"
)

# %% [markdown]
# Both lines share the product; they differ in batch 1. So the machine's number is the formula's, divided by the share
# of the roofline that batch 1 of `float32` reaches in the list above.
#
# ### Tokens per second
#
# A model, as far as speed goes, is a stack of matrices that one vector passes through. Build one that is small
# enough for this machine and too large for its caches, and let it "write" a token.

# %%
depth, model_width = (4, 512) if smoke else (12, 8192 if large else 2048)
stack = [torch.randn(model_width, model_width, device=machine) / model_width**0.5 for _ in range(depth)]
model_bytes = sum(weights.nbytes for weights in stack)


def write_token(layers, x):
    """One row [1, width] through every layer: each weight is read once."""
    for weights in layers:
        x = torch.nn.functional.linear(x, weights)
    return x


# %%
token = torch.randn(1, model_width, device=machine)
timing = measure.measure_one(lambda: write_token(stack, token), device=machine, repeats=repeats)
at_most, measured = roof.bytes_per_s / model_bytes, 1 / timing.median_s
print(f"a model of {format_bytes(model_bytes)}: at most {at_most:.1f} tokens/s, measured {measured:.1f}")
print(f"{measured / at_most:.0%} of the ceiling; weights arrive at {format_rate(model_bytes * measured, 'B/s')}")

# %% [markdown]
# Your second prediction was about 20 GB. The formula is bandwidth over bytes. The machine's line is the rate of
# the stack above, scaled to 20 GB: the stack is smaller, but it comes from memory all the same.

# %%
scaled = model_bytes * measured / (20 * GB)
check.reveal("roofline.tokens", formula=roof.bytes_per_s / (20 * GB), machine=scaled, unit="tokens/s")

# %% [markdown]
# ### Half the bytes, half the time?
#
# In `bfloat16` the same stack has half the bytes. If memory decides, a token takes half as long. Both run in
# turn, in one process, so that the ratio can be trusted.

# %%
half = [weights.bfloat16() for weights in stack]
pair = measure.measure_pair(
    lambda: write_token(stack, token), lambda: write_token(half, token.bfloat16()), device=machine, repeats=repeats + 2
)
print(f"fp32 takes {pair.ratio:.2f} times as long as bf16 ({pair.ratio_q1:.2f} to {pair.ratio_q3:.2f}); by bytes: 2")

# %% [markdown]
# A ratio near 2 means that memory decides and the library keeps up with it. The nearer to 1, or below, the more of
# the saved time is spent elsewhere: on a CPU most often on unpacking 16-bit numbers. Fewer bytes are a permission to
# be faster. Somebody still has to write the code that uses it; the lessons from [[formats]] to [[kernels]] do.

# %% [markdown]
# ### Other machines, as recorded
#
# `python3 -m course measure roofline` writes what you saw here into a file, with machine, driver, versions and
# date. These are the machines that somebody has recorded so far. Where no record is, this course prints no
# number.


# %%
def line(name, fp32, bf16, when):
    """One machine in a line: bandwidth, both products, and the batch at which a bf16 layer reaches the ridge."""
    batch = measure.ridge_batch(bf16.flops_per_s, bf16.bytes_per_s, weight_bits=16)
    rates = [format_rate(fp32.bytes_per_s, "B/s"), *(format_rate(r.flops_per_s, "FLOP/s") for r in (fp32, bf16))]
    return f"{name[:24]:24} {rates[0]:>10} {rates[1]:>15} {rates[2]:>15} {batch:5.0f} people  {when}"


# %%
print(f"{'':24} {'memory':>10} {'fp32':>15} {'bf16':>15}   ridge")
print(line("this machine", roofs["float32"], roofs["bfloat16"], "now"))
records = measure.recorded("roofline")
for record in records.values():
    name = str(record.machine["name"])
    print(line(name, record.roofline("float32"), record.roofline("bfloat16"), f"recorded {record.date}"))
if "nvidia-h200" not in records:
    print("NVIDIA H200              not measured yet")

# %% [markdown]
# ## Play
#
# One layer under your machine's own roof. Move the batch, the width and the bits of a weight, and watch the
# diamond. It shows the best that is possible, by the formula; 16 bits stay for the activations.
#
# 1. Start at batch 1 and double it. How far do you get before a step takes longer?
# 2. Set 4 bits at batch 1, then at batch 256. Where do fewer bits save time, and where do they save only memory?
# 3. Make the layer narrow (128) at a large batch. Why does the diamond stop short of where a wide one stands?

# %%
from helpers.plots.widgets import Choice, Slider, explore


def one_layer(batch, width, bits):
    """A layer under this machine's 16-bit roof."""
    roof = roofs["bfloat16"]
    return plots.kernel(batch, width, bits, roof.bytes_per_s, roof.flops_per_s)


explore(
    one_layer,
    batch=Slider(1, 1024, value=1, label="batch (people)", log=True),
    width=Slider(128, 16384, value=4096, label="width of the layer", log=True),
    bits=Choice([16, 8, 4], label="bits per weight"),
)

# %% [markdown]
# ## Exercises
#
# Stuck? `check.tokens_per_s.hint()` gives one hint a call, and `check.tokens_per_s.solution()` comes last; so for
# each of them.
#
# ### 1. Warm-up: the intensity of a matrix times a vector (4 minutes, difficulty 1)
#
# One person, one layer with `inputs` × `outputs` weights, every number of `bytes_each` bytes. Return FLOP per
# byte.


# %% tags=["exercise:matvec_intensity", "points:1"]
def intensity_of_matvec(inputs, outputs, bytes_each):
    """FLOP per byte, reading weights and input once and writing the output once."""
    # BEGIN SOLUTION
    flops = 2 * inputs * outputs
    moved = bytes_each * (inputs * outputs + inputs + outputs)
    return flops / moved
    # END SOLUTION


# %% tags=["check:matvec_intensity"]
check.matvec_intensity(intensity_of_matvec)

# %% [markdown]
# ### 2. Tokens per second (5 minutes, difficulty 1)
#
# A dense model has `parameters` weights of `bits` bits each; memory delivers `bytes_per_s`. How many tokens a
# second can it write for one person, at most?


# %% tags=["exercise:tokens_per_s", "points:2"]
def most_tokens_per_s(parameters, bits, bytes_per_s):
    """The ceiling that memory sets, in tokens per second."""
    # BEGIN SOLUTION
    model_bytes = parameters * bits / 8
    return bytes_per_s / model_bytes
    # END SOLUTION


# %% tags=["check:tokens_per_s"]
check.tokens_per_s(most_tokens_per_s)

# %% [markdown]
# ### 3. The ridge batch (8 minutes, difficulty 2)
#
# How many people must share one reading of the weights before arithmetic decides and not memory? Count the
# weights only; in a wide layer they are nearly all of the bytes. A weight has `bits` bits.


# %% tags=["exercise:ridge_batch", "points:2"]
def people_at_the_ridge(flops_per_s, bytes_per_s, bits):
    """The batch at which a wide layer reaches the ridge; not rounded."""
    # BEGIN SOLUTION
    ridge = flops_per_s / bytes_per_s
    flops_per_byte_and_person = 2 / (bits / 8)
    return ridge / flops_per_byte_and_person
    # END SOLUTION


# %% tags=["check:ridge_batch"]
check.ridge_batch(people_at_the_ridge)

# %% [markdown]
# ### 4. Stretch: the fastest chip (10 minutes, difficulty 3)
#
# `chips` is a dictionary: name → (FLOP/s, bytes/s). The work has `flops` operations and moves `moved` bytes.
# Return the name of the chip that finishes first, by the roofline. A chip computes while it reads.


# %% tags=["exercise:fastest", "points:3"]
def fastest_chip(chips, flops, moved):
    """The name of the chip with the least time."""

    # BEGIN SOLUTION
    def least_time(name):
        flops_per_s, bytes_per_s = chips[name]
        return max(flops / flops_per_s, moved / bytes_per_s)

    return min(chips, key=least_time)
    # END SOLUTION


# %% tags=["check:fastest"]
check.fastest(fastest_chip)

# %% [markdown]
# ### 5. In words (8 minutes, difficulty 2)
#
# A provider serves a hundred people from one chip, almost as fast for each of them as for one person alone. At
# home the same model on the same chip, with one person in front of it, gains nothing from this. Explain why in
# four sentences, to somebody who has never heard of a roofline. Use the words *read*, *weights* and *wait*.

# %% [markdown] tags=["answer:batching", "points:2"]
# *Your answer here.*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# - To write one token, every weight is read from memory once; that takes longer than the arithmetic with it.
# - Weights that were read serve everybody in the batch: one reading, a hundred tokens.
# - The processor waits for memory at batch 1, so the hundred tokens fill time that was idle.
# - One person's next token depends on the token before it, so a single conversation has nothing to put beside
#   itself.
# - The gain ends at the ridge, and each person still brings a key/value cache of their own that nobody shares
#   (lesson [[attention]]).
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A machine has two ceilings, bytes per second and operations per second, and intensity says which one a piece of
#    work meets.
# 2. A token for one person reads every weight and does two operations with it, so memory decides.
# 3. The most tokens per second for one person are bandwidth divided by the bytes of the weights that are read.
# 4. A batch shares one reading, so it is nearly free until the ridge.
# 5. A measurement without the work beside it, a warm-up and a spread is an anecdote; an array that fits into a
#    cache measures the cache.
#
# | idea | formula | cost |
# | --- | --- | --- |
# | work of a layer | 2 · batch · inputs · outputs | FLOP |
# | intensity at batch b, weights of w bits | 16 · b / w, in a wide layer | FLOP per byte |
# | ridge | FLOP/s over bytes/s | FLOP per byte |
# | least time | max(FLOP / FLOP/s, bytes / bytes/s) | seconds |
# | tokens per second, one person | bytes/s over bytes of the weights read | tokens/s |

# %% [markdown]
# ## In the real models
#
# Large open-weight models are *mixtures of experts*: they own many weights and read few of them for a token. The
# table takes the published counts, 8 bits per weight for all, and two bandwidths: the one you measured, and the one on
# the datasheet of an H200, a chip for data centres.

# %%
h200 = next(row for row in table("hardware") if row["chip"] == "H200")["memory_tb_s"][0] * 1e12
print(f"{'at 8 bits per weight':20} {'owns':>9} {'reads':>9} {'here':>10} {'one H200':>10}   (tokens/s at most)")
for row in table("models"):
    if "active_billion" in row:
        own, read = row["total_billion"] * GB, row["active_billion"] * GB
        here, there = bandwidth / read, h200 / read
        print(f"{row['model']:20} {format_bytes(own):>9} {format_bytes(read):>9} {here:10.2f} {there:10.0f}")

# %% [markdown]
# The surprise is in the columns *owns* and *reads*. What a model owns decides how much memory you must have; what it
# reads decides how fast it writes. A dense model pays for both with every weight. (Counts:
# `helpers/facts/models.toml`, each with source and date. Most of these models fit neither your memory nor one
# H200's, where several chips share the reading; the table says what the reading alone would allow.)
#
# ### What did the export rules cut?
#
# The article says that the ban on fast chips made the labs efficient. A roofline turns this into a question with
# an answer: which of a chip's speeds was cut? Below are two chips made for export, and Huawei's own, as a share
# of an H100. Lines are ranges where sources disagree.

# %%
show(plots.chips(row for row in table("hardware") if row["chip"] not in ("H200", "B200")))

# %%
chips = {row["chip"]: (row["tflops"][0] * 1e12, row["memory_tb_s"][0] * 1e12) for row in table("hardware")}
roof_of = {name: measure.Roofline(name, "16 bit", moves, computes) for name, (computes, moves) in chips.items()}
for task, people in (("one token, one person", 1), ("a prompt of 4096 tokens", 4096)):
    work = measure.matmul_work(people, 8192, 8192, weight_bits=16)
    ratio = roof_of["H800"].seconds(work) / roof_of["H20"].seconds(work)
    print(f"{task}: the H20 is {ratio:.2f} times as fast as the H800 (by datasheets, low ends)")

# %% [markdown]
# So the rules of 2022 left the H800 its 16-bit arithmetic and its memory and cut the link between chips; those of 2023
# left the H20 its memory and its link and cut the arithmetic. Memory bandwidth, which decides how fast a token is
# written, was cut in neither. A trick that reads fewer bytes pays on every chip in the figure. A trick that saves
# arithmetic pays most on the H20, and one that saves messages between chips pays most on the H800.
#
# This is evidence and not yet a verdict on the claim `bans-made-efficiency`: it says where necessity pushed, not
# what the labs did about it. Lesson [[kernels]] judges, with every technique on every chip. (Figures:
# `helpers/facts/hardware.toml`, as of 23 November 2026.)

# %% [markdown]
# ## Roads not taken
#
# - **All cores at once.** Several threads read faster than one, until memory is saturated. On a machine that
#   other programs share, the slowest thread decides, and the result says more about them. Close everything and
#   try `torch.set_num_threads`.
# - **Caches as roofs of their own.** Each step of the ladder could have its own slanted line; kernels of lesson
#   16 are built to stay under those.
# - **Latency.** A model cut into a thousand small calls meets a third ceiling, the cost of a call: the left end
#   of your ladder.
# - **Energy.** A number from memory costs many times the energy of multiplying it (Horowitz, ISSCC 2014). Lesson
#   [[training_bill]] counts joules.
#
# **Next: [[claims]].** You have a way to measure. Now read the article as an engineer does, and find
# the sentences in it that can be measured at all.
