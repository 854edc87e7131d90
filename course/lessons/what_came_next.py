# %% [markdown]
# # What came next: V4 and a gallery
#
# **What did the next models change, and what does a million tokens cost in each?**
#
# 45 minutes, without the stretch exercise · needs: lessons [[dsa]] (choosing tokens) and [[deltanet]] (states) · runs
# on any laptop, without a network
#
# MLA keeps less for each token, DSA reads fewer tokens, a state forgets. DeepSeek-V4 does a fourth thing: it keeps
# **one entry for several tokens**. Two more changes come with it: a token carries several residual **streams**, and the
# first layers find their experts in a **table**. Here is the first of them.
#
# ```text
#    tokens    0 1 2 3 | 4 5 6 7 | 8 9 10 11 | 12 13 14 <- the query
#              \_____/   \_____/   \_______/   \______/
#              entry 0   entry 1    entry 2    not complete: nobody may read it as an entry
#
#    every layer    the newest tokens as they are (the window), and a sink: a score without a value
#    CSA            + a few entries, chosen by an indexer;  an entry stands for 4 tokens and borrows from 4 before
#    HCA            + all entries;                          an entry stands for 128 tokens
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # or a folder with a DeepSeek-V4: its streams are looked at under Measure
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import what_came_next as check
from helpers.compare import causality_probe, max_error
from helpers.plots import gallery as draw
from helpers.plots import show
from helpers.units import format_bytes, format_flops

on = begin(scale, checkpoint, device, seed)

# %% [markdown]
# ## By hand
#
# Eight tokens, one number each, and an entry for every four. Each token also says how much it should count, its
# **gate**. The softmax of four gates makes four shares, and the entry is the shared mean.

# %%
values = torch.tensor([3.0, 1.0, 4.0, 2.0, 8.0, 6.0, 7.0, 5.0])
gates = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
for n in range(2):
    own = slice(4 * n, 4 * n + 4)
    shares = gates[own].softmax(dim=0)
    print(f"entry {n}: shares {shares.numpy().round(2)}, entry {(shares * values[own]).sum():.2f}")

# %% [markdown]
# Entry 1 is a plain mean, its gates are equal. In entry 0 one token has raised its gate and dominates. The shares are
# learned, so an entry is a summary that says what mattered.
#
# A phrase that is cut at a border is in no entry as a whole. So CSA **overlaps**: each token has a second value and a
# second gate, for the entry that comes next. Entry 1 then has eight slots; entry 0 has nothing before it, and four.

# %%
early = values / 10  # the values meant for the next entry
early_gates = torch.tensor([0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0])  # token 3 has something to say to entry 1
slots = torch.cat([early[0:4], values[4:8]])
shares = torch.cat([early_gates[0:4], gates[4:8]]).softmax(dim=0)
print(f"entry 1: slots {slots.numpy().round(1)}\n       shares {shares.numpy().round(2)}: {(shares * slots).sum():.2f}")

# %% [markdown]
# Eight numbers became two, and a million become 250,000 (for every 4) or 7,812 (for every 128). What is lost is what
# every summary loses, and so the window stays: the newest tokens are read as they are.
#
# ## Predict
#
# 1. DeepSeek-V4-Flash at 1,000,000 tokens: how many times fewer bytes of cache than DeepSeek-V3.2, both in bf16?
# 2. And how many times fewer FLOP for one more token?
# 3. Four streams pass 60 layers that mix them by the identity plus noise of 0.3 in every entry, other noise in every
#    layer. How many times larger are they afterwards?

# %% tags=["predict:million"]
fewer_bytes = ...
fewer_flops = ...
times_larger = ...
# BEGIN SOLUTION
fewer_bytes = 20
fewer_flops = 20
times_larger = 100
# END SOLUTION
check.predict("what_came_next.bytes", fewer_bytes, unit="x")
check.predict("what_came_next.flops", fewer_flops, unit="x")
check.predict("what_came_next.mix", times_larger, unit="x")

# %% [markdown]
# ## Build
#
# ### 1. One entry for several tokens
#
# The same for vectors, and without a loop: cut the text into groups, drop the rest that is not complete, take the
# softmax inside each group and in every channel apart. With two `series` each group also gets what the group before it
# had to say. `w` is the helper's `Compressor`, used as a box of weights.

# %%
from helpers.layers.rope import angles, rotate_last


def with_group_before(x, missing):
    """[B, N, L, 2, K] -> [B, N, 2 L, K]: the first series of the group before, then the second of the own group."""
    early, late = x.unbind(3)
    early = torch.cat([torch.full_like(early[:, :1], missing), early[:, :-1]], dim=1)
    return torch.cat([early, late], dim=2)


def turned(x, positions, radians):
    """[B, S, K] turned at its end, as keys must be."""
    return rotate_last(x[:, :, None], *angles(positions[None], radians))[:, :, 0]


# %%
def compress(w, x, radians):
    """[B, T, D] -> [B, N, K]: one entry for every w.ratio tokens, standing at the first of them."""
    N = x.shape[1] // w.ratio
    x = x[:, : N * w.ratio].unflatten(1, (N, w.ratio))
    value, gate = (part.unflatten(-1, (w.series, -1)) for part in (w.value(x), w.gate(x) + w.bias))
    if w.series == 2:
        value, gate = with_group_before(value, 0.0), with_group_before(gate, float("-inf"))
    else:
        value, gate = value[..., 0, :], gate[..., 0, :]
    entry = w.norm((gate.softmax(dim=2) * value).sum(dim=2))
    return turned(entry, torch.arange(N) * w.ratio, radians)


# %% [markdown]
# A gate of minus infinity has a share of zero: that is how entry 0 does without a group before it. Look at which tokens
# can move which entries: change one token at a time.

# %%
from helpers.layers.compressor import Compressor
from helpers.layers.rope import frequencies

