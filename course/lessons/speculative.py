# %% [markdown]
# # Speculative decoding
#
# **How can guessing be exact and still be faster?**
#
# 60 minutes, without the stretch exercises · needs: lessons [[mtp]] and [[engine]] ·
# runs on any laptop, without a network
#
# A model that writes asks itself once for every token. You will let something cheap guess the next few, let the model
# read all guesses in **one** pass, and keep what it would have written itself. You prove that nothing of its
# distribution changes, catch the bug that changes it, and measure three kinds of guesses, where they win and where
# they lose. Here is the whole idea.
#
# ```text
#     written so far:      the cat sat on
#     guessed, cheaply:                      the    mat    and    slept
#                                             |      |      |      |       one pass over all of them
#     the model's own:                       the    mat     .      ...     what it says at each place
#                                             ✓      ✓      ✗
#     written:             the cat sat on    the    mat     .              three tokens for one pass
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo:tiny-deepseek-v3"  # or a Hugging Face id, or a folder, of a DeepSeek-V3 with its drafter
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import speculative as check
from helpers.plots import show
from helpers.plots.decoding import drafts as draw_drafts
from helpers.plots.decoding import speculative as draw

machine = begin(scale, checkpoint, device, seed)
torch.set_num_threads(1)  # a second thread would measure who else uses this machine

# %% [markdown]
# ## By hand
#
# Four words may come next. The model, called the **target**, would draw from `p`. The **draft** draws from `q`, and
# likes sofas too much. Drafted words come for free; which of them may stay, so that in the end everything is
# distributed as `p`?

# %%
words = ["mat", "sofa", "roof", "moon"]
p = torch.tensor([0.50, 0.30, 0.15, 0.05])
q = torch.tensor([0.10, 0.60, 0.10, 0.20])
stays = (p / q).clamp(max=1)
for n, word in enumerate(words):
    print(f"{word:5} target {p[n]:.2f}, draft {q[n]:.2f}: if it is drafted, it stays with chance {stays[n]:.2f}")

# %% [markdown]
# A word that the draft likes **less** than the target always stays. "sofa" is drafted twice as often as it should be,
# so half of them go. What stays is `min(p, q)`, and that is less than `p`: mats and roofs are missing. They are made
# up when a word is refused. Then the next word is drawn from what `p` has more than `q`, the **residual**.

# %%
kept = torch.minimum(p, q)  # q times the chance to stay
refused = 1 - kept.sum()
residual = (p - q).clamp(min=0)
residual = residual / residual.sum()
print(
    f"{refused:.2f} of all drafts are refused; then the word is drawn from {[round(r, 3) for r in residual.tolist()]}"
)
for n, word in enumerate(words):
    print(f"{word:5} {kept[n]:.3f} stay + {refused * residual[n]:.3f} made up = {kept[n] + refused * residual[n]:.3f}")

# %% [markdown]
# That is the whole proof, for any `p` and `q`: `min(p, q)` stays, `max(p - q, 0)` is made up, and the two are `p`. A
# bad draft is refused more often. It never changes how often a word is written.

# %% [markdown]
# ## Predict
#
# Further down DeepSeek-V3's architecture in small writes names of countries and months. A dense model that learned the
# same facts, with half as many parameters, guesses four tokens per pass.

# %%
from helpers import zoo

for name in ("tiny-deepseek-v3", "tiny-dense-active"):
    sizes = dict(zoo.read_card(zoo.folder(name))["tables"]["work"]["rows"])
    print(
        f"{name:18} {sizes['parameters, without a drafter']:,} parameters, {sizes['facts recalled']:,} facts recalled"
    )

# %% [markdown]
# **How many tokens does a pass of the target give?** At least 1, at most 5. And **how many times as fast is that on
# your machine**, beside one token per pass?

# %% tags=["predict:all"]
tokens_each_pass = ...
times_as_fast = ...
# BEGIN SOLUTION
tokens_each_pass = 3
times_as_fast = 2
# END SOLUTION
check.predict("speculative.tokens", tokens_each_pass, unit="tokens per pass")
check.predict("speculative.speed", times_as_fast, unit="times as fast")

# %% [markdown]
# ## Build
#
# ### 1. One guess, many times
#
# The proof is on paper; whether code keeps to it is tested by counting. Draft 40,000 words at once, decide each by a
# number from 0 to 1, its `luck`, and count what is written.


# %%
def one_guess(drafted, q, p, generator):
    luck = torch.rand(len(drafted), generator=generator)
    stays = luck * q[drafted] < p[drafted]  # luck < p / q, without a division
    more = (p - q).clamp(min=0)
    instead = torch.multinomial(more, len(drafted), True, generator=generator)  # multinomial divides by the sum itself
    return torch.where(stays, drafted, instead)


