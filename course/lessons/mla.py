# %% [markdown]
# # Multi-head latent attention
#
# **How few bytes can a token leave in the cache?**
#
# 60 minutes, without the stretch exercise · needs: lesson [[attention]] (attention, rotary positions, the cache) · runs
# on any laptop, without a network
#
# Lesson [[attention]] made the cache small by letting heads share keys. DeepSeek's way is different: each head has keys
# and values of its own, and none of them is kept. What is kept is one short vector per token, the **latent**, from
# which all heads make theirs. Here is the whole idea.
#
# ```text
#    token x --down--> latent c -----------------+--> U_h c   key of head h,   for every head
#       |              (kept)                    +--> W_h c   value of head h, for every head
#       +----down----> a short key, turned by its position (kept; one for all heads)
#
#    expanded:   q . (U c)      first make every key, then compare
#    absorbed:  (q U) . c       first move the query, then compare with what is kept: the same number
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # or a Qwen3 of any size, as "Qwen/Qwen3-0.6B" or a folder: whose keys do you take apart?
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import mla as check
from helpers.checkpoints import load, resolve
from helpers.compare import max_error
from helpers.plots import show
from helpers.plots.layers import attention as draw

device = begin(scale, checkpoint, device, seed)
folder = resolve(checkpoint, download=True)

# %% [markdown]
# ## By hand
#
# Four tokens, two heads, small whole numbers. Each token left a latent of two numbers. Each head has a matrix U that
# makes its key out of a latent. Score the query of each head against all four tokens, in two ways.

# %%
latents = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]])  # 4 tokens
w_uk = torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, -1.0]]])  # 2 heads
query = torch.tensor([[1.0, 2.0], [3.0, 1.0]])  # one per head

for head in range(2):
    keys = latents @ w_uk[head].T
    moved = query[head] @ w_uk[head]
    print(f"head {head}: keys {keys.int().tolist()}, scores {(keys @ query[head]).int().tolist()}")
    print(f"        moved query {moved.int().tolist()}, scores {(latents @ moved).int().tolist()}")

# %% [markdown]
# The same scores, and in the second way no key was ever made: `q . (U c) = (q U) . c`, brackets moved and nothing else.
# Each head looked for something different, and all of them read the same two numbers per token.
#
# ## Predict
#
# DeepSeek-V3 has 61 layers of 128 heads. A head's key has 128 + 64 numbers and its value 128. What it keeps for all
# heads together is a latent of 512 numbers and a RoPE key of 64.

# %% tags=["predict:bytes"]
times_fewer = ...  # how many times fewer bytes is that than keys and values for every head?
times_faster = ...  # one step after 1,024 tokens: how many times faster is absorbed than expanded, on this machine?
# BEGIN SOLUTION
times_fewer = 10
times_faster = 2
# END SOLUTION
check.predict("mla.bytes", times_fewer, unit="x")
check.predict("mla.step", times_faster, unit="x")

# %% [markdown]
# ## Build
#
# ### 1. One latent for all heads
#
# Naive first, and without positions: make every head's keys and values of the latents, then attend as in lesson
# [[attention]]. Sizes that fit nothing, so that no axis can stand for another.

# %%
H, K, V, C, R, D = 6, 10, 8, 16, 4, 40  # heads, key, value, latent, rotary part, model
x = torch.randn(12, D)
down, w_uk, w_uv = (torch.randn(*shape) / shape[-1] ** 0.5 for shape in [(C, D), (H, K, C), (H, V, C)])
latent = x @ down.T  # [S, C]: this is all that is kept


