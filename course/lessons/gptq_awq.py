# %% [markdown]
# # GPTQ and AWQ
#
# **Can a better choice of rounding buy back what the bits took?**
#
# 60 minutes, without the stretch exercise · needs: lesson [[formats]] · runs on any laptop, without a
# network
#
# The nearest value is not always the best one. You will see it lose with two weights, find out what the rest of a
# matrix can do about one rounded column, and build GPTQ and AWQ from that. Both look at a text. So in the end you round
# whole models on several texts, and meet one that makes a model worse than no text at all. Here is the whole idea.
#
# ```text
#     a text --> the model --> what each layer reads: x --> H = mean of x^T x     which errors hurt
#                                                            |
#     weights --+-- each to its nearest value ---------------|-----------------> codes    no text at all
#               +-- GPTQ: round a column, the rest makes up -+-----------------> codes    other codes, one grid
#               +-- AWQ:  stretch columns, nearest, shrink --+-----------------> codes    nearest, another grid
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo:tiny-qwen3"  # or a Hugging Face id, or a folder, of a model that has read Python
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import gptq_awq as check
from helpers.plots import show
from helpers.plots.quant import rounding as draw

machine = begin(scale, checkpoint, device, seed)
torch.set_num_threads(1)  # a second thread would measure who else uses this machine
smoke = scale == "smoke"

# %% [markdown]
# ## By hand
#
# One row of a layer has two weights, 0.4 and 0.4. The grid has whole numbers only. A text says how the two inputs
# behave: `H` is the mean of xᵀx over its tokens. Here both inputs rise and fall together, as columns of hidden
# states often do. If the weights are off by e, the answer x·e is off by **e H e**, in the mean of its square.

# %%
weight = torch.tensor([0.4, 0.4])
hessian = torch.tensor([[1.0, 0.9], [0.9, 1.0]])


def off(codes) -> float:
    error = codes - weight
    return (error @ hessian @ error).item()


nearest = weight.round()
print(
    f"the nearest codes {nearest.int().tolist()}: each weight is off by 0.4, the answer's square by {off(nearest):.3f}"
)

# %% [markdown]
# Both weights went down, and since the inputs rise together, both errors add up. Round the first one as before. Then
# ask: which value of the **second** would now be best, if it could be any number? Set the derivative of e H e to zero:
# it moves by H₁₂ / H₂₂ times what the first one lost.

# %%
lost = weight[0] - nearest[0]
moved = weight[1] + hessian[0, 1] / hessian[1, 1] * lost
compensated = torch.stack([nearest[0], moved.round()])
print(f"the second weight moves from 0.40 to {moved:.2f} and is rounded to {moved.round():.0f}")
print(f"codes {compensated.int().tolist()}: the answer's square is off by {off(compensated):.3f}")

# %%
codes = {"nearest": nearest.int().tolist(), "GPTQ": compensated.int().tolist()}
finding = f"The second weight takes the farther code: {off(compensated):.3f} instead of {off(nearest):.3f}"
show(draw.two_columns(weight, hessian, codes, finding))

# %% [markdown]
# The dotted curves join points that are equally far off. They are long and thin: along one diagonal the text hardly
# notices an error, along the other it notices much. The nearest point by eye is not the nearest in this landscape.
# That is all of GPTQ, with two columns.

# %% [markdown]
# ## Predict
#
# A model of this project reads 48 pairs of invented words and is asked for eight of them. What it gets right:

# %%
from transformers import AutoTokenizer

from helpers.checkpoints import load, resolve
from helpers.data import tasks
from helpers.zoo.evidence.tasks import examples

folder = resolve("zoo:tiny-qwen3_5")
finder = load(folder, device=machine)
words = AutoTokenizer.from_pretrained(folder).backend_tokenizer
asked = examples(lambda rng: tasks.recall(rng, 48), 4 if smoke else 32)
print(f"{tasks.share_right(finder, words, asked):.0%} of {sum(len(e.asked) for e in asked)} questions, not rounded")

# %% [markdown]
# Now every matrix in its blocks gets codes of **two bits**, four values for each group of 32 weights. How many percent
# does it get right (a) rounded to nearest, (b) with GPTQ, calibrated on 2,048 tokens of this task, (c) with GPTQ,
# calibrated on as many tokens of Python's source, which this model has never read?

# %% tags=["predict:all"]
nearest_percent = ...
gptq_percent = ...
python_percent = ...
# BEGIN SOLUTION
nearest_percent = 50
gptq_percent = 80
python_percent = 60
# END SOLUTION
check.predict("gptq_awq.nearest", nearest_percent, unit="%")
check.predict("gptq_awq.gptq", gptq_percent, unit="%")
check.predict("gptq_awq.python", python_percent, unit="%")

# %% [markdown]
# ## Build
#
# ### 1. What a layer reads
#
# Take a small model that has read Python, and one of its matrices. Let it read 2,048 tokens of Python, and catch what
# arrives at that matrix.

