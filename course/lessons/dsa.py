# %% [markdown]
# # DeepSeek sparse attention
#
# **From which context length on does looking at fewer tokens pay?**
#
# 60 minutes, without the stretch exercise · needs: lesson [[mla]] (latents, and queries carried into them) · runs on
# any laptop, without a network
#
# Dense attention reads everything, for every new token. DeepSeek sparse attention (DSA) asks a cheap **indexer**
# first which few tokens are worth it, and reads those. You build it, hold it against transformers' own layers, find
# its two famous bugs, teach it to a model that never knew it, and measure where it begins to pay.
#
# ```text
#     every earlier token                     the new token
#     one short index key each                   |
#     k k k k k k k k k k k k  <-- many small index heads: one score for each key
#     . . # . . . . # . . # #      the k best, none of the future
#         |         |     | |
#         c         c     c c  <-- latents of the chosen, gathered: attention over k, whatever the length
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # or a Hugging Face id, or a folder: the same cells on a real model
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import dsa as check
from helpers.plots import show
from helpers.plots.layers import dsa as draw
from helpers.units import format_flops, format_seconds

machine = begin(scale, checkpoint, device, seed)
smoke, full = scale == "smoke", scale == "full"

# %% [markdown]
# ## By hand
#
# ### Six tokens, two index heads
#
# The sixth token asks. It has two index queries, one per head, and a weight for each head; every token has **one**
# index key, the same for both heads. A head's vote is its dot product with the key, and nothing where that is
# negative. The score of a key is the weighted sum of votes.

# %%
query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # two heads of width two
weight = torch.tensor([2.0, -1.0])  # of each head; it may be negative
key = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 1.0], [1.0, 2.0], [0.0, -1.0], [2.0, 1.0]])

votes = (query @ key.T).relu()
score = weight @ votes
for s, (vote, total) in enumerate(zip(votes.T.tolist(), score.tolist(), strict=True)):
    print(f"token {s}: 2 x {vote[0]:g} - 1 x {vote[1]:g} = {total:g}")

# %% [markdown]
# Three tokens may be read. The first two are clear: token 5 has the highest score, and token 0 comes next. Then
# tokens
# 3 and 4 stand level at zero, and somebody must decide. You take the **earlier** one, always, and will soon see what
# happens to those who leave it open.
#
# How good is the choice? Here are scores that one head of *dense* attention might have. Its shares say what it takes
# from each token, and the shares of the chosen add up to the **attention mass** that is kept.

# %%
chosen = sorted(range(6), key=lambda s: (-score[s].item(), s))[:3]
shares = torch.tensor([2.0, -1.0, 0.5, 1.0, -0.5, 2.5]).softmax(dim=0)
print("chosen:", sorted(chosen))
print("shares:", [f"{share:.0%}" for share in shares.tolist()])
print(f"kept:   {shares[chosen].sum():.0%} of the mass, reading half of the tokens")

# %% [markdown]
# ### Fewer visible than k
#
# Now the **second** token asks, with the same budget of three. It may see two keys, itself and the first. The future
# is barred by minus infinity, as always. Ask torch for the best three.

# %%
barred = torch.tensor([2.0, -3.0] + [float("-inf")] * 4)
best = barred.topk(3)
print("values:   ", best.values.tolist())
print("positions:", best.indices.tolist())

# %% [markdown]
# It gives you three, because you asked for three, and one of them lies in the future. The value says so, and the
# position does not. Whoever keeps the positions alone has let a token look ahead. Remember this line of output.

# %% [markdown]
# ## Predict
#
# Later you time one new token after a long text, in one layer, read densely and read sparsely with 512 chosen tokens.
# The indexer costs something for *every* token of the text. **From which length on is sparse faster on this
# machine?**

# %% tags=["predict:crossover"]
guess_crossover = ...
# BEGIN SOLUTION
guess_crossover = 2000
# END SOLUTION
check.predict("dsa.crossover", guess_crossover, unit="tokens")

# %% [markdown]
# Before that you take a small trained model that has always attended densely, and teach indexers to imitate it for
# some seconds. Then each token reads 32 of up to 512. **How many percent of dense attention's mass do they hold?**

# %% tags=["predict:mass"]
guess_mass = ...
# BEGIN SOLUTION
guess_mass = 50
# END SOLUTION
check.predict("dsa.mass", guess_mass, unit="%")

# %% [markdown]
# ## Build
#
# ### 1. A layer to rebuild
#
# The yardstick comes first: a small DeepSeek-V3.2 of transformers with random weights. The budget is 16 tokens and
# the texts have 96, so that the choice **bites**. A test with a budget as large as the text would compare dense
# attention with itself. `pair` makes their model and ours with the same weights.

# %%
from torch.nn import init
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM, GlmMoeDsaConfig, GlmMoeDsaForCausalLM

from helpers.models.configs import deepseek_v32, glm5
from helpers.models.deepseek_v32 import DeepSeekV32
from helpers.models.glm5 import GLM5

K, LENGTH = 16, 96
SIZES = dict(vocab_size=64, hidden_size=64, num_hidden_layers=2, intermediate_size=96, first_k_dense_replace=2)
SIZES |= dict(num_attention_heads=4, num_key_value_heads=4, q_lora_rank=48, kv_lora_rank=32, index_topk=K)
SIZES |= dict(qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16, index_n_heads=16, index_head_dim=32)


def pair(family, ours, theirs, config, **other):
    """transformers' model and ours, with the same random weights (the norms' too)."""
    peer = theirs._from_config(config(**SIZES | other), attn_implementation="sdpa").eval()
    for weight in peer.parameters():
        init.normal_(weight, mean=float(weight.dim() == 1), std=0.1)
    mine, weights = ours(family.from_hf(peer.config.to_dict())).eval(), peer.state_dict()
    mine.load_state_dict({name: weights[family.published_name(name)] for name in mine.state_dict()})
    return peer, mine


# %%
v32_kind = (deepseek_v32, DeepSeekV32, DeepseekV32ForCausalLM, DeepseekV32Config)
v32 = pair(*v32_kind)
their_layer, our_layer = v32[0].model.layers[0].self_attn, v32[1].blocks[0].attention
x, positions = torch.randn(2, LENGTH, 64), torch.arange(LENGTH).expand(2, -1)
rotary = v32[1].rotary(positions, x.dtype)  # cosines and sines of the positions: lesson `attention`
w = {name.removeprefix("indexer."): weight.detach() for name, weight in their_layer.named_parameters()}
for name in ("wq_b.weight", "wk.weight", "k_norm.weight", "k_norm.bias", "weights_proj.weight"):
    print(f"{name:20} {tuple(w[name].shape)}")