draws = 40_000
generator = torch.Generator().manual_seed(seed)
drafted = torch.multinomial(q, draws, True, generator=generator)
written = one_guess(drafted, q, p, generator)

# %%
from helpers.compare import chance_of

counts = torch.bincount(written, minlength=4)
print("written:", dict(zip(words, counts.tolist(), strict=True)))
print(f"draws from p stray as far as this in {chance_of(counts, p):.1%} of all cases,")
print(f"draws from q in {chance_of(counts, q):.1%}")

# %% [markdown]
# `chance_of` is Pearson's chi-square test: how often would honest draws from these chances stray this far, or farther?
# Any value is normal for a right rule, all equally often; 0.0 % means that the counts hardly come from there. That is
# how you test a sampler: not by looking at one text.

# %% [markdown]
# ### 2. The bug that biases
#
# Nearly everybody writes this first: refused? Then draw from `p`, the model's own distribution. What could be more
# right?


# %%
def one_guess_biased(drafted, q, p, generator):
    luck = torch.rand(len(drafted), generator=generator)
    instead = torch.multinomial(p, len(drafted), True, generator=generator)  # the bug
    return torch.where(luck * q[drafted] < p[drafted], drafted, instead)


biased = torch.bincount(one_guess_biased(drafted, q, p, generator), minlength=4)
print(f"draws from p stray as far as this in {chance_of(biased, p):.1%} of all cases")
for n, word in enumerate(words):
    print(f"{word:5} should be {p[n]:.1%}, is {biased[n] / draws:.1%}")

# %%
bars = {"target": p, "draft": q, "written, exact": counts / draws, "written, biased": biased / draws}
finding = f"The residual gives the target's shares; drawing from p gives {biased[1] / draws:.0%} sofas, not {p[1]:.0%}"
show(draw.distributions({name: shares.tolist() for name, shares in bars.items()}, words, finding))

# %% [markdown]
# Texts written with the bug read well, and no loss and no crash shows it; what the draft likes comes too often.
# The test needs a second. (Exercise 3 asks you to say what exactly comes out.)

# %% [markdown]
# ### 3. Several guesses
#
# Now the draft guesses k tokens in a row, and the target reads all of them at once: causal attention gives its `p` at
# every place, as in training. They are decided from the left, and **the first refusal ends it**, because everything
# behind was guessed on top of a word that is not there. If all stay, the last place of the pass has a `p` of its own
# and no guess: one more token for nothing. The helper's `accept` is your `one_guess` at every place.

# %%
from helpers.decoding.speculative import accept

k, rows = 3, 6
many_q, many_p = q.expand(rows, k, 4), p.expand(rows, k + 1, 4)
guesses = torch.multinomial(q, rows * k, True, generator=generator).view(rows, k)
count, own = accept(guesses, many_q, many_p, generator)
for row in range(rows):
    stay = [words[t] for t in guesses[row, : count[row]]]
    print(f"guessed {[words[t] for t in guesses[row]]}: {int(count[row])} stay, written {[*stay, words[own[row]]]}")

# %% [markdown]
# `accept` treats the place behind the last guess like all others: nobody guessed there, so `q` is 0 and the residual
# is `p` itself. At temperature 0 the same lines need no change either. `p` is then **certain** of one token: a guess
# that is this token stays, any other goes, and what is left of `p` is that token.

# %%
from helpers.decoding.sampling import probabilities
from helpers.decoding.speculative import certain

logits = torch.tensor([[[2.0, 1.0, 0.0, 0.0], [0.0, 3.0, 1.0, 0.0], [0.0, 0.0, 0.0, 5.0]]])  # mat, sofa, moon
for guess in ([0, 1], [0, 2], [3, 1]):
    guess = torch.tensor([guess])
    count, own = accept(guess, certain(guess, 4), probabilities(logits, temperature=0))
    print(f"guessed {[words[t] for t in guess[0]]}: {int(count)} stay, then {words[own[0]]}")

# %% [markdown]
# ### 4. The loop
#
# The cheapest draft needs no model at all. **Prompt lookup** finds the last tokens further ahead in the text and says
# what came after them. Here it guesses for `tiny-qwen3`, which writes Python. The loop is naive: it has no cache and
# reads the whole text in every pass.

# %%
from transformers import AutoTokenizer

from helpers.checkpoints import load, resolve
from helpers.decoding.drafts import followers
from helpers.generate import generate


def speculate_naively(model, text, k, new):
    passes, end = 0, len(text) + new
    while len(text) < end:
        guess = followers(text, longest=3)[:k]  # perhaps nothing
        said = model(torch.tensor([text + guess]))[0, len(text) - 1 :].argmax(dim=-1).tolist()
        stay = next((n for n, token in enumerate(guess) if token != said[n]), len(guess))
        text, passes = text + guess[:stay] + said[stay : stay + 1], passes + 1
    return text[:end], passes


