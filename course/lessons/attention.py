# %% [markdown]
# # Attention, cache, grouped queries
#
# **What does the next token cost, and what does the cache save?**
#
# 60 minutes, without the stretch exercise · needs: lesson [[open_a_model]] (a model opened, and its loop that reads the
# whole text again for each token) · runs on any laptop, without a network
#
# You will build the attention layer of a real model from six tokens up, give it a cache, *prove* that the cache is
# used, and measure what it saves. Here is the whole idea.
#
# ```text
#     the      cat      sat      on      the      mat       ?
#      |        |        |        |        |        |
#     key      key      key      key      key      key   <-- made once, and kept: the cache
#     value    value    value    value    value    value
#      ^        ^        ^        ^        ^        ^
#      +--------+--------+----+---+--------+--------+
#                             |
#                  the query of the newest token looks at all of them
#                  and takes a weighted mean of the values
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # or a Qwen3 of any size, as "Qwen/Qwen3-0.6B" or a folder: the same cells on a real model
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import attention as check
from helpers.checkpoints import load, resolve
from helpers.compare import max_error
from helpers.plots import show
from helpers.plots.layers import attention as draw

device = begin(scale, checkpoint, device, seed)
folder = resolve(checkpoint, download=True)

# %% [markdown]
# ## By hand
#
# ### One token looks back
#
# Six tokens are read. Each left a **key** (what it can be found by: here two numbers) and a **value** (what it has to
# say: here one number). The newest token, `mat`, asks with a **query**. A score is the dot product of query and key,
# divided by the root of the width; a softmax makes the scores weights that sum to one; the answer is the weighted mean.