# %% [markdown]
# Those five tensors are the whole indexer. Index queries come from MLA's compressed query, 48 numbers, and become 16
# heads of width 32. The key is one vector per token. The last matrix gives each token its 16 head weights.
#
# ### 2. The indexer
#
# The key is normed, with mean and bias (a LayerNorm), unlike everything else in these models. The first 16
# coordinates of queries and key are turned by position, the others are not. In DeepSeek-V3.2 the turned pairs are
# coordinate *i* and *i + 8*, the two halves, although the attention beside it pairs neighbours.

# %%
from torch.nn import functional

from helpers.layers.rope import rotate, rotate_neighbours


def turn_first(x, rotary, turn=rotate, R=16):
    """Turn the first R coordinates of each head, leave the others. x is B T H K."""
    return torch.cat([turn(x[..., :R], *rotary), x[..., R:]], dim=-1)


def index(x, query_latent):
    """Index queries B T H K, the one key B T K, head weights B T H."""
    query = (query_latent @ w["wq_b.weight"].T).unflatten(-1, (16, 32))
    key = functional.layer_norm(x @ w["wk.weight"].T, (32,), w["k_norm.weight"], w["k_norm.bias"], 1e-6)
    weights = x @ w["weights_proj.weight"].T
    return turn_first(query, rotary), turn_first(key[:, :, None], rotary)[:, :, 0], weights


# %% [markdown]
# The score is your sum from above, for all queries and keys at once:
#
# $$I_{ts} = \frac{1}{\sqrt{H}} \sum_{h} w_{th}\, \mathrm{relu}\!\left(\frac{q_{th} \cdot k_s}{\sqrt{K}}\right)$$
#
# In words: heads vote, negative votes are dropped, weights add them up. Without the relu the sum could be pulled
# inside: $\sum_h w_h (q_h \cdot k) = (\sum_h w_h q_h) \cdot k$, one head under another name. The roots change no
# order.

# %%
from helpers.layers.dsa import scores as helper_scores


def scores(query, key, weights):
    votes = torch.einsum("bthk,bsk->bths", query, key * key.shape[-1] ** -0.5).relu()
    return torch.einsum("bth,bths->bts", weights * weights.shape[-1] ** -0.5, votes)


query_latent = our_layer.mla.query_latent(x).detach()  # MLA's compressed query, from lesson `mla`
wanted = scores(*index(x, query_latent))
difference = (wanted - helper_scores(*index(x, query_latent))).abs().max()
print(f"scores {tuple(wanted.shape)}, largest difference to the helper's: {difference:.1e}")

# %% [markdown]
# ### 3. Select
#
# Bar the future, take the best k, and **look at the values**: what is still minus infinity was never a choice. It
# becomes -1, "no token". Six queries, a budget of three:

# %%
INF = float("inf")


def select(wanted, k):
    """The positions that each query reads, B T k; -1 where it sees fewer than k."""
    future = torch.ones(wanted.shape[-2:], dtype=torch.bool).triu(1)
    best = wanted.masked_fill(future, -INF).topk(min(k, wanted.shape[-1]))
    return best.indices.masked_fill(best.values == -INF, -1)


for t, row in enumerate(select(wanted[:1, :6, :6], 3)[0].tolist()):
    print(f"query {t} reads", [s for s in row if s >= 0])

# %% [markdown]
# ### 4. Ties
#
# `topk` promises the highest values. It does not promise *which* of equal ones. Ask for four zeros out of rows of
# zeros, in rows of growing length.

# %%
for length in (20, 64, 200, 2000):
    print(f"{length:5} zeros: topk takes positions {torch.zeros(length).topk(4).indices.tolist()}")

# %% [markdown]
# Equal values, and another choice for another length. That is harmless until equal scores are common, and the relu
# makes exact zeros. A generating model scores a row of *t + 1* keys; the same model reading the text at once scores a
# row of *T* and bars the rest. How often do the two disagree, if topk decides?

# %%
from helpers.layers.attention import causal_mask
from helpers.layers.dsa import select_tokens


def disagree(heads, choose, length=200, k=16):
    """Queries whose choice depends on the length of the row they stand in."""
    made = [torch.randn(1, length, *rest) for rest in ((heads, 32), (32,), (heads,))]
    wanted = scores(*made).masked_fill(~causal_mask(torch.arange(length)[None], length), -INF)
    whole = choose(wanted, k)[0]
    alone = [choose(wanted[:, t : t + 1, : t + 1], k)[0, 0] for t in range(k, length)]
    return sum(set(a.tolist()) != set(whole[t].tolist()) for t, a in enumerate(alone, start=k))


def by_topk(wanted, k):
    return wanted.topk(k).indices


for heads in (1, 2, 4, 16):
    torch.manual_seed(seed)
    both = disagree(heads, by_topk), disagree(heads, select_tokens)
    print(f"{heads:2} index heads: topk changes its mind in {both[0]:2} of {200 - 16} rows, the helper in {both[1]}")

# %% [markdown]
# Few heads, many rows in which every head says zero. `select_tokens` gives equals to the earlier position, so that
# its choice depends on the scores and on nothing else. transformers leaves ties to `topk`. Let a model with four
# index heads read a text at once, and again token by token with its cache.

# %%
from transformers import DynamicCache

from helpers.reference import with_cache

theirs, ours = pair(*v32_kind, index_n_heads=4)
ids = torch.randint(64, (2, LENGTH))
cache, our_cache = DynamicCache(config=theirs.config), ours.new_cache()
with torch.no_grad():
    one_by_one = [theirs(token, **with_cache(theirs, cache)).logits for token in ids.split(1, dim=1)]
    ours_by_one = [ours(token, our_cache) for token in ids.split(1, dim=1)]
    off = [(torch.cat(by_one, dim=1) - whole).abs().max() for by_one, whole in
           ((one_by_one, theirs(ids).logits), (ours_by_one, ours(ids)))]  # fmt: skip
print(f"logits with the cache and without it differ by {off[0]:.1e} in transformers, by {off[1]:.1e} in ours")

# %% [markdown]
# Where the first number is large, the library writes other words with its cache than without, and no line of it is
# wrong. The real models have 32 or 64 index heads, where this is rare. Your tiny test model has few: give it 16, or
# settle ties.
#
# ### 5. Gather and attend
#
# Attention over the chosen is the absorbed form of lesson [[mla]]. The one new line is the gather: each query takes
# *its* k latents out of the cache, and no other row of it is touched. All heads share the choice, so it is one gather
# for all.

# %%
import math


def attend(query, q_rope, latent, k_rope, w_uk, w_uv, chosen, scale):
    """Absorbed latent attention of each query over its chosen positions; B T H V."""
    near, at = chosen >= 0, chosen.clamp_min(0)
    batch = torch.arange(len(latent))[:, None, None]
    latent, k_rope = latent[batch, at], k_rope[batch, at]  # B T k C and B T k R
    carried = torch.einsum("bthk,hkc->bthc", query, w_uk)
    alike = torch.einsum("bthc,btsc->bths", carried, latent)
    alike = (alike + torch.einsum("bthr,btsr->bths", q_rope, k_rope)) * scale
    taken = alike.masked_fill(~near[:, :, None], -INF).softmax(dim=-1)
    return torch.einsum("bths,btsc,hvc->bthv", taken, latent, w_uv)