# %%
python = load("zoo:tiny-qwen3", torch.float32)
python_tokenizer = AutoTokenizer.from_pretrained(resolve("zoo:tiny-qwen3"))
code = python_tokenizer.encode("def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n")
new = 12 if scale == "smoke" else 48
with torch.no_grad():
    text, passes = speculate_naively(python, code, 4, new)
plain = generate(python, torch.tensor([code]), new)[0].tolist()
print(f"{new} tokens in {passes} passes; the same as one token per pass: {text == plain}")
print(python_tokenizer.decode(text))

# %% [markdown]
# The same tokens in fewer passes. The model repeats itself, as code does, and a repetition is what prompt lookup
# finds. Look at the first passes one by one.

# %%
from helpers.plots.decoding.drafts import Pass


def first_passes(text, start, k, many):
    passes = []
    while len(passes) < many and start + k < len(text):
        guess = followers(text[:start], longest=3)[:k]
        stay = next((n for n, token in enumerate(guess) if token != text[start + n]), len(guess))
        named = [python_tokenizer.decode([token]) for token in [*guess, text[start + stay]]]
        named = [repr(piece)[1:-1].replace(" ", "·") for piece in named]  # a space that can be seen
        passes.append(Pass(start, named[:-1], stay, named[-1]))
        start += stay + 1
    return passes


passes_shown = first_passes(plain, len(code), 4, 5)
given = sum(one.accepted + 1 for one in passes_shown)
show(draw_drafts.strip(passes_shown, f"{len(passes_shown)} passes write {given} tokens"))

# %% [markdown]
# ### 5. The cache has to go back
#
# With a cache each pass reads the new tokens only, and the refused guesses are then **in** the cache. Attention makes
# that easy. Position p stands in slot p: cut the length, and what is behind it is barred by position and overwritten
# later. A **state** cannot be cut. A Gated DeltaNet layer (lesson [[deltanet]]) has added the wrong tokens into its
# matrix; a short convolution and a window have lost what fell out. See what happens when you cut only.

# %%
memory = load("zoo:tiny-qwen3_5-moe", torch.float32)  # three blocks with states, one with keys and values
ids = torch.randint(5, 1000, (1, 40), generator=torch.Generator().manual_seed(seed))
wrong = torch.randint(5, 1000, (1, 4), generator=torch.Generator().manual_seed(seed + 1))
with torch.no_grad():
    right = memory(ids)[:, -1]
    cache = memory.new_cache()
    memory(ids[:, :39], cache)
    memory(wrong, cache)  # four guesses, all refused
    cache.lengths = cache.lengths - 4  # cut, and nothing else: the bug
    off = (memory(ids[:, 39:], cache)[:, -1] - right).abs().max()
print(f"logits are off by {off:.2f}")

# %% [markdown]
# So every block of this course's caches knows two words. `mark()` comes before the guesses: a state keeps what it was,
# by reference, which copies nothing, and notes what each token **writes**. `keep(n)` comes after: slots are cut, a
# window is taken from a longer one, and a state goes back to the checkpoint and writes its first n tokens again.

# %%
with torch.no_grad():
    cache = memory.new_cache()
    memory(ids[:, :38], cache)
    cache.checkpoint()
    memory(torch.cat([ids[:, 38:39], wrong], dim=1), cache)  # one right token, four wrong ones
    cache.rollback(torch.tensor([1]))
    off = (memory(ids[:, 39:], cache)[:, -1] - right).abs().max()
print(f"logits are off by {off:.0e}")

# %% [markdown]
# Why not keep the state after every token, and pick one? Count the bytes, with the sizes of the largest Qwen3.5.

# %%
from helpers.planning.plan import published
from helpers.units import format_bytes

config = published("qwen3_5-397b-a17b")["text_config"]
heads, key, value = (config[f"linear_{part}"] for part in ("num_value_heads", "key_head_dim", "value_head_dim"))
layers = config["num_hidden_layers"] * 3 // 4  # every fourth one has keys and values
state, note = layers * heads * key * value * 4, layers * heads * (key + value + 2) * 4
print(f"{layers} layers with states: {format_bytes(state)} for each token's state,")
print(
    f"{format_bytes(note)} for what it writes: a key, a value and two numbers per head, {state / note:.0f} times less"
)

# %% [markdown]
# DeepSeek-V4's windows and half-finished entries go back the same way; latents and the indexer's keys are slots.

# %% [markdown]
# ## Check
#
# ### Greedy identity in six families
#
# `helpers.decoding.speculative.speculate` is the loop with a cache, for any model, draft and temperature. At
# temperature 0 it must write exactly what `generate` writes, whether the draft is perfect (the model itself) or
# hopeless.

