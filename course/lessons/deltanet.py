# %% [markdown]
# # Gated DeltaNet and the 3:1 hybrid
#
# **Can a memory of constant size stand in for a cache that grows?**
#
# 60 minutes, without the stretch exercise · needs: lesson [[attention]] (attention and its cache) · runs on any laptop,
# without a network
#
# Attention keeps a key and a value of every token that it has read, so its memory grows with the text. Qwen3.5 and
# Kimi Linear do that in one layer of four. The other three layers keep **one matrix a head**, and each token changes
# it. Here is the whole idea.
#
# ```text
#     attention            key value | key value | key value | key value | ...      one entry more for every token
#
#     delta rule           +-------+     a token comes with a key and a value:
#                          |       |       1  fade   the whole matrix, a little
#                          |   S   |       2  ask    what does S answer to this key now?
#                          |       |       3  write  the difference to the new value, under this key
#                          +-------+       4  read   with a query, which is what the layer says
#                          one size, whatever the length of the text
#
#     the hybrid           delta  delta  delta  attention | delta  delta  delta  attention | ...
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # or the Hugging Face id of a Qwen3.5, or a folder: its memories are looked at under Measure
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import deltanet as check
from helpers.compare import max_error
from helpers.plots import memory as draw
from helpers.plots import show
from helpers.units import format_bytes

on = begin(scale, checkpoint, device, seed)

# %% [markdown]
# ## By hand
#
# ### Two cities, two numbers
#
# You keep the weather of two cities in a matrix of two rows. A **key** says which city, a **value** is its weather:
# degrees and millimetres of rain. To write a pair, add `outer(key, value)` to the matrix; to ask for a city, multiply
# its key with the matrix.

# %%
oslo, rome = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
monday, roman, tuesday = torch.tensor([-5.0, 4.0]), torch.tensor([18.0, 0.0]), torch.tensor([2.0, 1.0])

empty = torch.zeros(2, 2)
first = empty + torch.outer(oslo, monday)
second = first + torch.outer(rome, roman)
print("Oslo:", (oslo @ second).tolist(), "  Rome:", (rome @ second).tolist())

# %% [markdown]
# Two pairs, one matrix, both answers exact, because the two keys are at right angles.
#
# ### Attention without a softmax
#
# You may ask with any vector, a **query**. The matrix is a sum of outer products, so its answer is a sum of values,
# each weighed by the product of the query with its key. Compare with the two entries that attention would have kept:

# %%
query = torch.tensor([0.8, 0.6])
kept = (query @ oslo) * monday + (query @ rome) * roman
print("from the matrix:", (query @ second).tolist(), "  from the two entries:", kept.tolist())

# %% [markdown]
# It is attention with the softmax left out, called **linear attention**. A softmax needs all entries once the query is
# known; a plain sum can be taken before, and then the entries can go. That is the whole trick, and its price follows.
#
# ### A value changes
#
# On Tuesday Oslo has new weather. Write it the same way, and ask.

# %%
added = second + torch.outer(oslo, tuesday)
print("adding:   ", (oslo @ added).tolist(), "= Monday + Tuesday, the weather of no day")

answer = oslo @ second  # what the memory knows already
corrected = second + torch.outer(oslo, tuesday - answer)
print("the delta:", (oslo @ corrected).tolist(), "= Tuesday;  Rome still", (rome @ corrected).tolist())

# %% [markdown]
# **Adding** keeps the old value and sums. The **delta rule** first asks the memory, and writes the difference (the
# delta): the old value is erased and replaced in one step. Multiply the difference by **beta** between 0 and 1 and the
# memory goes that share of the way. Multiply the matrix by a **decay** below 1 before each token and everything fades.

# %%
half = second + torch.outer(oslo, 0.5 * (tuesday - answer))
faded = 0.8 * second
faded = faded + torch.outer(oslo, tuesday - oslo @ faded)
print("beta 0.5:  Oslo", (oslo @ half).tolist(), " Rome", (rome @ half).tolist())
print("decay 0.8: Oslo", (oslo @ faded).tolist(), " Rome", [round(x, 1) for x in (rome @ faded).tolist()])

# %% [markdown]
# All five memories side by side: a row for each channel of the key (here a city), a column for each of the value.

# %%
states = {"Monday": second, "adding": added, "delta": corrected, "beta 0.5": half, "decay 0.8": faded}
finding = "Adding piles Oslo's days up; the delta rule replaces the day and leaves Rome alone"
states = {label: matrix.tolist() for label, matrix in states.items()}
show(draw.matrices(states, finding, rows=["Oslo", "Rome"], columns=["°C", "mm"]))

# %% [markdown]
# ### A third city
#
# Two channels hold two keys at right angles. A third city must share: its key points between the others. Write Lima
# exactly, and look at what Oslo and Rome say afterwards.

# %%
lima, dry = torch.tensor([0.6, 0.8]), torch.tensor([22.0, 0.0])
third = corrected + torch.outer(lima, dry - lima @ corrected)
for city, key in {"Oslo": oslo, "Rome": rome, "Lima": lima}.items():
    print(f"{city}: {[round(x, 2) for x in (key @ third).tolist()]}")

# %% [markdown]
# Lima is exact and the other two have moved. Nothing is lost with attention, which would have kept three entries. A
# matrix of constant size must forget, and the rest of this lesson is about how much, what, and at which price.
#
# ## Predict
#
# Three numbers before you measure.
#
# 1. A head has keys of 32 numbers, in random directions. How many pairs can it hold so that every answer is exact?
# 2. A text of 512 tokens goes through the delta rule token by token, or in chunks of 64 with the same result. How many
#    times faster are the chunks here?
# 3. In Qwen3.5-35B-A3B a delta layer keeps 32 matrices of 128 x 128. Its attention layers keep keys and values for 2
#    heads of width 256, in bf16. After how many tokens does the attention layer keep more?