@torch.no_grad()
def your_layer(x, k):
    mla, latent_of_query = our_layer.mla, our_layer.mla.query_latent(x)
    index_query, index_key, weights = index(x, latent_of_query)
    chosen = select(scores(index_query, index_key, weights), k)
    parts = (*mla.queries(latent_of_query, rotary), *mla.latents(x, rotary), *mla.up())
    return mla.output(attend(*parts, chosen, mla.scale).flatten(2))


# %% [markdown]
# ## Check
#
# ### Your layer against transformers'
#
# Same weights, same input, 16 of 96 tokens. Beside it stands the answer of *dense* attention. If that were equal too,
# this check would prove nothing about choosing.

# %%
from helpers.compare import causality_probe, max_error
from helpers.layers.ragged import standing_at

with torch.no_grad():
    mask = causal_mask(positions, LENGTH)[:, None]
    expected = their_layer(x, v32[0].model.rotary_emb(x, positions), mask)[0]
    dense = our_layer.mla(x, standing_at(positions), rotary)
yours, allowed = your_layer(x, K), 1e-5 * expected.abs().max().item()
print(f"yours against transformers':  {max_error(yours, expected):.1e} (allowed {allowed:.1e})")
print(f"dense attention against it:   {max_error(dense, expected):.2f}")
assert max_error(yours, expected) < allowed < max_error(dense, expected) / 100
probe = max(causality_probe(lambda x: your_layer(x, K), x, at) for at in (1, 8, 50))
print(f"rows before a change move by: {probe:.0e}")

# %% [markdown]
# Rounding apart, that is DeepSeek-V3.2's layer. The helper of the same idea (`helpers/layers/dsa.py`) works block by
# block, so that a long prompt fits, and with a cache. Hold whole models against transformers': V3.2, GLM-5, and
# GLM-5.2, in which the second block has no indexer and reads what the first chose (**IndexShare**).

# %%
from helpers.generate import generate
from helpers.training.indexers.dsa import dense_logits

glm = (glm5, GLM5, GlmMoeDsaForCausalLM, GlmMoeDsaConfig)
models = {"DeepSeek-V3.2": v32, "GLM-5": pair(*glm), "GLM-5.2": pair(*glm, indexer_types=["full", "shared"])}


@torch.no_grad()
def against_transformers(theirs, ours):
    expected = theirs(ids).logits
    return max_error(ours(ids), expected), max_error(dense_logits(ours, ids), expected)


print("logits off by        ours     dense")
for name, both in models.items():
    error, without = against_transformers(*both)
    print(f"{name:15} {error:9.1e} {without:9.2f}")
    assert error < 1e-4 < without / 100

# %% [markdown]
# With a cache the same models must write the same tokens. Greedy generation reads one row at a time, which is where
# ties and off-by-ones show.

# %%
for name, (_, ours) in models.items():
    written = generate(ours, ids[:, :40], 8)
    again = ids[:, :40]
    for _ in range(8):
        again = torch.cat([again, ours(again)[:, -1:].argmax(dim=-1)], dim=1)
    print(f"{name:15} cached = uncached: {torch.equal(written, again)}, {written[0, 40:].tolist()}")

# %% [markdown]
# ### Bug hunt: the model that knows random numbers
#
# A public comparison of DSA with dense attention reports 68.4 % of next tokens right against 7.6 %, on texts of 256
# tokens. Reading *less* helps nine times over? Its selector gives the future a very low score, runs top-k, and reads
# what comes back. Give that to a small model and train it on **random** tokens. Nobody can predict those: of sixteen
# kinds, guessing gets one in sixteen.

# %%
from torch import nn

from helpers.layers.dsa import attend_chosen
from helpers.layers.mla import MLA
from helpers.layers.rope import angles, frequencies


def leaky(wanted, k):
    future = torch.ones(wanted.shape[-2:], dtype=torch.bool).triu(1)
    return wanted.masked_fill(future, -1e9).argsort(dim=-1, descending=True, stable=True)[..., :k]


class Guesser(nn.Module):
    """One layer of latent attention over what ``select`` keeps of 32 random tokens."""

    def __init__(self, select):
        super().__init__()
        self.select, self.wanted = select, torch.randn(1, 32, 32)
        self.embedding, self.head = nn.Embedding(16, 32), nn.Linear(32, 16)
        nn.init.normal_(self.embedding.weight, mean=1.0)  # a part that all share: heads can look by position alone
        self.mla = MLA(32, 2, None, 16, 8, 16, 16, scale=1.0)

    def forward(self, ids):
        x, at = self.embedding(ids), torch.arange(32).expand(len(ids), -1)
        rotary, chosen = angles(at, frequencies(16, 50.0)), self.select(self.wanted.expand(len(ids), -1, -1), 16)
        parts = (*self.mla.queries(self.mla.query_latent(x), rotary), *self.mla.latents(x, rotary))
        return self.head(self.mla.output(attend_chosen(*parts, *self.mla.up(), chosen, self.mla.scale).flatten(2)))


# %%
def right_by_position(select, steps):
    """The share of random tokens that are predicted rightly, by position, after some training on others."""
    torch.manual_seed(seed)
    model = Guesser(select)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        batch = torch.randint(16, (32, 33))
        functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    fresh = torch.randint(16, (256, 33))
    return (model(fresh[:, :-1]).argmax(dim=-1) == fresh[:, 1:]).float().mean(dim=0)


right = {name: right_by_position(rule, 60 if smoke else 90) for name, rule in (("yours", select), ("leaky", leaky))}
finding = f"A leaky choice predicts {right['leaky'][:15].mean():.0%} of random tokens where a query sees fewer than k"
show(draw.by_position({name: shares.tolist() for name, shares in right.items()}, 16, 1 / 16, finding))

# %% [markdown]
# Before position 15 a query sees fewer than 16 keys, so top-k fills its list with the next tokens, and one of them is
# the answer. From there on every list is full of the past, and the magic ends. Averaged over a text that is twice as
# long as k, it looks like a breakthrough.
#
# No loss curve tells you. A **causality probe** does, in two calls: change the text from some position on, and look
# whether anything *before* that position moves. transformers avoids the leak by joining the causal mask to the
# choice; you avoid it with -1.

# %%
values = torch.randn(1, 32, 4)


def mean_of_chosen(rule):
    """A layer without weights: each row becomes the mean of the rows that it reads."""
    return lambda x: torch.stack([x[0, row[row >= 0]].mean(dim=0) for row in rule(x @ x.mT, 16)[0]])[None]


for name, rule in (("yours", select), ("leaky", leaky)):
    print(f"{name}: rows before position 8 move by {causality_probe(mean_of_chosen(rule), values, 8):.2g}")