# %%
words = ["the", "cat", "sat", "on", "the", "mat"]
keys = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [2.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
values = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
query = torch.tensor([1.0, 2.0])

scores = keys @ query / 2**0.5
weights = scores.softmax(dim=0)
for place, word in enumerate(words):
    print(f"{place} {word:4} key {keys[place].tolist()}  score {scores[place]:.2f}  weight {weights[place]:.3f}")
print(f"the answer: {weights @ values:.1f}")

# %% [markdown]
# Two things to see. To answer, *every* key and *every* value was read once: that is what the next token costs, and it
# grows with each token. And the two `the` have the same key, so they get the same weight: this attention does not know
# where a token stands.
#
# ### Turn by the position
#
# **Rotary positions** cure that. Take the two numbers as the hand of a clock, and turn it by an angle for each
# position, a quarter turn here. Turn queries and keys alike. Below, all six tokens have the same key, and the query at
# place 5 has the same content too.

# %%
quarter = torch.pi / 2
hands = [torch.tensor([torch.cos(turned), torch.sin(turned)]) for turned in torch.arange(6) * quarter]
for place, hand in enumerate(hands):
    score = hands[5] @ hand
    print(f"place {place}: key {[f'{x:+z.0f}' for x in hand.tolist()]}  distance {5 - place}  score {score:+z.0f}")

# %% [markdown]
# The score now follows the **distance**. It has to: a dot product sees the angle between two hands, and turning both by
# the same amount changes nothing. But at distance 4 the hand has come round, and looks like distance 0. So a head has
# many hands, and each turns slower than the one before.
#
# ## Predict
#
# The small model of lesson [[open_a_model]] (1.3 million parameters, six layers) has read 1,024 tokens and writes one
# more. Without a cache it reads all of them again; with one, it reads one token. And Qwen3-0.6B has 28 layers, each
# with 16 query heads and 8 key/value heads of width 128, and keeps its numbers in two bytes.

# %% tags=["predict:cost"]
times_slower = ...  # how many times longer does that one token take without a cache, on this machine?
kb_per_token = ...  # how many kB does Qwen3-0.6B keep for one token?
# BEGIN SOLUTION
times_slower = 1000
kb_per_token = 4
# END SOLUTION
check.predict("attention.ratio", times_slower, unit="x")
check.predict("attention.kb", kb_per_token, unit="kB")

# %% [markdown]
# ## Build
#
# ### 1. Many hands
#
# A head of width K has K/2 hands. Hand i is the pair of coordinates (i, i + K/2), and a position turns it by
# theta^(-2i/K) radians: the first by one radian, the last by next to nothing. Fast hands tell neighbours apart, slow
# hands tell a page from a chapter.


# %%
def turn(x: torch.Tensor, position: int, theta: float) -> torch.Tensor:
    """The last axis, of width K, turned: pair (i, i + K/2) by position * theta^(-2i/K) radians."""
    width = x.shape[-1]
    angle = position * theta ** (-2 * torch.arange(width // 2, device=x.device) / width)
    first, second = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


# %%
one, other = torch.randn(2, 32)
for query_at, key_at in [(5, 2), (45, 42), (1005, 1002), (6, 2)]:
    score = turn(one, query_at, 1e4) @ turn(other, key_at, 1e4)
    print(f"query at {query_at:4}, key at {key_at:4}: distance {query_at - key_at}, score {score:.3f}")

# %% [markdown]
# Distance 3 gives one score, wherever it is; distance 4 gives another. A position is in no weight and in no file: it
# is this turn.
#
# ### 2. Look back
#
# The slow way says what is meant. Token t reads the keys and values 0 to t. The future is not hidden from it; it is
# not there.


# %%
def look_back(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """One head, [T, K] each: what each token takes from itself and the tokens before it."""
    answers = []
    for t in range(len(query)):
        scores = key[: t + 1] @ query[t] / query.shape[1] ** 0.5
        answers.append(scores.softmax(dim=0) @ value[: t + 1])
    return torch.stack(answers)


six, seven = torch.randn(3, 6, 8), torch.randn(3, 1, 8)
before = look_back(*six)
after = look_back(*torch.cat([six, seven], dim=1))
print(f"a seventh token comes: the six old answers change by {max_error(after[:6], before):.0e}")

# %% [markdown]
# That zero is the reason why a cache can exist. Nothing that was computed for an old token changes when a new one
# comes. The new token needs the old keys and values, and of the old queries it needs nothing.
#
# The fast way computes all scores at once, the forbidden ones too, and sets those to minus infinity: a softmax turns
# them into an exact zero. In this course a mask is True where a query *may* look.

# %%
query, key, value = six
mask = torch.ones(6, 6, dtype=torch.bool).tril()
scores = (query @ key.T / 8**0.5).masked_fill(~mask, float("-inf"))
print("one matrix against the loop:", f"{max_error(scores.softmax(dim=-1) @ value, before):.0e}")
print(scores.softmax(dim=-1)[:3])

# %% [markdown]
# ### 3. Share the keys
#
# A layer has many heads, each with its own idea of what to look for. In **multi-head** attention each query head has a
# key/value head of its own. In **grouped-query** attention (GQA) a group of query heads shares one: H query heads, G
# key/value heads, and only the G are kept.

# %%
from helpers.layers.attention import attend


def grouped(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """[T, H, K], [T, G, K], [T, G, K]: query head h reads key/value head h // (H / G)."""
    share = query.shape[1] // key.shape[1]
    heads = [look_back(query[:, h], key[:, h // share], value[:, h // share]) for h in range(query.shape[1])]
    return torch.stack(heads, dim=1)


# %%
query = torch.randn(6, 4, 8)
for groups in (4, 2, 1):
    key, value = torch.randn(2, 6, groups, 8)
    fast = attend(query[None], key[None], value[None], mask[None])[0]
    error = max_error(fast, grouped(query, key, value))
    kept = key[0].numel() + value[0].numel()
    print(f"4 query heads, {groups} key/value heads: {kept:2} numbers kept a token; loop against product {error:.0e}")

# %% [markdown]
# `attend` is the helper's version, all heads in two products. With 4 heads kept it is multi-head attention, with 1 it
# is called multi-query. The answers differ between the three, because the models do; loop and product agree in each.
#
# ### 4. A real layer
#
# Now the third block of the trained model. A hook catches what really goes into its attention. Around the part you have
# built there are four matrices, and a norm on each query and key (Qwen3's addition: it keeps scores in bounds).

# %%
from transformers import AutoTokenizer

from helpers.models.qwen3 import Qwen3

model, tokenizer = load(folder, torch.float32, device), AutoTokenizer.from_pretrained(folder)
if not isinstance(model, Qwen3):
    raise ValueError(f"this lesson takes a Qwen3 to pieces, and {checkpoint} is a {type(model).__name__}")
c = model.config
layer = model.blocks[2].attention
ids = tokenizer("def add(left, right):\n    return left + right\n", return_tensors="pt").input_ids.to(device)
caught = []
hook = layer.register_forward_hook(lambda module, given, answer: caught.append((given[0][0], answer[0])))
with torch.no_grad():
    logits = model(ids)
hook.remove()
x, wanted = caught[0]
print(f"{c.num_heads} query heads, {c.num_kv_heads} key/value heads, width {c.head_dim}; its input is {tuple(x.shape)}")


# %%
def project(x: torch.Tensor, start: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[T, D], tokens start, start + 1, ... -> query [T, H, K], key [T, G, K], value [T, G, K]."""
    query, key, value = (made(x).unflatten(-1, (-1, c.head_dim)) for made in (layer.query, layer.key, layer.value))
    query, key = layer.query_norm(query), layer.key_norm(key)
    query, key = (
        torch.stack([turn(h, start + t, c.rope_theta) for t, h in enumerate(heads)]) for heads in (query, key)
    )
    return query, key, value


with torch.no_grad():
    yours = layer.output(grouped(*project(x)).flatten(1))
print(f"your layer against the model's, on real input: {max_error(yours, wanted):.0e} of {wanted.abs().max():.1f}")

# %% [markdown]
# The same numbers, to float32's last digits. What do its heads look for? Here is the one that looks most at the token
# before, and beside it in the title the one that looks most at the first token of all.

# %%
with torch.no_grad():
    query, key, value = project(x)
share, tokens = c.num_heads // c.num_kv_heads, [tokenizer.decode(token) for token in ids[0]]
causal = torch.ones(len(x), len(x), dtype=torch.bool, device=device).tril()
scores = torch.einsum("thk,shk->hts", query, key.repeat_interleave(share, dim=1)) / c.head_dim**0.5
maps = scores.masked_fill(~causal, float("-inf")).softmax(dim=-1)
previous, first = maps.diagonal(-1, 1, 2).mean(dim=1), maps[:, 2:, 0].mean(dim=1)
head, sink = int(previous.argmax()), int(first.argmax())
finding = f"Head {head} gives the token before it {previous[head]:.0%}, head {sink} the first token {first[sink]:.0%}"
show(draw.attention_map(maps[head].cpu(), [repr(token)[1:-1] for token in tokens], finding))

# %% [markdown]
# Nobody wrote that rule; training found it. And a row sums to one, so a head that finds nothing must still look
# somewhere. In many models it then looks at the first token, whatever that is: an **attention sink**. Step 6 shows what
# Qwen3.5 does about it.
#
# ### 5. A cache
#
# One token at a time: make its query, key and value; keep key and value; look at everything kept. There is no mask,
# because nothing that is kept lies in the future.

# %%
kept_keys, kept_values = [], []


def step(newest: torch.Tensor) -> torch.Tensor:
    """One token, [D]: its attention over all that is kept and itself."""
    query, key, value = project(newest[None], start=len(kept_keys))
    kept_keys.append(key[0])
    kept_values.append(value[0])
    everything = torch.ones(1, 1, len(kept_keys), dtype=torch.bool, device=device)
    found = attend(query[None], torch.stack(kept_keys)[None], torch.stack(kept_values)[None], everything)
    return layer.output(found[0].flatten(1))[0]


with torch.no_grad():
    one_by_one = torch.stack([step(newest) for newest in x])
print(f"one by one against all at once: {max_error(one_by_one, wanted):.0e}, {len(kept_keys)} keys kept")

# %% [markdown]
# The helper's cache does this for every layer, in one tensor that doubles its room when it is full. But is it *used*?
# Text that looks right proves nothing: a model that quietly reads everything again writes the same text. So **count**.
# A hook on every key projection counts the tokens that pass it.


# %%
def tokens_projected(run) -> int:
    """How many tokens pass a key projection during ``run()``, on average over the layers."""
    seen = []
    count = lambda module, given, answer: seen.append(given[0].shape[1])  # noqa: E731
    hooks = [block.attention.key.register_forward_hook(count) for block in model.blocks]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return sum(seen) // len(model.blocks)


# %%
cache, prompt = model.new_cache(), ids[:, :6]
cached, uncached = [], []
once = tokens_projected(
    lambda: cached.extend(model(part, cache=cache) for part in [prompt, *ids[:, 6:].split(1, dim=1)])
)
again = tokens_projected(lambda: uncached.extend(model(ids[:, :n]) for n in range(6, ids.shape[1] + 1)))
print(f"with the cache:    {once:4} tokens projected in each layer, {cache.length} positions written")
print(f"without the cache: {again:4} tokens projected in each layer")
worst = max(max_error(a[:, -1], b[:, -1]) for a, b in zip(cached, uncached, strict=True))
print(f"largest difference of the logits, over {len(cached)} steps: {worst:.0e} of {logits.abs().max():.0f}")
assert once == cache.length == ids.shape[1]

# %% [markdown]
# Every token passes once, and both ways give the same logits. One doubt is left: perhaps the cache is written and never
# read. Damage it and see. The value of token 3 in the first layer becomes zero; a cache that is read must notice.


# %%
def last_logits(cache) -> torch.Tensor:
    with torch.no_grad():
        return model(ids[:, -1:], cache=cache)[:, -1]


damaged, whole = model.new_cache(), model.new_cache()
with torch.no_grad():
    model(ids[:, :-1], cache=damaged)
    model(ids[:, :-1], cache=whole)
damaged.blocks[0].values.held[:, 3] = 0
print(f"untouched: {max_error(last_logits(whole), logits[:, -1]):.0e}")
print(f"damaged:   {max_error(last_logits(damaged), logits[:, -1]):.0e}")

# %% [markdown]
# Counted, equal, and read: now it is proved.
#
# ### 6. A gate, and a part of a turn
#
# Qwen3.5 keeps grouped queries in every fourth layer and changes two things. First the **gate**. A softmax mixes
# values and can never say nothing: watch the smallest answer that it can give.

# %%
values = torch.rand(20, 1) + 1  # all between 1 and 2
asked = [torch.randn(20).mul(size).softmax(dim=0) @ values for size in (0, 1, 10, 100) for _ in range(250)]
print(f"1,000 queries, answers from {min(asked).item():.2f} to {max(asked).item():.2f}; values from {values.min():.2f}")
print(f"with a gate of sigmoid(-10): {(min(asked) * torch.tensor(-10.0).sigmoid()).item():.5f}")

# %% [markdown]
# Each head multiplies its answer by sigmoid(gate), number by number; the gate comes from the token itself. Second, the
# **partial turn**: only the first quarter of a head is turned. The rest matches at any distance. Here is one content
# that meets itself, at growing distance.


# %%
def turn_part(x: torch.Tensor, position: int, theta: float, part: int) -> torch.Tensor:
    """Turn the first ``part`` coordinates as a small head of their own, and leave the others."""
    return torch.cat([turn(x[..., :part], position, theta), x[..., part:]], dim=-1)


same = torch.ones(32) / 32**0.5
lines = {
    f"{part} of 32 turned": [(turn_part(same, d, 1e4, part) @ same).item() for d in range(256)] for part in (32, 8, 0)
}
low = {name: min(line) for name, line in lines.items()}
finding = (
    f"A match falls to {low['32 of 32 turned']:.0%} when all is turned, to {low['8 of 32 turned']:.0%} with a quarter"
)
show(draw.score_by_distance(lines, finding))

# %% [markdown]
# Turned throughout, a match is worth less the further away it lies. With a quarter turned, most of it stays: such a
# head knows what is near, and still finds a name that was said long ago. Now the whole layer, gate and partial turn.


# %%
def gated(layer, x: torch.Tensor, theta: float, part: int) -> torch.Tensor:
    """Qwen3.5's attention, [T, D] -> [T, D]: step 4 with a gate, and positions in a part of the head."""
    width = layer.head_dim
    query, gate = layer.query_and_gate(x).unflatten(-1, (-1, 2 * width)).chunk(2, dim=-1)
    key, value = (made(x).unflatten(-1, (-1, width)) for made in (layer.key, layer.value))
    query, key = layer.query_norm(query), layer.key_norm(key)
    query, key = (torch.stack([turn_part(h, t, theta, part) for t, h in enumerate(heads)]) for heads in (query, key))
    return layer.output((grouped(query, key, value) * gate.sigmoid()).flatten(1))


# %% [markdown]
# One matrix makes each head's query and, right behind it, its gate: head 0's query, head 0's gate, head 1's query, and
# so on. Whoever splits the whole width in the middle gets shapes that fit and a model that babbles. `gated` is held to
# transformers next.
#
# ## Check
#
# ### Against transformers, at awkward sizes
#
# Random layers of both families, with the same weights in the library's layer and in yours. Lengths of 1, 31 and 33,
# head widths that are no power of two. In float32 only the order of additions may differ.

# %%
from transformers import Qwen3_5TextConfig, Qwen3_5TextModel, Qwen3Config, Qwen3Model

from helpers.layers.attention import Attention
from helpers.layers.gated_attention import GatedAttention
from helpers.reference import parts_of

Qwen3Attention, Qwen3Rotary = parts_of(Qwen3Model, "Qwen3Attention", "Qwen3RotaryEmbedding")
Qwen3_5Attention, Qwen3_5Rotary = parts_of(Qwen3_5TextModel, "Qwen3_5Attention", "Qwen3_5TextRotaryEmbedding")
THEIRS = {"query": "q_proj", "query_and_gate": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
THEIRS |= {"query_norm": "q_norm", "key_norm": "k_norm"}
sizes = dict(hidden_size=40, num_attention_heads=6, num_key_value_heads=2, head_dim=12)
plain = Qwen3Config(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
part = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 1]}
partial = Qwen3_5TextConfig(**sizes, rope_parameters=part)


# %%
@torch.no_grad()
def pair(ours, theirs, config):
    """The same random weights in both layers; the library's as a function of [T, D]."""
    for weight in theirs.parameters():
        weight.copy_(torch.randn(weight.shape) / 4)
    ours.load_state_dict({name: theirs.state_dict()[f"{THEIRS[name[:-7]]}.weight"] for name in ours.state_dict()})
    config._attn_implementation = "eager"
    rotary = (Qwen3Rotary if config is plain else Qwen3_5Rotary)(config)

    def run(x):
        barred = torch.full((len(x), len(x)), float("-inf")).triu(1)[None, None]
        turned = rotary(x[None], torch.arange(len(x))[None])
        return theirs(x[None], position_embeddings=turned, attention_mask=barred)[0][0]

    return ours, run


# %% [markdown]
# `Attention` and `GatedAttention` are the helper's layers, which later lessons import. All three columns must be small:
# your build from steps 4 and 6, and the helper's, against the library's.

# %%
from helpers.layers.ragged import standing_at
from helpers.layers.rope import angles, frequencies

ours, library = pair(Attention(40, 6, 2, 12, 1e-6), Qwen3Attention(plain, 0), plain)
gate_ours, gate_library = pair(GatedAttention(40, 6, 2, 12, 1e-6), Qwen3_5Attention(partial, 0), partial)
with torch.no_grad():
    for length in (1, 31, 33):
        rows, given = standing_at(torch.arange(length)[None]), torch.randn(length, 40)
        turned = [angles(rows.positions, frequencies(width, 1e4)) for width in (12, 6)]
        qwen3 = max_error(ours(given[None], rows, turned[0])[0], library(given))
        qwen3_5 = max_error(gate_ours(given[None], rows, turned[1])[0], gate_library(given))
        built = max_error(gated(gate_ours, given, 1e4, 6), gate_library(given))
        print(f"{length:2} tokens: Qwen3 {qwen3:.0e}, Qwen3.5 {qwen3_5:.0e}, your gated {built:.0e}")
        assert max(qwen3, qwen3_5, built) < 1e-4

# %% [markdown]
# ### Does the future leak?
#
# The **causality probe** changes the input from some place on and looks at the answers before it. They must not move at
# all: zero, not small. Beside it stands a mask with one diagonal too many, which lets each token see the next.

# %%
from helpers.compare import causality_probe

given, rows = torch.randn(1, 9, 40), standing_at(torch.arange(9)[None])
turned = angles(rows.positions, frequencies(12, 1e4))
vectors = torch.randn(3, 1, 9, 2, 4)
leaky = torch.ones(1, 9, 9, dtype=torch.bool).tril(1)
with torch.no_grad():
    print("the layer: ", causality_probe(lambda x: ours(x, rows, turned), given, 5))
    print("tril(1):   ", causality_probe(lambda v: attend(*vectors[:2], v, leaky), vectors[2], 5))

# %% [markdown]
# ### A bug that looks like success
#
# The classic one: each decoding step believes that it stands one place further than it does. It is one line. The
# prompt is read correctly, shapes fit, nothing fails, and the model writes.

# %%
from helpers.generate import generate


def one_too_far(positions: torch.Tensor, dtype: torch.dtype):
    decoding = positions.shape[1] == 1
    return Qwen3.rotary(model, positions + decoding, dtype)


prompt = tokenizer('def read_lines(path):\n    """Return', return_tensors="pt").input_ids.to(device)
written = {"right": generate(model, prompt, 24)}
model.rotary = one_too_far
written["wrong"] = generate(model, prompt, 24)
for name, tokens in written.items():
    print(name, repr(tokenizer.decode(tokens[0, prompt.shape[1] :])))

# %% [markdown]
# Without the labels, could you tell which is which? The check of step 5 can: the same tokens, once with the cache and
# once without.


# %%
def cached_against_uncached() -> float:
    """Largest difference of the last logits, prompt and single steps against everything at once."""
    cache = model.new_cache()
    with torch.no_grad():
        for part in [ids[:, :6], *ids[:, 6:].split(1, dim=1)]:
            answer = model(part, cache=cache)
    return max_error(answer[:, -1], logits[:, -1])


print(f"one step too far: {cached_against_uncached():.2g}")
model.rotary = lambda positions, dtype: Qwen3.rotary(model, positions + 1, dtype)
print(f"everything one too far, the prompt as well: {cached_against_uncached():.0e}")
del model.rotary
print(f"repaired: {cached_against_uncached():.0e}")

# %% [markdown]
# The second line is the surprise: shift *everything* by one and nothing happens, because only distances count. The
# bug is not a wrong position. It is a position that does not agree with the others.
#
# ## Measure
#
# ### Count first
#
# A matrix with P numbers costs 2 P FLOP for each token that passes it. Attention costs 4 H K for each pair of a new
# token and a token that it looks at: a product with the key, and one with the value. So one more token after n costs,
# with a cache, `2 P + 4 layers H K n`; without it, everything n times.

# %%
from helpers.measure import count_flops, measure_pair

linear = [module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear)]
matrices = sum(linear) + (0 if model.head else model.embedding.weight.numel())


def flops(new: int, seen: int) -> int:
    """FLOP of a call with ``new`` tokens that look at ``seen`` tokens, masked ones included."""
    return 2 * matrices * new + 4 * c.num_blocks * c.num_heads * c.head_dim * new * seen


# %%
def at_context(n: int):
    """Two functions that make the logits of one more token after n - 1: without a cache, and with it."""
    text = torch.randint(c.vocab_size, (1, n), device=device)
    cache = model.new_cache()
    with torch.inference_mode():
        model(text[:, :-1], cache=cache)
    read = cache.lengths.clone()

    def with_cache():
        cache.lengths = read  # back to n - 1, so that every call does the same step
        return model(text[:, -1:], cache=cache)

    return lambda: model(text), with_cache


without, cached = (run for run in at_context(256))
for name, run, formula in (("without", without, flops(256, 256)), ("cached", cached, flops(1, 256))):
    with torch.inference_mode():
        print(f"{name:8} {formula:13,} FLOP by formula, {sum(count_flops(run).values()):13,} counted")

# %% [markdown]
# Formula and counter agree to the last FLOP. Now the clock: both ways in one process, in turns (lesson [[roofline]]).
# The small model was trained on 512 tokens; beyond that its words are worthless and its seconds are not.

# %%
contexts = [128, 256, 512, 1024, 2048]
contexts = {"smoke": [64, 256, 1024], "laptop": contexts, "full": [*contexts[1:], 4096]}[scale]
both = {n: measure_pair(*at_context(n), repeats=3, warm_up=1, device=device) for n in contexts}
print("  tokens    without    cached   ratio   FLOP ratio")
for n, times in both.items():
    a, b = times.a.median_s, times.b.median_s
    print(f"{n:8,} {1e3 * a:7.1f} ms {1e3 * b:6.2f} ms {times.ratio:7.1f} {flops(n, n) / flops(1, n):12.0f}")
check.reveal("attention.ratio", formula=flops(1024, 1024) / flops(1, 1024), machine=both[1024].ratio, unit="x")

# %%
seconds = [[getattr(times, side).median_s for times in both.values()] for side in ("a", "b")]
by_flops = [seconds[0][0] * flops(n, n) / flops(contexts[0], contexts[0]) for n in contexts]
lines, grey = dict(zip(("without a cache", "with a cache"), seconds, strict=True)), "without, if time followed FLOP"
finding = (
    f"At {contexts[-1]:,} tokens the next one costs {both[contexts[-1]].ratio:.0f} times as much without the cache"
)
show(draw.seconds_by(contexts, lines, {grey: by_flops}, "tokens in the text", finding))

# %% [markdown]
# The formula promises more than the machine gives. A step of one token does so little arithmetic that its time is
# mostly overhead: calls, small matrices, weights that must be read for one token as for a thousand. The ratio still
# grows with the context: the cache is not a better constant, it is another growth.
#
# Follow the dotted line: without a cache, time follows FLOP closely. Where it leaves it upward, the matrices of scores
# have outgrown a fast memory, and FLOP alone no longer tell. (On a GPU: not measured yet. Run this lesson there with
# `scale = "full"`.)
#
# ### What the cache takes
#
# Time was saved, and memory paid. By formula a token leaves 2 x layers x G x K numbers. Hold the formula to the bytes
# that the cache really has.


# %%
def bytes_per_token(layers: int, kv_heads: int, head_dim: int, element_bytes: int = 2) -> int:
    return 2 * layers * kv_heads * head_dim * element_bytes


cache = model.new_cache()
with torch.no_grad():
    model(ids, cache=cache)
formula = bytes_per_token(c.num_blocks, c.num_kv_heads, c.head_dim, element_bytes=4) * ids.shape[1]
print(f"{ids.shape[1]} tokens in float32: {formula:,} bytes by formula, cache.bytes() = {cache.bytes():,}")
assert formula == cache.bytes()

# %% [markdown]
# Then it may be trusted for models that do not fit here. Their sizes come from their own `config.json`. In Qwen3.5 only
# every fourth layer keeps keys and values; the others keep a state of constant size (lesson [[deltanet]]).

# %%
from helpers.planning.plan import plan, published
from helpers.units import format_bytes

NAMES = {"Qwen3-0.6B": "qwen3-0.6b", "Qwen3.5-0.8B": "qwen3_5-0.8b", "Qwen3.5-35B-A3B": "qwen3_5-35b-a3b"}
NAMES["Qwen3.5-397B-A17B"] = "qwen3_5-397b-a17b"
plans = {model: plan(published(name)) for model, name in NAMES.items()}


def designs(p) -> dict[str, int]:
    """Bytes per token if each query head had its own keys, as published, and if all shared one."""
    layers, width, heads = p.layers["keys and values"], p.config.head_dim, p.config.num_attention_heads
    names = {"a key for every query head": heads, "as published (GQA)": p.config.num_key_value_heads, "one for all": 1}
    return {name: bytes_per_token(layers, kept, width) for name, kept in names.items()}


# %%
table = {model: designs(p) for model, p in plans.items()}
saved = {model: row["a key for every query head"] / row["as published (GQA)"] for model, row in table.items()}
low, high = saved["Qwen3-0.6B"], saved["Qwen3.5-397B-A17B"]
finding = f"Shared keys divide the cache by {low:.0f} in Qwen3-0.6B, by {high:.0f} in Qwen3.5-397B"
show(draw.bytes_per_token(table, finding))
check.reveal("attention.kb", formula=table["Qwen3-0.6B"]["as published (GQA)"] / 1e3, unit="kB")

# %% [markdown]
# Bytes are also time. A step must read every active weight once, and the whole cache once. So there is a context at
# which the cache takes as long to read as the weights, and from there on it rules.

# %%
print("                     active weights   kB per token   the cache is as large at")
for model_name, p in plans.items():
    active, token = 2 * p.active_without_embedding, table[model_name]["as published (GQA)"]
    print(f"{model_name:20} {format_bytes(active):>14} {token / 1e3:12.1f} {active / token:16,.0f} tokens")

# %% [markdown]
# ### Recorded: a whole model writes
#
# Your cache beside the library's: `course measure generate` lets every model of the zoo write the same tokens by
# transformers' `generate` and by this course's, once as it is and once compiled for a cache of fixed room. The first
# call is what the compiler takes.

# %%
from helpers.measure import recorded_text

print(recorded_text("generate"))

# %% [markdown]
# ## Play
#
# 1. Qwen3-0.6B with 8 key/value heads: where does the cache pass the weights? Then try 16, and 1.
# 2. Qwen3.5-397B-A17B: give every query head its own keys (32). How much would a million tokens take?
# 3. Find two models whose published caches lie close together, though one is many times larger.

# %%
from helpers.plots.widgets import Choice, Slider, explore


def growth(model, kv_heads, context):
    p = plans[model]
    if p.config.num_attention_heads % kv_heads:
        raise ValueError(f"{p.config.num_attention_heads} query heads cannot share {kv_heads} key/value heads evenly")
    tokens = [context * 1000 * part // 8 for part in range(9)]
    layers, published_heads = p.layers["keys and values"], p.config.num_key_value_heads
    choices = {f"published: {published_heads} heads": published_heads, f"{kv_heads} key/value heads": kv_heads}
    caches = {
        name: [n * bytes_per_token(layers, heads, p.config.head_dim) for n in tokens] for name, heads in choices.items()
    }
    return draw.cache_growth(model, p.weight_bytes("bf16"), tokens, caches)


explore(
    growth,
    model=Choice(list(plans), label="model", value="Qwen3-0.6B"),
    kv_heads=Choice([1, 2, 4, 8, 16, 32], label="key/value heads", value=16),
    context=Slider(1, 1000, value=32, label="context (k tokens)", log=True),
)

# %% [markdown]
# <details><summary>What to notice</summary>
#
# 1. At about 10,400 tokens with 8 heads, half of that with 16, and with 1 not within 80,000.
# 2. 492 GB, more than half of its weights in bf16. As published it is 31 GB.
# 3. Qwen3.5-35B-A3B and Qwen3.5-397B-A17B: 20 and 31 kB per token, at eleven times the parameters. Width and experts
#    cost weights; only layers that keep, and heads that are kept, cost cache.
#
# </details>

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: how far can you read? (4 minutes, difficulty 1)
#
# A machine has `memory_bytes`. The weights take `weights_bytes` of them; the rest is for the cache of one sequence, in
# bf16. How many tokens fit? Give a whole number.


# %% tags=["exercise:room", "points:1"]
def tokens_that_fit(memory_bytes, weights_bytes, layers, kv_heads, head_dim):
    # BEGIN SOLUTION
    a_token = 2 * layers * kv_heads * head_dim * 2
    return (memory_bytes - weights_bytes) // a_token
    # END SOLUTION


# %% tags=["check:room"]
check.room(tokens_that_fit)

# %% [markdown]
# ### 2. Core: the mask of a piece (6 minutes, difficulty 2)
#
# A long prompt is read in pieces. `held` tokens are in the cache, and `new` tokens come at once. Return the mask,
# boolean, `new` rows and `held + new` columns: True where the row's token may look.


# %% tags=["exercise:mask", "points:2"]
def may_look(held: int, new: int) -> torch.Tensor:
    # BEGIN SOLUTION
    own_place = held + torch.arange(new)
    return torch.arange(held + new) <= own_place[:, None]
    # END SOLUTION


# %% tags=["check:mask"]
check.mask(may_look)

# %% [markdown]
# ### 3. Core: decode with shared keys (10 minutes, difficulty 2)
#
# One token comes, its positions already turned: `query` is [H, K], `key` and `value` are [G, K]. `kept` is a list of
# (key, value) pairs of all earlier tokens. Keep this token's pair too, and return what its heads find: [H, K].


# %% tags=["exercise:newest", "points:3"]
def newest(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kept: list) -> torch.Tensor:
    # BEGIN SOLUTION
    kept.append((key, value))
    share = query.shape[0] // key.shape[0]
    keys = torch.stack([k for k, _ in kept]).repeat_interleave(share, dim=1)  # S H K
    values = torch.stack([v for _, v in kept]).repeat_interleave(share, dim=1)
    weights = (torch.einsum("hk,shk->hs", query, keys) / query.shape[1] ** 0.5).softmax(dim=-1)
    return torch.einsum("hs,shk->hk", weights, values)
    # END SOLUTION


# %% tags=["check:newest"]
check.newest(newest)

# %% [markdown]
# ### 4. Core: move a key (8 minutes, difficulty 2)
#
# A server wants to use a cached paragraph again, `by` places further on (earlier, when `by` is negative). Its values
# may stay, its keys carry the old position. `key` is [G, K], already turned in its first `part` coordinates, as in
# Qwen3.5: pairs (i, i + part/2), frequencies theta^(-2i/part). Return the key as it is at the new place.


# %% tags=["exercise:move", "points:2"]
def move(key: torch.Tensor, by: int, theta: float, part: int) -> torch.Tensor:
    # BEGIN SOLUTION
    angle = by * theta ** (-2 * torch.arange(part // 2) / part)
    first, second, rest = key[:, : part // 2], key[:, part // 2 : part], key[:, part:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=1)
    # END SOLUTION


# %% tags=["check:move"]
check.move(move)

# %% [markdown]
# ### 5. Stretch: find the leak (10 minutes, difficulty 3)
#
# `function` takes [T, D] and gives [T, D]. Tell whether it is causal: no answer depends on a later input. Call it as
# often as you like. Some functions leak at one place only, some leak very little, and `x` is not yours to change.


# %% tags=["exercise:probe", "points:3"]
def is_causal(function, x: torch.Tensor) -> bool:
    # BEGIN SOLUTION
    before = function(x)
    for place in range(1, len(x)):
        changed = x.clone()
        changed[place:] = torch.randn(len(x) - place, x.shape[1]) * 10
        if not torch.equal(function(changed)[:place], before[:place]):
            return False
    return True
    # END SOLUTION


# %% tags=["check:probe"]
check.probe(is_causal)

# %% [markdown]
# ### 6. In words: why not cache the queries? (5 minutes, difficulty 1)
#
# A colleague proposes to keep the queries as well, "to save their projections too". Answer in three to five sentences,
# with the hands of step 1 and the zero of step 2.

# %% [markdown] tags=["answer:queries"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# It says who reads what: a new token's query reads all keys and values, and nothing ever reads an old query again. It
# says why: causal attention leaves the answers of old tokens as they are, to the bit (the zero of step 2), so their
# queries have done their work.
#
# It says that nothing is saved: with a cache, old tokens are not projected at all, and a
# kept query would cost more bytes than a key, because there are more query heads. A very good answer adds that a text
# which is *changed* in the middle makes every later key wrong, whatever is kept.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. The next token reads every key and every value once. That is its price, and it grows by the token.
# 2. Positions are turns of queries and keys; only the distance survives in a score.
# 3. Causal means that old answers never change, and that is why keys and values can be kept.
# 4. A cache is proved by counting, by equality, and by damaging it; fluent text proves nothing.
# 5. Shared keys divide the cache by H / G, and the query heads keep their number.
#
# | idea | formula | cost |
# |---|---|---|
# | rotary | pair (i, i + K/2) by p theta^(-2i/K) | no weights |
# | attention | softmax(q K^T / sqrt(K)) V | 4 H K FLOP per pair of tokens |
# | one token, no cache | 2 P n + 4 layers H K n^2 | everything again |
# | one token, cache | 2 P + 4 layers H K n | read weights and cache once |
# | GQA cache | 2 x layers x G x K x bytes | a token, for ever |
# | gate | answer x sigmoid(gate) | H K more columns in the query matrix |

# %% [markdown]
# ## In the real models
#
# What the configs say, counted by this cell:

# %%
print("                     layers that keep   query heads   kv heads   width   turned")
for model_name, p in plans.items():
    q = p.config
    part = int(q.head_dim * (q.rope_parameters or {}).get("partial_rotary_factor", 1))
    layers = f"{p.layers['keys and values']} of {q.num_hidden_layers}"
    print(f"{model_name:20} {layers:>16} {q.num_attention_heads:13} {q.num_key_value_heads:10} {q.head_dim:7} {part:8}")

# %% [markdown]
# - **Qwen3** norms each query and key head. Surprise: in Qwen3-0.6B the queries together are 2,048 wide, twice as wide
#   as the model. `head_dim` is a number of its own, and code that computes it as width / heads loads nonsense.
# - **Qwen3.5** has two key/value heads in every size of the table, three layers of four that keep none, and a gate that
#   hides in the query matrix.
# - **DeepSeek-V3**, **GLM-5** and **Kimi K2.5** keep no keys at all: one short latent a token, from which every head
#   makes its own (lesson [[mla]]).
#
# Sizes: the models' own `config.json`, through `helpers/facts/configs` (source and date in each file). Layers:
# transformers 5.23, run in the cells above.

# %% [markdown]
# ## Roads not taken
#
# - **FlashAttention** computes the same numbers without writing the scores to memory; lesson [[kernels]] writes such a
#   kernel.
# - **Sliding windows** forget what is far, and keep a cache of constant size; lesson [[what_came_next]] meets one.
# - **Pages**: a server with many texts cuts its caches into blocks and shares equal beginnings; lesson [[engine]].
# - **Fewer bits** for keys and values divide the bytes once more, at a price that must be measured; lesson [[formats]].
# - **Attention sinks as weights**: some models give the softmax an extra place to put what it does not need. The gate
#   does the same job from the other side.
#
# To run this on a real model, set `checkpoint = "Qwen/Qwen3-0.6B"` in the second cell: 1.2 GB are downloaded once.
#
# **Next: [[mla]].** Sharing keys made the cache smaller and the heads more alike. Can every
# head have its own keys, and the cache be smaller still?