radians, x = frequencies(8, 1.6e5), torch.randn(1, 14, 24)
for overlap in (False, True):
    w = Compressor(24, 16, ratio=4, overlap=overlap, epsilon=1e-6)
    with torch.no_grad():
        before, moved = compress(w, x, radians), []
        for t in range(14):
            changed = x.clone()
            changed[:, t] += 1
            there = (compress(w, changed, radians) != before).any(dim=-1)[0].nonzero().flatten().tolist()
            moved.append("".join(map(str, there)) or "-")
    print(f"overlap {overlap!s:5}: tokens 0 to 13 move entries {' '.join(moved)}")

# %% [markdown]
# Tokens 12 and 13 move no entry: theirs is not complete. With overlap each token moves its own entry and the next.
#
# ### 2. The window, the entries and a sink
#
# Three things a query may see, and **one softmax** over all of them. First the window: the query's own token and those
# shortly before. Then entries, only complete ones. Read the second function twice, the bug hunt is about it.


# %%
def in_window(T, window):
    """[T, S]: True for the ``window`` tokens that end with the query's own."""
    back = torch.arange(T)[:, None] - torch.arange(T)
    return (back >= 0) & (back < window)


def complete(T, N, ratio):
    """[T, N]: True where all tokens of entry n are known: it ends with token (n + 1) ratio - 1."""
    last = (torch.arange(N) + 1) * ratio - 1
    return last <= torch.arange(T)[:, None]


# %% [markdown]
# Each vector is key *and* value, for all heads. And each head has a **sink**, a learned score that takes its share of
# the softmax and gives nothing: a head that finds nothing may stay silent.


# %%
def attend(query, key, seen, sinks):
    """[B, T, H, K], [B, S, K], [B, T, S], [H] -> [B, T, H, K]. The keys are the values."""
    alike = torch.einsum("bthk,bsk->bths", query, key) * query.shape[-1] ** -0.5
    alike = alike.masked_fill(~seen[:, :, None], float("-inf"))
    sink = sinks[:, None].expand(*alike.shape[:3], 1)
    shares = torch.cat([alike, sink], dim=-1).softmax(dim=-1)[..., :-1]
    return torch.einsum("bths,bsk->bthk", shares, key)


# %%
q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 3, 16)
for sink in (-10.0, 0.0, 10.0):
    read = attend(q, k, torch.ones(1, 1, 3, dtype=torch.bool), torch.tensor([sink]))
    print(f"sink {sink:5}: what is read has length {read.norm():.4f}")

# %% [markdown]
# ### 3. Turned values are turned back
#
# A key must be turned by its position (lesson [[attention]]). Here the key is the value, so what is read is turned too,
# each part by another position. V4 turns the result back by the *query's* position. What remains depends on distances
# alone: shift everything by 1,000 positions, and compare.


# %%
def read_at(start, back):
    """What the last of four tokens reads if the first stands at ``start``; turned back or not."""
    places = torch.arange(start, start + 4)
    key, last = turned(content, places, radians), angles(places[None, -1:], radians)
    query = rotate_last(asked, *last)
    read = attend(query, key, torch.ones(1, 1, 4, dtype=torch.bool), torch.zeros(1))
    return rotate_last(read, last[0], -last[1]) if back else read


content, asked, radians = torch.randn(1, 4, 16), torch.randn(1, 1, 1, 16), frequencies(8, 1e4)
for back in (False, True):
    error = max_error(read_at(0, back), read_at(1000, back))
    print(f"turned back {back!s:5}: moving the text by 1,000 changes what is read by {error:.0e}")

# %% [markdown]
# ### 4. The layer, in its three kinds
#
# Queries come through a latent, and both sides are normed. HCA reads all complete entries. CSA asks the indexer of
# lesson [[dsa]], whose keys are entries of its own, smaller ones, and reads the best `k`.

# %%
from torch.nn.functional import rms_norm

from helpers.layers.dsa import scores


def chosen(w, x, latent, ready, radians):
    """[B, T, N]: True for the complete entries that the indexer ``w`` scores highest."""
    keys = compress(w.compressor, x, radians)
    query = w.query(latent).unflatten(-1, (w.num_heads, -1))
    query = rotate_last(query, *angles(torch.arange(x.shape[1])[None], radians))
    found = scores(query, keys, w.weights(x)).masked_fill(~ready, float("-inf"))
    best = found.topk(min(w.k, found.shape[-1]), dim=-1).indices
    return torch.zeros_like(found, dtype=torch.bool).scatter(-1, best, True) & ready


# %%
def add_entries(w, x, latent, key, seen, radians, complete):
    """The keys with the entries behind them, and which of all a query sees."""
    entries = compress(w.compressor, x, radians)
    ready = complete(x.shape[1], entries.shape[1], w.compressor.ratio).expand(len(x), -1, -1)
    if w.indexer is not None:
        ready = chosen(w.indexer, x, latent, ready, radians)
    return torch.cat([key, entries], dim=1), torch.cat([seen, ready], dim=-1)


# %% [markdown]
# The whole layer reads like the picture: queries and keys, entries, one softmax, turn back, out. (`w.output` makes the
# heads' long answers small, group by group: read it in `helpers/layers/compressed.py`.)


# %%
def whole(w, x, radians, complete=complete):
    """[B, T, D] -> [B, T, D]; ``w`` holds the weights, and says which of the three kinds it is."""
    rotary = angles(torch.arange(x.shape[1])[None], radians)
    latent = w.query_norm(w.query_down(x))
    query = w.query_up(latent).unflatten(-1, (w.sizes.num_heads, -1))
    query = rotate_last(rms_norm(query, query.shape[-1:], eps=w.sizes.epsilon), *rotary)
    key = turned(w.key_norm(w.key(x)), torch.arange(x.shape[1]), radians)
    seen = in_window(x.shape[1], w.sizes.window).expand(len(x), -1, -1)
    if w.compressor is not None:
        key, seen = add_entries(w, x, latent, key, seen, radians, complete)
    read = rotate_last(attend(query, key, seen, w.sinks), rotary[0], -rotary[1])
    return w.output(read)


# %% [markdown]
# Sizes that fit nothing, so that no axis can stand for another: a window of 5, CSA for 4 tokens and the best 2 entries,
# HCA for 6 tokens.