# %% [markdown]
# ### Bug hunt: the wrong pairs
#
# The second bug cost more people more time. V3.2's indexer turns halves, GLM-5's turns neighbours. The shapes are the
# same, nothing fails, the text stays fluent. It stood at some time in DeepSeek's own demonstration code and in at
# least five other public code bases. Take the model above, swap the pairing, and check it as most people did, and as
# you do.

# %%
short = ids[:, :K]  # no longer than k
theirs, ours = models["GLM-5"]
print("GLM-5 off by          16 tokens  96 tokens")
for name, turn in (("neighbours (right)", rotate_neighbours), ("halves (wrong)", rotate)):
    for block in ours.blocks:
        block.attention.indexer.rotate = turn
    with torch.no_grad():
        errors = [max_error(ours(text), theirs(text).logits) for text in (short, ids)]
    print(f"{name:20} {errors[0]:10.1e} {errors[1]:10.1e}")
for block in ours.blocks:
    block.attention.indexer.rotate = rotate_neighbours

# %% [markdown]
# On a text no longer than k the wrong model is right, to the last digit: everything is chosen, so it does not matter
# how. A test needs a choice that bites. Exercises 3 and 4 ask you to write both checks yourself.

# %% [markdown]
# ## Teach a dense model to choose
#
# ### Imitation
#
# A position is an integer, and no gradient passes through an integer. The language loss cannot train an indexer. So
# it is trained apart, to **imitate**: its scores, made into shares by a softmax, are to match what dense attention
# takes, averaged over heads. The distance is the KL divergence. Three stages: a dense model; a warm-up in which
# everything but the indexers is frozen; then sparse training, each part with its own loss.
#
# The model is the course's small writer of Python (or your `checkpoint`, if it is a Qwen3). It has grouped-query
# attention and no compressed query, so its indexers read the stream itself.

# %%
from transformers import AutoTokenizer

from helpers.checkpoints import load, resolve
from helpers.data import batches, python_corpus
from helpers.training.indexers.budgets import (
    at_random,
    dense_reads,
    in_blocks,
    largest_shares,
    mass_kept,
    newest,
    reading,
)
from helpers.training.indexers.qwen3 import Indexers, sparse_loss, warm_up_loss
from helpers.training.train import Settings, bits_per_byte, train

folder = resolve("zoo:tiny-qwen3" if checkpoint == "zoo" else checkpoint, download=True)
model = load(folder, torch.float32, machine).requires_grad_(False)
tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
corpus = python_corpus()
lesson_text = "".join(list(corpus.train.values())[:: 4 if full else 16])
unseen = list(corpus.held_out.values())
longest = min(model.config.context, 256 if smoke else 2048 if full else 512)

# %%
budget = 32
tokens = torch.tensor(tokenizer.encode(lesson_text).ids)
unseen_ids = torch.tensor(tokenizer.encode("\n".join(unseen)).ids[: 2 * longest]).view(2, longest).to(machine)
torch.manual_seed(seed)
indexers = Indexers(model, 8, budget).to(machine)  # refuses a model that is no Qwen3
reads = dense_reads(model, unseen_ids)  # what each block's attention is given, on text that no training saw


def kept(rule, k):
    """Percent of dense attention's mass on the k tokens of a rule, the mean over blocks."""
    return 100 * sum(mass_kept(seen, rule, k) for seen in reads) / len(reads)


print(f"{len(reads)} blocks, texts of {longest} tokens, {budget} read: untrained indexers keep", end=" ")
print(f"{kept(indexers.scores, budget):.0f} %, a random choice {kept(at_random(seed), budget):.0f} %")

# %% [markdown]
# Not better than chance, as it should be. Now the warm-up. `warm_up_loss` runs the frozen model, reads off what its
# attention takes, and gives the indexers the distance to make smaller. You met every piece of it above.

# %%
steps, rows, length = {"smoke": (10, 1, 128), "laptop": (80, 2, 256), "full": (500, 4, 512)}[scale]
lessons = batches(tokens, rows, length, seed)
settings = Settings(steps, lr=5e-3 if model.config.width < 512 else 1e-3, warm_up=5)
run = train(indexers, lessons, settings, loss=lambda ix, ids: warm_up_loss(model, ix, ids[:, :-1].to(machine)))
print(f"{steps} steps, {format_seconds(run.wall_s)}: from {run.losses[0]:.2f} to {run.losses[-1]:.2f} nats per query")
print(f"the indexers keep {kept(indexers.scores, budget):.0f} % of the mass")
check.reveal("dsa.mass", machine=kept(indexers.scores, budget), unit="%")

# %% [markdown]
# ### Equal budgets
#
# Is that much? Compare rules that all read k tokens. A **window** keeps the newest. **At random** keeps any. **The
# best there is** looks at dense attention first, which is cheating, and shows how much one choice for all heads can
# keep at all. **Blocks** take the indexer's scores and keep whole runs of 8 neighbours, which is easier for hardware.

# %%
rules = {
    "the best there is": largest_shares,
    "the indexer": indexers.scores,
    "its blocks of 8": in_blocks(indexers.scores, 8),
    "a window": newest,
    "at random": at_random(seed),
}
budgets = [8, 32, 128] if smoke else [8, 16, 32, 64, 128]
table = {name: [kept(rule, k) for k in budgets] for name, rule in rules.items()}
at = budgets.index(budget)
more = table["the indexer"][at] - table["a window"][at]
finding = (
    f"Reading {budget} tokens, the indexer keeps {abs(more):.0f} points {'more' if more > 0 else 'less'} than a window"
)
show(draw.kept_by_budget(budgets, table, finding, y="attention mass kept (%)"))

# %% [markdown]
# Mass is a means. What counts is whether the model still predicts. Bits per byte on unseen files, each rule inside
# every block, nothing trained but the indexers:

# %%
files = [text[: 1200 if smoke else 3000] for text in unseen if len(text) > 3000][: 1 if smoke else 3]
bits = {"dense": [bits_per_byte(model, tokenizer, files, longest, 4)]}
for name, rule in rules.items():
    bits[name] = []
    for k in (16, 64):
        with reading(model, rule, k):
            bits[name].append(bits_per_byte(model, tokenizer, files, longest, 4))
print(f"bits per byte           16 read  64 read   (dense, up to {longest} read: {bits['dense'][0]:.3f})")
for name in rules:
    print(f"{name:20} {bits[name][0]:8.3f} {bits[name][1]:8.3f}")

# %% [markdown]
# Read the two side by side: mass and bits do not move in proportion. Where few tokens are read, the indexer is ahead
# in both. Where 64 are, hardly any rule but chance costs a bit, and reading less may even help: this model was
# trained on windows of 256 tokens, and what lies further back can disturb it as much as it helps. What a window can
# never do is look *far*, whatever the question. For that you need a task in which the answer lies far back.