# %% tags=["predict:memory"]
exact_pairs = ...
times_faster = ...
tokens_to_overtake = ...
# BEGIN SOLUTION
exact_pairs = 64
times_faster = 10
tokens_to_overtake = 5000
# END SOLUTION
check.predict("deltanet.exact", exact_pairs, unit="pairs")
check.predict("deltanet.chunks", times_faster, unit="x")
check.predict("deltanet.overtake", tokens_to_overtake, unit="tokens")

# %% [markdown]
# ## Build
#
# ### 1. The rule, token by token
#
# The same four steps for a batch `b` and heads `h`, with keys of width `k` and values of width `v`. The model makes
# `beta` and the decay from each token, so it chooses what to keep. The decay comes as its logarithm `g`, zero or below:
# decays of many tokens multiply, and logarithms add. Zero beta and zero `g` leave no trace.


# %%
def token_by_token(q, k, v, g, beta, S):
    read = []
    for t in range(q.shape[1]):
        S = g[:, t].exp()[..., None, None] * S  # fade
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", S, k[:, t]))  # ask
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, t], u)  # write
        read.append(torch.einsum("bhkv,bhk->bhv", S, q[:, t]))  # read
    return torch.stack(read, dim=1), S


# %%
def unit(x):
    """Length 1, so that beta is the share of the error that is corrected."""
    return x * torch.rsqrt(x.pow(2).sum(dim=-1, keepdim=True) + 1e-6)


def problem(length, dtype=torch.float32, batch=2, heads=3, K=8, V=5):
    """Random queries, keys, values, log decays, betas and a first state, as a layer would make them."""
    q, k = unit(torch.randn(2, batch, length, heads, K, dtype=dtype))
    v, S = torch.randn(batch, length, heads, V, dtype=dtype), torch.randn(batch, heads, K, V, dtype=dtype)
    return q, k, v, -torch.rand(batch, length, heads, dtype=dtype), torch.rand(batch, length, heads, dtype=dtype), S


read, S = token_by_token(*problem(100))
print("read", tuple(read.shape), " state", tuple(S.shape), " the same shape after 100 tokens and after 1")

# %% [markdown]
# ### 2. Why it is slow
#
# Each token does little work and must wait for the one before. A text of 1,000 tokens is a chain of 1,000 small steps,
# and a processor made for large matrix products idles. So look for a way to have many tokens at once.
#
# What token t writes is `u_t`. Without decay it depends on the state before the chunk, S, and on what earlier tokens of
# the same chunk wrote under similar keys:
#
# $$u_t = \beta_t \Big(v_t - S^\top k_t - \sum_{j<t} (k_t \cdot k_j)\, u_j\Big)$$
#
# In words: my value, minus what the old memory says to my key, minus what those before me in this chunk added to it.
# That is a system of linear equations in the `u`, and it is **triangular**: each row needs earlier rows only. Three
# tokens are enough to see it.

# %%
q, k, v, g, beta, S = (x[0] for x in problem(3, batch=1, heads=1))
k, v, beta, S = k[:, 0], v[:, 0], beta[:, 0], S[0]
below = (beta[:, None] * (k @ k.T)).tril(-1)
right = beta[:, None] * (v - k @ S)
print("I + below =\n", (torch.eye(3) + below).round(decimals=2))

u = torch.linalg.solve_triangular(below, right, upper=False, unitriangular=True)
for t in range(3):
    one = beta[t] * (v[t] - k[t] @ S)
    S = S + torch.outer(k[t], one)
    print(f"token {t}: largest difference {max_error(u[t], one):.0e}")

# %% [markdown]
# One solve gives what three steps gave. This rewriting is called the **WY form**, after the representation of a
# product of reflections from which the idea comes.
#
# ### 3. A chunk, with decay
#
# With decay, what token j wrote has faded by `exp(since_t - since_j)` when token t looks, where `since` is the running
# sum of `g`. That factor enters the system and the reads; the future is barred before `exp`, because there it would
# overflow.


# %%
def solve(below, right):
    """The u of (I + below) u = right."""
    return torch.linalg.solve_triangular(below, right, upper=False, unitriangular=True)


def one_chunk(q, k, v, g, beta, S, solve=solve):
    """Shapes (..., T, K), (..., T, V), (..., T) and (..., K, V)."""
    since = g.cumsum(dim=-1)
    future = torch.ones(g.shape[-1], g.shape[-1], dtype=torch.bool, device=g.device).triu(1)
    fade = (since[..., :, None] - since[..., None, :]).masked_fill(future, float("-inf")).exp()
    below = (beta[..., None] * fade * (k @ k.mT)).tril(-1)
    u = solve(below, beta[..., None] * (v - since.exp()[..., None] * (k @ S)))
    read = since.exp()[..., None] * (q @ S) + (fade * (q @ k.mT)) @ u
    left = (since[..., -1:] - since).exp()[..., None] * k
    return read, since[..., -1].exp()[..., None, None] * S + left.mT @ u


# %%
def in_chunks(q, k, v, g, beta, S, size=64, solve=solve):
    """Heads before tokens, then chunk after chunk: only the state is carried from one to the next."""
    read = []
    for piece in zip(*(x.transpose(1, 2).split(size, dim=2) for x in (q, k, v, g, beta)), strict=True):
        one, S = one_chunk(*piece, S, solve)
        read.append(one)
    return torch.cat(read, dim=2).transpose(1, 2), S


# %% [markdown]
# Is it the loop? At lengths below, at and above the chunk, in float32 and in float64, where rounding hides nothing.

# %%
print("tokens  float32  float64")
for length in (1, 31, 33, 65, 130):
    errors = []
    for dtype in (torch.float32, torch.float64):
        inputs = problem(length, dtype)
        errors.append(max(map(max_error, in_chunks(*inputs), token_by_token(*inputs))))
    print(f"{length:6}  {errors[0]:.0e}    {errors[1]:.0e}")
    assert errors[0] <= 1e-5
    assert errors[1] <= 1e-9