# %%
from helpers.models.configs.deepseek_v4 import HASHED, HEAVY, LEARNED, SPARSE, WINDOW, Config, to_hf
from helpers.models.deepseek_v4 import attention

KINDS = {"window": WINDOW, "CSA": SPARSE, "HCA": HEAVY}
sizes = dict(num_heads=6, head_dim=12, rotary_dim=6, query_rank=10, output_groups=3, output_rank=4, window=5)
sizes |= dict(index_heads=16, index_dim=8, index_k=2, sparse_ratio=4, heavy_ratio=6)
experts = dict(num_experts=8, experts_per_token=2, expert_width=14, num_streams=4)
config = Config(64, 20, 3, tuple(KINDS.values()), (HASHED, LEARNED, LEARNED), **sizes, **experts)
layers = {name: attention(config, kind) for name, kind in KINDS.items()}
with torch.no_grad():
    for layer in layers.values():
        for name, weight in layer.named_parameters():  # weights at their default hide mistakes
            weight.copy_(float("norm" in name) + 0.4 * torch.randn(weight.shape))


# %%
def radians_of(name):
    """Window layers turn fast; layers with entries turn slowly, for long texts."""
    return frequencies(config.rotary_dim, config.rope_theta if name == "window" else config.entry_theta)


def pattern(name, T=24):
    """How each query reads each token: as it is, in an entry, or not at all."""
    w, x = layers[name], torch.randn(1, T, config.width)
    near, far = in_window(T, 5), torch.zeros(T, T, dtype=torch.bool)
    if w.compressor:
        none = torch.zeros(1, 0, 12), torch.zeros(1, T, 0, dtype=torch.bool)
        latent = w.query_norm(w.query_down(x))
        ready = add_entries(w, x, latent, *none, radians_of(name), complete)[1][0]
        far[:, : ready.shape[1] * w.compressor.ratio] = ready.repeat_interleave(w.compressor.ratio, dim=1)
    words = torch.where(near, 2, far.long())
    return [["not read", "in an entry", "as it is"][word] for row in words.tolist() for word in row], T


# %% [markdown]
# Which tokens does each query read? A square for each kind. (A CSA entry also borrows from the four tokens before it.)

# %%
with torch.no_grad():
    squares = {name: pattern(name) for name in KINDS}
rows = {name: [flat[n : n + T] for n in range(0, T * T, T)] for name, (flat, T) in squares.items()}
show(draw.reading(rows, "Near tokens as they are, far ones in entries: a few chosen, or all"))

# %% [markdown]
# HCA's square has no gap: the window reaches back as far as an unfinished group can, so a token leaves the window only
# when its entry is complete. In the real model both are 128. CSA's square has gaps, and they are the point: what the
# indexer did not choose is not read.
#
# ### 5. Streams, and a matrix that cannot explode
#
# A residual is one vector that every layer adds to. V4 has four of them a token, its **streams** X. Before a layer they
# are collapsed to one, `x = pre . X`. After it, its output y goes to all of them, and they are mixed:
# `X' = post (outer) y + mix^T X`. All three sets of weights follow from the token.
#
# The mix is applied again and again, 86 times in Flash. So it must neither grow nor shrink: rows and columns shall sum
# to one, which is called **doubly stochastic**. Sinkhorn's way to get there is to divide columns, then rows, and again.

# %%
matrix = torch.tensor([[1.0, 2.0, 1.0], [4.0, 1.0, 1.0], [1.0, 1.0, 6.0]])
for done in range(4):
    rows, columns = matrix.sum(dim=1).numpy().round(3), matrix.sum(dim=0).numpy().round(3)
    print(f"after {done} rounds: rows sum to {rows}, columns to {columns}")
    matrix = matrix / matrix.sum(dim=1, keepdim=True)
    matrix = matrix / matrix.sum(dim=0, keepdim=True)

# %% [markdown]
# Columns are exact at the end of each round, and rows come closer every time. V4 takes 20 rounds. Now the connection as
# a whole: n streams make n + n + n² numbers.


# %%
def sinkhorn(matrix, rounds, epsilon):
    """[..., n, n] of positive numbers: columns, then rows and columns again."""
    matrix = matrix / (matrix.sum(dim=-2, keepdim=True) + epsilon)
    for _ in range(rounds - 1):
        matrix = matrix / (matrix.sum(dim=-1, keepdim=True) + epsilon)
        matrix = matrix / (matrix.sum(dim=-2, keepdim=True) + epsilon)
    return matrix


def connection(w, streams):
    """[B, T, n, D] -> what the layer reads [B, T, D], post [B, T, n], mix [B, T, n, n]."""
    n, flat = w.num_streams, streams.flatten(2)
    numbers = rms_norm(flat, flat.shape[-1:], eps=w.norm_epsilon) @ w.weight.T
    scale = w.scale.repeat_interleave(torch.tensor([n, n, n * n]))
    pre, post, mix = (numbers * scale + w.base).split([n, n, n * n], dim=-1)
    mix = sinkhorn(mix.unflatten(-1, (n, n)).softmax(dim=-1) + w.epsilon, w.rounds, w.epsilon)
    pre = pre.sigmoid() + w.epsilon
    return torch.einsum("btn,btnd->btd", pre, streams), 2 * post.sigmoid(), mix


# %%
from helpers.layers.hyper import HyperConnection

hyper = HyperConnection(4, 20, rounds=20, epsilon=1e-6, norm_epsilon=1e-6)
with torch.no_grad():
    post, mix = connection(hyper, torch.randn(1, 1, 4, 20))[1:]
print("post", post[0, 0].numpy().round(2), "\nmix\n", mix[0, 0].numpy().round(2))

# %% [markdown]
# Random weights, one token: each stream takes about one share of what the layer writes, and a quarter of each stream.
#
# What would go wrong without the constraint? Let four streams pass 60 layers that write nothing, so that only the mixes
# act; each token and each layer has its own. Four kinds of mixes:

# %%
tokens, n, depth = {"smoke": 64, "laptop": 512, "full": 8192}[scale], 4, 60