# %%
from helpers.decoding.drafts import Guess, NGram, SmallModel
from helpers.decoding.speculative import speculate


class Hopeless:
    """Always guesses the same token."""

    k = 4

    def begin(self): ...

    def guess(self, texts, k, temperature, generator):
        return Guess(torch.full((len(texts), k), 7))


# %%
families = ["tiny-qwen3", "tiny-qwen3_5", "tiny-qwen3_5-moe", "tiny-deepseek-v3", "tiny-glm5", "tiny-deepseek-v4"]
many = 12 if scale == "smoke" else 24
for name in families[2:5] if scale == "smoke" else families:
    model = load(f"zoo:{name}", torch.float32)
    ids = torch.randint(5, 500, (2, 60), generator=torch.Generator().manual_seed(seed))
    wanted = generate(model, ids, many)
    for draft in (SmallModel(model, 4), NGram(4), Hopeless()):
        got = speculate(model, ids, draft, many)
        assert torch.equal(got.token_ids, wanted), (name, draft)
        print(
            f"{name:18} {type(draft).__name__:10} same tokens; {got.accepted:3} of {got.drafted:3} guesses stay,",
            end="",
        )
        print(f" {got.passes:2} passes instead of {many}")

# %% [markdown]
# Exact up to one thing: a pass over five tokens adds up in another order than five passes, and where two tokens are
# equally likely to the sixth digit, rounding decides. With other weights or in bfloat16 you may meet such a place.

# %% [markdown]
# ### The distribution, at awkward sizes
#
# Two words or fifty, no guess or five. Then a planted bug: a draft that drew its guesses and does not say from what,
# so that `q` is taken as 1, as if it had been certain.


# %%
def unsaid(drafted, q, p, generator):
    """Takes every guess as certain."""
    return accept(drafted, torch.ones_like(q), p, generator)


def first_written(rule, vocab, k, draws=20_000):
    """What is written at the first place, counted, and the chances that it should have."""
    generator = torch.Generator().manual_seed(seed + vocab + k)
    p = torch.rand(k + 1, vocab, generator=generator).square().add(0.05)
    q = torch.rand(k, vocab, generator=generator).square().add(0.05)
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    drafted = [torch.multinomial(one, draws, True, generator=generator) for one in q]
    drafted = torch.stack(drafted, dim=1) if k else torch.zeros(draws, 0, dtype=torch.long)
    count, own = rule(drafted, q.expand(draws, k, -1), p.expand(draws, k + 1, -1), generator)
    first = torch.where(count > 0, drafted[:, 0], own) if k else own
    return torch.bincount(first, minlength=vocab), p[0]


# %%
for vocab, k in [(2, 1), (7, 0), (7, 5), (50, 3)]:
    chance = chance_of(*first_written(accept, vocab, k))
    print(f"{vocab:2} words, {k} guesses: honest draws stray as far in {chance:.1%} of all cases")
    assert chance > 1e-6
chance = chance_of(*first_written(unsaid, 7, 5))
print(f"7 words, 5 guesses of an unsaid q: {chance:.1g}")
assert chance < 1e-6

# %% [markdown]
# ## Measure
#
# ### Three drafts for one model
#
# The target is the zoo's DeepSeek-V3, and it writes lines like `de|FR=Frankreich`. It gets three drafts: prompt
# lookup; the **small model**, dense, with the same tokenizer, trained on the same facts; and its own **MTP** block
# (multi-token prediction), the drafter of lesson [[mtp]], which was trained to guess one token ahead. First what a pass
# gives, in tokens.

# %%
from helpers.decoding.drafts import MTP

folder = resolve(checkpoint, download=True)
model, tokenizer = load(folder, torch.float32), AutoTokenizer.from_pretrained(folder)
small = load("zoo:tiny-dense-active", torch.float32)
starts = ["\nde|FR=Frankreich\nde|m1", "\nfr|d1=lundi\nfr|m3", "\nes|m2=febrero\nes|d5", "\npl|DE=Niemcy\npl|m7"]
prompts = [torch.tensor([tokenizer.encode(start)]) for start in starts[: 1 if scale == "smoke" else 4]]
drafts = {"prompt lookup, 4": NGram(4), "small model, 4": SmallModel(small, 4), "MTP, 1": MTP(model, 1)}


def written_by(draft, temperature=0.0):
    return [speculate(model, ids, draft, new, temperature, seed=n) for n, ids in enumerate(prompts)]


# %%
told = {}
for name, draft in drafts.items():
    runs = written_by(draft)
    stay, guessed = sum(run.accepted for run in runs), sum(run.drafted for run in runs)
    told[name] = new * len(runs) / sum(run.passes for run in runs)
    print(f"{name:16} {stay:3} of {guessed:3} guesses stay ({stay / guessed:.0%}), {told[name]:.2f} tokens per pass")