# %% [markdown]
# The same answer at lengths that fit no chunk. Read the picture in the formula once more: inside a chunk it looks like
# attention (queries times keys, masked), between chunks it is a recurrent network. A chunk of 64 is the published
# choice: small chunks loop more, large ones make larger triangles.
#
# ### 4. A short look back
#
# What should be the key of a value? In "Oslo 2" the value is `2` and its key is the word **before** it. A token that
# makes key and value from itself alone cannot bind the two. So each channel first mixes its last four tokens: a **short
# convolution**, followed by SiLU, a smooth gate: x times sigmoid(x).


# %%
from torch.nn.functional import rms_norm, silu, softplus


def look_back(x, weight, before):
    """Each channel: a weighted sum of its last tokens. ``before`` are those that came before x."""
    window = torch.cat([before, x], dim=1)
    taps = [weight[:, 0, n] * window[:, n : n + x.shape[1]] for n in range(weight.shape[2])]
    return silu(sum(taps))


# %% [markdown]
# With all weight on the token before, each channel says what came one token earlier, bent by SiLU:

# %%
copy = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])  # one channel; all weight on the token before
print(look_back(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), copy, torch.zeros(1, 3, 1)).flatten())
print(silu(torch.tensor([0.0, 1.0, 2.0, 3.0])))

# %% [markdown]
# ### 5. The layer
#
# Four matrices make queries with keys and values, beta, the decay and a gate out of each token; a fifth makes the
# output. `w` holds them; it is the helper's module, used here as a box of weights. A head fades by `rate x step`, both
# positive: `log_rate` is learned for the head, the step follows from the token. What is read is normalised first and
# gated then.


# %%
def deltanet(w, x, rule):
    before = x.new_zeros(len(x), w.conv.shape[2] - 1, w.conv.shape[0])
    q, k, v = look_back(w.mix(x), w.conv, before).split(w.sizes, dim=-1)
    q, k = (unit(part.unflatten(-1, (-1, w.key_dim))) for part in (q, k))
    v, gate = (part.unflatten(-1, (-1, w.value_dim)) for part in (v, w.gate(x)))
    served = v.shape[2] // k.shape[2]  # value heads that share one key head
    q, k = (part.repeat_interleave(served, dim=2) for part in (q, k))
    g, beta = -w.log_rate.exp() * softplus(w.decay(x) + w.decay_bias), w.beta(x).sigmoid()
    start = x.new_zeros(len(x), v.shape[2], w.key_dim, w.value_dim)
    read, _ = rule(q * w.key_dim**-0.5, k, v, g, beta, start)
    return w.output((rms_norm(read, read.shape[-1:], w.norm, w.epsilon) * silu(gate)).flatten(2))


# %% [markdown]
# ### 6. One step more: a decay for each channel
#
# Kimi Linear changes one thing, and calls it **Kimi Delta Attention**: each row of the matrix fades at its own pace.
# One head can then hold a name for a whole chapter beside a word for a sentence. In the loop, `g` has one axis more.


# %%
def kimi(q, k, v, g, beta, S):  # g: batch, tokens, heads, channels of the key
    read = []
    for t in range(q.shape[1]):
        S = g[:, t].exp()[..., None] * S  # row by row
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", S, k[:, t]))
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, t], u)
        read.append(torch.einsum("bhkv,bhk->bhv", S, q[:, t]))
    return torch.stack(read, dim=1), S


# %% [markdown]
# Four rows of ones and three tokens that write nothing; each row has its own decay.

# %%
fades = -torch.tensor([0.0, 0.1, 1.0, 5.0])
kept = kimi(*(torch.zeros(1, 3, 1, 4),) * 3, fades.expand(1, 3, 1, 4), torch.zeros(1, 3, 1), torch.ones(1, 1, 4, 4))[1]
print("rows of ones after three tokens:", kept[0, 0, :, 0].numpy().round(3))

# %% [markdown]
# ## Check
#
# ### Is it what the models run?
#
# Three references: transformers' two forms of the gated rule, its two forms of Kimi's rule, and its whole Qwen3.5 layer
# with random weights, convolution and gated norm included. Lengths stand below, at and above the chunk of 64. (Theirs
# divide queries by the root of their width inside; multiply it away.)

# %%
from transformers import KimiLinearModel, Qwen3_5TextModel, logging

from helpers.reference import parts_of

RULES = parts_of(Qwen3_5TextModel, "torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule")
KIMIS = parts_of(KimiLinearModel, "recurrent_kimi_delta_attention", "chunk_kimi_delta_attention")
logging.set_verbosity_error()  # it would say that faster kernels exist
print("tokens   recurrent  chunked    Kimi's     Kimi's chunked")
for length in (1, 31, 33, 65, 130):
    q, k, v, g, beta, S = problem(length)
    asked = dict(initial_state=S, output_final_state=True)
    ours, row = in_chunks(q, k, v, g, beta, S), []
    for rule in RULES:
        row.append(max(map(max_error, ours, rule(q * 8**0.5, k, v, g, beta, **asked))))
    channels = -torch.rand_like(k)
    ours = kimi(q, k, v, channels, beta, S)
    for rule in KIMIS:
        row.append(max(map(max_error, ours, rule(q * 8**0.5, k, v, channels, beta, **asked))))
    print(f"{length:6}", "".join(f"   {error:.1e} " for error in row))
    assert max(row) <= 1e-5

# %%
from transformers import Qwen3_5TextConfig

from helpers.layers.delta import GatedDeltaNet
from helpers.models.configs.qwen3_5 import BLOCK

heads = dict(linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=6)
(TheirDeltaNet,) = parts_of(Qwen3_5TextModel, "Qwen3_5GatedDeltaNet")
theirs = TheirDeltaNet(Qwen3_5TextConfig(hidden_size=20, **heads), 0).eval()
weights = GatedDeltaNet(20, 2, 4, 8, 6, conv_width=4, epsilon=1e-6)
for ours, published in BLOCK.items():
    if ours.startswith("delta."):
        parameter = theirs.get_parameter(published.removeprefix("linear_attn.")).data.normal_(0, 0.3)
        weights.get_parameter(ours.removeprefix("delta.")).data.copy_(parameter)

# %% [markdown]
# Every vector and matrix is random, the norms and decays too: weights at their default of 1 hide mistakes.