def mixes(kind):
    """[tokens, n, n]: another matrix for every token, as the model makes them."""
    noise = torch.randn(tokens, n, n, device=on)
    return {
        "identity + 0.3 noise": torch.eye(n, device=on) + 0.3 * noise,
        "0.7 identity + 0.3 noise": 0.7 * torch.eye(n, device=on) + 0.3 * noise,
        "positive, mean row sum 0.9": 2 * 0.9 / n * noise.sigmoid(),
        "doubly stochastic": sinkhorn(noise.softmax(dim=-1), 20, 1e-6),
    }[kind]


def through(kind):
    """The size (RMS) of the streams before the first layer and after each."""
    streams, sizes = torch.randn(tokens, n, 32, device=on), [1.0]
    for _ in range(depth):
        streams = mixes(kind).mT @ streams
        sizes.append(streams.square().mean().sqrt().item())
    return sizes


# %%
kinds = ["identity + 0.3 noise", "0.7 identity + 0.3 noise", "positive, mean row sum 0.9", "doubly stochastic"]
lines = {kind: through(kind) for kind in kinds}
for kind, line in lines.items():
    print(f"{kind:27} after 60 layers: {line[-1]:.2g} times as large")
check.reveal("what_came_next.mix", formula=(1 + n * 0.3**2) ** (depth / 2), machine=lines[kinds[0]][-1], unit="x")
grown, shrunk, stays = (lines[kinds[n]][-1] for n in (0, 2, 3))
finding = (
    f"60 free mixes: {grown:,.0f} times as large, or 1/{1 / shrunk:,.0f}; doubly stochastic ones stay at {stays:.2g}"
)
show(draw.sizes_by_layer(lines, finding))

# %% [markdown]
# Free mixes explode or die, and small changes of their entries decide which. (The formula is the mean of the squares
# over all possible draws; a few rare tokens carry much of it, so your machine stays below.) Gradients pass the same
# matrices backwards. A doubly stochastic mix is an average, so nothing grows; and it keeps the *sum* of the streams.
# The size it settles at is that of four streams which have become alike:

# %%
streams = start = torch.randn(tokens, n, 32, device=on)
for _ in range(depth):
    streams = mixes("doubly stochastic").mT @ streams
kept_sum = max_error(streams.sum(dim=1), start.sum(dim=1))
print(
    f"the sum of the streams moved by {kept_sum:.0e}; streams differ by {max_error(streams[:, 0], streams[:, 1]):.0e}"
)

# %% [markdown]
# The thousandth comes from the epsilon in each division. Equal streams are the price of a long chain of averages. What
# keeps them apart in the model is `post`, which gives each stream another share of what a layer writes, and mixes near
# the identity, which training may choose.
#
# ### 6. Experts from a table
#
# In the first three layers of V4 nobody chooses experts: a fixed table says which experts a token id goes to. A router
# still says how much each of them counts, by the square root of softplus.

# %%
from torch.nn.functional import softplus


def from_table(logits, token_ids, table, scale):
    """Experts [T, A] and their weights [T, A], which sum to ``scale``."""
    experts = table[token_ids]
    weights = softplus(logits).sqrt().gather(-1, experts)
    return experts, scale * weights / weights.sum(dim=-1, keepdim=True)


table = torch.tensor([[0, 1], [2, 3], [0, 2], [1, 3]])  # 4 token ids, 4 experts, 2 for each id
token_ids = torch.tensor([2, 0, 2, 3])
experts, weights = from_table(torch.randn(4, 4), token_ids, table, scale=1.5)
for one in zip(token_ids.tolist(), experts.tolist(), weights.numpy().round(2), strict=True):
    print("token id {}: experts {}, weights {}".format(*one))
print("load, known before anything runs:", table[token_ids].flatten().bincount(minlength=4).tolist())

# %% [markdown]
# Token id 2 comes twice: the same experts, other weights. The load is known from the ids alone, so machines can be
# prepared while the text is still being cut into tokens. (Learned routers are lesson [[experts]].)
#
# ## Check
#
# ### Against transformers, at awkward lengths
#
# The library's DeepSeek-V4 attention with the same random weights, all three kinds: below a group, at its border, one
# behind it, and far enough that the indexer must leave entries out.

# %%
from transformers import DeepseekV4Config, DeepseekV4Model

from helpers.reference import parts_of

THEIRS = {"query_down": "q_a_proj", "query_norm": "q_a_norm", "query_up": "q_b_proj", "key_norm": "kv_norm"}
THEIRS |= {"key.": "kv_proj.", "output_down": "o_a_proj", "output_up": "o_b_proj"}
THEIRS |= {"indexer.compressor.": "compressor.indexer.", "indexer.query.": "compressor.indexer.q_b_proj."}
THEIRS |= {"indexer.weights.": "compressor.indexer.scorer.weights_proj."}
PARTS = {"value.": "kv_proj.", "gate.": "gate_proj.", ".bias": ".position_bias", ".norm.": ".kv_norm."}


def their_name(name):
    """Our name of a weight -> the one in transformers' module."""
    for ours, theirs in (THEIRS | PARTS).items():
        if name.startswith(ours) or (ours in PARTS and "compressor" in name):
            name = name.replace(ours, theirs) if theirs not in name else name
    return name


# %% [markdown]
# `their_name` only says where each weight goes. The library wants angles for both kinds of layers and a mask for the
# window; it makes its own rule for entries.

# %%
theirs_config = DeepseekV4Config(**to_hf(config), attn_implementation="eager")
TheirAttention, TheirRotary = parts_of(DeepseekV4Model, "DeepseekV4Attention", "DeepseekV4RotaryEmbedding")
rotary_of = TheirRotary(theirs_config)


@torch.no_grad()
def from_library(name, x):
    number, places = list(KINDS).index(name), torch.arange(x.shape[1])[None]
    module = TheirAttention(theirs_config, number).eval()
    module.load_state_dict({their_name(key): weight for key, weight in layers[name].state_dict().items()})
    rotary = {kind: rotary_of(x, places, layer_type=kind) for kind in ("main", "compress")}
    barred = torch.zeros(x.shape[1], x.shape[1]).masked_fill(~in_window(x.shape[1], 5), float("-inf"))
    return module(x, rotary, places, barred.expand(len(x), 1, -1, -1))[0]


