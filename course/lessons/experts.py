# %% [markdown]
# # Mixture of experts
#
# **What does a model gain from experts that mostly rest, and what do they cost?**
#
# 60 minutes, without the stretch exercise · needs: lesson [[attention]] · runs on any laptop, without a
# network
#
# You will build the routers of four families by hand, send tokens to experts in three ways that give one answer, let
# a mixture collapse and repair it, and look at whose tokens the experts of a trained model get. Last comes the bill:
# facts learned at equal work and at equal seconds, beside dense models. Here is the whole idea.
#
# ```text
#     token --> router: one score an expert --> the best few, with weights
#       |                                            |
#       |            expert 0   expert 1   expert 2   expert 3   ...      all of them in memory
#       |                          *                     *                two of them at work
#       |                          |   weighted sum      |
#       +--> shared expert --------+---------------------+--> added
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo:tiny-deepseek-v3"  # or a Hugging Face id, or a folder, of a model with experts
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import experts as check
from helpers.plots import experts as draw
from helpers.plots import show
from helpers.units import format_count, format_seconds

machine = begin(scale, checkpoint, device, seed)
torch.set_num_threads(1)  # a second thread would measure who else uses this machine

# %% [markdown]
# ## By hand
#
# Four tokens, four experts, two of them for each token. The router is one matrix; here are the **logits** that it
# gave. Every family begins with them.

# %%
from helpers.moe.router import softmax_top_k

logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [1.0, 1.1, 0.9, 0.8], [3.0, -2.0, 0.0, 0.1], [1.5, 1.0, -3.0, 1.2]])
chances = logits.softmax(dim=-1)
best = chances.topk(2)
weights = best.values / best.values.sum(dim=-1, keepdim=True)
for t in range(4):
    print(f"token {t}: experts {best.indices[t].tolist()} with weights {[round(w, 2) for w in weights[t].tolist()]}")
print("the helper agrees:", torch.equal(softmax_top_k(logits, 2)[0], best.indices))

# %% [markdown]
# That is Qwen3.5's router: softmax over **all** experts, the best k, and their probabilities made to sum to one
# again. Token 1 can hardly decide, and two experts get it all the same. Look at the load: how many tokens does each
# expert get?

# %%
from helpers.moe.router import tokens_per_expert

print("tokens for each expert:", tokens_per_expert(best.indices, 4).tolist(), "| even would be", [4 * 2 // 4] * 4)

# %% [markdown]
# Expert 0 has all four tokens, expert 2 none. On one computer that is a nuisance; where each expert lives on a chip of
# its own, everybody waits for the fullest. **DeepSeek-V3** changes two things. Its score is a *sigmoid*, for each
# expert by itself. And a **bias** is added when experts are chosen, not when they are weighed.

# %%
scores = logits.sigmoid()
bias = torch.tensor([-0.1, 0.0, 0.2, 0.0])
chosen = (scores + bias).topk(2).indices
kept = scores.gather(-1, chosen)  # without the bias
weights = 2.5 * kept / kept.sum(dim=-1, keepdim=True)  # V3 and GLM-5 scale by 2.5
print("chosen by score + bias:", chosen.tolist(), "| load", tokens_per_expert(chosen, 4).tolist())
print("weights:", [[round(w, 2) for w in row] for row in weights.tolist()])

# %% [markdown]
# The bias moved tokens from expert 0 to expert 2, and expert 2 counts no more than its score says. The scale of 2.5
# sets how loud the routed experts are beside the shared one.

# %% [markdown]
# ## Predict
#
# DeepSeek-V3 has 256 routed experts and one shared expert in a layer; a token uses eight and the shared one. **How
# many percent of all its parameters work on one token?** And two small models learn facts by heart for equally many
# operations: one with experts, one dense, as wide as what a token uses. **How many facts does the first know for 100
# of the second?**

# %% tags=["predict:all"]
active_percent = ...
facts_for_100 = ...
# BEGIN SOLUTION
active_percent = 3
facts_for_100 = 150
# END SOLUTION
check.predict("experts.active", active_percent, unit="%")
check.predict("experts.facts", facts_for_100, unit="facts")

# %% [markdown]
# ## Build
#
# ### 1. Groups
#
# DeepSeek-V3 cuts its experts into groups, one per machine, and lets a token visit few of them. A group counts what its
# two best experts have; only experts of the best groups stay. Here expert 0 is the best of all, and lost with its
# group.

# %%
from helpers.moe.router import sigmoid_top_k

logits = torch.tensor([[3.0, -9.0, 1.0, 1.0]])
groups = logits.sigmoid().view(1, 2, 2)  # two groups of two experts
strength = groups.topk(2).values.sum(dim=-1)
print("strength of each group:", [round(s, 2) for s in strength[0].tolist()])
for groups_per_token in (2, 1):
    print(f"{groups_per_token} kept:", sigmoid_top_k(logits, torch.zeros(4), 2, 2, groups_per_token)[0].tolist())

# %% [markdown]
# ### 2. Hash
#
# DeepSeek-V4 has a third kind in its first layers: a fixed **table** says which experts a token id goes to. The
# scores, √softplus(logit), only weigh them. Early hidden states are little more than the token itself, so the choice
# loses little, and the load is known before training begins.

# %%
from helpers.moe.router import hash_route

table = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])  # token id -> its experts
ids = torch.tensor([2, 2, 0])
indices, weights = hash_route(torch.randn(3, 4), ids, table, scale=1.5)
for t in range(3):
    print(f"token id {ids[t]}: experts {indices[t].tolist()}, weights {[round(w, 2) for w in weights[t].tolist()]}")