def expand(query: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """query [H, K], latent [S, C] -> [H, V]: every head makes its keys and values, then looks."""
    key = torch.einsum("sc,hkc->shk", latent, w_uk)
    value = torch.einsum("sc,hvc->shv", latent, w_uv)
    weights = (torch.einsum("hk,shk->hs", query, key) / K**0.5).softmax(dim=-1)
    return torch.einsum("hs,shv->hv", weights, value)


# %%
query = torch.randn(H, K)
expanded_answer = expand(query, latent)
print(f"kept: {latent[0].numel()} numbers per token; keys and values would be {H * (K + V)}")
print(f"made for one answer: {len(latent) * H * (K + V):,} numbers, and thrown away after it")

# %% [markdown]
# The cache is small and the step is dear: each new token makes all keys and values again. That is the price that a
# naive implementation pays, and it makes decoding *slower* than with plain attention.
#
# ### 2. Absorb
#
# Move the brackets, on both sides. A score is `q . (U c) = (q U) . c`, so carry the query into the latent space. And
# the answer is `sum of w (W c) = W (sum of w c)`, so mix the latents first and make one value at the end.


# %%
def absorb(query: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """The same as ``expand``, and no key and no value is made."""
    carried = torch.einsum("hk,hkc->hc", query, w_uk)
    weights = (carried @ latent.T / K**0.5).softmax(dim=-1)
    mixed = weights @ latent
    return torch.einsum("hc,hvc->hv", mixed, w_uv)


print(f"absorbed against expanded: {max_error(absorb(query, latent), expanded_answer):.0e}")

# %% [markdown]
# Equal up to float32's rounding. To the cache, this looks like attention with *one* key/value head whose key and value
# are the same vector; to the model, every head still has its own. How much work is it? Let torch count.

# %%
from helpers.measure import count_flops


def counted(form, tokens: int) -> int:
    """FLOP of one answer over so many kept tokens."""
    text = torch.randn(tokens, C)
    return sum(count_flops(lambda: form(query, text)).values())


for tokens in (1, 2, 12, 1000):
    flop = f"expanded {counted(expand, tokens):11,} FLOP, absorbed {counted(absorb, tokens):9,} FLOP"
    print(f"{tokens:5} tokens kept: {flop}")

# %% [markdown]
# With one token kept they cost nearly the same, and from two on absorbing wins: it pays the matrices once for the
# query, and expanding pays them for every token.
#
# ### 3. Why the rotary part stands alone
#
# So far nobody knows where a token stands. Lesson [[attention]] turned queries and keys. Do that to the keys made of
# latents, and watch absorption break. Below, all 48 tokens have the *same* latent, so that only the distance can make a
# difference.

# %%
from helpers.layers.rope import angles, frequencies, rotate


def turned(heads: torch.Tensor, position: int) -> torch.Tensor:
    """[H, K] turned for a position."""
    return rotate(heads[None, None], *angles(torch.tensor([[position]]), frequencies(K, 1e4)))[0, 0]


content, newest = torch.randn(C), 47
key = torch.einsum("hkc,c->hk", w_uk, content)
query = key + torch.randn(H, K)  # a query that likes this content
true = [(turned(query, newest)[0] @ turned(key, newest - d)[0]).item() for d in range(48)]


# %%
def carried_for(distance: int) -> torch.Tensor:
    """The query, turned as it must be for keys at that distance, then carried into the latent space."""
    return torch.einsum("hk,hkc->hc", turned(query, distance), w_uk)


lines = {"true score, key turned": true}
for carried_at in (0, 12):
    lines[f"query carried once, for distance {carried_at}"] = [(carried_for(carried_at)[0] @ content).item()] * 48
right = [sum(abs(a - b) < 1e-4 for a, b in zip(line, true, strict=True)) for line in list(lines.values())[1:]]
show(draw.score_by_distance(lines, f"A query carried once is right at {right[0]} distance of 48"))

# %% [markdown]
# The score is `q R(distance) U c`: a turn stands *between* query and U, and it is another one for every key. So there
# is no single moved query. You can carry one for each distance, and that is exact. Count what it costs.

# %%
each = [(carried_for(d)[0] @ content).item() for d in range(48)]
print(f"carried anew for each distance: largest error {max(abs(a - b) for a, b in zip(each, true, strict=True)):.0e}")
print(f"cost: {48 * H * K * C:,} multiplications for 48 queries; making all 48 keys takes {48 * H * K * C:,}")

# %% [markdown]
# Exact, and nothing is saved. DeepSeek's answer: do not turn what comes out of the latent. Give each head's query a
# second, small part of R numbers that *is* turned, and keep one RoPE key of R numbers per token, the same for all
# heads. A score is then a sum: content through the latent, place through the small part.
#
# ### 4. The whole layer
#
# `MLA` in `helpers` owns the weights. Queries pass a latent as well (that one saves weights, not cache). DeepSeek turns
# neighbouring pairs (2i, 2i + 1), where Qwen turns (i, i + R/2).

# %%
from helpers.layers.attention import causal_mask
from helpers.layers.mla import MLA, Latents, absorbed, expanded
from helpers.layers.ragged import standing_at
from helpers.layers.rope import rotate_neighbours


def project(layer: MLA, x: torch.Tensor, rotary) -> tuple[torch.Tensor, ...]:
    """[B, T, D] -> query [B, T, H, K], its rotary part [B, T, H, R], latent [B, T, C], RoPE key [B, T, R]."""
    query = layer.q_b(layer.q_a_norm(layer.q_a(x))).unflatten(-1, (layer.num_heads, -1))
    query, q_rope = query.split([layer.nope_dim, layer.rotary_dim], dim=-1)
    latent, k_rope = layer.kv_a(x).split([layer.latent_width, layer.rotary_dim], dim=-1)
    q_rope = rotate_neighbours(q_rope, *rotary)
    k_rope = rotate_neighbours(k_rope[:, :, None], *rotary)[:, :, 0]
    return query, q_rope, layer.kv_a_norm(latent), k_rope


# %%
def whole(layer: MLA, x: torch.Tensor, form) -> torch.Tensor:
    """[B, T, D] -> [B, T, D], with ``form`` expanded or absorbed."""
    positions = torch.arange(x.shape[1]).expand(len(x), -1)
    rotary = angles(positions, frequencies(layer.rotary_dim, 1e4))
    up = layer.kv_b.weight.unflatten(0, (layer.num_heads, -1)).split([layer.nope_dim, layer.value_dim], dim=1)
    mixed = form(*project(layer, x, rotary), *up, causal_mask(positions, x.shape[1]), layer.scale)
    return layer.output(mixed.flatten(2))


layer, x = MLA(D, H, 12, C, K, R, V, scale=(K + R) ** -0.5), torch.randn(2, 33, D)
with torch.no_grad():
    both = [whole(layer, x, form) for form in (expanded, absorbed)]
print(f"absorbed against expanded, whole layer: {max_error(*both):.0e}")

# %% [markdown]
# `expanded` and `absorbed` are steps 1 and 2 for a batch of tokens at once, with the rotary part added to the scores
# (read them: `helpers/layers/mla.py`, twelve lines each). The scale is one over the root of K + R, because that many
# products are added up.
#
# ### 5. The cache
#
# Kept: the latent *after* its norm, and the RoPE key. Feed the layer one token at a time, and count what is there.

# %%
cache, steps = Latents(), []
with torch.no_grad():
    for t in range(33):
        at = standing_at(torch.full((2, 1), t))
        steps.append(layer(x[:, t : t + 1], at, angles(at.positions, frequencies(R, 1e4)), cache))
print(f"one by one against all at once: {max_error(torch.cat(steps, dim=1), both[0]):.0e}")
formula = 2 * 33 * (C + R) * 4
print(f"2 texts of 33 tokens in float32: {formula:,} bytes by formula, cache.bytes() = {cache.bytes():,}")
assert formula == cache.bytes()

# %% [markdown]
# And which form ran? `MLA.forward` takes the cheaper one, by count of multiplications. Count the FLOP of one step: if
# it grows by the matrices for each token kept, keys were made.


# %%
def step_flops(tokens: int) -> int:
    """FLOP of one decoding step after ``tokens`` tokens."""
    cache, before = Latents(), standing_at(torch.arange(tokens)[None])
    with torch.no_grad():
        layer(torch.randn(1, tokens, D), before, angles(before.positions, frequencies(R, 1e4)), cache)
        now = standing_at(torch.tensor([[tokens]]))
        run = lambda: layer(torch.randn(1, 1, D), now, angles(now.positions, frequencies(R, 1e4)), cache)  # noqa: E731
        return sum(count_flops(run).values())


grown = (step_flops(1000) - step_flops(500)) / 500
print(f"one more token kept costs {grown:.0f} FLOP per step")
print(f"by formula: absorbed {2 * H * (2 * C + R)}, expanded {2 * H * (C * (K + V) + K + R + V)}")

# %% [markdown]
# ## Check
#
# ### Against transformers, at awkward sizes
#
# The library's DeepSeek-V3 layer with the same random weights, at lengths 1, 31 and 33. It expands; you do both.

# %%
from transformers import DeepseekV3Config, DeepseekV3Model

from helpers.reference import parts_of

TheirAttention, TheirRotary = parts_of(DeepseekV3Model, "DeepseekV3Attention", "DeepseekV3RotaryEmbedding")
sizes = dict(hidden_size=D, num_attention_heads=H, num_key_value_heads=H, q_lora_rank=12, kv_lora_rank=C)
sizes |= dict(qk_nope_head_dim=K, qk_rope_head_dim=R, v_head_dim=V)
config = DeepseekV3Config(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
config._attn_implementation = "eager"
library, rotary_of = TheirAttention(config, 0).eval(), TheirRotary(config)
NAMES = {"q_a": "q_a_proj", "q_a_norm": "q_a_layernorm", "q_b": "q_b_proj", "kv_a": "kv_a_proj_with_mqa"}
NAMES |= {"kv_a_norm": "kv_a_layernorm", "kv_b": "kv_b_proj", "output": "o_proj"}
with torch.no_grad():
    for weight in library.parameters():
        weight.copy_(torch.randn(weight.shape) / 4)
theirs = library.state_dict()
layer.load_state_dict({name: theirs[f"{NAMES[name[:-7]]}.weight"] for name in layer.state_dict()})


# %%
@torch.no_grad()
def from_library(x: torch.Tensor) -> torch.Tensor:
    length, places = x.shape[1], torch.arange(x.shape[1]).expand(len(x), -1)
    barred = torch.full((length, length), float("-inf")).triu(1)[None, None]
    return library(x, position_embeddings=rotary_of(x, places), attention_mask=barred)[0]


with torch.no_grad():
    for length in (1, 31, 33):
        given = torch.randn(2, length, D)
        wanted, forms = from_library(given), [whole(layer, given, form) for form in (expanded, absorbed)]
        errors = [max_error(form, wanted) for form in forms]
        print(f"{length:2} tokens: expanded {errors[0]:.0e}, absorbed {errors[1]:.0e}, apart {max_error(*forms):.0e}")
        assert max(*errors, max_error(*forms)) <= 1e-5

# %% [markdown]
# ### The probe, and a bug that looks like success
#
# No token may see a later one, in either form. And the classic bug of this layer: turn the wrong pairs. Shapes fit, the
# first token is right, nothing fails.

# %%
from helpers.compare import causality_probe
from helpers.layers import mla

rows = standing_at(torch.arange(33).expand(2, -1))
turn = angles(rows.positions, frequencies(R, 1e4))
with torch.no_grad():
    leaks = [causality_probe(lambda x, form=form: whole(layer, x, form), given, 20) for form in (expanded, absorbed)]
    mla.rotate_neighbours = rotate  # pairs (i, i + R/2), as Qwen has them
    wrong = layer(given, rows, turn)
    mla.rotate_neighbours = rotate_neighbours
    repaired = layer(given, rows, turn)
print("change of earlier answers:", leaks)
for t in (0, 1, 32):
    errors = [max_error(answer[:, t], wanted[:, t]) for answer in (wrong, repaired)]
    print(f"token {t:2}: error {errors[0]:.0e}, after repair {errors[1]:.0e}")

# %% [markdown]
# Token 0 is not turned at all, so it is right in every layout. A test with one token, or with random weights and no
# reference, passes. Exercise 4 shows that the two layouts are one, after a change of the order of rows.
#
# ## Measure
#
# ### Bytes per token in the real models
#
# From each config: heads, widths, latent, layers. First column: keys and values for every head. Second: eight shared
# key/value heads of the same widths (the way of lesson [[attention]]). Third: latent and RoPE key.

# %%
from helpers.planning.plan import plan, published

plans = {name: plan(published(file)) for name, file in [("DeepSeek-V3", "deepseek_v3"), ("Kimi-K2.5", "kimi_k25")]}
plans["GLM-5"] = plan(published("glm5"))


def designs(c) -> dict[str, int]:
    """Bytes per token in bf16, all layers, of three ways to keep what the heads need."""
    head = c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim
    kept = {"every head its own": c.num_attention_heads * head, "8 shared heads": 8 * head}
    kept["latent (MLA)"] = c.kv_lora_rank + c.qk_rope_head_dim
    return {name: 2 * c.num_hidden_layers * numbers for name, numbers in kept.items()}


# %%
table = {name: designs(p.config) for name, p in plans.items()}
for name, row in table.items():
    own, shared, latent_bytes = row.values()
    print(f"{name:12} {own / 1e3:7,.0f} kB, {shared / 1e3:4.0f} kB, {latent_bytes / 1e3:5.1f} kB: ", end="")
    print(f"{own / latent_bytes:.1f} times fewer than all heads, {shared / latent_bytes:.1f} than 8 shared")
    if (kept := plans[name].cache_bytes(1)) != latent_bytes:
        print(f"{'':12} with its index key (lesson `dsa`) it keeps {kept / 1e3:.1f} kB: {own / kept:.1f} times fewer")
deepseek = table["DeepSeek-V3"]
check.reveal("mla.bytes", formula=deepseek["every head its own"] / deepseek["latent (MLA)"], unit="x")

# %% [markdown]
# 71 and 57 times: those numbers go around, and here they are computed from the configs. They compare with a model that
# nobody would build. Against eight shared heads of the same widths the latent wins by a factor of four to seven, and
# that is the fairer comparison: those eight heads see eight kinds of keys, and all heads of MLA see their own.

# %%
others = {"Qwen3-0.6B": "qwen3-0.6b", "Qwen3.5-397B-A17B": "qwen3_5-397b-a17b"}
poster = dict(table)
for name, file in others.items():
    p = plan(published(file))
    a_head = 2 * 2 * p.config.head_dim * p.layers["keys and values"]
    poster[name] = {"every head its own": a_head * p.config.num_attention_heads}
    poster[name]["shared, as published"] = a_head * p.config.num_key_value_heads
v4 = plan(published("deepseek_v4-flash")).cache_bytes(200_000) / 200_000
poster["DeepSeek-V4-Flash"] = {"compressed (lesson `what_came_next`), mean of 200,000 tokens": v4}
times = [own["every head its own"] / own["latent (MLA)"] for own in table.values()]
finding = f"One latent for all heads: {min(times):.0f} to {max(times):.0f} times fewer bytes per token"
show(draw.bytes_per_token(poster, finding))

# %% [markdown]
# ### Work and bytes of one step
#
# A step reads what is kept, and computes with it. For T new queries and S kept tokens, by formula:


# %%
from helpers.facts import table as facts


def flops(form: str, T: int, S: int, H: int, K: int, V: int, C: int, R: int) -> int:
    pairs, matrices = 2 * H * T * S, 2 * H * C * (K + V)
    return {
        "kept": pairs * (K + R + V),  # keys and values of all heads lie in the cache
        "expanded": S * matrices + pairs * (K + R + V),
        "absorbed": T * matrices + pairs * (2 * C + R),
    }[form]


def widths(c) -> tuple[int, ...]:
    """H, K, V, C and R of a config."""
    return c.num_attention_heads, c.qk_nope_head_dim, c.v_head_dim, c.kv_lora_rank, c.qk_rope_head_dim


# %%
h100 = next(row for row in facts("hardware") if row["chip"] == "H100")
for name, p in plans.items():
    H, K, V, C, R = sizes = widths(p.config)
    own = flops("kept", 1, 1, *sizes) / (2 * H * (K + R + V))
    moved = (flops("absorbed", 1, 2, *sizes) - flops("absorbed", 1, 1, *sizes)) / (2 * (C + R))
    print(f"{name:12} FLOP for each byte read: keys and values kept {own:.0f}, latents absorbed {moved:.0f}")
print(f"{'an H100':12} can do {h100['tflops'][0] / h100['memory_tb_s'][0]:.0f} for each byte that it reads (datasheet)")

# %% [markdown]
# That is the second gift. With keys and values kept, a decoding step does one FLOP per byte and waits for memory: the
# last line is the ridge of lesson [[roofline]]. Absorbed, all heads use the same bytes, and the step comes near the
# ridge: fewer bytes, *and* more work for each. So predict a step of DeepSeek-V3 after 128,000 tokens, on that card, by
# the roofline: the longer of reading and computing. No clock ran here; it is the best that could be.

# %%
from helpers.measure import Roofline, Work
from helpers.units import format_bytes, format_flops, format_seconds

card = Roofline("cuda", "bfloat16", 1e12 * h100["memory_tb_s"][0], 1e12 * h100["tflops"][0])
c = plans["DeepSeek-V3"].config
reads = {"kept": "every head its own", "expanded": "latent (MLA)", "absorbed": "latent (MLA)"}
for form, design in reads.items():
    work = Work(c.num_hidden_layers * flops(form, 1, 128_000, *widths(c)), 128_000 * deepseek[design])
    needs = f"reads {format_bytes(work.bytes):>8}, computes {format_flops(work.flops):>11}"
    print(f"{form:9} {needs}: {format_seconds(card.seconds(work))} at best")

# %% [markdown]
# Keys and values kept would be eight times larger than the card's memory, and take as long as memory needs. Expanded,
# the same step waits for arithmetic, and longer. Absorbed, both are small. (All experts and the rest of the model come
# on top; this is attention alone.)
#
# ### The clock, one query
#
# Three caches in one process. Formula first: after S tokens, `expanded` over `absorbed`.

# %%
from helpers.layers.attention import attend
from helpers.measure import measure_one, measure_pair

SIZES = {"smoke": (4, 32, 32, 128, 16), "laptop": (8, 64, 64, 256, 32), "full": (128, 128, 128, 512, 64)}[scale]
H, K, V, C, R = SIZES
dtype = torch.bfloat16 if device.type == "cuda" else torch.float32


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=device, dtype=dtype) / shape[-1] ** 0.5


def arguments(T: int, S: int) -> tuple[torch.Tensor, ...]:
    """What both forms take: T queries, each of which sees all of S kept tokens."""
    mask = torch.ones(1, T, S, dtype=torch.bool, device=device)
    up = random(H, K, C), random(H, V, C)
    return random(1, T, H, K), random(1, T, H, R), random(1, S, C), random(1, S, R), *up, mask, (K + R) ** -0.5


for form in (expanded, absorbed):
    given = arguments(3, 50)
    counted_now = sum(count_flops(lambda form=form, given=given: form(*given)).values())
    print(f"{form.__name__}: {flops(form.__name__, 3, 50, *SIZES):,} FLOP by formula, {counted_now:,} counted")


# %% [markdown]
# `arguments` makes one step's input. Now each context: both forms in turns, and beside them plain attention over keys
# and values that were kept.

# %%
contexts = {"smoke": [64, 256, 1024], "laptop": [64, 256, 1024, 4096], "full": [1024, 4096, 16384]}[scale]


def timed(S: int):
    """Expanded against absorbed, and keys and values kept, for one query after S tokens."""
    given = arguments(1, S)
    plain = random(1, 1, H, K + R), random(1, S, H, K + R), random(1, S, H, V), given[6]
    both = measure_pair(lambda: expanded(*given), lambda: absorbed(*given), repeats=5, warm_up=1, device=device)
    return both, measure_one(lambda: attend(*plain), repeats=5, warm_up=1, device=device)


times = {S: timed(S) for S in contexts}
print("  tokens   expanded   absorbed   ratio   by FLOP   keys and values kept")
for S, (both, kept) in times.items():
    ratio = flops("expanded", 1, S, *SIZES) / flops("absorbed", 1, S, *SIZES)
    a, b, c = (1e3 * timing.median_s for timing in (both.a, both.b, kept))
    print(f"{S:8,} {a:7.2f} ms {b:7.3f} ms {both.ratio:7.1f} {ratio:9.1f} {c:19.3f} ms")
by_flops = flops("expanded", 1, 1024, *SIZES) / flops("absorbed", 1, 1024, *SIZES)
check.reveal("mla.step", formula=by_flops, machine=times[1024][0].ratio, unit="x")

# %%
measured = {"latents, expanded": [both.a.median_s for both, _ in times.values()]}
measured["latents, absorbed"] = [both.b.median_s for both, _ in times.values()]
measured["keys and values kept"] = [kept.median_s for _, kept in times.values()]
a_flop = measured["latents, expanded"][-1] / flops("expanded", 1, contexts[-1], *SIZES)
grey = {"absorbed, if time followed FLOP": [a_flop * flops("absorbed", 1, S, *SIZES) for S in contexts]}
finding = f"After {contexts[-1]:,} tokens absorbing makes a step {times[contexts[-1]][0].ratio:.0f} times faster"
show(draw.seconds_by(contexts, measured, grey, "tokens kept", finding))

# %% [markdown]
# The formula promises more: an absorbed step is so small that calls and reading take most of it, while expanding is one
# large product, at which a machine is best. The third line is the plain attention of lesson [[attention]], with every
# head's keys in memory. Absorbed does more arithmetic than it and reads far fewer bytes, so which of the two is faster
# depends on the machine's ridge, and on whether that larger cache still fits a fast memory.
#
# ### Where expanding pays
#
# Absorbing costs 2 C + R a pair of tokens, expanding K + R + V, which is less. So with *many* queries at once (a prompt
# that is read) expanding wins. The break-even follows from the formula; then measure it.

# %%
S = {"smoke": 512, "laptop": 2048, "full": 8192}[scale]


def even_at(S: int, K: int, V: int, C: int) -> float:
    """The number of new queries at which both forms take the same number of multiplications."""
    return S * C * (K + V) / (C * (K + V) + S * (2 * C - K - V))


even = even_at(S, K, V, C)
print(f"{S:,} tokens kept: by formula even at {even:.0f} queries")
print(f"DeepSeek-V3 and a million tokens: even at {even_at(10**6, 128, 128, 512):.1f}")

# %% [markdown]
# Now the clock, on both sides of that number.

# %%
queries = sorted({1, 8, 32, round(even / 2), round(even), round(2 * even), round(4 * even)})
ratios, rows = {}, {"expanded": [], "absorbed": []}
for T in queries:
    given = arguments(T, S)
    run = [lambda form=form, given=given: form(*given) for form in (expanded, absorbed)]
    pair = measure_pair(*run, repeats=5, warm_up=1, device=device)
    ratios[T] = pair.ratio
    rows["expanded"].append(pair.a.median_s)
    rows["absorbed"].append(pair.b.median_s)
    print(f"{T:4} queries: expanded {1e3 * pair.a.median_s:7.1f} ms, absorbed {1e3 * pair.b.median_s:7.1f} ms")

# %%
side = [T for T in queries if ratios[T] < 1]  # where expanding is faster
after = side[0] if side else queries[-1]
before = max((number for number in queries if number < after), default=after)
found = f"between {before} and {after} queries" if side else f"beyond {after} queries"
show(draw.seconds_by(queries, rows, {}, "queries at once", f"The lines cross {found}; by FLOP, at {even:.0f}"))

# %% [markdown]
# The formula counts multiplications and nothing else, so it finds the place and not the digit. `MLA.forward` decides by
# it: `absorbing_pays(queries, keys, ...)`. With DeepSeek-V3's widths and a long cache, up to 170 new tokens are
# absorbed, and a prompt is expanded.
#
# ### Do trained keys and values have low rank?
#
# A latent of rank r can only hold r directions. MLA learns its latent in training. What about a model that was *not*
# trained that way: could its keys and values pass through a latent? Take the six layers of the small Qwen3, put each
# layer's key and value matrices on top of one another, and cut the result down to its largest directions (SVD).

# %%
from helpers.models.qwen3 import Qwen3
from helpers.plots.layers import latent as draw_latent

model = load(folder, torch.float32, device)
if not isinstance(model, Qwen3):
    raise ValueError(f"this part takes a Qwen3 to pieces, and {checkpoint} is a {type(model).__name__}")
matrices = [torch.cat([block.attention.key.weight, block.attention.value.weight]).detach() for block in model.blocks]
full = min(matrices[0].shape)
noise = torch.randn(matrices[0].shape, device=device)


def lost(matrix: torch.Tensor) -> list[float]:
    """The relative error of the best matrix of rank r, for r = 0, 1, ..., full."""
    squares = torch.linalg.svdvals(matrix).double().square()
    left = squares.sum() - torch.cat([torch.zeros(1, device=device), squares.cumsum(dim=0)])
    return (left.clamp_min(0) / squares.sum()).sqrt().tolist()


# %% [markdown]
# An error of a matrix is no error of a model. So put the cut matrices into the model and let it read text that it has
# never seen: how much worse does it predict the next token, in nats?

# %%
from transformers import AutoTokenizer

from helpers.data import python_corpus

tokenizer = AutoTokenizer.from_pretrained(folder)
unseen = "\n".join(list(python_corpus().held_out.values())[:3])[:20_000]
ids = tokenizer(unseen, truncation=True, max_length=4 * 257).input_ids
text = torch.tensor(ids[: len(ids) // 4 * 4], device=device).view(4, -1)


@torch.no_grad()
def loss(rank: int) -> float:
    """Nats per token, with every layer's keys and values cut down to ``rank`` directions together."""
    for block, matrix in zip(model.blocks, matrices, strict=True):
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        cut = left[:, :rank] * sizes[:rank] @ right[:rank]
        keys = len(block.attention.key.weight)
        block.attention.key.weight.copy_(cut[:keys])
        block.attention.value.weight.copy_(cut[keys:])
    logits = model(text[:, :-1])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).item()


# %% [markdown]
# Both curves side by side: what the matrices lose, averaged over the layers, against a matrix of the same shape drawn
# by chance; and what the model loses.

# %%
curves = [lost(matrix) for matrix in matrices]
average = [sum(row) / len(row) for row in zip(*curves, strict=True)]
random_curve = lost(noise)
ranks = [full // 8, full // 4, full // 2, 3 * full // 4]
whole_loss = loss(full)
worse = {rank: loss(rank) - whole_loss for rank in ranks}
loss(full)
chance = torch.tensor(model.config.vocab_size).log()
print(f"full rank {full}: {whole_loss:.3f} nats per token; guessing would be {chance:.1f}")
for rank in ranks:
    print(f"rank {rank:4} ({rank / full:4.0%}): trained {average[rank]:4.0%} lost, ", end="")
    print(f"random matrix {random_curve[rank]:4.0%}, the model {worse[rank]:+.3f} nats per token")

# %%
shares = [rank / full for rank in range(full + 1)]
errors = {"trained keys and values": average, "a random matrix": random_curve}
notes = {rank / full: f"{worse[rank]:+.2f} nats" for rank in ranks[:3]}
half = full // 2
finding = f"Half the rank loses {average[half]:.0%} of the trained weights, {random_curve[half]:.0%} of random ones"
show(draw_latent.rank_errors(shares, errors, finding, notes))

# %% [markdown]
# The answer for the small Qwen3, in two halves. **Lower than random: yes.** Training has put more into few directions
# than chance would. **Low rank: no.** No rank below the full one comes free by the weights' own measure, and the curve
# has no edge at which you could cut. But the model forgives more than the matrix: read the nats.
#
# That is why existing models can be turned into MLA with some training. Their keys are turned *after* the latent,
# though, and so cannot be absorbed (step 3): a part for positions must be set free as well. Models that have MLA learn
# both from the start.
#
# ### Recorded on a GPU
#
# The absorbed form reads one row of latents for all heads, which is what a GPU kernel is built on (lesson [[kernels]]).
# `python3 -m course measure latent-decode --device cuda` times that kernel. Below stands all that was ever measured.

# %%
from helpers.measure import recorded_text

print(recorded_text("latent-decode"))

# %% [markdown]
# ## Play
#
# 1. Layer 0, then the last: which one bears a smaller rank?
# 2. Find the rank at which half of the weights' size is lost in a trained layer. How far is the random matrix there?
# 3. Lower the rank until the numbers kept a token are a quarter of keys and values. How large is the error?

# %%
from helpers.plots.widgets import Slider, explore


def cut(layer, rank):
    kept, error = rank / len(matrices[layer]), curves[layer][rank]
    title = f"Layer {layer}, rank {rank}: {kept:.0%} of the numbers kept, {error:.0%} of the weights lost"
    lines = {f"layer {layer}": curves[layer], "a random matrix": random_curve}
    return draw_latent.rank_errors(shares, lines, title, chosen=rank / full)


explore(
    cut,
    layer=Slider(0, len(matrices) - 1, value=0, label="layer"),
    rank=Slider(1, full, value=full // 2, label="rank"),
)

# %% [markdown]
# <details><summary>What to notice</summary>
#
# 1. Layer 0, at small ranks: its largest directions carry more. From about a third of the rank on, all are alike.
# 2. In layer 0 near rank 16 of 128; the random matrix has lost about 79 % there.
# 3. Rank 32 of 128: about a third of the weights is lost. The loss that you measured above says what that costs in
#    words.
#
# </details>

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: bytes of a latent cache (4 minutes, difficulty 1)
#
# Write the bytes that MLA keeps for a text in bf16. You get layers, heads, the latent's width, the width of the turned
# key, and the tokens. (You may not need all of them.)


# %% tags=["exercise:kept", "points:1"]
def latent_bytes(layers, heads, latent_width, rotary_dim, tokens):
    # BEGIN SOLUTION
    return layers * (latent_width + rotary_dim) * tokens * 2
    # END SOLUTION


# %% tags=["check:kept"]
check.kept(latent_bytes)

# %% [markdown]
# ### 2. Core: absorb, with positions (10 minutes, difficulty 2)
#
# One new token, already projected and turned: `query` [H, K], `q_rope` [H, R]; kept are `latent` [S, C] and
# `k_rope` [S, R]; `w_uk` [H, K, C], `w_uv` [H, V, C]. Return what the heads find, [H, V], without making a
# key. The check counts your FLOP.


# %% tags=["exercise:absorb", "points:3"]
def absorbed_step(query, q_rope, latent, k_rope, w_uk, w_uv):
    # BEGIN SOLUTION
    carried = torch.einsum("hk,hkc->hc", query, w_uk)
    width = query.shape[1] + q_rope.shape[1]
    scores = (carried @ latent.T + q_rope @ k_rope.T) / width**0.5
    mixed = scores.softmax(dim=-1) @ latent
    return torch.einsum("hc,hvc->hv", mixed, w_uv)
    # END SOLUTION


# %% tags=["check:absorb"]
check.absorb(absorbed_step)

# %% [markdown]
# ### 3. Core: how many at once? (8 minutes, difficulty 2)
#
# `keys` tokens are kept. Give the largest number of new queries, all of which see all of them, for which absorbing
# takes *fewer* multiplications per head than expanding. Per head, absorbing takes `C (K + V)` a query and `2 C` a pair
# of query and token; expanding takes `C (K + V)` a token and `K + V` a pair. (The rotary part costs both the same.)
# Assume that `2 C > K + V`.


# %% tags=["exercise:even", "points:2"]
def most_queries(keys: int, C: int, K: int, V: int) -> int:
    # BEGIN SOLUTION
    matrix = C * (K + V)
    return (keys * matrix - 1) // (matrix + keys * (2 * C - K - V))
    # END SOLUTION


# %% tags=["check:even"]
check.even(most_queries)

# %% [markdown]
# ### 4. Core: one layout out of the other (8 minutes, difficulty 2)
#
# DeepSeek turns the pairs (2i, 2i + 1), Qwen the pairs (i, i + R/2). Give the order in which the R coordinates of a
# query and a key must be put, so that Qwen's rotation gives DeepSeek's scores: a list of R places, such that new
# coordinate n is old coordinate `order[n]`.


# %% tags=["exercise:layout", "points:2"]
def order_for_qwen(rotary_dim: int) -> list:
    # BEGIN SOLUTION
    return [*range(0, rotary_dim, 2), *range(1, rotary_dim, 2)]
    # END SOLUTION


# %% tags=["check:layout"]
check.layout(order_for_qwen)

# %% [markdown]
# ### 5. Stretch: the smallest rank (8 minutes, difficulty 3)
#
# Given a matrix and a bound, return the smallest rank whose best approximation has a relative error (the norm of what
# is missing over the norm of the matrix, as above) of at most the bound. A bound of 1 or more allows rank 0.


# %% tags=["exercise:rank", "points:3"]
def smallest_rank(matrix: torch.Tensor, bound: float) -> int:
    # BEGIN SOLUTION
    squares = torch.linalg.svdvals(matrix.double()).square()
    missing = torch.cat([squares.flip(0).cumsum(dim=0).flip(0), squares.new_zeros(1)])  # of rank 0, 1, ...
    return int((missing > bound**2 * squares.sum()).sum())
    # END SOLUTION


# %% tags=["check:rank"]
check.rank(smallest_rank)

# %% [markdown]
# ### 6. In words: why a part of its own? (5 minutes, difficulty 2)
#
# A colleague wants to save the 64 turned numbers: "Turn the keys that come out of the latent, as everybody does, and
# keep 512 instead of 576." Answer in three to five sentences: what still works, what breaks, and for whom.

# %% [markdown] tags=["answer:separate"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# It says that the model itself would work: expanded, keys can be turned as in lesson [[attention]], and training or
# reading a prompt would notice nothing. It says what breaks: between query and matrix stands a turn that differs for
# every distance, so the query cannot be carried into the latent space once; a decoding step must make all keys again,
# or carry one query for each token.
#
# It weighs: 64 of 576 numbers, a ninth of the cache, buy a step that is cheaper by the factor that you measured.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A latent is kept instead of keys and values; every head makes its own from it.
# 2. Absorbing moves brackets: the query goes to the latents, and no key is made. The numbers are the same.
# 3. A turn between query and matrix cannot be absorbed, so positions have a small part of their own.
# 4. Few queries and a long cache: absorb. Many queries at once: expand. The break-even follows from a count.
# 5. Keys and values of a model trained without a latent are lower in rank than chance, and not low.
#
# | idea | formula | cost |
# |---|---|---|
# | cache | layers x (C + R) x bytes | a token, for all heads |
# | expanded | S C (K + V) + T S (K + R + V) | multiplications per head |
# | absorbed | T C (K + V) + T S (2 C + R) | multiplications per head |
# | even | T = S C (K + V) / (C (K + V) + S (2 C - K - V)) | new queries at once |
# | intensity | about H (2 C + R) / (C + R) | FLOP per byte, bf16, one query |
# | rank r | error^2 = sum of the squares of what is cut / sum of all | best possible, by SVD |

# %% [markdown]
# ## In the real models
#
# What the configs say, counted by this cell:

# %%
print("             layers  heads  key + turned   value  latent  query latent")
for name, p in plans.items():
    q = p.config
    key = f"{q.qk_nope_head_dim} + {q.qk_rope_head_dim}"
    sizes = f"{q.num_hidden_layers:6} {q.num_attention_heads:6} {key:>13} {q.v_head_dim:7} {q.kv_lora_rank:7}"
    print(f"{name:12} {sizes} {q.q_lora_rank:13}")

# %% [markdown]
# - **DeepSeek-V3** and **Kimi K2.5** have the same attention with 128 and with 64 heads. Halving the heads changes the
#   work and not the cache: the latent does not know how many heads read it.
# - **GLM-5** has wider heads (192 + 64, values of 256) over the same latent of 512. Its MHA comparison is smaller, 57,
#   because it has half as many heads.
# - **Surprise:** heads of DeepSeek-V3 are together 128 x 128 = 16,384 wide, in a model of 7,168. A latent of 512 feeds
#   all of them, and the model does not seem to mind.
# - **YaRN**, DeepSeek's stretching of the turns to longer texts, also changes the scale of the scores; it is in
#   `helpers/layers/rope.py`, with its source.
#
# Sizes: the models' own `config.json`, through `helpers/facts/configs` (source and date in each file). Layer:
# transformers 5.23, run in the cells above; it keeps the latents and expands them at each step.

# %% [markdown]
# ## Roads not taken
#
# - **Converting a model**: SVD as above, then some training to get back what was lost; the rotary part must be chosen
#   among the old coordinates. Published for several small models.
# - **Data instead of weights**: cutting the directions that real inputs use least brings the outputs nearer. Nearer
#   outputs are not yet better words, so the nats must be measured there too.
# - **Fewer bits for the latent**: each number serves all heads, so each error does too; lesson [[formats]] has the
#   tools.
# - **A kernel**: on a GPU the latents of a tile are read once for all heads. That is where the FLOP per byte come from,
#   and lesson [[kernels]] writes such kernels. (On a GPU: not measured yet. `scale = "full"` runs a layer of real
#   size.)
# - **No positions at all** in some layers: then nothing stands between, and the whole cache is one latent.
#
# **Next: [[dsa]].** The cache is small now. But a step still looks at all of it.