check.reveal("speculative.tokens", machine=told["small model, 4"])

# %% [markdown]
# Facts do not repeat, so prompt lookup finds little. The small model knows most of them. And now the clock: the same
# prompt, plain and with guesses by turns, in the CPU's own time; what the guesses take is noted apart.

# %%
import time

from helpers.measure import measure_pair


def with_guesses(target, ids, draft, spent):
    """``speculate``; the seconds of each guess go into ``spent``."""
    guess = draft.guess

    def timed(*given):
        start = time.thread_time()
        got = guess(*given)
        spent.append(time.thread_time() - start)
        return got

    draft.guess = timed
    run = speculate(target, ids, draft, new)
    del draft.guess
    return run


# %%
cases = {name: (model, prompts[0], draft) for name, draft in drafts.items()}
cases["Python, lookup, 8"] = python, torch.tensor([code]), NGram(8)
pairs, spent = {}, {name: [] for name in cases}
for name, (target, ids, draft) in cases.items():
    plain = lambda: generate(target, ids, new)  # noqa: B023, E731
    guessed = lambda: with_guesses(target, ids, draft, spent[name])  # noqa: B023, E731
    pairs[name] = pair = measure_pair(plain, guessed, repeats=3)
    print(
        f"{name:18} {pair.ratio:.2f} times as fast as one token per pass ({pair.ratio_q1:.2f} to {pair.ratio_q3:.2f})"
    )

# %% [markdown]
# Beside your numbers the recorded ones, with more texts and several k: tokens per pass, and times as fast by the CPU's
# time.

# %%
from helpers.measure import recorded

for place, record in recorded("speculative").items():
    print(f"{place}, {record.machine['name']}, recorded {record.date}")
    for plainly, guessing in zip(record.measurements[::2], record.measurements[1::2], strict=True):
        _, tokens, passes, guessed, stay = guessing.shape
        print(f"  {guessing.label:32} {tokens / passes:.2f} tokens per pass, {stay / guessed:.0%} stay, ", end="")
        print(f"{plainly.median_s / guessing.median_s:.2f} times as fast")

# %% [markdown]
# Read yours as it falls. In the run recorded on a CPU the small model gives more than three tokens per pass, **and is
# slower than no draft at all**; so is MTP. Prompt lookup, the worst guesser of the three, comes out about even, and on
# repetitive code it wins clearly. Tokens per pass are not yet time.

# %% [markdown]
# ### Where the time goes
#
# Count in passes over one token. A pass over k + 1 tokens takes w of them, and each guess takes c:
#
# $$\text{times as fast} = \frac{1 + a_1 + a_1 a_2 + \dots}{w + k\,c}$$
#
# Above stand the tokens of a pass (the guesses up to the first refusal, and the model's own), below what they cost.
# The seconds of the guesses were noted on the way; w is measured here, a wide pass and a plain one by turns.


# %%
def a_pass(target, tokens, rows=1):
    """A pass over so many tokens behind a short text, taken back each time."""
    ids = torch.randint(5, 500, (rows, 40), generator=torch.Generator().manual_seed(seed))
    cache = target.new_cache()
    with torch.no_grad():
        target(ids, cache)

    def once():
        cache.checkpoint()
        target(ids[:, :tokens], cache=cache)
        cache.rollback(torch.zeros(rows, dtype=torch.long))

    return once


# %%
passes = {k: measure_pair(a_pass(model, k + 1), a_pass(model, 1), repeats=5) for k in (1, 4)}
wide, by_formula = {k: pair.ratio for k, pair in passes.items()}, {}
print(f"one token takes {1e3 * passes[1].b.median_s:.2f} ms")
print(f"a pass over 2 tokens takes {wide[1]:.2f} of that, over 5 tokens {wide[4]:.2f}")
for name, draft in drafts.items():
    cost = sum(spent[name]) / len(spent[name]) / (pairs[name].a.median_s / new)  # of k tokens, in plain ones
    tokens = new / speculate(model, prompts[0], draft, new).passes
    by_formula[name] = tokens / (wide[draft.k] + cost)
    print(f"{name:16} {tokens:.2f} tokens per pass, its guesses cost {cost:.2f} passes: the formula says ", end="")
    print(f"{by_formula[name]:.2f} times as fast, the machine {pairs[name].ratio:.2f}")
check.reveal("speculative.speed", machine=pairs["small model, 4"].ratio, formula=by_formula["small model, 4"])

# %% [markdown]
# Compare the two costs of the small model: a pass over five tokens, and its four guesses. It has **three blocks as
# the target has**, and at this size a pass costs what Python and torch need to ask for some hundred small operations,
# whatever their width: half the parameters are far from half the time. MTP has one block beside three, and norms, a
# join, a head and a cache of its own; a guess also reads what was written since the last one.
#
# Formula and machine may part either way: w was measured at one length, and the bookkeeping (drawing,
# comparing, going back) is left out.