# %% [markdown]
# ### An answer that lies far back
#
# `zoo:tiny-glm5` is GLM-5's architecture with three blocks, trained by the course in the three stages from above, and
# it reads 32 tokens. Its language is invented: ` dame dipi;` tells that *dame* has the value *dipi*, and ` ? dame`
# asks for it. Four such pairs are hidden among words that mean nothing.

# %%
from helpers.data import tasks
from helpers.training.indexers.budgets import own_indexer
from helpers.zoo.evidence.tasks import examples

searcher = load("zoo:tiny-glm5", torch.float32, machine)
word_tokenizer = AutoTokenizer.from_pretrained(resolve("zoo:tiny-glm5")).backend_tokenizer
noise_words, texts = {"smoke": (128, 4), "laptop": (448, 8), "full": (448, 64)}[scale]
haystacks = examples(lambda rng: tasks.needle(rng, noise_words), texts)
told = haystacks[0].context.index(";")
print(f"{texts} texts of {noise_words} words with 4 pairs each. Around one of them:")
print("  ...", haystacks[0].context[max(0, told - 50) : told + 60], "...")
print("asked, answered:", haystacks[0].asked)

# %%
search_rules = {"its indexer": own_indexer, "the best there is": largest_shares, "a window": newest}
search_rules["at random"] = at_random(seed)
few_tokens = [4, 32] if smoke else [2, 4, 8, 16, 32, 64]


def found(rule, k):
    """Percent of the questions that are answered rightly when every block reads k tokens by that rule."""
    with reading(searcher, rule, k):
        return 100 * tasks.share_right(searcher, word_tokenizer, haystacks)


answered = {name: [found(rule, k) for k in few_tokens] for name, rule in search_rules.items()}
by_32 = {name: values[few_tokens.index(32)] for name, values in answered.items()}
finding = "Reading 32 tokens, the indexer finds {:.0f} % of the needles, a window {:.0f} %"
finding = finding.format(by_32["its indexer"], by_32["a window"])
show(draw.kept_by_budget(few_tokens, answered, finding, y="needles found (%)"))
print(f"the same model reading everything: {found(newest, searcher.config.context):.0f} %")

# %% [markdown]
# Equal budgets, and nothing equal about the answers. A window finds a needle when it happens to lie among the newest
# tokens; chance would have to draw it. The indexer finds it wherever it is, because a question *looks like* what it
# asks for. Mass and answers are two measures: on Python a window came close, here it is next to useless.
#
# Was the price paid in training instead? A dense twin took as many steps of the same tasks, none of them sparse.

# %%
twin = load("zoo:tiny-glm5-dense", torch.float32, machine)
twin_found = 100 * tasks.share_right(twin, word_tokenizer, haystacks)
print(f"dense twin, reading everything: {twin_found:.0f} %; sparse model, reading 32: {by_32['its indexer']:.0f} %")

# %% [markdown]
# Compare the two numbers before you believe either: both models were trained on this task, and it asks for four words.
# The recipe is in `helpers/zoo/recipes/tasks.py`, if you want to ask for more.
#
# ### The wrong pairs, in a trained model
#
# Swap the pairing of the indexers that you trained, and look at the mass.

# %%
for indexer in indexers.each:
    indexer.rotate = rotate_neighbours
wrong = kept(indexers.scores, budget)
for indexer in indexers.each:
    indexer.rotate = rotate
print(f"with the right pairs {kept(indexers.scores, budget):.0f} %, with the wrong ones {wrong:.0f} %; nothing failed")

# %% [markdown]
# ### The sparse stage
#
# Now the model itself gets used to reading little, here 8 tokens, so that there is something to get used to. Its
# weights follow the language loss *through the choice*; the indexers go on imitating, over the chosen tokens only;
# and neither's gradient reaches the other. A control takes the same steps densely, so that more training is not
# mistaken for better choosing.

# %%
from helpers.training.train import loss_of

few, tight = {"smoke": 2, "laptop": 12, "full": 200}[scale], 8
sparse_pair = nn.ModuleDict({"model": load(folder, torch.float32, machine), "indexers": Indexers(model, 8, tight)})
sparse_pair["indexers"].to(machine).load_state_dict(indexers.state_dict())
control = load(folder, torch.float32, machine)
slow = Settings(few, lr=2e-4, warm_up=2)
train(sparse_pair, lessons, slow, loss=lambda p, ids: sparse_loss(p["model"], p["indexers"], ids.to(machine)))
as_many = train(control, lessons, slow, loss=lambda m, ids: loss_of(m, ids.to(machine)))


# %%
def read_sparsely(model, indexers):
    with reading(model, indexers.scores, tight):
        return bits_per_byte(model, tokenizer, files, longest, 4)


after = read_sparsely(sparse_pair["model"], sparse_pair["indexers"])
print(f"bits per byte, {tight} read")
print(f"  after the warm-up             {read_sparsely(model, indexers):.4f}")
print(f"  after {few:3} sparse steps        {after:.4f}")
print(f"  after {few:3} dense steps instead {read_sparsely(control, indexers):.4f}")

# %% [markdown]
# A dozen steps of 512 tokens move the third digit, too little to tell from noise: the cell shows the mechanism and a
# fair control, and `scale = "full"` takes more steps. DeepSeek spent 2.1 billion tokens on the warm-up and 943.7
# billion on this stage. `zoo:tiny-glm5`, which you met above, went through all three.
#
# ### Who picked what
#
# The pattern worth a poster: one block, one text, queries downwards, keys to the right. The indexer stands on the
# left, then the best there is, then a window. Grey is what a query may see and does not read. A vertical line is a
# token that many queries read; the band of the window is what the other two give up for such lines.

# %%
from helpers.training.indexers.budgets import chosen_by, mask_of

sight = 64 if smoke else 128
text_reads = dense_reads(model, unseen_ids[:1, :sight])
block = max(range(len(text_reads)), key=lambda n: -mass_kept(text_reads[n], newest, 16))  # where a window keeps least


def squares(rule, k=16):
    return mask_of(chosen_by(rule, text_reads[block], k), sight)[0].tolist()


three = {name: squares(rules[name]) for name in ("the indexer", "the best there is", "a window")}
shares_kept = [100 * mass_kept(text_reads[block], rules[name], 16) for name in three]
title = "16 tokens each: the indexer keeps {:.0f} % of the mass, the best choice {:.0f} %, a window {:.0f} %"
show(draw.selection(three, title.format(*shares_kept)))

# %% [markdown]
# ### One choice for several layers
#
# GLM-5.2 gives only some of its blocks an indexer; the others read what the last such block chose. Does a choice
# travel? Let every block read what every other chose, and see what it keeps.