# %%
from helpers.data import python_corpus

corpus = python_corpus()
files = list(corpus.train.values())
source = "\n".join(files[n] for n in torch.randperm(len(files))[:10])[:40000]
folder = resolve(checkpoint, download=True)
reader = load(folder, device=machine)
pieces = AutoTokenizer.from_pretrained(folder).backend_tokenizer


def rows_of(tokenizer, text: str):
    """2,048 tokens of a text in rows of 128, the text again from its start where it is too short."""
    ids = tokenizer.encode(text).ids
    count = 4 if smoke else 16
    return torch.tensor((ids * (count * 128 // len(ids) + 1))[: count * 128], device=machine).view(count, 128)


# %%
from helpers.hooks import hooked
from helpers.quant.methods.input_statistics import Inputs

python_rows = rows_of(pieces, source)
layer, seen = reader.blocks[2].mlp.up, []
with hooked([layer.register_forward_pre_hook(lambda _layer, given: seen.append(given[0]))]), torch.no_grad():
    reader(python_rows)
x = seen[0].flatten(0, 1)
hessian = x.T @ x / len(x)
strength = torch.linalg.eigvalsh(hessian).flip(0).cumsum(0) / hessian.trace()
print(f"{len(x)} tokens, {x.shape[1]} columns; the strongest 16 directions of {len(hessian)} ", end="")
print(f"carry {strength[15]:.0%}, and {16 / len(hessian):.0%} if all were alike")
print("the helper agrees:", torch.allclose(Inputs.of(x).hessian, hessian, atol=1e-5))

# %% [markdown]
# So the columns depend on each other: much of what arrives lies in few directions. An error in a direction that hardly
# occurs costs hardly anything. Rounding to nearest does not know which directions those are, and H does. (It is called
# a Hessian because 2 H is the second derivative of the squared error.)

# %% [markdown]
# ### 2. One column, and what the rest can do
#
# Round column 0 of this matrix and leave all others free. Their best answer is a system of equations, solved here as it
# stands. GPTQ reads the same from row 0 of a triangular matrix U with UᵀU = H⁻¹, a **Cholesky factor**.

# %%
from helpers.quant.formats.integers import from_codes, grid_of, round_to

matrix = layer.weight.detach()
grid = grid_of(matrix, bits=3, group=32, symmetric=False)
rounded = from_codes(round_to(matrix, grid), grid)
lost = matrix[:, 0] - rounded[:, 0]
solved = lost[:, None] * torch.linalg.solve(hessian[1:, 1:], hessian[1:, 0])
upper = torch.linalg.cholesky(torch.linalg.inv(hessian.double()), upper=True).float()
read_off = -(lost / upper[0, 0])[:, None] * upper[0, 1:]
print(f"{solved.shape[1]} columns move by up to {solved.abs().max():.4f}; ", end="")
print(f"both ways agree to {(solved - read_off).abs().max():.0e}")

# %% [markdown]
# The factor pays at the next column. Row 1 of U holds the answer to an error in column 1 **when column 0 can move no
# more**, row 2 when 0 and 1 are fixed, and so on: one factorisation instead of a system at every step.

# %% [markdown]
# ### 3. GPTQ
#
# Column by column: take the nearest code of what the column is *by now*, and pass the error on. A little of the mean
# diagonal is added to H first, the **damping**: directions that the text never showed would else count as free.


# %%
def factor(hessian, damping=0.01):
    damped = hessian.double() + damping * hessian.diagonal().mean() * torch.eye(len(hessian), device=hessian.device)
    return torch.linalg.cholesky(torch.linalg.inv(damped), upper=True).float()


def in_turn(matrix, grid, hessian, damping=0.01):
    upper, left, made = factor(hessian, damping), matrix.clone(), torch.zeros_like(matrix)
    spread = matrix.shape[1] // grid.scale.shape[1]  # columns of a group
    scale, zero = (part.repeat_interleave(spread, dim=1) for part in (grid.scale, grid.zero))
    for j in range(matrix.shape[1]):
        code = ((left[:, j] / scale[:, j]).round() + zero[:, j]).clamp(grid.low, grid.high)
        made[:, j] = (code - zero[:, j]) * scale[:, j]
        error = (left[:, j] - made[:, j]) / upper[j, j]
        left[:, j:] -= error[:, None] * upper[j, j:]
    return made


# %%
def error_of(made, hessian=hessian):
    """How far the answers are off, as a share of rounding to nearest: squares, all rows together."""
    squares = [((error @ hessian) * error).sum() for error in (made - matrix, rounded - matrix)]
    return (squares[0] / squares[1]).item()


passed_on = in_turn(matrix, grid, hessian)
print(f"{(passed_on != rounded).float().mean():.0%} of the codes are not the nearest ones")
print(f"the answers' error is {error_of(passed_on):.2f} of rounding's, ", end="")
print(f"the weights' own {((passed_on - matrix).norm() / (rounded - matrix).norm()) ** 2:.2f}")

# %% [markdown]
# The weights are farther from where they were, and the answers nearer. Both matrices have the same size and the same
# grid: nothing is paid for when the model runs.
#
# ### 4. Order, damping, blocks
#
# The first columns have everybody after them to make up for them, the last has nobody. So it helps to begin with the
# columns that matter most, those with the largest diagonal of H (**act order**). And how much damping?

# %%
from helpers.quant.formats.integers import Grid

scales, zeros = (part.repeat_interleave(32, dim=1) for part in (grid.scale, grid.zero))  # one for each column


def ordered(order):
    own = Grid(scales[:, order], zeros[:, order], grid.low, grid.high)
    return in_turn(matrix[:, order], own, hessian[order][:, order])[:, order.argsort()]


largest = hessian.diagonal().argsort(descending=True)
orders = {"as they stand": torch.arange(len(hessian)), "largest first": largest, "smallest first": largest.flip(0)}
for name, order in orders.items():
    print(f"{name:>14}: {error_of(ordered(order)):.3f} of rounding's error")

# %%
for damping in (1e-4, 0.01, 1.0, 100.0):
    print(f"damping {damping:<6g}: {error_of(in_turn(matrix, grid, hessian, damping)):.3f} of rounding's error")

# %% [markdown]
# With much damping all columns look independent, and GPTQ becomes rounding to nearest. A little of it costs nothing
# here, and keeps the inverse in bounds. One more idea belongs to the published method and
# changes no code: errors are passed on within **blocks** of 128 columns, and once per block to all the rest, because
# touching a large matrix for each column would wait for memory.
#
# `helpers.quant.methods.gptq` has all of it, and one guard: being greedy, the method can lose in a row, so each row
# keeps the better of its codes and the nearest ones.

# %%
from helpers.quant.methods.gptq import compensate, gptq

inputs = Inputs.of(x)
for block in (1, 32, 128):
    made = from_codes(compensate(matrix, grid, hessian, block=block), grid)
    print(f"blocks of {block:3}: {(made != passed_on).float().mean():.2%} of the values differ from yours")
best = from_codes(gptq(matrix, grid, inputs, act_order=True), grid)
print(f"largest first, each row the better of two: {error_of(best):.3f} of rounding's error")

# %% [markdown]
# Is it stored as any other four-bit matrix? Pack these codes into bytes, two per byte, beside those of rounding to
# nearest.

# %%
from helpers.quant.formats.named import Encoded, encode
from helpers.quant.formats.packing import pack_pairs

four = grid_of(matrix, bits=4, group=128, symmetric=False, scale_dtype=torch.bfloat16)
chosen = gptq(matrix, four, inputs)
parts = {"codes": pack_pairs(chosen), "scale": four.scale, "zero": pack_pairs(four.zero.int())}
stored, plain = Encoded("int4-affine", tuple(matrix.shape), parts), encode(matrix, "int4-affine")
print(f"{stored.bytes():,} bytes with GPTQ's codes, {plain.bytes():,} with the nearest; ", end="")
print("read back the same:", torch.equal(stored.decode(), from_codes(chosen, four)))

# %% [markdown]
# ### 5. AWQ
#
# The other method rounds to nearest, on another grid. A column with large inputs does more harm when it is off.
# **Stretch** it by s before rounding and shrink it after: its error becomes about s times smaller, as long as the
# largest number of its group stays what it was. How much? s = (mean |x|)^alpha, and alpha is searched from 0, which is
# rounding to nearest, to 1.

# %%
from functools import partial

three_bits = partial(grid_of, bits=3, group=32, symmetric=False)


def stretched(matrix, s):
    own = three_bits(matrix * s)
    return from_codes(round_to(matrix * s, own), own) / s


def errors_by_alpha(matrix, x):
    size, hessian, errors = x.abs().mean(dim=0), x.T @ x / len(x), []
    for alpha in torch.linspace(0, 1, 21):
        s = size**alpha
        error = stretched(matrix, s / (s.max() * s.min()).sqrt()) - matrix
        errors.append(((error @ hessian) * error).sum().item())
    return errors


# %% [markdown]
# Large models have what this small one lacks: a few columns of inputs about a hundred times larger than the rest
# (SmoothQuant's authors report it, section 3). Put such columns into these inputs by hand, and let GPTQ run beside.

# %%
outliers = {"as it was trained": [], "one column times 30": [5], "three columns times 100": [5, 40, 77]}
alphas, fed = {}, {}
for times, (name, columns) in zip((1, 30, 100), outliers.items(), strict=True):
    fed[name] = x.clone()
    fed[name][:, columns] *= times
    alphas[name] = errors_by_alpha(matrix, fed[name])
    made, own = from_codes(gptq(matrix, grid, Inputs.of(fed[name])), grid), fed[name].T @ fed[name] / len(x)
    print(f"{name:>23}: AWQ leaves {min(alphas[name]) / alphas[name][0]:.2f} of rounding's error, ", end="")
    print(f"GPTQ {error_of(made, own):.2f}")

# %%
finding = "What the best stretch leaves of rounding's error: " + ", ".join(
    f"{min(errors) / errors[0]:.2f}" for errors in alphas.values()
)
show(draw.error_by_alpha(alphas, finding))

# %% [markdown]
# Without outliers there is next to nothing to gain: all columns are fed about alike, and the curve is nearly flat. With
# them most of the error comes from a few columns of weights, and stretching saves those. The gain belongs to the model
# as much as to the method, and with strong outliers the simpler method is the better one here.

# %% [markdown]
# ### 6. Where the scale goes
#
# Does the model now have to divide its inputs by s? No: a norm stands before these layers and multiplies each column
# anyway. Give its weight 1 / s. Then the matrices lie on the plain grid, stretched, and nothing new is stored.

# %%
import copy

from helpers.quant.methods.awq import fold, search

block = copy.deepcopy(reader.blocks[2])
layers = [block.mlp.gate, block.mlp.up]
found = search([layer.weight.detach() for layer in layers], three_bits, Inputs.of(fed["one column times 30"]))
hidden = torch.randn(1, 9, len(hessian), device=machine)
with torch.no_grad():
    before = block.mlp(block.mlp_norm(hidden))
    fold(block.mlp_norm, layers, found.scale)
    after = block.mlp(block.mlp_norm(hidden))
print(f"alpha {found.alpha:.2f}, columns times {found.scale.min():.2f} to {found.scale.max():.2f}; ", end="")
print(f"answers differ by {(after - before).abs().max():.0e}")

# %% [markdown]
# ### 7. SmoothQuant
#
# The same trick serves another end. If the **inputs** are to have 8 bits too, so that whole numbers multiply whole
# numbers, one outlier takes the whole range of a token, and the other columns share a few steps. Divide the columns of
# x by s, multiply the weights by s, and share the difficulty: s = max|x|^½ / max|w|^½. To see it, make an outlier
# that changes no answer: a column of x times 30, and the weights that meet it over 30.

# %%
from helpers.compare import relative_rms
from helpers.quant.methods.smooth import int8_product, smoothing

outlier = torch.where(torch.arange(len(hessian), device=machine) == 5, 30.0, 1.0)
spiky, thin = x * outlier, matrix / outlier
s = smoothing(spiky.abs().amax(dim=0), [thin])
for name, pair in {"trained": (x, matrix), "outlier": (spiky, thin), "smoothed": (spiky / s, thin * s)}.items():
    print(f"{name:>8}: 8-bit inputs and weights are off by {relative_rms(int8_product(*pair), x @ matrix.T):.2%}")

# %% [markdown]
# All three rows compute the same product. The second lost to one column what the third got back.

# %% [markdown]
# ### 8. A whole model
#
# Layer by layer, in the order of their work: a layer is calibrated on what the **rounded** layers before it make of the
# text, so that it can make up for them too. `calibrate` lets the model read once, and rounds each block on what has
# arrived there, before it passes anything on. (Off by: the error's squares over those of the right answers.)

# %%
from helpers.quant.methods.calibrate import calibrate, to_nearest, with_awq, with_gptq


def quantised(model, rows, method, bits):
    """A copy of the model, rounded, and how far its layers are off on that text, as a share of rounding to nearest."""
    made = copy.deepcopy(model)
    report = calibrate(made, rows, method, partial(grid_of, bits=bits, group=32, symmetric=False))
    return made, sum(row.error for row in report) / sum(row.nearest for row in report)


report = calibrate(copy.deepcopy(reader), python_rows, with_gptq, three_bits)
for row in report[:7]:
    print(f"{row.name:26} nearest is off by {row.nearest:.2%}, GPTQ by {row.error:.2%}")

# %% [markdown]
# ## Check
#
# ### Against brute force
#
# GPTQ is greedy, so say exactly what it equals. For each column in turn: try **every** code, let all later columns take
# whatever real values are best (a system of equations each time), keep the code with the least error. A small problem,
# 200 rows of four columns with four values each:


# %%
def by_force(matrix, grid, hessian):
    made = torch.zeros_like(matrix)
    for j in range(matrix.shape[1]):
        errors = []
        for code in range(grid.low, grid.high + 1):
            made[:, j] = ((code - grid.zero) * grid.scale)[:, 0]
            fixed = (made - matrix)[:, : j + 1]
            free = -torch.linalg.solve(hessian[j + 1 :, j + 1 :], hessian[j + 1 :, : j + 1] @ fixed.T).T
            error = torch.cat([fixed, free], dim=1)
            errors.append(((error @ hessian) * error).sum(dim=1))
        best = torch.stack(errors).argmin(dim=0) + grid.low
        made[:, j] = (best - grid.zero[:, 0]) * grid.scale[:, 0]
    return made


small = torch.randn(200, 4)
small_grid = grid_of(small, bits=2, symmetric=False)
mixed = torch.randn(64, 4) @ torch.randn(4, 4)
small_hessian = mixed.T @ mixed / 64
greedy = in_turn(small, small_grid, small_hessian, damping=0)
same = (greedy - by_force(small, small_grid, small_hessian)).abs().max() < 1e-5
print("your GPTQ makes the choices of brute force in all 200 rows:", bool(same))

# %% [markdown]
# And the best of *all* 256 choices of four codes, with nothing free? That is what a greedy method may miss.

# %%
import itertools

choices = torch.tensor(list(itertools.product(range(4), repeat=4)))
values = (choices - small_grid.zero[:, None]) * small_grid.scale[:, None]  # rows, 256, columns
errors = values - small[:, None]
least = ((errors @ small_hessian) * errors).sum(dim=-1).min(dim=1).values
plain = from_codes(round_to(small, small_grid), small_grid)
for name, made in {"nearest": plain, "GPTQ": greedy}.items():
    own = (((made - small) @ small_hessian) * (made - small)).sum(dim=1)
    print(f"{name:>8}: the best of all choices in {(own < least + 1e-5).sum()} of 200 rows; ", end="")
    print(f"error {own.mean() / least.mean():.2f} times the least")

# %% [markdown]
# ### Against the helper, and a planted mistake
#
# The helper at awkward widths. And beside it a mistake that is easily made: the error is **not divided** by the
# diagonal of U before it is passed on. Such a loop runs, and its answers look like rounded weights.


# %%
def undivided(matrix, grid, hessian):
    upper, left, made = factor(hessian, 0.01), matrix.clone(), torch.zeros_like(matrix)
    for j in range(matrix.shape[1]):
        code = ((left[:, j] / grid.scale[:, 0]).round() + grid.zero[:, 0]).clamp(grid.low, grid.high)
        made[:, j] = (code - grid.zero[:, 0]) * grid.scale[:, 0]
        left[:, j:] -= (left[:, j] - made[:, j])[:, None] * upper[j, j:]
    return made


for width in (1, 31, 33):
    some, given = torch.randn(50, width), torch.randn(200, width) @ torch.randn(width, width)
    own, h = grid_of(some, bits=3, symmetric=False), given.T @ given / 200
    helper = from_codes(compensate(some, own, h), own)
    size = (given @ (helper - some).T).norm()
    for name, made in {"yours": in_turn(some, own, h), "undivided": undivided(some, own, h)}.items():
        print(f"{width:2} columns, {name:>9}: {(made != helper).float().mean():5.1%} of the values differ, ", end="")
        print(f"the answers' error is {(given @ (made - some).T).norm() / size:.2f} of the helper's")

# %% [markdown]
# A single column has nobody to pass anything on to: there the mistake cannot be seen. With more of them the codes
# differ, and the answers' error grows, but by no more than a poor text or an unlucky grid might explain. An exact
# comparison leaves no doubt.

# %% [markdown]
# ## Measure
#
# ### Score by bits
#
# Every matrix in the blocks, groups of 32, a scale of 16 bits and a zero for each group; embedding, head and norms
# stay. First the model that answers questions, calibrated on 2,048 tokens of its task (other examples than those
# asked).

# %%
import time

told = "".join("<|endoftext|>" + e.text for e in examples(lambda rng: tasks.recall(rng, 24), 60, "calibration"))
word_rows = rows_of(words, told)
methods = {"nearest": to_nearest, "GPTQ": with_gptq, "AWQ": with_awq}
all_bits = (2, 4) if smoke else (2, 3, 4, 8)
whole = tasks.share_right(finder, words, asked)
right, began = {name: {} for name in methods}, time.perf_counter()
for name, bits in itertools.product(methods, all_bits):
    right[name][bits] = tasks.share_right(quantised(finder, word_rows, methods[name], bits)[0], words, asked)
print(f"{len(methods) * len(all_bits)} models rounded and asked in {time.perf_counter() - began:.0f} s")

# %% [markdown]
# How much comes back of what the bits took?

# %%
count = sum(len(e.asked) for e in asked)
print(f"{count} questions: a share near {whole:.0%} is known to {(whole * (1 - whole) / count) ** 0.5:.1%}, ", end="")
print(f"one near a half to {0.5 / count**0.5:.1%} (one standard error)")
for bits in all_bits:
    print(f"{bits} bits, {bits + (16 + bits) / 32:.2f} with scale and zero: ", end="")
    print(", ".join(f"{name} {right[name][bits]:.0%}" for name in methods))
gained = right["GPTQ"][2] - right["nearest"][2]
finding = f"GPTQ against rounding to nearest: {100 * gained:+.0f} points at 2 bits, "
finding += f"{100 * (right['GPTQ'][4] - right['nearest'][4]):+.0f} at 4"
show(draw.score_by_bits(right, whole, finding, "questions answered right", percent=True))

# %%
check.reveal("gptq_awq.nearest", machine=100 * right["nearest"][2], unit="%")
check.reveal("gptq_awq.gptq", machine=100 * right["GPTQ"][2], unit="%")

# %% [markdown]
# Then the model of Python, in bits per byte of files that it never read (less is better).

# %%
from helpers.training.train import bits_per_byte

unseen = [text[:3000] for text in corpus.held_out.values() if text][: 3 if smoke else 12]
whole_bits = bits_per_byte(reader, pieces, unseen)
per_byte = {name: {} for name in methods}
for name, bits in itertools.product(methods, all_bits[: 1 if smoke else None]):
    made, _ = quantised(reader, python_rows, methods[name], bits)
    per_byte[name][bits] = bits_per_byte(made, pieces, unseen)
worse = {name: scores[2] - whole_bits for name, scores in per_byte.items()}
finding = f"Two bits cost {worse['nearest']:.3f} bits per byte rounded to nearest, {worse['GPTQ']:.3f} with GPTQ"
show(draw.score_by_bits(per_byte, whole_bits, finding, "bits per byte of unseen Python"))

# %% [markdown]
# The pattern is the same in both: with four bits and more there is little to gain, because little was lost. Below, the
# choice of the code is worth a part of a bit. AWQ is near to rounding to nearest here, as its search foretold for a
# layer without outliers. Of the first model's scores, take one or two points for nothing: the standard error above says
# how far other questions would move them.
#
# ### Score by text
#
# So far each model was calibrated on what it is used for. Now other texts, at two bits: numbers spelled in eight
# languages, Python's source for the model that speaks in invented words, and tokens drawn **at random**.

# %%
from helpers.data import fact_line, number_words

spoken = ["de", "fr", "pl", "ru", "ar", "ja", "ko", "tr"]
lines = [fact_line(fact) for fact in number_words(range(1, 200), spoken)]  # de|42=zweiundvierzig
languages = "\n".join(lines[n] for n in torch.randperm(len(lines)))


def noise(model):
    vocabulary = len(model.embedding.weight)
    return torch.randint(vocabulary, python_rows.shape, generator=torch.Generator().manual_seed(seed)).to(machine)


texts = {"its task": word_rows, "Python": rows_of(words, source), "languages": rows_of(words, languages)}
texts["random"] = noise(finder)

# %% [markdown]
# Each line has two numbers: how far the layers are off on the text that they were **calibrated** on, as a share of
# rounding to nearest, and what the model then gets right.

# %%
by_text = {"GPTQ": {}} if smoke else {"GPTQ": {}, "AWQ": {}}
for name, text in itertools.product(by_text, texts):
    made, share = quantised(finder, texts[text], methods[name], 2)
    by_text[name][text] = tasks.share_right(made, words, asked)
    print(f"{name:4} on {text:9}: its layers' error {share:.2f} of nearest's, {by_text[name][text]:.0%} answered right")

# %%
worst = min(by_text["GPTQ"], key=by_text["GPTQ"].get)
finding = f"GPTQ calibrated on {worst} answers {by_text['GPTQ'][worst]:.0%}; with no text at all it is "
finding += f"{right['nearest'][2]:.0%}"
show(draw.score_by_text(by_text, right["nearest"][2], whole, finding, "questions answered right", percent=True))
check.reveal("gptq_awq.python", machine=100 * by_text["GPTQ"]["Python"], unit="%")

# %% [markdown]
# That is a calibration that hurts. Look at both numbers in GPTQ's rows: where the error on its own text fell furthest,
# the score fell too. Python and the languages, in tokens that this model hardly knows, fill few directions; all others
# look free, and GPTQ pays there for what it gains. AWQ is hurt as well: columns that the text does not feed are shrunk
# before they are rounded. Nothing in the calibration warns you: the one number that it reports improves.
#
# And the model of Python, in bits per byte?

# %%
reader_texts = {"Python": python_rows, "languages": rows_of(pieces, languages), "random": noise(reader)}
reader_by_text = {name: {} for name in by_text}
for name, text in itertools.product(reader_by_text, reader_texts):
    made, share = quantised(reader, reader_texts[text], methods[name], 2)
    reader_by_text[name][text] = bits_per_byte(made, pieces, unseen)
    print(
        f"{name:4} on {text:9}: layers' error {share:.2f} of nearest's, {reader_by_text[name][text]:.3f} bits per byte"
    )
hurt = reader_by_text["GPTQ"]["languages"] - per_byte["nearest"][2]
finding = f"Other languages, GPTQ: {hurt:+.3f} bits per byte against no text at all"
show(draw.score_by_text(reader_by_text, per_byte["nearest"][2], whole_bits, finding, "bits per byte of unseen Python"))

# %% [markdown]
# The surprise is GPTQ on random tokens. They mean nothing, and yet they serve the model of Python nearly as well as the
# right text, and hurt the other one least of the three wrong texts: they visit the whole vocabulary, so few directions
# look free. **Variety** counts before meaning here. Do not carry that to large models unmeasured: these are two small
# ones, one seed, 2,048 tokens.

# %% [markdown]
# ## Play
#
# ### Bits and text
#
# Choose bits and a method; the model is rounded on each of the four texts while you wait (ten seconds or more), and
# asked.

# %%
from helpers.plots.widgets import Choice, Slider, explore

known = {(name, 2, text): score for name, scores in by_text.items() for text, score in scores.items()}
known |= {(name, bits, "its task"): score for name, scores in right.items() for bits, score in scores.items()}


def answered(method: str, bits: int, text: str) -> float:
    if (method, bits, text) not in known:
        made, _ = quantised(finder, texts[text], methods[method], bits)
        known[method, bits, text] = tasks.share_right(made, words, asked)
    return known[method, bits, text]


def picture(bits: int, method: str):
    scores, plain = {text: answered(method, bits, text) for text in texts}, answered("nearest", bits, "its task")
    finding = f"{bits} bits, {method}: no worse than without a text on {sum(s >= plain for s in scores.values())} of 4"
    marks = {name: scores if name == method else {} for name in by_text}
    return draw.score_by_text(marks, plain, whole, finding, "questions answered right", percent=True)


explore(picture, bits=Slider(2, 8, value=2, label="bits"), method=Choice(list(by_text), "method"))

# %% [markdown]
# Three things to try:
#
# - Go from 2 bits to 3. How much of what two bits took comes back with one more bit, and how much came by GPTQ?
# - From how many bits on does the wrong text do no more harm that you can see?
# - Change to AWQ at 2 and 3 bits. Which text hurts it most, and is it the same one?

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: what an error costs (5 minutes, difficulty 1)
#
# `weight` and `made` are [rows, columns], `x` is [tokens, columns]. Return for **each row** the mean over all tokens of
# the square by which its answer is off.


# %% tags=["exercise:cost", "points:1"]
def cost(weight, made, x):
    # BEGIN SOLUTION
    return (x @ (made - weight).T).square().mean(dim=0)
    # END SOLUTION


# %% tags=["check:cost"]
check.cost(cost)

# %% [markdown]
# ### 2. Core: one Cholesky step (10 minutes, difficulty 2)
#
# `left` [rows, columns] is what the weights are by now, `j` the column whose turn it is, `value` [rows] what it was
# rounded to, `upper` the factor of the inverse. Return the new `left`: column `j` is `value`, the columns behind it
# have moved, those before it stay. Change nothing in place.


# %% tags=["exercise:step", "points:2"]
def step(left, j, value, upper):
    # BEGIN SOLUTION
    error = (left[:, j] - value) / upper[j, j]
    after = left.clone()
    after[:, j:] -= error[:, None] * upper[j, j:]
    return after
    # END SOLUTION


# %% tags=["check:step"]
check.step(step)

# %% [markdown]
# ### 3. Core: act order (8 minutes, difficulty 2)
#
# `rounder(weight, hessian)` rounds column by column, from left to right, and returns values [rows, columns]. Use it
# once so that the columns are done in the order of the diagonal of `hessian`, largest first, and return the values with
# each column in its old place.


# %% tags=["exercise:order", "points:2"]
def in_act_order(weight, hessian, rounder):
    # BEGIN SOLUTION
    order = hessian.diagonal().argsort(descending=True)
    made = rounder(weight[:, order], hessian[order][:, order])
    return made[:, order.argsort()]
    # END SOLUTION


# %% tags=["check:order"]
check.order(in_act_order)

# %% [markdown]
# ### 4. Core: AWQ's search (8 minutes, difficulty 2)
#
# `size` [columns] is the mean |x| of each column, `error(s)` tells the layer's error when the columns are stretched by
# `s`. Try every alpha of `alphas`, with s = size^alpha divided by the root of its largest times its least, and return
# `(alpha, s)` of the least error.


# %% tags=["exercise:search", "points:2"]
def best_stretch(size, error, alphas):
    # BEGIN SOLUTION
    powers = {alpha: size**alpha for alpha in alphas}
    scales = {alpha: s / (s.max() * s.min()).sqrt() for alpha, s in powers.items()}
    best = min(alphas, key=lambda alpha: error(scales[alpha]))
    return best, scales[best]
    # END SOLUTION


# %% tags=["check:search"]
check.search(best_stretch)

# %% [markdown]
# ### 5. Stretch: does a text hurt? (12 minutes, difficulty 3)
#
# `texts` maps a name to inputs [tokens, columns]; `real` are the inputs that the layer will get in use.
# `rounder(weight, x)` gives the values that GPTQ finds on inputs `x`; `nearest` are those of rounding. Return a
# dictionary: name → error in use when calibrated on that text, over the error in use of `nearest`. Above 1, the text
# hurts.


# %% tags=["exercise:harm", "points:3"]
def harm(weight, texts, real, rounder, nearest):
    # BEGIN SOLUTION
    def in_use(made):
        return (real @ (made - weight).T).square().sum()

    return {name: (in_use(rounder(weight, x)) / in_use(nearest)).item() for name, x in texts.items()}
    # END SOLUTION


# %% tags=["check:harm"]
check.harm(harm)

# %% [markdown]
# ### 6. In words: a report (8 minutes, difficulty 2)
#
# A colleague has quantised your team's model of source code to three bits: "GPTQ on an encyclopedia, and the layers'
# error fell to a tenth of rounding's. We ship it." What does the number say, what does it not say, and which two
# measurements do you ask for? Three to five sentences.

# %% [markdown] tags=["answer:report"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# The error was measured on the text on which it was made small; it falls most where that text fills few directions, and
# that is no good sign. It says nothing about source code.
#
# Ask for the score of the task itself on examples that no calibration saw, beside rounding to nearest at the same
# bits; and for the same model calibrated on source code (or on varied text), again by score. If nearest wins against
# the encyclopedia, the calibration has hurt.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. What counts is the error of a layer's answers, e H e, and H is all that a text has to say about it.
# 2. GPTQ rounds in turn and moves the columns that are free; each choice is the best if the rest could take any value.
# 3. One Cholesky factor of the inverse holds all steps; without dividing by its diagonal the loop runs and is wrong.
# 4. AWQ rounds to nearest on a stretched grid; it pays where inputs have outliers, and the stretch folds into a norm.
# 5. The wrong text can be worse than none, while the calibration's own error falls.
#
# | idea | formula | cost |
# |---|---|---|
# | error of the answers | e H e, H = mean of xᵀx | I² numbers per layer |
# | one step | left −= (w − q) / Uⱼⱼ · Uⱼ | O x I FLOP twice, I times |
# | factor | UᵀU = (H + damping)⁻¹ | about I³ FLOP, once per layer |
# | AWQ | s = mean\|x\|^alpha, searched | a rounding for each alpha |
# | SmoothQuant | s = max\|x\|^½ / max\|w\|^½ | nothing when it runs |

# %% [markdown]
# ## In the real models
#
# Who publishes such weights? The table of facts says in which precision the makers give their models away.

# %%
from helpers.facts import table as facts

for row in facts("models"):
    if "GPTQ" in row["precision"] or "INT4" in row["precision"]:
        print(f"{row['model']:20} {row['precision']} ({row['source'].split(';')[0]}; looked up {row['as_of']})")

# %% [markdown]
# - **Qwen3.5** comes with GPTQ-Int4 weights by its own makers. One of others says on its card: groups of 128, act
#   order, calibrated on WikiText-2 (huggingface.co/RESMP-DEV/Qwen3.5-35B-A3B-GPTQ-Hybrid; looked up 25 November 2026).
# - **Kimi K2.5** was *trained* with four-bit experts, groups of 32. What training has seen, no calibration must guess;
#   lesson [[quantise_moe]] does that in small.
# - **DeepSeek-V3** has an AWQ version by others, calibrated on "the default" text of the tool, as its makers answered
#   when asked (huggingface.co/cognitivecomputations/DeepSeek-V3-AWQ, discussion 5; looked up 25 November 2026).
# - **GLM-5** and DeepSeek-V3 come in FP8. At eight bits you saw nothing for a text to win.
# - The surprise: an encyclopedia calibrates a model that many will use for code. What that costs is known when
#   somebody measures it.
#
# Methods: GPTQ, arXiv 2210.17323; AWQ, arXiv 2306.00978; SmoothQuant, arXiv 2211.10438.

# %% [markdown]
# ## Roads not taken
#
# - **A grid that moves.** The published GPTQ fits each group's scale when its turn comes, to the weights as they are by
#   then; here the grid stands first, so that both methods choose on the same one.
# - **Clipping.** A smaller scale that cuts off the largest weight can be better at two and three bits; AWQ's authors
#   search for that too.
# - **Rotations** (QuaRot, SpinQuant) spread outliers over all columns, so that there are none to stretch.
# - **Learning the rounding** by gradients (AdaRound, OmniQuant) costs more and lies between this and training.
# - **Experts.** Each sees only the tokens that were sent to it: a rare expert is calibrated on few tokens.
#
# **Next: [[quantise_moe]].** There most of the bytes are where a quantiser does not look.