# %%
print("tokens  window   CSA      HCA")
with torch.no_grad():
    for length in (1, 3, 4, 5, 23, 24, 25, 61):
        x, errors = torch.randn(2, length, config.width), []
        for name, w in layers.items():
            errors.append(max_error(whole(w, x, radians_of(name)), from_library(name, x)))
        print(f"{length:6}", "".join(f"  {error:.0e}  " for error in errors))
        assert max(errors) <= 1e-5

# %% [markdown]
# Where an error is zero, both did the same operations in the same order. Does sparsity bite? Let the indexer take all
# entries and compare again: the answer must differ. And the streams and the table, against the library's modules:

# %%
with torch.no_grad():
    csa = layers["CSA"]
    few, csa.indexer.k = whole(csa, x, radians_of("CSA")), 1000
    everything, csa.indexer.k = whole(csa, x, radians_of("CSA")), 2
    print(f"CSA with 2 entries against all: {max_error(few, everything):.2f} apart")

# %%
streams = torch.randn(2, 9, 4, 20)
Streams, Table = parts_of(DeepseekV4Model, "DeepseekV4HyperConnection", "DeepseekV4HashRouter")
theirs, router = Streams(theirs_config), Table(theirs_config)
with torch.no_grad():
    for ours, name in ((hyper.weight, "fn"), (hyper.base, "base"), (hyper.scale, "scale")):
        getattr(theirs, name).copy_(ours.copy_(torch.randn(ours.shape)))
    router.weight.copy_(torch.randn(router.weight.shape))
    router.tid2eid.copy_(torch.randint(8, router.tid2eid.shape))
    x, post, mix = connection(hyper, streams)
    found, wanted = (post, mix, x), theirs(streams)
    print("streams: off by", [f"{max_error(a, b):.0e}" for a, b in zip(found, wanted, strict=True)])
    ids, hidden = torch.randint(64, (12,)), torch.randn(12, 20)
    logits, weights, experts = router(hidden, ids)
    ours = from_table(hidden @ router.weight.T, ids, router.tid2eid, theirs_config.routed_scaling_factor)
print(f"table: same experts {torch.equal(ours[0], experts)}, weights off by {max_error(ours[1], weights):.0e}")

# %% [markdown]
# ### A bug hunt: which probe sees the leak?
#
# Here is `complete` as somebody wrote it in a hurry: an entry may be read once it has *begun*. Shapes fit, nothing
# fails. The probe of lesson [[attention]] changes the text from one position on and looks whether earlier answers move.
# You run it at position 12, halfway.


# %%
def begun(T, N, ratio):
    return torch.arange(N) * ratio <= torch.arange(T)[:, None]


@torch.no_grad()
def leak(complete, position, name="HCA"):
    """How much answers before ``position`` change when the text changes from there on."""
    x = torch.randn(1, 26, config.width, generator=torch.Generator().manual_seed(seed))
    return causality_probe(lambda x: whole(layers[name], x, radians_of(name), complete), x, position)


print("at position 12:", leak(begun, 12))

# %% [markdown]
# Zero. No leak? HCA's entries stand for 6 tokens, and 12 is a border: there no earlier query has begun an entry that
# reaches behind it. Run the probe at every position.

# %%
for name, rule in (("begun", begun), ("complete", complete)):
    leaks = [leak(rule, position) for position in range(1, 26)]
    seen = [position for position, change in enumerate(leaks, start=1) if change > 0]
    print(f"{name:8}: leaks at {seen or 'no position'}")

# %% [markdown]
# The bug shows at every position except the borders, 6, 12, 18 and 24, and behind the last complete entry. Round
# numbers are where people probe. **A probe for blocks must try positions inside blocks.**
#
# ### Cached, and padded
#
# The helper's layer keeps a window, the entries, and the tokens that a coming entry needs. One token at a time must
# give the same answers, and what is kept follows from the sizes.

# %%
from helpers.layers.ragged import arrange


def rows_of(x, start=0, mask=None):
    return arrange(torch.zeros(x.shape[:2], dtype=torch.long), mask, torch.full((len(x),), start))


x = torch.randn(2, 61, config.width)
with torch.no_grad():
    for name, w in layers.items():
        cache, parts, radians = w.new_cache(), [], radians_of(name)
        for t in range(61):
            parts.append(w(x[:, t : t + 1], rows_of(x[:, :1], t), radians, cache))
        error = max_error(torch.cat(parts, dim=1), whole(w, x, radians))
        print(f"{name:6}: one by one against all at once {error:.0e}, {cache.bytes():,} bytes for 2 texts of 61 tokens")
        assert error <= 1e-5

# %% [markdown]
# In a batch, short texts are filled up with padding. transformers 5.23 cuts groups by column and not by token, so
# padding on the *left* gets into its entries: a bug of the library, and the reason why no comparison here pads left.
# The helper counts positions over real tokens. Read a text alone, then behind three columns of padding.

# %%
from helpers.models.deepseek_v4 import DeepSeekV4

model = DeepSeekV4(config).eval()
ids = torch.randint(64, (1, 29))
padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
with torch.no_grad():
    alone, behind = model(ids), model(padded, mask=torch.arange(32)[None] >= 3)
print(f"behind padding against alone: {max_error(behind[:, 3:], alone):.0e}")

# %% [markdown]
# ## Measure
#
# ### A formula for every family
#
# `plan` (lesson [[open_a_model]]) has a formula for what each kind of layer keeps, `token_flops` one for what a token
# costs. Before you trust them with a million tokens: build a tiny model of every family, let it read, and count bytes
# in its cache and FLOP in torch. A formula that is right must grow as the count does, to the last byte.

# %%
from course.parity.configs import CONFIGS
from helpers.checkpoints.families import FAMILIES
from helpers.measure import count_flops
from helpers.planning.plan import plan, published
from helpers.planning.token_flops import layer_flops, token_flops