# %%
choices = [mask_of(chosen_by(indexers.scores, seen, budget), longest) for seen in reads]
taken = [largest_shares(seen) for seen in reads]  # the mean of its heads
rows_that_choose = reads[0].rows.positions >= budget
borrowed = [[(share * choice).sum(dim=-1)[rows_that_choose].mean().item() for share in taken] for choice in choices]
own = sum(borrowed[n][n] for n in range(len(reads))) / len(reads)
neighbour = sum(borrowed[n][n + 1] for n in range(len(reads) - 1)) / (len(reads) - 1)
show(draw.reuse(borrowed, f"A block keeps {own:.0%} by its own choice, {neighbour:.0%} by that of the block before"))

# %% [markdown]
# Rows lend, columns borrow. In the course's own model the first block stands apart: it reads what nobody else needs.
# From the second on, a borrowed choice keeps most of what an own one does, and costs nothing.
#
# ## Measure
#
# ### Masking shows the meaning, and saves nothing
#
# transformers' layer chooses exactly as yours does, and then computes attention over **all** tokens with the others
# masked out. So does the model code that DeepSeek published for reading along, when it reads a prompt. Count what is
# multiplied for a text of 512 tokens, and how many numbers the last token has to read, with shrinking k.

# %%
from helpers.measure import count_flops

many = torch.randn(1, 512, 64)
at = torch.arange(512)[None]
turned, seen_mask = v32[0].model.rotary_emb(many, at), causal_mask(at, 512)[:, None]
index_keys, a_latent, keys_and_values = 512 * 32, 32 + 16, 4 * (32 + 16)  # numbers: an index key has 32, and so on
print("            masked (transformers)      gathered (ours)")
print("tokens read     FLOP  numbers read      FLOP  numbers read")
for k in (512, 128, 32, 8):
    their_layer.indexer.index_topk = our_layer.indexer.k = k
    with torch.no_grad():
        masked = count_flops(lambda: their_layer(many, turned, seen_mask))
        gathered = count_flops(lambda: our_layer(many, standing_at(at), v32[1].rotary(at, many.dtype)))
    masked, gathered = (format_flops(sum(counted.values())) for counted in (masked, gathered))
    numbers = index_keys + 512 * keys_and_values, index_keys + k * a_latent
    print(f"{k:11} {masked:>9} {numbers[0]:12,} {gathered:>10} {numbers[1]:12,}")
their_layer.indexer.index_topk = our_layer.indexer.k = K

# %% [markdown]
# The left half does not move: a mask decides what *counts*, never what is *computed* or read. The right half falls
# towards what is left when attention is nearly free: the projections and the index keys. (It begins lower because the
# helper does not score keys that no query of a block may see, and reads latents instead of the keys and values of
# every head.)
#
# ### By formula
#
# One new token after n others. Dense latent attention costs each head one score and one mixture for each latent; the
# indexer costs each index head one short product. `SparseSizes` reads the real configs.

# %%
from helpers.measure.dsa_work import SparseSizes, break_even, dense_decode, prefill_break_even, sparse_decode
from helpers.planning.plan import published

real = {"DeepSeek-V3.2": "deepseek_v32", "GLM-5": "glm5"}
sizes = {name: SparseSizes.of(published(config)) for name, config in real.items()}
print("                 pays from       times less at 8k    at 128k         a prompt pays from")
print("                 FLOP    bytes   FLOP    bytes   FLOP    bytes      FLOP")
for name, s in sizes.items():
    line = [f"{value:<8,.0f}" for value in break_even(s)]
    for n in (8 << 10, 128 << 10):
        dense, sparse = dense_decode(s, n), sparse_decode(s, n)
        line += [f"{dense.flops / sparse.flops:<8.1f}", f"{dense.bytes / sparse.bytes:<8.1f}"]
    print(f"{name:16}", "".join(line), f"  {prefill_break_even(s):,.0f}")

# %% [markdown]
# Two surprises. At 128k the saving in FLOP is three times the saving in bytes: a latent is 576 numbers for *all* heads,
# and an index key of 128 numbers is nearly a quarter of that. Decoding waits for bytes (lesson [[roofline]]); DeepSeek
# keeps its index keys in 8 bits. And a **prompt** pays much later: dense prompts are read in the cheaper expanded form,
# which a gather for each query cannot use.

# %%
lengths = [2**n for n in range(10, 21)]
glm52 = published("glm5.2")
indexing = glm5.indexer_types(glm52).count(glm5.FULL)  # blocks with an indexer of their own
s, a_choice = sizes["GLM-5"], glm52["num_hidden_layers"] / indexing


def times(what, **settings):
    return [getattr(dense_decode(s, n), what) / getattr(sparse_decode(s, n, **settings), what) for n in lengths]


ratios = {"GLM-5, FLOP": times("flops"), "GLM-5, bytes in bf16": times("bytes")}
ratios["GLM-5, bytes, index keys in FP8"] = times("bytes", key_bytes=132 / 128)
shared = f"GLM-5.2, FLOP, {indexing} of {glm52['num_hidden_layers']} blocks index"
ratios[shared] = times("flops", layers_a_choice=a_choice)
finding = f"At a million tokens GLM-5 does {ratios['GLM-5, FLOP'][-1]:.0f} times fewer FLOP and moves "
show(draw.times_less(lengths, ratios, finding + f"{ratios['GLM-5, bytes in bf16'][-1]:.1f} times fewer bytes"))

# %% [markdown]
# (132 bytes: 128 numbers of 8 bits and a 4-byte scale.) Every line flattens, because the indexer itself reads the
# whole text. DSA is *not* of constant cost: it has a smaller slope. Sharing a choice is what bends the line up again.
#
# ### On this machine
#
# A layer in GLM-5's proportions with 8 heads instead of 64, reading 512 tokens. Both ways use the same weights and
# the same cache; at 256 tokens everything is chosen, so both must give the same answer, which is asserted.

# %%
from helpers.layers.dsa import Indexer, SparseAttention, SparseLatents
from helpers.measure import measure_pair, recorded, recorded_text

small = SparseSizes(heads=8, latent=128, rope_dim=32, key=64, value=64, index_heads=4, index_width=64, k=512)
torch.manual_seed(seed)
latent_attention = MLA(512, 8, 256, 128, 64, 32, 64, scale=96**-0.5)
layer = SparseAttention(latent_attention, Indexer(512, 256, 4, 64, 32, 512, rotate_neighbours)).to(machine)


def noise(*shape):
    return torch.randn(1, *shape, device=machine)


def one_token(length):
    """One token after a text of so many: read densely, and sparsely. One layer, one cache."""
    before, at = torch.arange(length, device=machine)[None], torch.tensor([[length]], device=machine)
    cache, x, turn = SparseLatents(), noise(1, 512), angles(at, frequencies(32, 1e6, machine))
    cache.latents.write(noise(length, 128), noise(length, 32), standing_at(before))
    cache.index_keys.write(noise(length, 64), before)
    rows = standing_at(at)
    return lambda: layer.mla(x, rows, turn, cache.latents), lambda: layer(x, rows, turn, cache)[0]