# %% [markdown]
# ### The same formula for large models
#
# Lesson [[mtp]] put DeepSeek-V3 into this formula: 61 blocks, and its MTP block is one more. The lab states that 85 to
# 90 % of the guesses stay.

# %%
from helpers.decoding.acceptance import speed_up
from helpers.facts import table

row = next(row for row in table("drafters") if row["model"] == "DeepSeek-V3")
blocks = published("deepseek_v3")["num_hidden_layers"]
for share in row["accepted"]:
    says = speed_up([share], wide_pass=1.0, draft=1 / blocks)
    print(f"{share:.0%} stay: {says:.2f} times as fast, if a pass over two tokens costs one")
print(f"the lab states {row['times_as_fast']} times the tokens per second ({row['source'].split(',')[0]})")

# %% [markdown]
# A guess costs one block beside 61 and not one beside three: that is the difference. What is stated lies a little
# below both. A pass over two tokens is not quite free, for they ask for more experts: lesson [[mtp]] counts them.

# %% [markdown]
# ### When it loses: a batch
#
# A large model at batch 1 waits for its weights, so more tokens in a pass are free. They stop being free when the chip
# has enough to compute: from the **ridge** on, a number of tokens that follows from FLOP/s and bandwidth, a pass
# costs what its tokens cost.

# %%
chip = next(row for row in table("hardware") if row["chip"] == "H100")
ridge = chip["tflops"][0] / chip["memory_tb_s"][0]  # two bytes per weight, two FLOP per weight and token
k, stay = 4, 0.7
print(f"H100: {ridge:.0f} tokens; {k} guesses of which {stay:.0%} stay, a draft of 2 % of a pass")
for batch in (1, 16, 64, 128, 256, 1024):
    wide_pass = max(1, batch * (k + 1) / ridge) / max(1, batch / ridge)
    print(f"batch {batch:4}: a pass costs {wide_pass:.2f}, {speed_up([stay] * k, wide_pass, 0.02):.2f} times as fast")

# %% [markdown]
# The more readers a server has, the less a guess is worth: refused guesses are work taken from somebody else. With a
# batch above the ridge nothing helps, since k + 1 times the work gives k + 1 times the tokens at best. The recorded
# machine of lesson [[roofline]] shows the same on one layer as wide as a real one: how much longer for more tokens?

# %%
for place, record in recorded("roofline").items():
    for dtype in ("float32", "bfloat16"):
        first = record.find("batch 1", dtype)
        costs = {tokens: record.find(f"batch {tokens}", dtype).median_s / first.median_s for tokens in (4, 16, 64, 256)}
        said = ", ".join(f"{tokens} tokens {cost:.1f}" for tokens, cost in costs.items())
        print(f"{place}, {dtype}, {' x '.join(map(str, first.shape[1:]))}: one token 1, {said}")

# %% [markdown]
# On the recorded CPU more tokens come far cheaper in bfloat16 than in float32: what a pass costs is a matter of
# kernels too. And your own machine, with the small Python model: rows times five tokens, beside rows times one.

# %%
batches = (1, 16) if scale == "smoke" else (1, 4, 16, 64, 128)
for rows in batches:
    cost = measure_pair(a_pass(python, 5, rows), a_pass(python, 1, rows), repeats=3).ratio
    print(f"batch {rows:3}: a pass over 5 tokens per row costs {cost:.2f} passes over 1")

# %% [markdown]
# ### Acceptance by temperature
#
# At temperature T both distributions are softened, and a guess stays with the chance that they overlap, `Σ min(p, q)`.
# Does more randomness mean more agreement, or less?

# %%
temperatures = (0.0, 1.0) if scale == "smoke" else (0.0, 0.5, 1.0, 1.5, 2.0)
by_temperature = {}
for temperature in temperatures:
    runs = written_by(SmallModel(small, 1), temperature)
    by_temperature[temperature] = sum(run.accepted for run in runs) / sum(run.drafted for run in runs)
    print(f"temperature {temperature}: {by_temperature[temperature]:.0%} of the small model's guesses stay")

# %% [markdown]
# Much warmth means less agreement: both models begin to doubt, each in its own way, and then the text itself leaves
# what they know by heart. Near 0 it is less clear. Two models that rank the same two words the other way round never
# agree at temperature 0, and overlap above it. Along a pass, how does it change from the first guess to the eighth?