@torch.no_grad()
def counted(kind, lengths):
    """Bytes kept and FLOP of one more token, after each length."""
    sizes = {"model_type": kind, **CONFIGS[kind].sizes}
    model = FAMILIES[kind].model(FAMILIES[kind].from_hf(plan(sizes).config.to_dict())).eval()
    for tokens in lengths:
        cache = model.new_cache()
        model(torch.randint(199, (1, tokens - 1)), cache)
        flops = sum(count_flops(lambda cache=cache: model(torch.randint(199, (1, 1)), cache)).values())
        yield cache.bytes(), flops


# %%
print("64 tokens to 192      bytes: counted  formula     FLOP: counted  formula")
for kind in ("qwen3", "qwen3_5_text", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "deepseek_v4"):
    short, long = counted(kind, (64, 192))
    p = plan({"model_type": kind, **CONFIGS[kind].sizes})
    kept = p.cache_bytes(192, 4) - p.cache_bytes(64, 4)
    work = token_flops(p, 192).total - token_flops(p, 64).total
    print(f"{kind:20} {long[0] - short[0]:15,} {kept:8,} {long[1] - short[1]:18,} {work:8,}")
    assert (long[0] - short[0], long[1] - short[1]) == (kept, work)

# %% [markdown]
# Equal everywhere. (Kimi Linear has no model here; a test holds its formula to the cache that transformers fills.)
#
# ### One million tokens, eight real configs

# %%
EIGHT = {
    "Qwen3-0.6B": "qwen3-0.6b",
    "GLM-5.2": "glm5.2",
    "DeepSeek-V3.2": "deepseek_v32",
    "DeepSeek-V3": "deepseek_v3",
    "Kimi-K2.5": "kimi_k25",
    "Qwen3.5-397B-A17B": "qwen3_5-397b-a17b",
    "Kimi-Linear-48B-A3B": "kimi_linear-48b-a3b",
    "DeepSeek-V4-Flash": "deepseek_v4-flash",
}
plans, million = {name: plan(published(file)) for name, file in EIGHT.items()}, 1_000_000
print(f"{'1,000,000 tokens':20} {'cache':>9} {'a token':>10} {'own context':>12} {'one more token':>15}")
for name, p in plans.items():
    kept, context = p.cache_bytes(million), p.config.max_position_embeddings
    work = format_flops(token_flops(p, million).total)
    print(f"{name:20} {format_bytes(kept):>9} {kept / million:8,.0f} B {context:12,} {work:>15}")

# %% [markdown]
# The smallest model, 0.6 billion parameters with eight key/value heads in every layer, would keep the most. Five of
# the eight were never meant for a million tokens: there the row is the formula's answer, not a promise that they would
# still read well.

# %%
IDEA = {"state": "states, and some keys and values", "keys and values": "keys and values"}
IDEA |= {"latent and index": "a latent and an index", "latent": "a latent", "window": "entries for many tokens"}
ideas = {name: next(idea for kind, idea in IDEA.items() if kind in p.layers) for name, p in plans.items()}
contexts = [2**m for m in range(8, 21)]
caches = {name: [p.cache_bytes(n) for n in contexts] for name, p in plans.items()}
limits = {name: p.config.max_position_embeddings for name, p in plans.items()}
most, least = (pick_one(row[-1] for row in caches.values()) for pick_one in (max, min))
finding = (
    f"The text is the same, the cache is not: {format_bytes(least)} to {format_bytes(most)} for {contexts[-1]:,} tokens"
)
show(draw.cache_of_all(caches, ideas, limits, contexts, finding))

# %% [markdown]
# Strong lines end at the longest context that a config names. Most lines rise in step with the text. Three have a
# floor on the left: states keep megabytes before the first word, and a window bends once it is full.
#
# ### The vendor's ratios
#
# DeepSeek's card says that V4-Flash takes 10 % of V3.2's FLOP and 7 % of its cache at one million tokens; a request for
# support repeats them as 9.8 and 13.7 times. First in bf16, as you predicted. Then as the makers store and compute:
# turned parts in 16 bits, other content in 8, index keys in 8 (V3.2) or 4 (V4), with their scales.

# %%
from helpers.facts import table as facts

old, new = plans["DeepSeek-V3.2"], plans["DeepSeek-V4-Flash"]
bytes_ratio = old.cache_bytes(million) / new.cache_bytes(million)
work = [token_flops(p, million) for p in (old, new)]
check.reveal("what_came_next.bytes", formula=bytes_ratio, unit="x")
check.reveal("what_came_next.flops", formula=work[0].total / work[1].total, unit="x")

stored = {row["model"]: row for row in facts("stored_caches")}
a, b = stored["DeepSeek-V3.2"], stored["DeepSeek-V4-Flash"]
old_bytes = 61 * (a["token_bytes"] + a["index_bytes"])
new_bytes = 21 / 4 * (b["token_bytes"] + b["index_bytes"]) + 20 / 128 * b["token_bytes"]
print(f"as stored: {old_bytes:,} and {new_bytes:,.0f} bytes per token, {old_bytes / new_bytes:.1f} times fewer")


# %% [markdown]
# FLOP in eight bits count once, in sixteen twice, in four half:


# %%
def eight_bit_flops(work, index_bits):
    """Weights in 8 bits (experts of 4 count as 8), attention in 16, index scores in ``index_bits``."""
    return work.weights + 2 * work.attention + index_bits / 8 * work.index


weighed = eight_bit_flops(work[0], 8) / eight_bit_flops(work[1], 4)
print(f"FLOP, all alike: {work[0].total / work[1].total:.1f} times fewer; weighed by their bits: {weighed:.1f}")
for row in facts("stored_caches"):
    if "claimed_bytes" in row:
        print(f"the claim: {row['claimed_flops']} times fewer FLOP, {row['claimed_bytes']} times fewer bytes")

# %% [markdown]
# Both claims hold, with a part of each that is not the architecture: counted in the same number format, the gain is the
# first number; the rest comes from fewer bits, in the cache and in the index scores. Neither is wrong. A ratio needs
# its unit.
#
# ### Which part dominates where
#
# One token of V4-Flash, part by part. CSA reads at most 512 entries, HCA all of them, the indexer scores every key.