# %% [markdown]
# The first two tokens are the same word with other neighbours: the same experts, other weights.
#
# ### 3. Dispatch by loop
#
# Tokens must come to their experts and back. The definition is a loop over experts: who chose you, multiply their
# rows, weigh, add. Each expert is a small SwiGLU layer.


# %%
from torch.nn import functional


def loop(x, indices, weights, gate, up, down):
    out = torch.zeros_like(x)
    for e in range(len(gate)):
        tokens, places = (indices == e).nonzero(as_tuple=True)
        rows = x[tokens]
        made = (functional.silu(rows @ gate[e].T) * (rows @ up[e].T)) @ down[e].T
        out.index_add_(0, tokens, made * weights[tokens, places, None])
    return out


# %%
from helpers.moe.experts import Experts

experts = Experts(16, 256, 128)  # 16 experts, width 256, 128 inside
x = torch.randn(33, 256)
routing = softmax_top_k(torch.randn(33, 16), 2)
with torch.no_grad():
    answer = loop(x, *routing, experts.gate, experts.up, experts.down)
print(f"{format_count(sum(w.numel() for w in experts.parameters()))} parameters; answer {tuple(answer.shape)}")

# %% [markdown]
# ### 4. Dispatch by sorting
#
# The loop searches all tokens for each expert. Sort the (token, expert) **pairs** by expert once, and the rows of each
# expert lie side by side: one block, one product. torch even has one operation for all blocks, `grouped_mm`, which is
# told where each block ends.