with torch.no_grad():
    dense_step, sparse_step = one_token(256)
    assert max_error(dense_step(), sparse_step()) < 1e-5

# %%
contexts = [2**n for n in range(8, 12 if smoke else 19 if full else 16)]
timed = {n: measure_pair(*one_token(n), repeats=3 if smoke else 9, device=machine) for n in contexts}
seconds = {"dense": [t.a.median_s for t in timed.values()], "sparse, 512 read": [t.b.median_s for t in timed.values()]}
crossed = draw.crossing(contexts, *seconds.values())
by_formula = break_even(small)[0]
marks = {"formula (FLOP)": by_formula} | ({"this machine": crossed} if crossed else {})
far = timed[contexts[-1]]
finding = f"At {contexts[-1]:,} tokens the sparse layer takes {1 / far.ratio:.0%} of the dense layer's time"
show(draw.crossover(contexts, seconds, marks, finding))
check.reveal("dsa.crossover", formula=by_formula, machine=crossed, unit="tokens")

# %% [markdown]
# The formula counts the part that grows. The machine also pays for what does not: two more small matrices, a top-k,
# a gather, and the time to start each of them. That moves the crossing to the right, and on another machine
# elsewhere. (Where no crossing is printed, the contexts measured were too short for one.)
#
# Here is what was *recorded* for one token of a whole attention layer, ours against transformers', same weights and
# same answer. It is a comparison with a layer that makes all keys and values anew for each token, not with good dense
# code.

# %%
for place, record in recorded("dsa-decode").items():
    print(f"recorded, {place}, {record.machine['name']}, {record.date}")
    for line in record.measurements:
        if line.label.startswith("ours"):
            peer = record.find(line.label.replace("ours", "transformers"), line.dtype)
            times_faster = f"{peer.median_s / line.median_s:.0f} times faster"
            print(f"  {line.shape[0]:6,} tokens: {format_seconds(line.median_s):>8}, {times_faster}")
print("and on a GPU, with the kernels of lesson `kernels`:")
print(recorded_text("index-scores", "sparse-decode", "sparse-layer", "sparse-prompt"))

# %% [markdown]
# ### Two lines of the ledger

# %%
from helpers.claims.ledger import claim

glm_row = published("glm5")
at_128k = dense_decode(sizes["GLM-5"], 128 << 10).flops / sparse_decode(sizes["GLM-5"], 128 << 10).flops
here = f"from {crossed:,.0f} tokens on in your layer" if crossed else f"up to {contexts[-1]:,} tokens not in your layer"
named = f"{glm_row['index_n_heads']} index heads and top {glm_row['index_topk']}"
mine = {
    "glm5-dsa": f"its config names {named}; a layer built so agrees with transformers' where the dense one does not",
    "sparse-cuts": f"{here}; GLM-5 at 128k: {at_128k:.0f} times fewer FLOP by formula",
}
for id, measured in mine.items():
    entry = claim(id)
    print(f"{entry.says}\n    you measured: {measured}\n    the ledger says: {entry.verdict}")
    print("       ", entry.verdicts[-1].because.replace("; ", ";\n        "))

# %% [markdown]
# ## Play
#
# A needle text for the model that was trained to choose. The token in the dotted frame is the word that is asked for.
# Blue tokens are read in the block that you pick; a whole frame marks what dense attention takes 5 % or more from.
# The title says what the model answers when *every* block reads by that rule.
#
# 1. The indexer, block 1: where is the pair that is asked for? Lower k to 8, 4, 2, 1. When does the answer go wrong?
# 2. A window: raise k until the answer is right. How much has to be read?
# 3. Compare the blocks. Which one looks at its neighbours, and which one searches?

# %%
from helpers.plots.widgets import Choice, Slider, explore

hidden = tasks.marked(examples(lambda rng: tasks.needle(rng, 100 if smoke else 180, depth=0.25), 1)[0], word_tokenizer)
asker = next(n for n, (_, is_answer) in enumerate(hidden) if is_answer) - 1  # the last token of the first question
question = torch.tensor([[token for token, _ in hidden[: asker + 1]]], device=machine)
answer, words = hidden[asker + 1][0], [word_tokenizer.decode([token]) for token in question[0].tolist()]
searched = dense_reads(searcher, question)


@torch.no_grad()
def look(rule, block, k):
    with reading(searcher, search_rules[rule], k):
        said = searcher(question)[0, -1].argmax().item()
    chosen = chosen_by(search_rules[rule], searched[block], k)[0, asker]
    shares = largest_shares(searched[block])[0, asker].tolist()
    verdict = f"it answers{word_tokenizer.decode([said])}, {'right' if said == answer else 'wrong'}"
    return draw.picked(words, chosen[chosen >= 0].tolist(), shares, asker, verdict)


explore(
    look,
    rule=Choice(list(search_rules), label="rule"),
    block=Choice(list(range(len(searched))), label="block", value=1),
    k=Slider(1, 256, value=16, label="tokens read", log=True),
)

# %% [markdown]
# <details><summary>What to notice</summary>
#
# 1. Block 1 spends nearly everything on the semicolon *behind* the pair. In block 0 that semicolon has looked at the
#    two tokens before it, so it carries both. The answer goes wrong where some block no longer gets what it needs,
#    and that may be another block than the one you look at.
# 2. Nothing helps until the window reaches back to the pair; then the mass in the title jumps and the answer is
# right.
# 3. Block 0 takes from its neighbours: a window would do there. Block 1 searches. Choosing pays where a block
# searches.
#
# </details>

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: when does it pay? (4 minutes, difficulty 1)
#
# Dense attention costs `dense` FLOP for each token of context. The indexer costs `index` for each token of context,
# and then k tokens are read at the price of dense. Give the context at which both cost the same, and `math.inf` where
# the indexer is so dear that it never pays.


# %% tags=["exercise:pays", "points:1"]
def pays_from(dense: float, index: float, k: int) -> float:
    # BEGIN SOLUTION
    return k * dense / (dense - index) if dense > index else math.inf
    # END SOLUTION


# %% tags=["check:pays"]
check.pays(pays_from)

# %% [markdown]
# ### 2. Core: a causal choice, ties and all (7 minutes, difficulty 2)
#
# `scores` is a T x T tensor: row t are query t's scores for every key. Return a list of T lists: the positions that
# each query reads, in order of position. Nothing later than t; k of them, or all where fewer are visible; among equal
# scores the earlier position.


# %% tags=["exercise:select", "points:2"]
def best_visible(scores: torch.Tensor, k: int) -> list:
    # BEGIN SOLUTION
    rows = scores.tolist()
    return [sorted(sorted(range(t + 1), key=lambda s: (-row[s], s))[:k]) for t, row in enumerate(rows)]
    # END SOLUTION


# %% tags=["check:select"]
check.select(best_visible)

