# %% [markdown]
# # The training bill
#
# **What does a training run cost, and what does the famous sum leave out?**
#
# 60 minutes, without the stretch exercise · needs: lesson [[experts]] · runs on any laptop, without a network
#
# You will count every multiplication of a training step, build the two optimizers that the large models are trained
# with, train fifteen small models and draw losses against costs. Then you take the most quoted bill of the
# field apart: where its 5.576 million dollars come from, and what is not in them. Here is the whole idea.
#
# ```text
#     parameters N ─┐
#                   ├─> operations ──> hours of a chip ──> dollars        what a lab can print
#     tokens D ─────┘   about 6ND      at a share of its   at a rent
#                           |          peak (MFU)      └─> energy
#                           v
#                   loss: a bit less for ten times more
#
#     research · failed runs · data · people · buying the chips           what is not in the sum
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # or a Hugging Face id, or a folder: the same cells on a real model
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import training_bill as check
from helpers.device import synchronize
from helpers.plots import show
from helpers.plots import training as draw
from helpers.units import format_count, format_flops, format_seconds

machine = begin(scale, checkpoint, device, seed)
torch.set_num_threads(1)  # a second thread would measure who else uses this machine

# %% [markdown]
# ## By hand
#
# The smallest training step there is: two inputs, three outputs, six weights. Forward, each weight is multiplied once
# and added once. Backward, two products of the same size are made: one says how the *weights* should change, the
# other how the *inputs* should, for the layer below.

# %%
x = torch.tensor([[1.0, 2.0]])  # one token of width 2
W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # three outputs
error = torch.tensor([[0.5, -1.0, 0.0]])  # how the loss changes with each output
print("forward             x Wᵀ    =", (x @ W.T).tolist())
print("gradient of weights errorᵀ x =", (error.T @ x).tolist())
print("gradient of inputs  error W =", (error @ W).tolist())
print(f"{3 * 2 * W.numel()} FLOP for {W.numel()} weights and one token: {3 * 2} for each weight")

# %% [markdown]
# Three products, two operations per weight in each: **six operations for each weight and token**. With N weights and D
# tokens the whole training is about 6ND. This is the *rule of six*, and most sums that you read about training are
# it. It is a good rule, and you are about to see three ways in which it goes wrong.

# %% [markdown]
# ## Predict
#
# You will train small models at many costs. **When a training does ten times as many operations, by how many percent
# does its loss fall?** And you will meet Muon, an optimizer that works on whole matrices. **How many percent does it
# add to the operations of a step** of 2,048 tokens?

# %% tags=["predict:small"]
tenfold_percent = ...
muon_percent = ...
# BEGIN SOLUTION
tenfold_percent = 15
muon_percent = 10
# END SOLUTION
check.predict("training_bill.tenfold", tenfold_percent, unit="%")
check.predict("training_bill.muon", muon_percent, unit="%")

# %% [markdown]
# DeepSeek-V3 was trained on 2,048 chips, each of which can do 989 trillion operations per second in 16-bit numbers.
# **Of that peak, how many percent did the training use?** Nothing is revealed yet.

# %% tags=["predict:large"]
used_percent = ...
# BEGIN SOLUTION
used_percent = 50
# END SOLUTION
check.predict("training_bill.used", used_percent, unit="%")

# %% [markdown]
# ## Build
#
# ### 1. The ledger of a forward pass
#
# A dense model has three kinds of products. Matrices of weights cost 2 FLOP per weight. The head is one more such
# matrix. And attention compares each token with every other: no weight takes part, and its cost grows with the
# **length** of the text. The tiny models here read bytes, so their vocabulary has 256 entries.

# %%
from helpers.models.configs import qwen3
from helpers.models.qwen3 import Qwen3