# %%
def sort(x, indices, weights, gate, up, down):
    chosen = indices.flatten()
    order = chosen.argsort(stable=True)
    ends = chosen.bincount(minlength=len(gate)).cumsum(0).int()
    rows = x[order // indices.shape[1]]  # pair p belongs to token p // k
    times = lambda a, stack: functional.grouped_mm(a, stack.mT, offs=ends)  # noqa: E731
    made = times(functional.silu(times(rows, gate)) * times(rows, up), down)
    back = torch.empty_like(made).index_copy(0, order, made)  # each pair to its old place
    return (back.view(*indices.shape, -1) * weights[..., None]).sum(dim=1)


with torch.no_grad():
    difference = (sort(x, *routing, experts.gate, experts.up, experts.down) - answer).abs().max()
print(f"largest difference to the loop: {difference:.1e}")

# %% [markdown]
# ### 5. Dispatch by views
#
# When a model writes, it has **one** token. Then there is nothing to sort: take views of the chosen matrices where
# they lie and multiply one vector. `helpers.moe.dispatch` has all three ways, and a plain rule: one token by views,
# more by sorting.

# %%
from helpers.compare import max_error
from helpers.moe.dispatch import by_loop, by_sorting, single_token

one = x[:1], *(part[:1] for part in routing)
with torch.no_grad():
    for way in (by_loop, by_sorting, single_token):
        print(f"{way.__name__:10} {max_error(way(*one, experts.stacks), answer[:1]):.1e} from your loop")

# %% [markdown]
# ### 6. A collapse
#
# Now train. A table of keys, each with one of 64 values, is to be learned by heart. Hidden states of real models share
# a large common direction, so the keys here do too; and that is enough for trouble. Watch the load.

# %%
from torch import nn

from helpers.moe.balance import balance_loss, evenness
from helpers.moe.router import rebalanced

E, D, K, KEYS, VALUES = 8, 32, 2, 1024, 64
keys = torch.randn(KEYS, D) + 3 * torch.randn(D)  # a direction that all of them share
values = torch.randint(VALUES, (KEYS,))


def new_model(seed: int = 0) -> nn.ModuleDict:
    torch.manual_seed(seed)
    parts = nn.Linear(D, E, bias=False), Experts(E, D, 16), nn.Linear(D, VALUES)
    return nn.ModuleDict(dict(zip(("router", "experts", "head"), parts, strict=True)))


# %%
def learn(model, steps, loss_weight=0.0, bias_step=0.0):
    """Train; give the bias and the load of the last steps, as multiples of an even share."""
    bias, optimizer, seen = torch.zeros(E), torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(steps):
        picked = torch.randint(KEYS, (256,))
        logits = model["router"](keys[picked])
        indices, weights = sigmoid_top_k(logits, bias, K)
        loss = functional.cross_entropy(model["head"](model["experts"](keys[picked], indices, weights)), values[picked])
        loss = loss + loss_weight * balance_loss(logits.softmax(dim=-1), indices)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(tokens_per_expert(indices, E))
        bias = rebalanced(bias, seen[-1], bias_step)
    return bias, torch.stack(seen[-20:]).sum(dim=0) / (20 * 256 * K / E)


# %% [markdown]
# Twenty steps of loads are averaged. An expert below a tenth of its share counts as **dead** here. `recall` asks for
# every key once.


# %%
@torch.no_grad()
def recall(model, bias) -> float:
    routing = sigmoid_top_k(model["router"](keys), bias, K)
    return (model["head"](model["experts"](keys, *routing)).argmax(dim=-1) == values).float().mean().item()


steps = 60 if scale == "smoke" else 300
collapsed = new_model(seed)
_, alone = learn(collapsed, steps)
dead = int((alone < 0.1).sum())
print(
    f"{dead} of {E} experts are dead; evenness {evenness(alone):.2f}; {recall(collapsed, torch.zeros(E)):.0%} recalled"
)

# %% [markdown]
# The favourites get all tokens, so they alone learn, so they stay favourites. The others receive no token and hence
# no gradient: they cannot come back by themselves. Two repairs, on copies of that collapsed model, as many steps
# again, the bias once in large steps and once in the small ones of DeepSeek-V3. And the same steps without any repair,
# to be fair.

# %%
repairs = {
    "none": (0.0, 0.0),
    "auxiliary loss": (0.05, 0.0),
    "bias by 0.02": (0.0, 0.02),
    "bias by 0.001": (0.0, 0.001),
}
repaired = {}
for balance, how in repairs.items():
    model = new_model()
    model.load_state_dict(collapsed.state_dict())
    bias, loads = learn(model, steps, *how)
    repaired[balance] = loads
    print(f"{balance:15} dead {int((loads < 0.1).sum())}, evenness {evenness(loads):.2f}, ", end="")
    print(f"recalled {recall(model, bias):.0%}")

# %%
alive = [int((loads < 0.1).sum()) for loads in repaired.values()]
finding = f"Left alone {alive[0]} of {E} stay dead; with the loss {alive[1]}, with the bias {alive[2]} and {alive[3]}"
show(draw.loads({name: loads.tolist() for name, loads in repaired.items()}, finding))

# %% [markdown]
# The **auxiliary loss** punishes an uneven load through the router's gradient, and pulls against the model's own loss.
# The **bias update** pulls on nothing: after each step it moves the bias up where an expert got less than its share,
# and down where more. Read the numbers honestly: an even load is not yet a better memory. A bias in large steps moves
# tokens to other experts all the time, and none of them learns a token for long. Small steps balance and let learn.

# %% [markdown]
# ### 7. Expert choice
#
# The third balance turns the question round: each **expert** takes the tokens that score highest for it, equally many.
# The load is even by construction. The price is hidden in one word: it looks at *all* tokens.

# %%
scores = torch.randn(6, 3)  # six tokens, three experts, two tokens each
takes = scores.T.topk(2).indices
print(
    "each expert's tokens:",
    takes.tolist(),
    "| tokens that nobody took:",
    sorted({*range(6)} - {*takes.flatten().tolist()}),
)
changed = scores.clone()
changed[5] = 9.0  # another LAST token
after = changed.T.topk(2).indices
print("with another last token:", after.tolist())
lost = [(int(t), e) for e in range(3) for t in takes[e] if t not in after[e]]
print(f"{len(lost)} choices of EARLIER tokens changed (token, expert): {lost}")

# %% [markdown]
# A token's experts depend on tokens that come after it. A model that writes from left to right cannot know those, so
# none of the models here uses it: causality is worth more than an even load.

# %% [markdown]
# ### 8. Who the experts become
#
# A trained model: DeepSeek-V3's architecture, twelve experts of which a token uses two, trained by this project on
# names of countries, months and days in 55 languages. Send it lines of a dozen languages and note every choice.

# %%
from transformers import AutoTokenizer

from helpers.checkpoints import load as load_model
from helpers.checkpoints import resolve
from helpers.data import fact_line
from helpers.moe.specialization import shares_by_class, specialisation, watch_choices
from helpers.zoo.fact_data import facts

folder = resolve(checkpoint, download=True)
model, tokenizer = load_model(folder, torch.float32), AutoTokenizer.from_pretrained(folder)
languages = ["de", "fr", "es", "pl", "tr", "vi", "ru", "el", "ar", "hi", "ja", "ko"]
kept = languages[:4] if scale == "smoke" else languages
months = [fact for fact in facts() if fact.kind == "month"]
texts = {code: "\n" + "".join(fact_line(f) + "\n" for f in months if f.locale == code) for code in kept}

# %%
KINDS = ["question", "= and what follows", "rest of the answer", "line end"]


def kinds_of(pieces: list[str]) -> list[int]:
    """The kind of each token of lines like de|FR=Frankreich."""
    kinds, answering = [], False
    for piece in pieces:
        begins = "=" in piece and not answering
        kinds.append(3 if "\n" in piece else 1 if begins else 2 if answering else 0)
        answering = (answering or begins) and "\n" not in piece
    return kinds


ids = {code: tokenizer.encode(text) for code, text in texts.items()}
kinds = torch.tensor([kind for own in ids.values() for kind in kinds_of([tokenizer.decode([i]) for i in own])])
spoken = torch.tensor([n for n, own in enumerate(ids.values()) for _ in own])
with watch_choices(model) as seen, torch.no_grad():
    for own in ids.values():
        model(torch.tensor([own]))
choices = {name: torch.cat([part.flatten(0, -2) for part in parts]) for name, parts in seen.items()}

# %% [markdown]
# `choices` has the experts of every token, for each mixture. How different are the classes? The number
# `specialisation` is 0 where all classes use the experts alike and 1 where each has its own. A control keeps you
# honest: with **shuffled** labels, what is left is chance.

# %%
last = list(choices)[-1]
count = len(model.get_submodule(last).experts.gate)
told = {}
for what, labels, classes in (("language", spoken, len(ids)), ("kind of token", kinds, len(KINDS))):
    for name, chosen in choices.items():
        own = specialisation(shares_by_class(chosen, labels, classes, count))
        mixed = specialisation(shares_by_class(chosen, labels[torch.randperm(len(labels))], classes, count))
        told[what] = own
        print(f"{name}, by {what:13}: {own:.2f}, with shuffled labels {mixed:.2f}")

# %% [markdown]
# Which of the two does the last mixture divide by? First kinds of tokens, then languages.

# %%
by_kind = shares_by_class(choices[last], kinds, len(KINDS), count)
more = "kind of token" if told["kind of token"] > told["language"] else "language"
show(draw.routing_map(by_kind, KINDS, f"{last} divides by {more} more"))

# %%
by_language = shares_by_class(choices[last], spoken, len(ids), count)
finding = f"By language: {told['language']:.2f} of the way to an expert of one's own"
show(draw.routing_map(by_language, list(ids), finding))

# %% [markdown]
# Nobody told the experts what to become. What they divide among themselves follows from what a token looks like at
# that depth. Do not give them names too fast: "the German expert" is a column that you would have to see as empty in
# all other rows.

# %% [markdown]
# ## Check
#
# ### Against transformers
#
# Your router and dispatch as DeepSeek-V3's layer, weights shared with transformers' own: the experts must be the same
# exactly, the output to 1e-5.

# %%
from transformers import DeepseekV3Config, DeepseekV3Model

from helpers.reference import parts_of

sizes = dict(hidden_size=48, moe_intermediate_size=20, n_routed_experts=12, num_experts_per_tok=3, n_group=4)
config = DeepseekV3Config(
    **sizes, topk_group=2, n_shared_experts=1, routed_scaling_factor=2.5, experts_implementation="eager"
)
(TheirMoE,) = parts_of(DeepseekV3Model, "DeepseekV3MoE")
theirs = TheirMoE(config).eval()
for tensor in [*theirs.parameters(), *theirs.buffers()]:
    tensor.data.normal_(std=0.3)  # the bias too: at zero nobody would notice that it is missing


# %%
@torch.no_grad()
def ours(x, bias):
    gate, up = theirs.experts.gate_up_proj.chunk(2, dim=1)
    indices, weights = sigmoid_top_k(x @ theirs.gate.weight.T, bias, 3, num_groups=4, groups_per_token=2, scale=2.5)
    return indices, sort(x, indices, weights, gate.contiguous(), up.contiguous(), theirs.experts.down_proj)


with torch.no_grad():
    for tokens in (1, 7, 33):
        x = torch.randn(tokens, 48)
        shared = theirs.shared_experts(x)
        wanted, expected = theirs.gate(x[None])[2], theirs(x[None])[0]
        indices, routed = ours(x, theirs.gate.e_score_correction_bias)
        same = torch.equal(indices.sort().values, wanted.sort().values)
        print(f"{tokens:2} tokens: experts equal {same}, largest difference {max_error(routed + shared, expected):.1e}")
        assert same
        assert max_error(routed + shared, expected) < 1e-5

# %% [markdown]
# Now plant the classic mistake and see whether the check catches it: forget the bias.

# %%
indices, routed = ours(x, torch.zeros(12))
wrong = (indices.sort().values != wanted.sort().values).any(dim=1).float().mean()
print(
    f"without the bias {wrong:.0%} of the tokens go to other experts; off by {max_error(routed + shared, expected):.2f}"
)

# %% [markdown]
# ## Measure
#
# ### Dispatch by the clock
#
# The formula first: a token costs 2 FLOP for each weight of its k experts, whoever dispatches. The clock sees more:
# searching, sorting, copying. Asking **every** expert and throwing most answers away is the version that people write
# first.

# %%
from helpers.layers.mlp import SwiGLU
from helpers.measure import measure_one
from helpers.moe.dispatch import dispatched


def every_expert(x, indices, weights, stacks):
    hidden = functional.silu(x @ stacks.gate.mT) * (x @ stacks.up.mT)  # E tokens F
    share = torch.zeros(len(x), len(stacks.gate)).scatter(1, indices, weights)
    return torch.einsum("etf,edf,te->td", hidden, stacks.down, share)


dense, seconds = SwiGLU(256, 2 * 128), {}
for tokens in (1, 64 if scale == "smoke" else 512):
    given = torch.randn(tokens, 256), *softmax_top_k(torch.randn(tokens, 16), 2)
    for name, way in {"every expert": every_expert, "loop": by_loop, "sorted or views": dispatched}.items():
        seconds[tokens, name] = measure_one(
            lambda way=way, given=given: way(*given, experts.stacks), repeats=3
        ).median_s
    seconds[tokens, "dense, as wide"] = measure_one(lambda given=given: dense(given[0]), repeats=3).median_s

# %%
for tokens in dict.fromkeys(tokens for tokens, _ in seconds):
    best = seconds[tokens, "dense, as wide"]
    for (n, name), taken in seconds.items():
        if n == tokens:
            print(f"{tokens:4} tokens, {name:16} {format_seconds(taken):>9}, {taken / best:5.1f} times dense")

# %% [markdown]
# Experts cost more seconds than a dense layer of the same operations: sixteen small products use a processor worse
# than one large product. Beside your numbers, recorded ones of three sizes, with transformers' fastest way
# of running experts.

# %%
from helpers.measure import recorded

for place, record in recorded("moe").items():
    print(f"{place}, {record.machine['name']}, recorded {record.date}: times ours is as fast as transformers' best")
    lines = record.measurements
    for theirs_line, ours_line, dense_line in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        ratio = theirs_line.median_s / ours_line.median_s
        label = ours_line.label.removeprefix("ours, ")
        print(
            f"  {label:24} {ours_line.dtype:9} {ratio:5.2f}; dense takes {dense_line.median_s / ours_line.median_s:.2f}"
        )

# %% [markdown]
# ### Recorded on a GPU
#
# A GPU starts one kernel for all experts of a layer (lesson [[kernels]]). `python3 -m course measure --device cuda`
# times it beside transformers' ways.

# %%
from helpers.measure import recorded_text

print(recorded_text("experts-one-token", "experts-prompt"))

# %% [markdown]
# ### What experts are worth
#
# The comparison that matters was trained for you, three models on the same facts: with experts; dense and as wide as
# what a token **uses**; dense and as large as what is **stored**, stopped when it had done as many operations. The
# numbers come from the model's card.

# %%
from helpers import zoo

card = zoo.read_card(zoo.folder("tiny-deepseek-v3"))
cards = {"experts": card, **{name.removeprefix("tiny-"): other for name, other in card["beside"].items()}}
bills = {name: dict(own["tables"]["work"]["rows"]) for name, own in cards.items()}
for line in bills["experts"]:
    print(f"{line:32}", "".join(f"{bill[line]:>16,.1f}" for bill in bills.values()))
print(f"{'':32}", "".join(f"{name:>16}" for name in bills))

# %%
known = {name: bill["facts recalled"] for name, bill in bills.items()}
rate = {name: bill["facts for each second of CPU"] for name, bill in bills.items()}
check.reveal("experts.facts", machine=100 * known["experts"] / known["dense-active"], unit="facts")
for name in ("dense-active", "dense-total"):
    more = 100 * (known["experts"] / known[name] - 1)
    own, time = bills[name]["seconds of CPU"], bills["experts"]["seconds of CPU"]
    print(f"against {name}: {more:+.0f} % facts at equal FLOP, in {time:.0f} s and {own:.0f} s;")
    print(
        f"   at {name}'s facts per second, {time:.0f} s give {rate[name] * time:,.0f}, and experts {known['experts']:,}"
    )

# %% [markdown]
# Read it as it falls. At equal operations the mixture knows a little more than the dense model as wide as what it uses,
# in about the same time, and much more than the large one, which had fewer steps. In seconds the lead over the large
# one shrinks: its wide products do more operations per second. That last number is a straight line through its result;
# nobody trained it on. And all of this is one seed, one small task and one size.

# %% [markdown]
# ### Memory against compute
#
# Experts save operations and not memory. From the configs of the real models:

# %%
from helpers.planning.plan import plan, published

configs = {"DeepSeek-V3": "deepseek_v3", "GLM-5": "glm5", "Kimi K2.5": "kimi_k25", "Qwen3.5 397B": "qwen3_5-397b-a17b"}
configs |= {"Qwen3.5 35B": "qwen3_5-35b-a3b", "Kimi Linear": "kimi_linear-48b-a3b", "Qwen3 0.6B": "qwen3-0.6b"}
plans = {name: plan(published(config)) for name, config in configs.items()}
pairs = {name: (p.total / 1e9, p.active / 1e9) for name, p in plans.items()}
least = min(pairs, key=lambda name: pairs[name][1] / pairs[name][0])
finding = f"{least} stores {pairs[least][0]:,.0f} billion and uses {pairs[least][1]:.0f}"
show(draw.total_and_active(pairs, finding))
v3 = plans["DeepSeek-V3"]
check.reveal("experts.active", formula=100 * v3.active / v3.total, unit="%")

# %% [markdown]
# One token reads few experts. A **batch** reads many: with enough tokens every expert is wanted by somebody. If the
# choices were even and independent, B tokens touch E (1 - (1 - k/E)^B) experts.

# %%
for batch in (1, 8, 32, 256):
    touched = 256 * (1 - (1 - 8 / 256) ** batch)
    print(f"{batch:3} tokens: {touched:5.1f} of 256 experts are read, {8 * batch / touched:4.1f} tokens for each")

# %% [markdown]
# So a mixture is cheap for one reader *by bytes*, and cheap for many readers *by operations*. In between, at a batch
# of 32, nearly two thirds of the experts are read for few tokens each: that is where serving is hard (lesson
# [[engine]]).

# %% [markdown]
# ## Play
#
# ### Where does your text go?
#
# Write lines of your own below (the model knows lines like `de|FR=Frankreich` best) and run both cells. Each row is a
# token, each column an expert.

# %%
from helpers.plots.widgets import Choice, explore

my_text = "\nde|FR=Frankreich\nfr|d1=lundi\nen|m3=March\n"
samples = {"yours": my_text, **{code: text[:60] for code, text in texts.items()}}


def routing_picture(text: str, mixture: str):
    own = tokenizer.encode(samples[text])
    with watch_choices(model) as seen, torch.no_grad():
        model(torch.tensor([own]))
    chosen = seen[mixture][0].flatten(0, -2)
    shares = torch.zeros(len(own), count).scatter(1, chosen, 1.0)
    used = int((shares.sum(dim=0) > 0).sum())
    return draw.routing_map(
        shares, [repr(tokenizer.decode([i])) for i in own], f"{used} of {count} experts at work", "use"
    )


explore(routing_picture, text=Choice(list(samples), "text"), mixture=Choice(list(choices), "mixture"))

# %% [markdown]
# Three things to try:
#
# - Repeat one line three times. Do equal tokens get equal experts? Attention made them differ before the router saw
#   them.
# - Compare both mixtures on one text. Which of them follows the *kind* of token more?
# - Write something that the model never saw, say a line of Python. Are fewer experts at work, or others?

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: what is stored, what is used (5 minutes, difficulty 1)
#
# One layer: `experts` routed experts of which `chosen` work on a token, `shared` experts for every token, each three
# matrices of `width` x `hidden`; and a router with one row an expert. Return two whole numbers: the parameters that
# are stored, and those that one token uses.


# %% tags=["exercise:sizes", "points:1"]
def stored_and_used(width, hidden, experts, chosen, shared):
    # BEGIN SOLUTION
    one, router = 3 * width * hidden, experts * width
    return (experts + shared) * one + router, (chosen + shared) * one + router
    # END SOLUTION


# %% tags=["check:sizes"]
check.sizes(stored_and_used)

# %% [markdown]
# ### 2. Core: the router with a bias (8 minutes, difficulty 2)
#
# Given `logits` [tokens, experts], a `bias` [experts], `k` and a `scale`, return `(indices, weights)`, both [tokens,
# k]: sigmoid scores, the choice by score + bias, weights without the bias that sum to `scale`.


# %% tags=["exercise:route", "points:2"]
def route(logits, bias, k, scale):
    # BEGIN SOLUTION
    scores = logits.sigmoid()
    indices = (scores + bias).topk(k, dim=-1).indices
    weights = scores.gather(-1, indices)
    return indices, scale * weights / weights.sum(dim=-1, keepdim=True)
    # END SOLUTION


# %% tags=["check:route"]
check.route(route)

# %% [markdown]
# ### 3. Core: sorted dispatch (12 minutes, difficulty 2)
#
# `expert(e, rows)` is what expert `e` makes of rows [n, width]. It may be called **once per expert at most**, and never
# without rows. Return the weighted sum for each token, [tokens, width].


# %% tags=["exercise:scatter", "points:2"]
def sorted_sum(x, indices, weights, num_experts, expert):
    # BEGIN SOLUTION
    k = indices.shape[1]
    order = indices.flatten().argsort(stable=True)
    counts = indices.flatten().bincount(minlength=num_experts).tolist()
    blocks = x[order // k].split(counts)
    made = torch.cat([expert(e, rows) for e, rows in enumerate(blocks) if len(rows)])
    made = made * weights.flatten()[order, None]
    return torch.zeros_like(x).index_add(0, order // k, made)
    # END SOLUTION


# %% tags=["check:scatter"]
check.scatter(sorted_sum)

# %% [markdown]
# ### 4. Stretch: capacity (12 minutes, difficulty 3)
#
# Older mixtures gave each expert room for `capacity` tokens and **dropped** the rest. Given `indices` [tokens, k],
# return a boolean tensor of that shape: True where the pair keeps its place. Earlier tokens come first; within a token
# the earlier choice.


# %% tags=["exercise:capacity", "points:3"]
def has_room(indices, num_experts, capacity):
    # BEGIN SOLUTION
    asked = torch.nn.functional.one_hot(indices.flatten(), num_experts)
    before = asked.cumsum(dim=0) - asked  # how many asked this expert earlier
    return ((before * asked).sum(dim=1) < capacity).view(indices.shape)
    # END SOLUTION


# %% tags=["check:capacity"]
check.capacity(has_room)

# %% [markdown]
# ### 5. In words: does it fit? (8 minutes, difficulty 2)
#
# A colleague says: "Kimi K2.5 uses some 33 billion parameters per token, so it runs where a model of 33 billion runs."
# Answer in three to five sentences: what is right, what is wrong, and for which use the sentence is nearest to the
# truth.

# %% [markdown] tags=["answer:fits"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# Right: the operations of one token are those of a dense model of that size, and so are the bytes read for one token.
# Wrong: every expert must be in memory, since the next token may want it; that is about a trillion parameters. With
# many readers at once most experts are read in every step, so the bytes grow towards all of it, while operations stay
# small. Nearest to the truth: one reader, and memory that is large and need not be fast for all of it.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A router gives one score an expert; the best few work, and their weights sum to a constant.
# 2. A selection bias moves tokens between experts and never changes how much an expert counts.
# 3. Sorting pairs by expert gives the same answer as the loop, and one block of rows for each expert.
# 4. Left alone, favourites win and others die; a loss or a bias brings them back, at different prices.
# 5. Experts save operations, not memory; at equal operations they learned more here, and by the clock the lead
#    over the larger dense model shrank.
#
# | idea | formula | cost |
# |---|---|---|
# | softmax router | top-k of softmax, made to sum to 1 | E x D a token |
# | sigmoid router | top-k of sigmoid + bias, weights without bias | the same |
# | dispatch | sort pairs, k blocks a token | 2 x 3 k D F FLOP per token |
# | auxiliary loss | E Σ share x probability | a second gradient |
# | bias update | bias + step x sign(mean - load) | nothing |
# | experts read by a batch | E (1 - (1 - k/E)^B) | bytes |

# %% [markdown]
# ## In the real models
#
# - **DeepSeek-V3**: 256 routed experts, 8 a token, 1 shared, sigmoid with bias, 8 groups of which 4 are kept, scale
#   2.5. Its first three layers are dense.
# - **GLM-5**: the same router without groups. **Kimi K2.5**: 384 experts, 8 a token, scale 2.827.
# - **Qwen3.5**: softmax, no bias, and a surprise: the shared expert has a gate, with which each token sets how much of
#   it is added.
# - **DeepSeek-V4**: √softplus scores, and in the first three layers a table of token ids.
#
# Sizes are read from `helpers/facts/configs`, looked up on 23 November 2026.

# %% [markdown]
# ## Roads not taken
#
# - **Dropping tokens.** With a fixed capacity a full expert turns tokens away (exercise 4). It makes shapes constant
#   and answers depend on the neighbours; none of the models above does it when it writes.
# - **One expert a token.** Switch Transformers did; a router that keeps its weight at 1 then gets no gradient at all.
# - **Experts on many machines.** Which expert lives where, and who waits for whom, is a matter of networks.
#
# **Next: [[mtp]].** This model has one more part that you did not look at: it guesses two tokens
# ahead.