# %% [markdown]
# ### 3. Core: catch the leak (8 minutes, difficulty 2)
#
# `layer` maps activations 1 x length x width to the same shape. Tell whether it is causal: True when no row of its
# output depends on a later row of its input. The check hands you honest layers, the leak from above, and leaks in a
# single row.


# %% tags=["exercise:causal", "points:2"]
def is_causal(layer, length: int, width: int) -> bool:
    # BEGIN SOLUTION
    x = torch.randn(1, length, width)
    for position in range(1, length):
        changed = x.clone()
        changed[:, position:] = torch.randn(1, length - position, width)
        if not torch.equal(layer(changed)[:, :position], layer(x)[:, :position]):
            return False
    return True
    # END SOLUTION


# %% tags=["check:causal"]
check.causal(is_causal)

# %% [markdown]
# ### 4. Core: a test that bites (6 minutes, difficulty 2)
#
# `ours` and `theirs` are two implementations of an index choice: given activations T x 8 and k, each returns a T x T
# mask of what is read. Tell whether they choose alike. You decide on T, k and the activations. One pair differs in
# the pairing of the rotation.


# %% tags=["exercise:agrees", "points:2"]
def choose_alike(ours, theirs) -> bool:
    # BEGIN SOLUTION
    x = torch.randn(64, 8)
    return torch.equal(ours(x, 4), theirs(x, 4))
    # END SOLUTION


# %% tags=["check:agrees"]
check.agrees(choose_alike)

# %% [markdown]
# ### 5. Stretch: blocks instead of tokens (9 minutes, difficulty 3)
#
# Hardware likes to read neighbours. As in exercise 2, with blocks of `size` positions that begin at 0, size, 2 size
# and so on: a block's score is the highest *visible* score in it; each query keeps its best `k // size` blocks (the
# earlier where equal) and reads all their visible positions. Then look back at the table of equal budgets: what did
# blocks of 8 cost in mass?


# %% tags=["exercise:blocks", "points:3"]
def best_blocks(scores: torch.Tensor, k: int, size: int) -> list:
    # BEGIN SOLUTION
    chosen = []
    for t, row in enumerate(scores.tolist()):
        blocks = {start: range(start, min(start + size, t + 1)) for start in range(0, t + 1, size)}
        best = sorted(blocks, key=lambda start: (-max(row[s] for s in blocks[start]), start))[: k // size]
        chosen.append([s for start in sorted(best) for s in blocks[start]])
    return chosen
    # END SOLUTION


# %% tags=["check:blocks"]
check.blocks(best_blocks)

# %% [markdown]
# ### 6. In words: four times better? (6 minutes, difficulty 2)
#
# A colleague shows you a repository: "sparse attention, k = 128, trained on texts of 256 tokens, loss 1.8 where dense
# attention has 7.2. And it is linear in the length, too." Answer in three to five sentences. What do you suspect,
# which two checks would you ask for, and what is wrong with the last sentence?

# %% [markdown] tags=["answer:better"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# It finds the gain implausible: at equal training, reading less can hardly beat reading all by that much. It sees
# that k is half of the length, so that half of the queries see fewer than k keys, and suspects that top-k fills their
# lists with the future. It asks for a causality probe, and for the loss by position (or on random tokens).
#
# It says that the indexer still scores every pair, so that the cost of a whole text goes on growing with the square
# of its length, with a smaller factor; and that at 256 tokens sparse attention costs more than dense.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. An indexer of many small heads and one key scores every token; attention reads the k best, for all heads alike.
# 2. A choice is causal when what is barred can never be chosen, also where fewer than k are visible.
# 3. A check of a choice needs a text longer than k. Below that every bug is invisible.
# 4. Indexers learn by imitating dense attention, since no gradient passes through a position.
# 5. It pays from a length on, which FLOP, bytes and a clock put at different places.
#
# | idea | formula | cost |
# |---|---|---|
# | index score | sum of w relu(q k) over heads | H_I (K_I + 1) x 2 FLOP per pair, one key of K_I numbers per token |
# | choice | k highest, ties to the earlier | k integers a query |
# | attention over the chosen | absorbed, gathered | H (2 C + R) x 2 FLOP for each of k |
# | break-even | n = k D / (D - I) | dense D, index I a token |
# | imitation | KL(mean of heads, softmax of scores) | dense attention once more, in training only |
# | IndexShare | one choice for several blocks | the indexer divided by their number |

# %% [markdown]
# ## In the real models
#
# - **DeepSeek-V3.2** (December 2025): 64 index heads of width 128 in each of 61 blocks, 2048 tokens read. Index keys
#   are rotated by a Hadamard matrix and kept in 8 bits; the rotation changes no dot product. Surprise: attention
#   pairs neighbours, its indexer pairs halves.
#   Warm-up: 1,000 steps, 2.1 billion tokens; sparse stage: 15,000 steps, 943.7 billion.
# - **GLM-5** (February 2026): 32 index heads in each of 78 blocks, 2048 tokens read; its indexer pairs neighbours.
# - **GLM-5.2** (June 2026): 21 of 78 blocks have an indexer; the other 57 read what the last of them chose.
# - **GLM-5.3-Flash** (August 2026) scores pools of 16 tokens and reads the incomplete last one always;
#   **DeepSeek-V4** scores compressed entries of 4 tokens (lesson [[what_came_next]]). Both are closer to your blocks
#   than to your tokens.
# - **transformers 5.23** chooses rightly in both families and masks dense attention on a CPU.
#
# Sizes: the models' own configs, in `helpers/facts/configs` with source and date; dates in
# `helpers/facts/models.toml`; transformers read and run on 23 November 2026. Training of V3.2: its report, section
# 2.1, as quoted by together.ai/models/deepseek-v3-2-exp (25 November 2026). The comparison in the first bug hunt:
# github.com/Open-Superintelligence-Lab/deepseek-sparse-attention-research, experiment 1, README and selector, read in
# the copy RohanKhanBD/blueberry-llm on 25 November 2026. The second: sgl-project/sglang #13530, vllm-ascend #4641,
# xllm
# #853, transformers #46372 and #46842, mlx-lm #1431, read on 23 November 2026.

# %% [markdown]
# ## Roads not taken
#
# - **Native sparse attention** and **MoBA** choose blocks, and train the choice with the model from the beginning.
# - **Sinks and a window** always read the first and the newest tokens: no indexer at all, and no long memory.
# - **A two-stage index** scores blocks first and tokens inside the best ones: faster, and it misses tokens unless the
#   model was trained with it.
# - **Kernels.** A gather in Python is honest about the work and not about a GPU's speed: lesson [[kernels]].
#
# To run the warm-up on a real model, set `checkpoint = "Qwen/Qwen3-0.6B"` and `scale = "full"` on a GPU.
#
# **Next: [[deltanet]].** Reading a few tokens still keeps them all. What if a model keeps
# none?