# %%
from helpers.compare import causality_probe
from helpers.layers.ragged import arrange


@torch.no_grad()
def helper(x, state=None):
    """The layer that later lessons use; it can go on from a state."""
    return weights(x, arrange(torch.zeros(x.shape[:2], dtype=torch.long), None, None), state)


with torch.no_grad():
    for length in (1, 31, 33, 65, 130):
        x = torch.randn(2, length, 20)
        yours, reference = deltanet(weights, x, in_chunks), theirs(x)
        errors = max_error(yours, reference), max_error(yours, helper(x))
        print(f"{length:4} tokens: off from transformers {errors[0]:.0e}, from the helper {errors[1]:.0e}")
        assert max(errors) <= 1e-5
    leak = causality_probe(lambda x: deltanet(weights, x, in_chunks), torch.randn(1, 80, 20), 70)
print("the future seen by the past:", leak)

# %% [markdown]
# ### A bug that a short test does not see
#
# Leave the triangular solve out: every token of a chunk sees the memory as it was before the chunk. The shapes are
# right, the output is finite. With chunks of one token it is even exact, and so is every test of a single token.


# %%
inputs = problem(33)
exact = token_by_token(*inputs)[0]
for size in (1, 2, 64):
    forgetful = in_chunks(*inputs, size, solve=lambda below, right: right)[0]
    print(f"chunks of {size:2}: off by {max_error(forgetful, exact):.1e}")

# %% [markdown]
# ### One call or many
#
# A server reads a prompt in pieces and then writes token by token. The layer must go on as if it had read all at once.
# It has to carry two things: the matrix, and the last three inputs of the convolution. Forget the second, and you
# might expect three wrong tokens at the start of each piece.

# %%
from helpers.layers.delta import DeltaState

x, state = torch.randn(1, 75, 20), DeltaState()
whole = helper(x)
parts = torch.cat([helper(piece, state) for piece in x.split([33, 1, 1, 40], dim=1)], dim=1)
print(f"in pieces: off by {max_error(parts, whole):.0e};  kept: {state.bytes():,} bytes")

state, parts = DeltaState(), []
for piece in x.split([33, 42], dim=1):
    parts.append(helper(piece, state))
    state.inputs.zero_()  # the bug
off = (torch.cat(parts, dim=1) - whole).abs().amax(dim=(0, 2))
print("without the convolution's inputs, tokens 30 to 40 are off by", off[30:41].numpy().round(2))

# %% [markdown]
# The error begins at token 33 and does not stop after three tokens: what was written wrongly stays in the memory.
#
# ## Measure
#
# ### What it keeps
#
# A whole tiny Qwen3.5, four blocks, the fourth with attention, random weights. Count the bytes of its cache while it
# reads, block by block; nothing is computed from a formula here.

# %%
from helpers.layers.kv_cache import KeyValues
from helpers.models.configs.qwen3_5 import ATTENTION, DELTA, Config
from helpers.models.qwen3_5 import Qwen3_5

kinds = (DELTA, DELTA, DELTA, ATTENTION)
sizes = dict(delta_key_heads=2, delta_value_heads=2, delta_key_dim=16, delta_value_dim=16, conv_width=4, mlp_width=64)
attention = dict(num_heads=2, num_kv_heads=1, head_dim=16, rotary_share=0.5, sections=(2, 1, 1))
model = Qwen3_5(Config(256, 32, 4, kinds, **attention, **sizes)).eval()
cache = model.new_cache()

print("tokens read   states   keys and values")
with torch.no_grad():
    for _ in range(5):
        model(torch.randint(256, (1, 100)), cache)
        grown = sum(block.bytes() for block in cache.blocks if isinstance(block, KeyValues))
        print(f"{cache.length:11} {cache.bytes() - grown:8,} {grown:17,}")

# %% [markdown]
# ### How much a matrix can hold
#
# No training yet. Take 32 channels, random keys, random values of +1 and -1, write all pairs, then ask for each key. An
# answer is right when it is nearer to its own value than to every other value that was told. Three ways to write, told
# once: adding, the delta rule, and the delta rule with the same pairs told twenty times. Then each key is told a second
# value, and the second counts.


# %%
def fill(keys, values, delta, times=1):
    """The memory after all pairs, in order. Shapes: trials x pairs x channels."""
    S = keys.new_zeros(len(keys), keys.shape[2], values.shape[2])
    for _ in range(times):
        for k, v in zip(keys.unbind(1), values.unbind(1), strict=True):
            S = S + k[:, :, None] * (v - delta * (k[:, None] @ S)[:, 0])[:, None]
    return S


# %% [markdown]
# The answer to a key is right when its product with its own value is the largest of all.


# %%
def recall(keys, values, S, others):
    """Share of answers that are nearest to their own value, among all that were told."""
    answers = keys @ S
    own = (answers * values).sum(dim=-1)
    best = (answers @ others.mT).amax(dim=-1)
    return (own > best - 1e-3).double().mean().item()  # the same product in another order: equal up to rounding