# %%
WHERE = {"CSA: index": ("window and every 4th", 0), "CSA: reading": ("window and every 4th", 1)}
WHERE |= {"HCA: reading": ("window and every 128th", 1), "window layers": ("window", 1)}
from helpers.planning.cache_size import layer_kinds

kinds = layer_kinds(new.config)


def part_flops(kind, which, tokens):
    return kinds.count(kind) * layer_flops(new.config, kinds.index(kind), tokens)[which]


parts = {name: [part_flops(*part, n) for n in contexts] for name, part in WHERE.items()}
parts = {"all weights": [token_flops(new, n).weights for n in contexts], **parts}

# %%
index_line = part_flops("window and every 4th", 0, 4000) / 4000  # FLOP for each token of context
over_weights = token_flops(new, 1).weights / index_line
csa = kinds.index("window and every 4th")
over_reading = next(n for n in range(4, million, 4) if int.__gt__(*layer_flops(new.config, csa, n)))
marks = {f"{over_reading:,}": over_reading, f"{over_weights:,.0f}": over_weights}
finding = (
    f"From {over_reading:,} tokens on choosing costs more than reading; from {over_weights:,.0f}, more than all weights"
)
show(draw.work_by_context(parts, contexts, finding, marks))

# %% [markdown]
# For a short text the weights are nearly everything, and the design of attention hardly matters for FLOP. Among
# attention's own parts reading leads until the first dotted line. At a million tokens the indexer alone costs more than
# the rest together. So the next saving is to be found there, and GLM-5.2 has taken one: four layers share an index.
#
# ### Trained streams
#
# Do trained models use what the mixes allow? Where a trained V4 is at hand, ask which share of itself a stream keeps in
# each block: all of it would be the identity, and one part in n a plain average. (This is the part of the mix that is
# the same for all tokens.)

# %%
from helpers.checkpoints import load, resolve

try:
    trained = load(resolve("zoo:tiny-deepseek-v4" if checkpoint == "zoo" else checkpoint), device=on)
except ValueError as error:
    trained = None
    print("no trained DeepSeek-V4 here:", str(error)[:90])
if trained:
    for number, block in enumerate(trained.blocks):
        w = block.attention_streams
        base = w.base[2 * w.num_streams :].detach().unflatten(0, (w.num_streams, -1))
        kept = sinkhorn(base.softmax(dim=-1), w.rounds, w.epsilon).diagonal().mean().item()
        print(f"block {number}: a stream keeps {kept:.0%} of itself; an average would keep {1 / w.num_streams:.0%}")

# %% [markdown]
# And does it find a needle? Its card holds the share of right answers by depth: 0 is the start of the text, 1 the end,
# where the window still sees the needle as it is. Beside what the indexer chooses stands reading all entries.

# %%
from helpers.zoo import read_card

found = read_card(resolve("zoo:tiny-deepseek-v4"))["tables"] if trained and checkpoint == "zoo" else {}
depths = found.get("depths", {"columns": [], "rows": []})
print(*depths["columns"], sep="   ")
for depth, *shares in depths["rows"]:
    print(f"{depth:5}", "".join(f"{share:22.1%}" for share in shares))

# %% [markdown]
# In this tiny model a needle is found where the window sees it, now and then, and hardly ever in an entry. Reading all
# entries helps no more than the chosen ones: what is missing is in no entry, or is not found there. It is one small
# model and a short training; for a large one it says which measurement to ask for.
#
# ### Recorded on a GPU
#
# Whole blocks are easier for a GPU to read than single tokens. `helpers/kernels/attention/block_sparse.py` reads
# blocks, and `python3 -m course measure block-sparse-prompt --device cuda` times it beside dense attention.

# %%
from helpers.measure import recorded_text

print(recorded_text("block-sparse-prompt"))

# %% [markdown]
# ## Play
#
# Eleven published configs, smallest cache first. Left: active and total parameters, joined by a line. Colour and marker
# are the idea, as in the figure above.
#
# 1. Go from 1,024 tokens to a million. Which model keeps the most at each end?
# 2. Compare GLM-5 and GLM-5.2 in all three columns, at both ends. What did sharing an index change?
# 3. Take Qwen3.5-35B-A3B: at which context does it keep less than V4-Flash?

# %%
from helpers.plots.widgets import Choice, Slider, explore

more = {"GLM-5": "glm5", "Qwen3.5-35B-A3B": "qwen3_5-35b-a3b", "Qwen3.5-0.8B": "qwen3_5-0.8b"}
everyone = plans | {name: plan(published(file)) for name, file in more.items()}
ideas |= {name: next(idea for kind, idea in IDEA.items() if kind in everyone[name].layers) for name in more}


def gallery(context, chosen):
    models = {}
    for name, p in everyone.items():
        counts = (p.total, p.active, p.cache_bytes(context), token_flops(p, context).total)
        models[name] = draw.Model(ideas[name], *counts)
    return draw.compare(models, context, chosen)


explore(
    gallery,
    context=Slider(1024, 1_048_576, value=131_072, label="tokens of context", log=True),
    chosen=Choice(list(everyone), label="model", value="DeepSeek-V4-Flash"),
)

# %% [markdown]
# <details><summary>What to notice</summary>
#
# 1. At 1,024 tokens Qwen3.5-397B, for its states; at a million Qwen3-0.6B, for its eight heads in every layer.
# 2. 57 of GLM-5.2's 78 layers keep no index key: the cache is smaller by the same share at every length. They score
#    nothing either: at the short end that hardly shows, at the long end it is most of the work.
# 3. Nowhere here: its ten attention layers keep 20 kB per token, V4-Flash about 7; at the short end its states weigh
#    more than V4's windows.
#
# </details>

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: what a layer keeps (4 minutes, difficulty 1)
#
# After `tokens` tokens a layer keeps the newest `window - 1` as they are (fewer in a shorter text), `width` numbers
# each; and for every complete group of `ratio` tokens per entry of `width` and an index key of `index_width` (0 for
# HCA). Return how many numbers that is. Leave out tokens that wait for their group.