# %%
deep = {"small model": SmallModel(small, 8), "prompt lookup": NGram(8), "MTP": MTP(model, 4)}
by_depth = {}
for name, draft in deep.items():
    rounds = [own for run in written_by(draft) for own in run.rounds]
    reached = [sum(stay >= n for guessed, stay in rounds if guessed > n) for n in range(draft.k)]
    taken = [sum(stay > n for guessed, stay in rounds if guessed > n) for n in range(draft.k)]
    by_depth[name] = [t / r for t, r in zip(taken, reached, strict=True) if r]
    print(f"{name:13} guesses that are reached, first to last: {reached}")
first, second = by_depth["MTP"][:2]
finding = f"MTP, trained for one token ahead: {first:.0%} of first guesses stay, {second:.0%} of second ones"
show(draw_drafts.acceptance(by_depth, finding))

# %% [markdown]
# MTP was never trained further than the first guess; the title says what that costs, as in lesson [[mtp]]. The small
# model has no such reason to fall off, for it reads its own guesses as it reads any text. What prompt lookup found once
# it may find on. But look how few of the late guesses are reached, and do not read a finding into the right half of
# these two lines.

# %% [markdown]
# ## Play
#
# How many guesses are best? Choose how many of them stay, what each costs, and how much a pass grows with each token.

# %%
from helpers.plots.widgets import Slider, explore


def best_number(stay: float, guess_cost: float, read_cost: float):
    curve = lambda cost: [speed_up([stay / 100] * k, 1 + k * read_cost / 100, cost / 100) for k in range(13)]  # noqa: E731
    cases = {"your draft": curve(guess_cost), "a draft for nothing": curve(0)}
    best = max(range(13), key=lambda k: cases["your draft"][k])
    found = f"Best with {best} guess{'es' * (best > 1)} a pass: {cases['your draft'][best]:.2f} times as fast"
    return draw.by_guesses(cases, found if best else "Guess nothing: every number of guesses is slower than none")


explore(
    best_number,
    stay=Slider(0, 100, 80, "guesses that stay (%)", step=5),
    guess_cost=Slider(0, 100, 5, "cost of a guess (% of a pass)", step=1),
    read_cost=Slider(0, 100, 2, "cost of a token more in a pass (%)", step=1),
)

# %% [markdown]
# Three things to try:
#
# - Set the cost of a guess to what you measured for the small model, of three blocks beside three. How good must it
#   be?
# - 60 % against 95 % that stay: how far apart are the best numbers of guesses?
# - Read cost 100 %, a full batch: is there anything that helps, even guesses for nothing of which 90 % stay?

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: the residual (5 minutes, difficulty 1)
#
# A guess drawn from `q` was refused. Return what the next token is drawn from, a tensor like `p` that sums to 1. Both
# are one-dimensional and sum to 1, and they differ.


# %% tags=["exercise:residual", "points:1"]
def residual_of(p, q):
    # BEGIN SOLUTION
    more = (p - q).clamp(min=0)
    return more / more.sum()
    # END SOLUTION


# %% tags=["check:residual"]
check.residual(residual_of)

# %% [markdown]
# ### 2. Core: how many stay (8 minutes, difficulty 2)
#
# `drafted` [k] are the guesses, `q` [k, words] what they were drawn from, `p` [k + 1, words] the target's, and `luck`
# [k] a number from 0 to 1 for each guess. Return how many guesses stay, a whole number from 0 to k.


# %% tags=["exercise:stay", "points:2"]
def how_many_stay(drafted, q, p, luck):
    # BEGIN SOLUTION
    place = torch.arange(len(drafted))
    good = luck * q[place, drafted] < p[place, drafted]
    return int(good.long().cumprod(dim=0).sum())
    # END SOLUTION


# %% tags=["check:stay"]
check.stay(how_many_stay)

# %% [markdown]
# ### 3. Core: what the bug writes (8 minutes, difficulty 2)
#
# The bug of this lesson accepts as it should and draws from `p` after a refusal. Return the distribution of what it
# writes, from `p` and `q` [words], by formula: no draws.


# %% tags=["exercise:biased", "points:2"]
def what_the_bug_writes(p, q):
    # BEGIN SOLUTION
    kept = torch.minimum(p, q)
    return kept + (1 - kept.sum()) * p
    # END SOLUTION


# %% tags=["check:biased"]
check.biased(what_the_bug_writes)

# %% [markdown]
# ### 4. Core: the best number of guesses (8 minutes, difficulty 2)
#
# Each guess stays with chance `stay` if all before it stay, costs `guess_cost` passes, and makes the pass longer by
# `read_cost` passes. Return the k from 0 to `most` with the highest speed; the smaller one of two equals. Without
# guesses the speed is 1.


# %% tags=["exercise:best", "points:2"]
def best_k(stay, guess_cost, read_cost, most):
    # BEGIN SOLUTION
    def speed(k):
        return sum(stay**n for n in range(k + 1)) / (1 + k * (guess_cost + read_cost))

    return max(range(most + 1), key=speed)  # max gives the first of equals
    # END SOLUTION