# %%
channels, counts = 32, [4, 8, 16, 24, 32, 40, 48, 64]
trials, again = {"smoke": (4, 20), "laptop": (24, 20), "full": (256, 50)}[scale]
names = ["adding, told once", "delta, told once", f"delta, told {again} times", "adding, told anew", "delta, told anew"]
lines = {name: [] for name in names}
for n in counts:
    keys, values = unit(torch.randn(trials, n, channels)), torch.randn(trials, n, channels).sign()
    earlier = torch.randn_like(values).sign()
    both = torch.cat([earlier, values], dim=1)
    once = [fill(keys, values, 0), fill(keys, values, 1), fill(keys, values, 1, again)]
    anew = [fill(keys.repeat(1, 2, 1), both, delta) for delta in (0, 1)]
    shares = [recall(keys, values, S, values) for S in once] + [recall(keys, values, S, both) for S in anew]
    for name, share in zip(names, shares, strict=True):
        lines[name].append(share)
    if n == channels:
        halves = [recall(keys[:, part], values[:, part], once[1], values) for part in (slice(n // 2), slice(n // 2, n))]

# %% [markdown]
# The dashed line marks one pair a channel.

# %%
at = counts.index(32)
finding = (
    f"Told anew, adding answers {lines[names[3]][at]:.0%} right at 32 pairs, the delta rule {lines[names[4]][at]:.0%}"
)
show(draw.recall_by_pairs(lines, counts, finding, channels))
print(f"delta, told once, 32 pairs: first half {halves[0]:.0%} right, second half {halves[1]:.0%}")

# %% [markdown]
# Read it slowly; it is not what you may expect. **Told once**, adding wins: it blurs all pairs a little, while the
# delta rule keeps the newest sharp and erases the oldest, as the printed halves say. **Told anew**, adding holds both
# values with the same weight and can only guess. **Told again and again**, the delta rule finds a matrix that answers
# every key, as long as there is one.
#
# Is there a sharp limit? Look at the error instead of the nearest value, with the pairs told until nothing changes.

# %%
print("pairs   error of the best memory")
exact = 0
for n in (8, 16, 24, 31, 32, 33, 34, 40, 64):
    keys, values = unit(torch.randn(n, channels).double()), torch.randn(n, channels).double()
    error = (keys @ (torch.linalg.pinv(keys) @ values) - values).square().mean().item()
    exact = n if error < 1e-9 else exact
    print(f"{n:5}   {error:.2f}")
check.reveal("deltanet.exact", formula=channels, machine=exact, unit="pairs")

# %% [markdown]
# A **cliff** at the number of channels: up to 32 independent keys every set of answers has a matrix, and with the 33rd
# it has none. (With n pairs, the share (n - 32) / n of the values' power is lost.)
#
# ### What training makes of it
#
# In a model the keys are learned, and so are beta and the decay. Train four small layers on told pairs, as token ids:
# `k v k v ...`, in half of the texts a second round with new values, then keys alone. One layer, one head, 16 channels,
# 32 possible keys; with and without the delta, with and without the short convolution. To add, no system is needed:


# %%
from torch import nn

from helpers.layers.delta import chunked_delta_rule


def add_only(q, k, v, g, beta, S):
    """All tokens at once: what was written fades and is never corrected."""
    since = g.cumsum(dim=1).transpose(1, 2)
    future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)
    fade = (since[..., :, None] - since[..., None, :]).masked_fill(future, float("-inf")).exp()
    return torch.einsum("bhts,bthk,bshk,bsh,bshv->bthv", fade, q, k, beta, v), S


class Recaller(nn.Module):
    def __init__(self, rule, conv_width, words=32, width=64):
        super().__init__()
        self.rule, self.embedding = rule, nn.Embedding(2 * words, width)
        self.weights = GatedDeltaNet(width, 1, 1, 16, width, conv_width, 1e-6)
        self.head = nn.Linear(width, 2 * words, bias=False)

    def forward(self, ids):
        x = self.embedding(ids)
        x = x + deltanet(self.weights, rms_norm(x, x.shape[-1:]), self.rule)
        return self.head(rms_norm(x, x.shape[-1:]))


# %% [markdown]
# All four get the same batches, steps and learning rate. `tell_pairs` makes a batch; in the last columns, where a key
# is asked for, the layer must say its last value.

# %%
from helpers.data.pairs import PairBatches, tell_pairs
from helpers.training.train import Settings, train


def loss(model, batch):
    ids, answers = (x.to(on) for x in batch)
    return nn.functional.cross_entropy(model(ids)[:, -answers.shape[1] :].flatten(0, 1), answers.flatten())


@torch.no_grad()
def right(model, pairs, rounds):
    ids, answers = (x.to(on) for x in tell_pairs(torch.Generator().manual_seed(1), 128, pairs, 32, rounds))
    return (model(ids)[:, -pairs:].argmax(dim=-1) == answers).double().mean().item()


steps = {"smoke": 20, "laptop": 300, "full": 1000}[scale]
batches = PairBatches(words=32, most_pairs=8, most_rounds=2, batch=16 if scale == "smoke" else 64, seed=seed)
settings = Settings(steps, lr=1e-2, warm_up=20, weight_decay=0.01)
variants = {
    "delta, convolution": (chunked_delta_rule, 4),
    "adding, convolution": (add_only, 4),
    "delta, no convolution": (chunked_delta_rule, 1),
    "adding, no convolution": (add_only, 1),
}

# %%
counts, trained = [2, 4, 8, 12, 16, 24], {}
print("                        seconds  last loss  told once: 4 and 8 pairs   told anew: 4 and 8 pairs")
for name, (rule, width) in variants.items():
    torch.manual_seed(seed)
    model = Recaller(rule, width).to(on)
    run = train(model, batches, settings, loss=loss)
    trained[name] = [right(model, n, 2) for n in counts]
    last = sum(run.losses[-10:]) / 10
    cells = [right(model, 4, 1), right(model, 8, 1), trained[name][1], trained[name][2]]
    print(f"{name:23} {run.cpu_s:7.1f} {last:10.2f}", "".join(f"{share:13.0%}" for share in cells))

# %% [markdown]
# Training saw 2 to 8 pairs. The curves go on to 24.

# %%
best, added, bare = trained["delta, convolution"], trained["adding, convolution"], trained["delta, no convolution"]
finding = (
    f"8 pairs told anew: {best[2]:.0%} right; {added[2]:.0%} without the delta, {bare[2]:.0%} without the convolution"
)
show(draw.recall_by_pairs(trained, counts, finding, 16, what="pairs, each told twice; the second value counts"))

# %% [markdown]
# Compare the rows. Without the convolution no rule helps: in one layer a value never meets the key before it, and a
# guess is all that is left (1 of 32 values, or 1 of those in the text). With it, look at how far the delta rule and
# adding are apart, told once and told anew, and past the 8 pairs that training showed.
#
# This is one seed and seconds of training: trust an order where curves are far apart, and repeat with another `seed`
# where they are close.
#
# ### Seconds
#
# A pass over a text, four heads of width 64: token by token, in chunks, and attention, which looks at every earlier
# token. All three in float32, one thread, the helpers' versions.

# %%
from helpers.layers.attention import attend, causal_mask
from helpers.layers.delta import delta_rule
from helpers.measure import measure_one, measure_pair

longest = {"smoke": 512, "laptop": 2048, "full": 8192}[scale]
lengths = [128, 512] if scale == "smoke" else [2**n for n in range(6, 14) if 2**n <= longest]
rows = {"token by token": {}, "in chunks of 64": {}, "attention": {}}


def seconds(function, *inputs):
    return measure_one(lambda: function(*inputs), repeats=3, warm_up=1, device=on).median_s


for n in lengths:
    inputs = [x.to(on) for x in problem(n, batch=1, heads=4, K=64, V=64)]
    if n <= 512:
        rows["token by token"][n] = seconds(delta_rule, *inputs)
    rows["in chunks of 64"][n] = seconds(chunked_delta_rule, *inputs)
    rows["attention"][n] = seconds(attend, *inputs[:3], causal_mask(torch.arange(n, device=on)[None], n))

# %%
inputs = [x.to(on) for x in problem(512, batch=1, heads=4, K=64, V=64)]
both = measure_pair(lambda: delta_rule(*inputs), lambda: chunked_delta_rule(*inputs), repeats=3, device=on)
finding = f"At 512 tokens the chunks take 1/{both.ratio:.0f} of the loop's time"
show(draw.seconds_by_length(rows, finding))
print(f"chunks: x {rows['in chunks of 64'][longest] / rows['in chunks of 64'][longest // 4]:.1f} for 4 times the text")
print(f"attention: x {rows['attention'][longest] / rows['attention'][longest // 4]:.1f} for 4 times the text")
check.reveal("deltanet.chunks", machine=both.ratio, unit="x")

# %% [markdown]
# The three curves have three slopes. Loop and chunks grow with the text, and the loop stands higher by the time of many
# small calls; attention grows with its square in the end. Which of the last two is lower at your lengths depends on
# constants, so look and do not assume.
#
# **Decoding** is another case: one token, whatever the context. By bytes, the delta layer reads and writes its matrix
# and attention reads all that it kept. These are the real sizes of Qwen3.5-35B-A3B, in float32 here.

# %%
contexts = [n for n in (256, 1024, 4096, 16384) if n <= 8 * longest]
decode = {"delta rule, one token": {}, "attention, one token": {}}
delta_s = seconds(delta_rule, *(x.to(on) for x in problem(1, batch=1, heads=32, K=128, V=128)))
for n in contexts:
    query, keys = torch.randn(1, 1, 16, 256, device=on), torch.randn(1, n, 2, 256, device=on)
    mask = torch.ones(1, 1, n, dtype=torch.bool, device=on)
    decode["delta rule, one token"][n] = delta_s
    decode["attention, one token"][n] = seconds(attend, query, keys, keys, mask)
ratio = decode["attention, one token"][contexts[-1]] / delta_s
finding = f"At {contexts[-1]:,} tokens of context attention takes {ratio:.1f} times the delta rule's time"
show(draw.seconds_by_length(decode, finding, what="tokens of context"))
same_bytes = 2 * 32 * 128 * 128 / (2 * 2 * 256)  # a matrix is read and written, keys and values are read
cheaper = max((n for n, took in decode["attention, one token"].items() if took <= delta_s), default=0)
print(f"equal bytes by formula at {same_bytes:,.0f} tokens; attention was the cheaper one here up to {cheaper:,}")

# %% [markdown]
# ### The real models
#
# `plan` knows what each layer of a published config keeps (lesson [[open_a_model]]); tests hold its formulas to the
# caches that transformers fills. The last column is the same model with attention in every layer.

# %%
from helpers.planning.plan import plan, published

plans = {
    name: plan(published(config))
    for name, config in {
        "Qwen3.5-0.8B": "qwen3_5-0.8b",
        "Qwen3.5-35B-A3B": "qwen3_5-35b-a3b",
        "Qwen3.5-397B-A17B": "qwen3_5-397b-a17b",
        "Kimi-Linear-48B": "kimi_linear-48b-a3b",
    }.items()
}
full, context = {}, 262_144
print(f"{'':20} layers  states    a token   overtakes at   kept at 262,144 tokens   attention everywhere")
for name, p in plans.items():
    layers, state = sum(p.layers.values()), p.cache_bytes(0)
    token, growing = p.cache_bytes(1) - state, layers - p.layers["state"]
    overtakes = state / p.layers["state"] / (token / growing)
    full[name] = [token * layers / growing * n for n in (2**m for m in range(8, 21))]
    everywhere = token * layers / growing * context
    kept, split = p.cache_bytes(context), f"{p.layers['state']}+{growing}"
    print(f"{name:20} {split:>6} {format_bytes(state):>8} {token:8,} B {overtakes:8,.0f} tokens", end="")
    print(f"{format_bytes(kept):>18}{format_bytes(everywhere):>25} ({everywhere / kept:.2f} x)")

# %%
big = plans["Qwen3.5-35B-A3B"]
check.reveal(
    "deltanet.overtake", formula=32 * 128 * 128 * 4 / (2 * 2 * 256 * 2),
    machine=big.cache_bytes(0) / 30 / ((big.cache_bytes(1) - big.cache_bytes(0)) / 10), unit="tokens",
)  # fmt: skip

# %% [markdown]
# The formula counts the matrices; the machine counts the convolution's inputs as well. Below that length the "constant"
# memory is the larger one: for a short chat the hybrid saves nothing.

# %%
from helpers.plots.checkpoint import cache_by_context

lengths = [2**m for m in range(8, 21)]
caches = {name: [plans[name].cache_bytes(n) for n in lengths] for name in ("Qwen3.5-35B-A3B", "Kimi-Linear-48B")}
caches |= {f"{name}, attention everywhere": full[name] for name in caches}
here, there = caches["Qwen3.5-35B-A3B"][-1], full["Qwen3.5-35B-A3B"][-1]
finding = f"3:1 divides the cache of a million tokens by {there / here:.2f}: the attention that is left still grows"
show(cache_by_context(caches, lengths, finding))

# %% [markdown]
# The floor on the left is the states, the slope on the right is the attention that is left. A hybrid of 3:1 cannot save
# more than a factor of four (Kimi's 20 to 7 a little less). What it buys with that quarter is recall: a layer that
# looks back at everything.
#
# ### A trained hybrid: who remembers?
#
# The course ships a Qwen3.5 of four blocks, three with states and one with attention, that learned to find told pairs.
# Let it read pairs of words, then **erase** one kind of memory before you ask: all matrices, or all keys and values.
# Which loss hurts more? Say it to yourself first.

# %%
from transformers import AutoTokenizer

from helpers.checkpoints import load, resolve
from helpers.training.recall import share_after_erasing

folder = resolve("zoo:tiny-qwen3_5" if checkpoint == "zoo" else checkpoint, download=True)
hybrid, tokenizer = load(folder, device=on).eval(), AutoTokenizer.from_pretrained(folder).backend_tokenizer
erased = {"nothing erased": None, "keys and values erased": KeyValues, "states erased": DeltaState}
counts = [8, 32] if scale == "smoke" else [4, 8, 16, 32, 64, 96, 128]
found = {name: [share_after_erasing(hybrid, tokenizer, n, kind) for n in counts] for name, kind in erased.items()}

# %%
whole, without_keys, without_states = (shares[counts.index(32)] for shares in found.values())
finding = (
    f"32 pairs: {whole:.0%} found; {without_keys:.0%} without attention's cache, {without_states:.0%} without states"
)
deltas = [module for module in hybrid.modules() if isinstance(module, GatedDeltaNet)]
show(draw.recall_by_pairs(found, counts, finding, deltas[0].key_dim))

# %% [markdown]
# Did you expect attention to do the finding? When this lesson was written, the small model answered about as well
# without a single key of its attention, and hardly ever without its states. And its curve falls with the number of
# pairs, as a state's does, though a layer that could look back at all of them stands on top.
#
# A likely reason is that training was content with the states: they sufficed for most of its texts. A design says what
# a layer *can* do; only an experiment says what it does. With `checkpoint` you can ask Qwen3.5-0.8B the same.
#
# ### How long does a memory last?
#
# A head fades by `rate x step` a token, and the step follows from the token. Take a token that says nothing (an input
# of zeros): after how many such tokens is half of the memory left? A layer without training first, then the trained.

# %%
layers = {"without training": GatedDeltaNet(64, 16, 16, 8, 8, 4, 1e-6)}
layers |= {f"delta layer {n}": w.cpu() for n, w in enumerate(deltas, start=1)}
for name, w in layers.items():
    lives = 0.6931 / (w.log_rate.exp() * softplus(w.decay_bias)).detach().float()
    print(f"{name:17} half is left after {lives.min():,.1f} to {lives.max():,.1f} tokens, median {lives.median():,.1f}")

# %% [markdown]
# Heads differ by orders of magnitude from the start, on purpose: some follow the sentence, some the document. (A real
# token's step differs from this one: that is what a gate is for.)
#
# ### Recorded on a GPU
#
# Chunks are made for matrix units. Lesson [[kernels]] comes with a kernel of them, and
# `python3 -m course measure delta-prompt --device cuda` times it beside the chunked form that you know.

# %%
from helpers.measure import recorded_text

print(recorded_text("delta-prompt"))

# %% [markdown]
# ## Play
#
# Five mornings of weather. Keys are the cities, values degrees, rain and wind. Each block is the memory after one
# token.
#
# 1. Switch between `delta` and `adding` and read the title: what does the memory say to Oslo at the end?
# 2. Raise the overlap of the cities' keys. Who pays for the sharpness of the last one told?
# 3. Lower the decay, then beta. Which of the two forgets Rome, about which nothing new was said?

# %%
from helpers.plots.widgets import Choice, Slider, explore

CITIES = {"Oslo": [-5, 4, 9], "Rome": [18, 0, 3], "Lima": [22, 0, 5], "Oslo again": [2, 1, 2], "Lima again": [24, 0, 7]}
PLACES = ["Oslo", "Rome", "Lima"]


def mornings(tokens, rule, beta, decay, overlap):
    keys = unit((1 - overlap) * torch.eye(3) + overlap)
    S, states = torch.zeros(3, 3), {"empty": [[0.0] * 3] * 3}
    for label, weather in list(CITIES.items())[:tokens]:
        key, S = keys[PLACES.index(label.split()[0])], decay * S
        S = S + torch.outer(key, beta * (torch.tensor(weather).float() - (rule == "delta") * (key @ S)))
        states[label] = S.tolist()
    told = {label.split()[0]: weather[0] for label, weather in list(CITIES.items())[:tokens]}
    says = ", ".join(f"{city} {(keys[PLACES.index(city)] @ S)[0]:.1f} (told {last})" for city, last in told.items())
    rows = PLACES if overlap == 0 else ["channel 1", "channel 2", "channel 3"]
    return draw.matrices(states, f"{rule}: °C asked for now: {says}", rows, ["°C", "mm", "m/s"], f"It says {says}.")


explore(
    mornings,
    tokens=Slider(1, 5, value=5, label="tokens read"),
    rule=Choice(["delta", "adding"], label="rule"),
    beta=Slider(0.0, 1.0, value=1.0, label="beta", step=0.05),
    decay=Slider(0.5, 1.0, value=1.0, label="decay", step=0.05),
    overlap=Slider(0.0, 0.9, value=0.0, label="overlap of the keys", step=0.1),
)

# %% [markdown]
# <details><summary>What to notice</summary>
#
# 1. Adding says the sum of both mornings; the delta rule says the second.
# 2. Those told earlier: the last token is exact at beta 1, and each write moves the answers to similar keys.
# 3. Decay fades every row, Rome's too. Beta acts only on the key that is being written.
#
# </details>

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: one write (4 minutes, difficulty 1)
#
# A memory of one head, `state` (K x V), a `key` of length 1 (K), a `value` (V) and `beta` between 0 and 1. Return the
# memory after one write by the delta rule, without decay.


# %% tags=["exercise:write", "points:1"]
def write(state, key, value, beta):
    # BEGIN SOLUTION
    answer = key @ state
    return state + torch.outer(key, beta * (value - answer))
    # END SOLUTION


# %% tags=["check:write"]
check.write(write)

# %% [markdown]
# ### 2. Core: a chunk is the loop (10 minutes, difficulty 2)
#
# One head, no decay: `key` (T x K), `value` (T x V), `beta` (T), and the `state` (K x V) before the chunk. Return what
# each token writes, `u` (T x V), equal to the loop, from one triangular system.


# %% tags=["exercise:corrections", "points:3"]
def corrections(key, value, beta, state):
    # BEGIN SOLUTION
    below = (beta[:, None] * (key @ key.T)).tril(-1)
    right = beta[:, None] * (value - key @ state)
    return torch.linalg.solve_triangular(below, right, upper=False, unitriangular=True)
    # END SOLUTION


# %% tags=["check:corrections"]
check.corrections(corrections)

# %% [markdown]
# ### 3. Core: the cliff (6 minutes, difficulty 2)
#
# Given `keys` (pairs x channels), return how many answers can be chosen freely: the largest number of these keys to
# which some memory gives any values that you like, exactly. Random keys, repeated keys and sums of keys all occur.


# %% tags=["exercise:capacity", "points:2"]
def capacity(keys):
    # BEGIN SOLUTION
    return int(torch.linalg.matrix_rank(keys))
    # END SOLUTION


# %% tags=["check:capacity"]
check.capacity(capacity)

# %% [markdown]
# ### 4. Stretch: how rare may attention be? (9 minutes, difficulty 3)
#
# Of `layers` layers, every n-th has attention and keeps `token_bytes` for each of `tokens` tokens; every other layer
# keeps `state_bytes`. Return the smallest n from 1 to `layers` at which one text fits `memory_bytes`, and 0 where none
# does. Then ask for Qwen3.5-35B-A3B at 262,144 tokens in 6 GB.


# %% tags=["exercise:attention_every", "points:3"]
def attention_every(layers, state_bytes, token_bytes, tokens, memory_bytes):
    # BEGIN SOLUTION
    for n in range(1, layers + 1):
        attention = layers // n
        if attention * token_bytes * tokens + (layers - attention) * state_bytes <= memory_bytes:
            return n
    return 0
    # END SOLUTION


# %% tags=["check:attention_every"]
check.attention_every(attention_every)

# %% [markdown]
# ### 5. In words: which layer for which question? (6 minutes, difficulty 2)
#
# A colleague wants to replace the last quarter of the layers too: "The state is constant, and the loss was fine without
# attention." Answer in three to five sentences with what you measured. For which texts is that right, for which not?

# %% [markdown] tags=["answer:hybrid"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# It names the cliff: a head of K channels answers at most K independent keys exactly, and which ones the model must
# decide while reading, before it knows the question. It says that the delta rule forgets the oldest first when keys
# overlap.
#
# It grants what is constant: bytes and time a token. It tells cases apart: a running summary, the latest value of a
# few things, against any sentence of a long contract. And it says how to find out: erase the keys and values of the
# model itself and ask again, as you did. Where the colleague is right for one model and its texts, that is no proof for
# another.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A linear memory writes a value under a key; the delta rule writes the error, so a new value replaces the old one.
# 2. Token by token and in chunks are one computation; the chunk is a triangular system and matrix products.
# 3. A matrix with K channels answers at most K independent keys exactly. Beyond that it must forget.
# 4. In one layer, key and value meet only through the short convolution.
# 5. States in three layers of four divide the growing cache by at most four; in a short chat they keep more than it.
#
# | idea | formula | cost |
# |---|---|---|
# | write | S + k (beta (v - S'k))' | K x V a token and head |
# | decay | exp(g) S, g <= 0 | one number a head; Kimi: one per channel |
# | chunk of L | (I + below) u = beta (v - S'k) | L x L a chunk, one step of the loop |
# | state | heads x K x V x 4 bytes | constant |
# | inputs of the convolution | (width - 1) x channels | constant |
# | hybrid, every n-th | layers / n x token bytes x tokens | grows, n times slower |

# %% [markdown]
# ## In the real models
#
# - **Qwen3.5** has three Gated DeltaNet layers before each gated attention layer, in all three sizes of your table. In
#   35B-A3B value heads outnumber key heads, 32 to 16: each key serves two matrices.
# - **Kimi Linear** has 20 layers with a decay for each channel and 7 of latent attention without any positions; the
#   last layer is attention too. Its report prints "up to 75 %" less cache; your table has the exact factor.
# - **Kimi K3** and **GLM-5.3-Flash**, later in 2026, use Kimi's rule 3:1 as well, with a decay that is bounded.
# - **Surprise**: transformers keeps four inputs of the convolution where three are needed, so its state is a little
#   larger than ours; both continue exactly.
#
# Sizes: the models' own `config.json`, through `helpers/facts/configs` (source and date in each file). Layers:
# transformers 5.23, read and run on 25 November 2026. The rules: arXiv 2406.06484, 2412.06464 and 2510.26692.

# %% [markdown]
# ## Roads not taken
#
# - **Kimi's rule in chunks** is in transformers, and you compared with it. There the decay no longer factors out of
#   `k @ k.T`, which makes the chunk dearer; its authors have a kernel of their own for it.
# - **Mamba-2** is the road without the delta: decay and adding, as your `add_only`.
# - **Negative beta**, more than one write a token (DeltaProduct), and states that learn by gradient (TTT, Titans) widen
#   the same idea.
# - **Training through long texts** needs the chunked form's gradients; the helper's are tested, and its speed on a GPU
#   is a kernel's business (lesson [[kernels]]).
#
# **Next: [[what_came_next]].** V4 compresses its cache instead of replacing it.