# %% tags=["exercise:kept", "points:1"]
def kept(tokens, window, ratio, width, index_width):
    # BEGIN SOLUTION
    near = min(tokens, window - 1)
    return near * width + tokens // ratio * (width + index_width)
    # END SOLUTION


# %% tags=["check:kept"]
check.kept(kept)

# %% [markdown]
# ### 2. Core: when is an entry complete? (6 minutes, difficulty 2)
#
# A query stands at `position` (the first token has 0). Return a list of `entries` answers: True where it may read entry
# n, which is made of the `ratio` tokens from n `ratio` on.


# %% tags=["exercise:readable", "points:2"]
def readable(position, ratio, entries):
    # BEGIN SOLUTION
    return [(n + 1) * ratio - 1 <= position for n in range(entries)]
    # END SOLUTION


# %% tags=["check:readable"]
check.readable(readable)

# %% [markdown]
# ### 3. Core: doubly stochastic (7 minutes, difficulty 2)
#
# Given a matrix of positive numbers, return the doubly stochastic matrix that comes from dividing its rows and columns
# by numbers, to 0.001.


# %% tags=["exercise:doubly_stochastic", "points:2"]
def doubly_stochastic(matrix):
    # BEGIN SOLUTION
    for _ in range(50):
        matrix = matrix / matrix.sum(dim=0, keepdim=True)
        matrix = matrix / matrix.sum(dim=1, keepdim=True)
    return matrix
    # END SOLUTION


# %% tags=["check:doubly_stochastic"]
check.doubly_stochastic(doubly_stochastic)

# %% [markdown]
# ### 4. Stretch: where choosing costs more than reading (9 minutes, difficulty 3)
#
# One CSA layer, one token. Reading costs 4 x `heads` x `width` FLOP for each vector: those of the window (`window` of
# them, the text is long) and `k` entries. Choosing costs 2 x `index_heads` x (`index_width` + 1) for each complete
# entry of the text, one for `ratio` tokens. Return the shortest context, in tokens, at which choosing costs more.


# %% tags=["exercise:takes_over", "points:3"]
def takes_over(heads, width, index_heads, index_width, ratio, k, window):
    # BEGIN SOLUTION
    reading = 4 * heads * width * (window + k)
    choosing = 2 * index_heads * (index_width + 1)
    return (reading // choosing + 1) * ratio
    # END SOLUTION


# %% tags=["check:takes_over"]
check.takes_over(takes_over)

# %% [markdown]
# ### 5. In words: which design for which desk? (6 minutes, difficulty 2)
#
# Three clients: a chat on phones with 2,000 tokens a talk; a firm that asks one contract of 900,000 tokens for exact
# quotations; a service that writes running summaries of radio. Name a design for each, with a number of this lesson,
# and say what you would measure before signing.

# %% [markdown] tags=["answer:design"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# Phones: weights decide, not the cache; a small dense model or a small active part. At 2,000 tokens a hybrid's state
# can outweigh what it saves.
#
# The contract: a million tokens in bytes, from the table, and then the question that no table answers: is an exact
# quotation still there when four tokens share an entry, and does the indexer find it? Measure that by depth.
#
# The radio: a state of constant size, which may forget the oldest. Someone who knows only the cache cannot choose
# between the three.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. An entry is the gated mean of several tokens; it may be read when its last token is known, and not before.
# 2. CSA keeps one for 4 tokens and reads a few, HCA keeps one for 128 and reads all; both read the newest tokens as
#    they are, in the same softmax, with a sink.
# 3. A probe at the border of a block is blind to leaks inside blocks.
# 4. A doubly stochastic mix averages streams, so that depth neither blows them up nor extinguishes them.
# 5. At a million tokens bytes differ by an order of magnitude between designs, and a ratio needs its number format.
#
# | idea | formula | cost |
# |---|---|---|
# | entry | sum of softmax(gate) x value over a group | K numbers for m tokens |
# | overlap | two series a token, groups n - 1 and n | twice the projections |
# | window and sink | newest 128 as they are; one score a head | constant |
# | index over entries | sum of w relu(q . k) | grows with T / 4 |
# | streams | X' = post y + mix^T X | n + n + n² numbers per token and layer |
# | hash routing | experts = table[token id] | no choice; load known before |

# %% [markdown]
# ## In the real models
#
# - **DeepSeek-V4-Flash**: 43 layers, `SS CHCH...C`: two with a window only, 21 CSA, 20 HCA. Head width 512, 64 heads,
#   top 512. **V4-Pro**: 61 layers, `HH CHCH...C`, top 1,024. Four streams and 20 rounds in both, three layers with a
#   table.
# - **GLM-5.3-Flash**, August 2026, scores pools of 16 tokens and then reads the tokens themselves; it has the same
#   streams. **GLM-5.2** shares an index between four layers. **Kimi Linear** keeps 7 latents in 27 layers.
# - **Gemini**: Google's card of Gemini 3 Pro calls it a sparse mixture of experts. It names no number of layers,
#   experts or parameters, so it has no row in the gallery: *built from experts* is all that can be said.
# - **Surprise**: the default schedule of transformers' `DeepseekV4Config()` is neither Flash's nor Pro's. Give the
#   layers' kinds, always.
#
# Sizes: `helpers/facts/configs` (source and date in each file). Layers: transformers 5.23, read and run on 25 November
# 2026. Papers: DeepSeek-AI, "DeepSeek-V4", 2026; Xie et al., arXiv 2512.24880; Sinkhorn and Knopp, 1967.

# %% [markdown]
# ## Roads not taken
#
# Entries could be chosen in two stages, blocks first. Several layers could share entries, as they share an index in
# GLM-5.2; DeepSeek-V4.1 does so. Entries could be made again when a question is known, at the price of keeping the
# text. Streams could be mixed by rotations, which keep lengths and not sums.
#
# An indexer over entries is trained by the recipe of lesson [[dsa]] (`helpers/training/indexers/csa.py`). The next
# lesson opens the other half of every layer: experts.