def sizes(width: int, blocks: int, **more) -> qwen3.Config:
    heads = max(1, width // 16)
    given = dict(vocab_size=256, head_dim=16, num_heads=heads, num_kv_heads=max(1, heads // 2), rope_theta=1e4)
    return qwen3.Config(width=width, num_blocks=blocks, mlp_width=5 * width // 2, **given | more)


def forward_parts(c: qwen3.Config, length: int) -> dict[str, int]:
    """FLOP per token, by part, of reading a text of `length` tokens."""
    queries, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    return {
        "attention's weights": c.num_blocks * 2 * c.width * (2 * queries + 2 * keys),
        "token against token": c.num_blocks * 2 * 2 * queries * length,  # scores, and the sum of values
        "feed-forward": c.num_blocks * 2 * 3 * c.width * c.mlp_width,
        "head": 2 * c.width * c.vocab_size,
    }


# %% [markdown]
# Does torch count the same? `FlopCounterMode` watches every operation and knows which module made it. (`MENDED` adds
# a few operations that torch 2.13 forgets; this model uses none of them.)

# %%
from torch.utils.flop_counter import FlopCounterMode

from helpers.measure.flops import MENDED


def counted_parts(c: qwen3.Config, length: int) -> dict[str, int]:
    with FlopCounterMode(display=False, custom_mapping=MENDED) as counter:
        Qwen3(c)(torch.zeros(1, length, dtype=torch.long))
    total = {name: sum(flops.values()) // length for name, flops in counter.get_flop_counts().items()}
    inside = lambda *ends: sum(flops for name, flops in total.items() if name.endswith(ends))  # noqa: E731
    weights, mlp = inside(".query", ".key", ".value", ".output"), inside(".mlp")
    between = inside(".attention") - weights
    return dict(
        zip(forward_parts(c, 1), (weights, between, mlp, total["Global"] - weights - between - mlp), strict=True)
    )


small = sizes(64, 3)
for length in (2, 31, 64):
    print(f"{length:3} tokens: equal {counted_parts(small, length) == forward_parts(small, length)}", end="  ")
    print(f"{format_flops(sum(forward_parts(small, length).values()))} a token")

# %% [markdown]
# Four numbers, equal to torch's at every length. Now let the text grow and look at who pays.

# %%
lengths = (64, 512, 4096)
parts = {f"{length:,} tokens": forward_parts(small, length) for length in lengths}
share = [100 * p["token against token"] / sum(p.values()) for p in parts.values()]
finding = (
    f"From {lengths[0]} to {lengths[-1]:,} tokens, attention grows from {share[0]:.0f} to {share[-1]:.0f} % of the work"
)
show(draw.flops_by_part(parts, finding))

# %% [markdown]
# ### 2. Backward, and where the rule of six goes wrong
#
# Backward makes two products for each one of forward. `training_flops` counts both passes of any of the course's
# models. Hold the rule against it in five cases: what does the *N* of 6ND have to be?

# %%
from helpers.measure import training_flops
from helpers.models.configs import deepseek_v3
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.training.bill import six_nd


def matrices(model, leave_out: str = "nothing") -> int:
    """Parameters in matrices, without those whose name has `leave_out` in it."""
    return sum(w.numel() for name, w in model.named_parameters() if w.dim() > 1 and leave_out not in name)


step = training_flops(Qwen3(small), 64)
both = f"forward {format_flops(step.forward)}, backward {format_flops(step.backward)}"
print(f"{both}: {step.backward / step.forward} times as much")

# %% [markdown]
# Exactly twice. Now the five cases, with an N for each: three dense models, and a model with experts of which 2 out
# of 32 work on a token.

# %%
with torch.device("meta"):  # shapes are enough to count, and 4,096 x 4,096 scores need no memory there
    untied = Qwen3(sizes(64, 3, vocab_size=4096, tied=False))
    tied = Qwen3(small)
experts = deepseek_v3.Config(
    vocab_size=256, width=64, num_blocks=3, num_dense_blocks=1, num_heads=4, query_rank=32, latent_width=32,
    nope_dim=16, rotary_dim=8, value_dim=16, mlp_width=160, num_experts=32, experts_per_token=2, expert_width=48,
    num_shared=1, num_drafters=0,
)  # fmt: skip
sparse = DeepSeekV3(experts)
routed = matrices(sparse) - matrices(sparse, ".experts.")
working = matrices(sparse, "embedding") - routed * (32 - 2) // 32
cases = {
    "dense, 64 tokens": (tied, 64, matrices(tied), "the rule as it is meant"),
    "an embedding beside the head": (untied, 64, matrices(untied), "a row is looked up, not multiplied"),
    "4,096 tokens": (tied, 4096, matrices(tied), "token against token"),
    "experts, all counted": (sparse, 64, matrices(sparse), "30 of 32 rest"),
    "experts at work": (sparse, 64, working, "the chosen ones and what always works"),
}

# %%
counts = {
    case: (training_flops(model, length).per_token / six_nd(n, 1), why)
    for case, (model, length, n, why) in cases.items()
}
ratios = [ratio for ratio, _ in counts.values()]
finding = f"The rule of six is off by {1 / min(ratios):.1f} times down and {max(ratios):.1f} times up"
show(draw.against_the_rule(counts, finding))

# %% [markdown]
# Read the bars from the top. With a short text and one matrix that is embedding and head at once, 6ND is near. An
# embedding of its own is *stored* and not *multiplied*: it must not count. A long text adds work that no parameter
# stands for. And of experts only those that a token passes cost anything. Keep the last bar in mind: it is why
# DeepSeek-V3, with 671 billion parameters, costs what a model of 37 billion does.
#
# The rule on a checkpoint, yours or the zoo's:

# %%
from helpers.checkpoints import load, resolve

theirs = load(resolve(checkpoint, download=True), torch.float32)
length = 64 if scale == "smoke" else 256
step = training_flops(theirs, length)
every = sum(weight.numel() for weight in theirs.parameters())
print(f"{type(theirs).__name__}, {format_count(every)} parameters, {length} tokens:")
print(f"{format_flops(step.per_token)} a token in training, {step.per_token / six_nd(every, 1):.2f} times 6N")

# %% [markdown]
# ### 3. AdamW, from scratch
#
# The gradient says where to go; the optimizer says how far. **AdamW** keeps two running means for each number of the
# model: of its gradient, and of the gradient's square. It divides the first by the root of the second, so that a
# number whose gradient is always small moves as far as one whose gradient is large.
#
# Both means begin at zero and are too small at first; a division mends this (*bias correction*). The *W* is weight
# decay: the weight shrinks a little in each step, beside the gradient and not through it.


# %%
def adamw_step(weight, gradient, mean, square, step, lr, betas=(0.9, 0.95), decay=0.1, epsilon=1e-8):
    """Change weight, mean and square in place; `step` counts from 1."""
    mean.lerp_(gradient, 1 - betas[0])
    square.lerp_(gradient**2, 1 - betas[1])
    direction = (mean / (1 - betas[0] ** step)) / ((square / (1 - betas[1] ** step)).sqrt() + epsilon)
    weight -= lr * decay * weight
    weight -= lr * direction


weight, mean, square = torch.zeros(3), torch.zeros(3), torch.zeros(3)
adamw_step(weight, torch.tensor([0.001, -1.0, 500.0]), mean, square, 1, lr=0.01)
print("gradients from 0.001 to 500, the first step of each:", weight.tolist())

# %% [markdown]
# Every number moves by the learning rate, whatever its gradient. That is the strength and the blindness of AdamW: it
# treats a matrix as a bag of numbers.
#
# ### 4. Muon, from scratch
#
# A matrix is more than its entries: it stretches some directions and not others. The **singular values** say by how
# much. The gradient of a weight matrix mostly has a few large ones and many small ones. Make one and look.

# %%
torch.manual_seed(seed)
gradient = torch.randn(48, 6) @ torch.randn(6, 32) + 0.3 * torch.randn(48, 32)  # six strong directions and noise
left, values, right = torch.linalg.svd(gradient, full_matrices=False)
print("singular values, the largest as 1:", [round(v, 2) for v in (values / values[0]).tolist()[:10]], "...")

# %% [markdown]
# **Muon** moves every direction by the same amount: it replaces the values by 1 and keeps the directions, U Vᵀ in
# place of U S Vᵀ. An SVD is slow on a GPU, so it uses a polynomial of the matrix. If X = U S Vᵀ, then X Xᵀ X = U S³
# Vᵀ: odd powers change the values and never the directions. Five rounds of a s + b s³ + c s⁵ bring values near 1.


# %%
def newton_schulz(matrix, steps=5, a=3.4445, b=-4.7750, c=2.0315):
    """About U Vᵀ, by products of matrices alone."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm()  # no singular value is above 1 now
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


after = {f"{steps} steps": torch.linalg.svdvals(newton_schulz(gradient, steps)).tolist() for steps in (2, 5)}
finding = (
    f"Five steps lift all {len(values)} directions to between {after['5 steps'][-1]:.2f} and {after['5 steps'][0]:.2f}"
)
show(draw.singular_values((values / values.norm()).tolist(), after, finding))

# %% [markdown]
# Not exactly 1, and it need not be: the coefficients are chosen to lift small values fast, and then swing around 1.
# Two more pieces make the optimizer. The momentum is **Nesterov's**: a mean of gradients, into which the newest is
# mixed once more. And a shape's **scale**: the entries of an orthogonal matrix have size 1/√(longer side), and 0.2
# √(longer side) gives them back the size of AdamW's steps.


# %%
def muon_step(weight, gradient, mean, lr, momentum=0.95, decay=0.1):
    """Change weight and mean in place."""
    mean.lerp_(gradient, 1 - momentum)
    ahead = gradient.lerp(mean, momentum)  # Nesterov
    scale = 0.2 * max(weight.shape) ** 0.5
    weight -= lr * decay * weight
    weight -= lr * scale * newton_schulz(ahead)


weight, mean = torch.zeros(48, 32), torch.zeros(48, 32)
muon_step(weight, gradient, mean, lr=0.01)
print(f"one step: entries of size {weight.square().mean().sqrt():.4f}, the learning rate is 0.01")

# %% [markdown]
# AdamW's entries are of that size too, once its two means have settled. So one learning rate can serve both, and both
# can work in one model: Muon on the matrices of the blocks, AdamW on embedding, head and the vectors.

# %% [markdown]
# ## Check
#
# ### Against torch
#
# torch 2.13 has both optimizers. Give yours and torch's the same 200 random gradients, from tiny to large, and
# compare where the weights end up. `helpers.training.optim` holds the versions that the rest of the lesson uses.
# torch's Muon iterates in bfloat16, three digits; the helper can do so too, and yours did not.

# %%
from helpers.compare import relative_rms
from helpers.training.optim import AdamW, Muon, muon_and_adamw, orthogonalise


def walk(optimizer, weight: torch.nn.Parameter, steps: int = 200) -> torch.Tensor:
    """The weight after so many steps on seeded gradients."""
    torch.manual_seed(seed)
    for number in range(steps):
        weight.grad = torch.randn(weight.shape) * 10.0 ** (number % 7 - 4)
        optimizer.step()
    return weight.detach()


def new_weight(shape=(31, 33)) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(shape))


# %% [markdown]
# Your two functions take tensors and no weights with gradients; a small class gives them the form of an optimizer.


# %%
class Yours:
    def __init__(self, weight, step_function, means):
        self.weight, self.function, self.means, self.number = weight, step_function, means, 0

    def step(self):
        self.number += 1
        with torch.no_grad():
            self.function(self.weight, self.weight.grad, *self.means, self.number)


a, b, c = new_weight(), new_weight(), new_weight()
settings = dict(lr=0.02, betas=(0.9, 0.95), weight_decay=0.1)
reference = walk(torch.optim.AdamW([a], **settings), a)
zeros = [torch.zeros_like(b), torch.zeros_like(b)]
yours = walk(Yours(b, lambda *given: adamw_step(*given, lr=0.02), zeros), b)
print(f"AdamW, 200 steps: yours {relative_rms(yours, reference):.1e} from torch's,", end=" ")
print(f"the helper's {relative_rms(walk(AdamW([c], **settings), c), reference):.1e}")

# %%
a, b, c = new_weight(), new_weight(), new_weight()
settings = dict(lr=0.02, weight_decay=0.1)
reference = walk(torch.optim.Muon([a], adjust_lr_fn="match_rms_adamw", **settings), a)
yours = walk(Yours(b, lambda w, g, mean, _: muon_step(w, g, mean, lr=0.02), [torch.zeros_like(b)]), b)
print(f"Muon, 200 steps: yours {relative_rms(yours, reference):.1e} from torch's,", end=" ")
print(f"the helper's in bfloat16 {relative_rms(walk(Muon([c], **settings), c), reference):.1e}")
inside = left.T @ orthogonalise(gradient, dtype=torch.float32) @ right.T
off = (inside - inside.diagonal().diag()).abs().max()
print(f"Newton-Schulz in the SVD's own directions: {off:.0e} off the diagonal, so it turned nothing")

# %% [markdown]
# ### A bug that trains
#
# Leave the bias correction out. No error is raised, and the model learns. Only the comparison tells.


# %%
def without_correction(weight, gradient, mean, square, step, lr):
    adamw_step(weight, gradient, mean, square, 10**9, lr)  # after a billion steps nothing is left to correct


for steps in (1, 10, 200):
    a, b = new_weight(), new_weight()
    right_way = walk(torch.optim.AdamW([a], lr=0.02, betas=(0.9, 0.95), weight_decay=0.1), a, steps)
    zeros = [torch.zeros_like(b), torch.zeros_like(b)]
    wrong_way = walk(Yours(b, lambda *given: without_correction(*given, lr=0.02), zeros), b, steps)
    print(f"after {steps:3} steps it is {relative_rms(wrong_way, right_way):.1e} away from torch's")

# %% [markdown]
# With these betas the first step comes out 0.1 / √0.05, about 0.45 times as large, and the two paths never quite meet
# again. A loss curve would not have told you.

# %% [markdown]
# ## Measure
#
# ### Loss against operations
#
# Now train. The text is the source of Python's standard library, byte by byte, and the loss is measured on files that
# no training sees, in bits per byte. (Eight bits would be knowing nothing.) The rate rises over 20 steps and then
# stays, so that every point of a curve is a training that could have ended there.

# %%
import time

from helpers.data import batches, python_corpus
from helpers.training.train import initialise, loss_of

corpus = python_corpus()
as_row = lambda texts: torch.frombuffer(bytearray("\n".join(texts.values()).encode()), dtype=torch.uint8)  # noqa: E731
text, held_out = as_row(corpus.train), as_row(corpus.held_out)
check_on = batches(held_out, 48, 64, seed=1)[0]
clock = time.process_time if machine.type == "cpu" else time.perf_counter
print(f"{format_count(len(text))} bytes to train on, {format_count(len(held_out))} held out")


# %%
def train(model, optimizers, lr: float, steps: int, batch: int, length: int, order: int, looks: int = 12):
    """Train; (step, seconds, bits per byte on held-out text) at about `looks` moments."""
    data, seen, spent = batches(text, batch, length, order), [], 0.0
    moments = {round(steps ** (n / looks) * 5 ** (1 - n / looks)) for n in range(looks + 1)}
    for step in range(1, steps + 1):
        begin = clock()
        for optimizer in optimizers:
            optimizer.lr = lr * min(1, step / 20)
        loss_of(model, data[step - 1]).backward()
        for optimizer in optimizers:
            optimizer.step()
        synchronize(machine)  # a GPU works on after the call returns
        spent += clock() - begin
        if step in moments:
            with torch.no_grad():
                seen.append((step, spent, loss_of(model, check_on).item() / 0.693147))
    return seen


# %% [markdown]
# Three sizes, each with its own first weights and order of the text, twice. The rates fall with the width: 0.32 /
# width.

# %%
shapes = {
    "smoke": [(16, 1), (32, 1), (48, 1)],
    "laptop": [(16, 2), (32, 2), (48, 2)],
    "full": [(64, 3), (128, 4), (256, 6)],
}
steps_of = {"smoke": (60, 40, 30), "laptop": (600, 500, 450), "full": (4000, 4000, 4000)}
curves = [{}, {}]
for (width, blocks), steps in zip(shapes[scale], steps_of[scale], strict=True):
    for number, runs in enumerate(curves):
        model = Qwen3(sizes(width, blocks)).to(machine)
        initialise(model, seed + number, std=width**-0.5)
        adamw = AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
        seen = train(model, [adamw], 0.32 / width, steps, 8, 64, seed + number)
        per_step = training_flops(model, 64).per_token * 8 * 64
        name = f"{format_count(matrices(model))} parameters"
        runs[name] = [(step * per_step, bits) for step, _, bits in seen]
    done = f"{steps} steps of {format_flops(per_step)}, {format_seconds(seen[-1][1])}"
    print(f"{name}: {done}, {seen[-1][2]:.2f} bits per byte")

# %% [markdown]
# At each budget some size is best: the lower edge of all curves. Through it goes a law of powers, loss = factor x
# FLOP^-exponent, which is a straight line on two log axes. (It is fitted after the first warming up, and up to where
# two sizes still compete: beyond, the largest is the best because it is alone.)

# %%
from helpers.training.scaling import fit_power_law, frontier, spread

smallest = next(iter(curves[0].values()))
first, last = smallest[5][0], sorted(run[-1][0] for run in curves[0].values())[-2]
budgets = [min(last, first * (last / first) ** (n / 15)) for n in range(16)]
edge = [point for runs in curves for point in frontier(runs, budgets)]
law = fit_power_law([point[:2] for point in edge])
tenfold = 100 * (1 - 10**-law.exponent)
sizes_by_name = {name: [runs[name] for runs in curves] for name in curves[0]}
winners = list(dict.fromkeys(name.split(" p")[0] for *_, name in frontier(curves[0], budgets)))
finding = f"Ten times the work takes {tenfold:.0f} % off the loss; the best size: {', then '.join(winners)}"
show(draw.loss_against_flops(sizes_by_name, law.loss, (budgets[0], budgets[-1]), finding))
check.reveal("training_bill.tenfold", machine=tenfold, unit="%")

# %%
for budget, loss, name in frontier(curves[0], budgets)[::3]:
    print(f"{format_flops(budget):>11}: {name:>18} is best, {loss:.2f} bits per byte")

# %% [markdown]
# A small model learns faster at first and then has learned what it can. This is the choice that every training plan
# makes: for this budget, how large? Too small wastes the tokens, too large does not get enough of them.
#
# ### How far would you trust the line?
#
# Two choices are hidden in that one exponent. Which budgets were fitted, and where is the *floor*: the loss that no
# budget removes, because text is not predictable to the end? Redraw the experiment: a random seed for each size, a
# random stretch of budgets, and three floors.

# %%
least = min(point[1] for point in edge)
floors = {f"floor {floor:.2f} bits": floor for floor in (0.0, 0.3 * least, 0.6 * least)}
ranges = {name: spread(curves, budgets, [floor])[floor] for name, floor in floors.items()}
low, high = min(r[1] for r in ranges.values()), max(r[2] for r in ranges.values())
show(draw.exponents(ranges, f"With what we know, the exponent may be anything from {low:.2f} to {high:.2f}"))
for floor in floors.values():
    far = fit_power_law([point[:2] for point in edge], floor).loss(1000 * budgets[-1])
    print(f"floor {floor:.2f}: a thousand times the largest budget would give {far:.2f} bits per byte")

# %% [markdown]
# Three sizes over so short a range of work fit a line well and determine it badly. The lines agree where you measured
# and part where you did not, which is where you would use them. This is no weakness of small models: a replication of
# the best known law of this kind, from 400 models, found its printed intervals far too narrow (Epoch AI, on Hoffmann
# and others, 2022). Whoever shows you one exponent without a range has not told you what you need.

# %% [markdown]
# ### AdamW against Muon
#
# Equal work means equal *counted* work, the optimizer's own included. Muon's iteration costs the same whatever the
# batch, so a large batch makes it cheap. First each gets the same three rates, in short trainings of the middle size;
# then the best rate of each trains longer.

# %%
batch, length = (4, 64) if scale == "smoke" else (16, 128)
dtype = torch.float32 if machine.type == "cpu" else torch.bfloat16  # few CPUs multiply 16-bit numbers fast
makers = {
    "AdamW": lambda model: [AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)],
    "Muon": lambda model: list(muon_and_adamw(model, 1e-3, dtype)),
}


def race(name: str, shape: tuple, lr: float, steps: int, order: int):
    """One training: (FLOP with the optimizer's, seconds, bits per byte) along the way."""
    model = Qwen3(sizes(*shape)).to(machine)
    initialise(model, order, std=shape[0] ** -0.5)
    optimizers = makers[name](model)
    own = sum(getattr(optimizer, "step_flops", 0) for optimizer in optimizers)
    per_step = training_flops(model, length).per_token * batch * length + own
    seen = train(model, optimizers, lr, steps, batch, length, order)
    return [(step * per_step, spent, bits) for step, spent, bits in seen], own / (per_step - own)


# %%
trial, final = {"smoke": (12, 20), "laptop": (40, 100), "full": (200, 2000)}[scale]
rates = (0.01, 0.03, 0.1)
trials = {
    name: {rate: race(name, shapes[scale][1], rate, trial, seed + 7)[0][-1][2] for rate in rates} for name in makers
}
best = {name: min(tried, key=tried.get) for name, tried in trials.items()}
for name, tried in trials.items():
    print(f"{name:5}", {rate: round(bits, 2) for rate, bits in tried.items()}, "-> rate", best[name])

# %% [markdown]
# Each has had its three tries. The race is longer, from other first weights and on another order of the text:

# %%
raced = {name: race(name, shapes[scale][1], best[name], final, seed) for name in makers}
runs = {name: run for name, (run, _) in raced.items()}
added = 100 * raced["Muon"][1]
ends = {name: run[-1][2] for name, run in runs.items()}
winner = min(ends, key=ends.get)
finding = f"After {final} steps: AdamW {ends['AdamW']:.2f}, Muon {ends['Muon']:.2f} bits per byte"
show(draw.two_costs(runs, finding))
check.reveal("training_bill.muon", machine=added, unit="%")

# %%
from helpers.training.scaling import loss_at

many_small = list(curves[0].values())[1]  # AdamW again, in batches of 512 tokens
for what, column, unit in (("work", 0, format_flops), ("processor time", 1, format_seconds)):
    lines = {name: [(point[column], point[2]) for point in run] for name, run in runs.items()}
    budget = min(line[-1][0] for line in lines.values())
    reached = {name: loss_at(line, budget) for name, line in lines.items()}
    told = ", ".join(f"{name} {bits:.2f}" for name, bits in reached.items())
    print(f"equal {what} ({unit(budget)}): {told} bits per byte")
budget = min(many_small[-1][0], *(run[-1][0] for run in runs.values()))
print(f"AdamW in batches of 512 tokens ({format_flops(budget)}): {loss_at(many_small, budget):.2f} bits per byte")

# %% [markdown]
# The last line is the middle size from the section before, which took many small steps in place of few large ones.
# What decides more here, the optimizer or the batch?
#
# Both axes count, and they need not agree: a FLOP of a small iteration takes longer than a FLOP of a large product.
# One seed, one size and three rates are a look and no proof. What carries over to large models is the arithmetic:
# Muon's own work depends on the matrices alone, and a step of a large training has many more tokens. Take a matrix of
# DeepSeek-V3 (whose own training used AdamW) and its full batch:

# %%
from helpers.facts import table as facts
from helpers.training.optim import orthogonalise_flops

v3_row = next(row for row in facts("training_runs") if row["model"] == "DeepSeek-V3")
tokens = v3_row["texts_per_step"] * v3_row["length"]
share = orthogonalise_flops(7168, 1536) / six_nd(7168 * 1536, tokens)
print(f"{format_count(tokens)} tokens per step: Muon would add {100 * share:.3f} % on a matrix of 7,168 x 1,536")

# %% [markdown]
# What does not carry over without a test is the difference of the losses.

# %% [markdown]
# ### Energy
#
# Some machines count joules. Where yours does, you get a figure; where it does not, you get none.

# %%
from helpers.measure import measured_energy

with measured_energy() as energy:
    run, _ = race("AdamW", shapes[scale][1], 0.01, 12, seed)
if energy.joules is None:
    print("not measured: this machine shows no counter of energy to this user")
else:
    print(f"{energy.joules:.1f} J for {format_flops(run[-1][0])}, everything else on this machine included")

# %% [markdown]
# ### The famous bill
#
# DeepSeek printed its bill. Here it is, from the table of facts: hours by stage, times the rent that the lab assumes.

# %%
from helpers.training.bill import published_run

v3 = published_run("DeepSeek-V3")
for stage, hours in v3.hours.items():
    print(f"{stage:20} {hours:>9,} GPU-hours x {v3.usd_per_hour:.0f} USD = {v3.usd[stage]:>9,.0f} USD")
print(f"{'together':20} {sum(v3.hours.values()):>9,} GPU-hours {sum(v3.usd.values()):>18,.0f} USD")
print("leaves out, as the lab says:", v3.leaves_out)

# %% [markdown]
# Can those hours be true? Come from the other side: operations from the model's own `config.json`. Six for each
# parameter at work, and three times attention at the 4,096 tokens of its training texts, half of it, since the masked
# half is skipped.

# %%
from helpers.planning.plan import plan, published
from helpers.training.bill import attention_flops

v3_sizes = plan(published("deepseek_v3"))
c = v3_sizes.config
widths = (c.qk_nope_head_dim + c.qk_rope_head_dim, c.v_head_dim)
between = attention_flops(c.num_hidden_layers, c.num_attention_heads, *widths, 4096, causal=True)
by_rule = six_nd(v3_sizes.active_without_embedding, 1)
per_token = by_rule + 3 * between
print(f"6 x {v3_sizes.active_without_embedding / 1e9:.1f} billion = {by_rule / 1e9:.0f} GFLOP per token")
print(f"with attention {per_token / 1e9:.0f}; the lab states {v3.flops_per_token / 1e9:.0f}")
print(f"if all {v3_sizes.total / 1e9:.0f} billion worked: {six_nd(v3_sizes.total, 1) / 1e9:,.0f}")

# %% [markdown]
# Your count meets the lab's own. Now divide by what the chips could have done in the hours: the **utilisation** (MFU,
# model FLOP utilisation).

# %%
from helpers.training.bill import utilisation

peak = {row["chip"]: row["tflops"][0] for row in facts("hardware")}
v3_flops = per_token * v3.tokens
used = 100 * utilisation(v3_flops, v3.hours["pre-training"], peak[v3.chip])
print(f"{v3_flops:.2e} FLOP in {v3.hours['pre-training']:,} hours of an {v3.chip}")
check.reveal("training_bill.used", machine=used, unit="%")
days = v3.hours["pre-training"] / v3.gpus / 24
print(f"on {v3.gpus:,} chips that is {days:.0f} days")

# %% [markdown]
# The hours are plausible: a program never reaches the peak of a data sheet, and the dense model below comes to a
# third of it. (Most products of this run were in 8-bit numbers, whose peak is twice as high; against that peak the
# share is half.) So the sum is no trick. Is it *small*? Compare with a dense model of the same year, and with GLM-5,
# of which no hours were printed.

# %%
llama, glm5 = published_run("Llama 3.1 405B"), published_run("GLM-5")
dense_flops = llama.flops_per_token * llama.tokens
dense_used = 100 * utilisation(dense_flops, sum(llama.hours.values()), peak[llama.chip])
times_hours = sum(llama.hours.values()) / sum(v3.hours.values())
print(f"Llama 3.1 405B: {dense_flops:.1e} FLOP, {sum(llama.hours.values()):,} hours, {dense_used:.0f} % used")
print(f"against DeepSeek-V3: {dense_flops / v3_flops:.1f} times the work, {times_hours:.1f} times the hours")
glm5_flops = six_nd(glm5.active, glm5.tokens)
glm5_usd = sum(v3.usd.values()) * glm5_flops / six_nd(v3.active, v3.tokens)
print(f"GLM-5: {glm5_flops:.1e} FLOP by 6ND, no hours published; at V3's rate {glm5_usd / 1e6:.0f} M USD")

# %% [markdown]
# Both were trained on about 15 trillion tokens. The dense model used its chips nearly as well; it had ten times as
# much to compute, since all of its 405 billion parameters work on each token. The saving is in the *architecture*,
# and lesson [[experts]] showed what it costs in memory.
#
# ### What the sum leaves out
#
# The lab says itself what its sum is not. Outsiders have estimated some of the rest; where nobody did, there is no
# figure, and that is not a zero.

# %%
beyond = {row["id"]: row for row in facts("beyond_the_bill")}


def figure(row: dict) -> str:
    if "value" not in row:
        return "no figure"
    low, high = row["value"]
    return f"{low:,.0f}{'' if low == high else f' to {high:,.0f}'} {row['kind']}"


for row in beyond.values():
    print(f"{row['item']}\n    {figure(row)}; {row['source'].split(';')[0].split(':')[0]}")

# %%
run_usd = {stage: (usd, True) for stage, usd in v3.usd.items()}
low, high = ({"experiments before it": (sum(v3.usd.values()) * t, False)} for t in beyond["experiments"]["value"])
people = {"people, one year": (beyond["people"]["value"][0], False)}
chips = {f"{v3.gpus:,} chips, bought": (v3.gpus * beyond["gpu"]["value"][0], False)}
ledgers = {
    "as printed": run_usd,
    "with experiments (low)": run_usd | low,
    "with experiments (high), people": run_usd | high | people,
    "people, chips bought": people | chips,
}
totals = [sum(usd for usd, _ in items.values()) for items in ledgers.values()]
share = f"{totals[0] / totals[1]:.0%} down to {totals[0] / totals[3]:.0%}"
finding = f"The printed {totals[0] / 1e6:.1f} M USD are {share} of fuller sums"
show(draw.bill(ledgers, finding))

# %% [markdown]
# Every bar answers another question. *What would it cost to rent this run again, knowing exactly what to do?* The
# first. *What did it cost to find out what to do?* The second and third, by estimate. *What must one own and whom
# must one pay to be able to try?* The last, at the low end of the price of a chip, and still without servers, network
# and building.
#
# One analyst puts the servers of the whole company at 1.3 to 1.6 billion, in a table in which others found errors.
# They serve and trade too, so they are no price of this model.

# %%
from helpers.training.bill import energy_kwh

euro = next(row["value"][0] for row in facts("running_prices") if row["id"] == "kwh-eu-business")
hours = sum(v3.hours.values())
for server, building in [(1.0, 1.0), (1.2, 1.2), (1.8, 1.5)]:
    kwh = energy_kwh(hours, llama.watt * server, building)
    told = f"{llama.watt} W a chip, x {server} for its server, x {building} for the building"
    print(f"{told}: {kwh / 1e6:.1f} GWh, {kwh * euro / 1e6:.2f} M EUR")

# %% [markdown]
# Nobody published a meter reading, so these are three assumptions and no measurement. The 700 W are what Meta's card
# reckons with for an H100, the most that one may draw; processors, memory and network of the server, and the cooling
# of the building, are factors that we chose. The price is the EU's average for businesses. Even the highest line
# stays well below the rent: energy is a part of the bill, and not the largest.
#
# ### A line of the ledger
#
# The article says that such models took a small fraction of the usual budget. Your numbers, and the verdict:

# %%
from helpers.claims.ledger import claim

entry = claim("cheap-training")
print(f"{entry.says}\n    you computed: {times_hours:.1f} times fewer GPU-hours than a dense model on as many tokens;")
fuller = f"with outsiders' estimates {totals[1] / 1e6:.0f} to {totals[2] / 1e6:.0f} M"
print(f"    printed {totals[0] / 1e6:.2f} M USD, {fuller}")
print(f"    the ledger says: {entry.verdict}\n       ", entry.verdicts[-1].because.replace("; ", ";\n        "))

# %% [markdown]
# ## Play
#
# A budget buys a line: many parameters and few tokens, or the other way round. The dashed line is 20 tokens a
# parameter, the advice of 2022 for the lowest loss at a given training cost.
#
# 1. Leave everything as it is: where is your choice beside DeepSeek-V3? Then set the rent to what an H100 cost in May
#    2026, 2.95.
# 2. Lower the parameters to 1 billion. How many tokens does the budget buy, and how far is that from the dashed line?
# 3. Set the budget to 10,000 dollars. What can a university train?

# %%
from helpers.plots.widgets import Slider, explore
from helpers.training.bill import affordable_flops, gpu_hours

published_points = {run.model: (run.active, run.tokens) for run in (v3, llama, glm5)}


def amount(number: float) -> str:
    """Parameters and tokens as people say them: 37 B, 14.8 T."""
    return f"{number / 1e12:,.0f} T" if number >= 1e15 else format_count(number).replace(" G", " B")


def budget(thousand_usd, rent, used, parameters):
    flops = affordable_flops(1000 * thousand_usd, rent, peak["H800"], used / 100)
    n = parameters * 1e9
    tokens, weeks = flops / six_nd(n, 1), gpu_hours(flops, peak["H800"], used / 100) / 1024 / 168
    bought = f"{amount(n)} parameters, {amount(tokens)} tokens"
    title = f"{1000 * thousand_usd:,.0f} USD buy {bought}: {amount(tokens / n)} a parameter"
    alt = f"{title}. {flops:.1e} FLOP, {weeks:,.3g} weeks on 1,024 chips."
    return draw.budget_plane(flops, (n, tokens), published_points, title, alt)


explore(
    budget,
    thousand_usd=Slider(10, 100_000, value=5_576, label="budget (thousand USD)", log=True),
    rent=Slider(1.0, 8.0, value=2.0, step=0.05, label="rent (USD per GPU-hour)"),
    used=Slider(5, 60, value=39, label="share of the peak (%)"),
    parameters=Slider(0.1, 500, value=37, step=0.1, label="parameters at work (billion)", log=True),
)

# %% [markdown]
# <details><summary>What to notice</summary>
#
# 1. Your point lies almost on DeepSeek-V3's, a little above it: the rule of six leaves attention out. At 2.95 the
#    same money buys a third less.
# 2. Hundreds of trillions, tens of thousands of times what the dashed line asks, and more text than there is. Models
#    that many people will use do lie above the line, because a smaller model is cheaper in every answer afterwards.
# 3. A billion parameters on about a trillion tokens, or seven to eight billion parameters on the dashed line.
#
# </details>

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: the price of one run (4 minutes, difficulty 1)
#
# Given the FLOP of a training, the peak of a chip in TFLOP/s, the share of it that is used (0 to 1) and the rent in
# USD per hour, return the price in USD.


# %% tags=["exercise:price", "points:1"]
def price_usd(flops, peak_tflops, share, usd_per_hour):
    # BEGIN SOLUTION
    seconds = flops / (peak_tflops * 1e12 * share)
    return seconds / 3600 * usd_per_hour
    # END SOLUTION


# %% tags=["check:price"]
check.price(price_usd)

# %% [markdown]
# ### 2. Core: counted, where 6ND goes wrong (10 minutes, difficulty 2)
#
# Return the FLOP per token of **training** a mixture of experts. `always` are the parameters of matrices that every
# token passes (head included, embedding not), `routed` those of all routed experts together, of which `chosen` out of
# `experts` work on a token. Attention has `layers` x `heads` with keys of `key_width` and values of `value_width`,
# and each token meets half of a text of `length` tokens.


# %% tags=["exercise:counted", "points:2"]
def training_flops_per_token(always, routed, experts, chosen, layers, heads, key_width, value_width, length):
    # BEGIN SOLUTION
    forward = 2 * (always + routed * chosen / experts)
    forward += layers * heads * 2 * (key_width + value_width) * length / 2
    return 3 * forward
    # END SOLUTION


# %% tags=["check:counted"]
check.counted(training_flops_per_token)

# %% [markdown]
# ### 3. Core: one step of Muon (10 minutes, difficulty 2)
#
# Return the new weight and the new mean after one step, without changing what you were given. Nesterov, decay beside
# the step, and the scale 0.2 √(longer side). `orthogonalise(matrix, dtype=matrix.dtype)` is there for you.


# %% tags=["exercise:muon", "points:2"]
def one_muon_step(weight, gradient, mean, lr, momentum, decay):
    # BEGIN SOLUTION
    mean = momentum * mean + (1 - momentum) * gradient
    ahead = momentum * mean + (1 - momentum) * gradient
    scale = 0.2 * max(weight.shape) ** 0.5
    direction = orthogonalise(ahead, dtype=ahead.dtype)
    return weight * (1 - lr * decay) - lr * scale * direction, mean
    # END SOLUTION


# %% tags=["check:muon"]
check.muon(one_muon_step)

# %% [markdown]
# ### 4. Stretch: choose a size (12 minutes, difficulty 3)
#
# `curves` maps sizes to lists of (FLOP, loss), rising in FLOP, as you drew them. Return the name of the size with the
# lowest loss at `budget`, reading between two points on a straight line **in log FLOP**. A size whose curve does not
# reach the budget, or begins after it, is no candidate; where there is none, return None.


# %% tags=["exercise:choose", "points:3"]
def best_size(curves: dict, budget: float):
    # BEGIN SOLUTION
    import math

    reached = {}
    for name, curve in curves.items():
        for n in range(len(curve) - 1):
            (x0, y0), (x1, y1) = curve[n : n + 2]
            if x0 <= budget <= x1:
                reached[name] = y0 + (y1 - y0) * math.log(budget / x0) / math.log(x1 / x0)
    return min(reached, key=reached.get) if reached else None
    # END SOLUTION


# %% tags=["check:choose"]
check.choose(best_size)

# %% [markdown]
# ### 5. In words: the headline (8 minutes, difficulty 2)
#
# A headline says: "Chinese lab builds rival of the best models for under 6 million dollars." Write to the editor, in
# three to five sentences: which part of it is supported, by which calculation, and which word is wrong.

# %% [markdown] tags=["answer:headline"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# It says what the figure is: 2.788 million GPU-hours of the final run, at an assumed rent of 2 USD. It says that the
# hours fit the operations, by a calculation of its own: about 250 GFLOP per token, 14.8 trillion tokens, some 39 % of
# the peak. It names the wrong word: *builds*. Research and trials are excluded by the lab itself, and data, people
# and the purchase of the chips are not in a rent.
#
# It does not overshoot: a lower bound of a fuller sum is no proof of any particular larger sum, and eleven times
# fewer hours than a dense model on as many tokens is real.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A training costs six operations for each parameter *at work* and token, and attention on top, which grows with
#    length.
# 2. AdamW scales each number by itself; Muon gives all directions of a matrix the same step, for a price in
#    operations that a large batch makes small.
# 3. Loss falls as a small power of the work; three sizes show the shape and leave the exponent open.
# 4. Hours times peak over operations gives the utilisation, and tells whether a printed bill can be true.
# 5. A sum of GPU-hours prices the last run. It is a lower bound of what knowing how to run it cost.
#
# | idea | formula | cost |
# |---|---|---|
# | rule of six | 6 x parameters at work x tokens | exact for the matrices, nothing for attention |
# | token against token | 3 x layers x heads x 2 (K + V) x T / 2 | grows with the length T |
# | AdamW | mean / √square, both corrected | 2 numbers per weight |
# | Muon | Newton-Schulz of the momentum | 1 number a weight, 10 (2 m²n + m³) FLOP per step |
# | utilisation | FLOP / (hours x 3600 x peak) | 0 to 1 |
# | price | hours x rent | the last run only |

# %% [markdown]
# ## In the real models
#
# - **DeepSeek-V3** was trained with AdamW, most products in FP8, on 2,048 H800. Its report gives the table that you
#   recomputed, and the sentence that most quotations of it leave out.
# - **GLM-5** was trained with Muon, on 28.5 trillion tokens. Surprise: under Muon, latent attention fell behind
#   grouped queries until the up-projections were cut into heads and orthogonalised one by one (*Muon Split*).
# - **Llama 3.1 405B** has no experts. Its card prints hours, watts and tons of CO₂ for each size, and no dollars.
#
# Hours, tokens and prices: `helpers/facts/training_runs.toml`, `beyond_the_bill.toml` and `running_prices.toml`, each
# row with its source, looked up on 23 and 25 November 2026. GLM-5's own report was not opened; the rows name who read
# it.

# %% [markdown]
# ## Roads not taken
#
# - **A schedule.** Real runs lower their rate at the end and gain from it; then every point of a curve needs a run of
#   its own. Yours stays level so that one run gives them all.
# - **The drafter** of DeepSeek-V3 (lesson [[mtp]]) is trained too and is not in your count; nor is what is computed
#   twice to save memory. Both would raise the utilisation of the chips, and neither is in the usual definition.
# - **Serving.** A model that is used much costs more to run than to train; lesson [[rent_buy_call]] adds that up.
#
# **Next: [[formats]].** Most products of that run were in 8-bit numbers. What does a weight lose in them?