# %% tags=["check:best"]
check.best(best_k)

# %% [markdown]
# ### 5. Stretch: a window goes back (10 minutes, difficulty 2)
#
# A layer remembers the last `len(held)` vectors only. `held` [count, width] is the window as it was before the
# guesses, `read` [n, width] are the vectors read since. Return the window [count, width] as it is when the first
# `kept` of `read` stay and the rest was never read. 0 and n are allowed, and n may be smaller or larger than the
# window.


# %% tags=["exercise:window", "points:2"]
def window_after(held, read, kept):
    # BEGIN SOLUTION
    return torch.cat([held, read[:kept]])[kept:]
    # END SOLUTION


# %% tags=["check:window"]
check.window(window_after)

# %% [markdown]
# ### 6. Stretch: the largest batch (12 minutes, difficulty 3)
#
# A pass over n tokens takes max(1, n / `ridge`) units of time, n = batch without guesses and batch x (k + 1) with
# them. Guessing a pass's k tokens takes `draft_share` of a plain pass of that batch. Each guess stays with chance
# `stay` if all before it stay. Return the largest batch up to `most` at which guessing is **faster** than not
# guessing; 0 where there is none.


# %% tags=["exercise:batch", "points:3"]
def largest_batch(stay, k, draft_share, ridge, most):
    # BEGIN SOLUTION
    tokens = sum(stay**n for n in range(k + 1))

    def faster(batch):
        plain = max(1, batch / ridge)
        return tokens / (max(1, batch * (k + 1) / ridge) + draft_share * plain) > 1 / plain

    return max((batch for batch in range(1, most + 1) if faster(batch)), default=0)
    # END SOLUTION


# %% tags=["check:batch"]
check.batch(largest_batch)

# %% [markdown]
# ### 7. In words: a little less strict (8 minutes, difficulty 2)
#
# A colleague proposes: "Accept every guess that is among the target's three most likely tokens. Far more guesses stay,
# and all of them are good words." Answer in three to five sentences: what is gained, what is lost, and how would you
# find out whether it matters?

# %% [markdown] tags=["answer:strict"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# Gained: more guesses stay, so more tokens per pass. Lost: the distribution is no longer the target's; among its three
# best the **draft** decides, and so the text drifts to what the small model would say, most of all where the two
# differ, which is where the large one is worth its price. The loss is silent: single words look fine.
#
# A chi-square test on a few tokens shows at once that the rule is not exact. Whether it matters only the tasks can
# say: the same questions with the target alone and with the rule, scored blindly, with a margin of error. Serving
# engines offer such rules, and call them lossy.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A guess stays with chance min(1, p/q); after a refusal the token comes from max(p - q, 0), and the whole is p.
# 2. Drawing from p after a refusal is the classic bug: it favours what the draft likes, and a chi-square test sees it.
# 3. A pass gives the guesses up to the first refusal and one token of the model's own.
# 4. Buffers of a cache are cut; states and windows go back to a checkpoint and sum up again.
# 5. It pays when guesses are cheap and passes are not yet full: a small part of a large model, few readers, texts
#    that repeat.
#
# | idea | formula | cost |
# |---|---|---|
# | chance that a guess stays | Σ min(p, q) | one number drawn |
# | tokens of a pass | 1 + a + a² + ... + aᵏ | a pass over k + 1 tokens |
# | times as fast | tokens of a pass / (w + k c) | w: the wide pass, c: a guess |
# | going back, slots | cut the length | nothing |
# | going back, a state | write the first n again | K + V + 2 numbers per head and token |
# | a full chip | batch x (k + 1) tokens above the ridge | every refused guess |

# %% [markdown]
# ## In the real models
#
# - **DeepSeek-V3, GLM-5 and Qwen3.5** each have one MTP block for a draft; what the labs state of shares and speed
#   stands at the end of lesson [[mtp]].
# - **The surprise** is in Qwen3.5: three of four of its layers have states that cannot be cut. An open pull request to
#   mlx-lm (number 990, March 2026) snapshots them, convolution and all, as `mark` does here.
# - **Serving engines**: vLLM's documentation recommends it for few requests at a time, and lists a lossy rule apart.
#
# Sources and dates of the figures: `helpers/facts/drafters.toml`, looked up on 25 November 2026; the pull request and
# vLLM's page on the same day.

# %% [markdown]
# ## Roads not taken
#
# - **Trees of guesses** (Medusa, EAGLE): several guesses for each place in one pass, with a mask that keeps branches
#   apart. More guesses come true, and the pass grows faster.
# - **Guessing while waiting**: draft and target on two chips, at the same time.
# - **A k that follows the text**: guess more where guesses came true lately. `speed_up` says what there is to win.
#
# **Next: 19, Does it still find the needle?** The caches that you cut and took back here forget on purpose. What?
