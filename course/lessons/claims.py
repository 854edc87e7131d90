# %% [markdown]
# # The claim ledger
#
# **Which sentences of an enthusiastic newspaper article can be tested at all?**
#
# A newspaper article with the stamp 5 February 2026 praises the open models of the year: they are open, they are the
# most efficient ever built, and they run on your own machine for nothing. This course takes such sentences one by one.
# Each goes into a ledger, gets a test and a probability, and leaves with a verdict.
#
# ```text
# a sentence ──► fact, forecast, opinion or advert? ──► a test that it could fail ──► your probability
#                                                                                           │
#        the ledger ◄── verdict with numbers, source, date ◄── built and measured ◄─────────┘
# ```
#
# About 45 minutes, without the stretch exercise. Needs nothing but Python; this is a good first lesson.

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # or a Hugging Face id, or a folder: the same cells on a real model
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import claims as check
from helpers.claims.forecasts import brier, calibration_curve
from helpers.claims.ledger import as_text, ledger, scorable, select
from helpers.facts import table
from helpers.plots import claims as plots
from helpers.plots import show
from helpers.plots.widgets import Choice, Slider, explore

device = begin(scale, checkpoint, device, seed)

# %% [markdown]
# ## Five sentences by hand
#
# Here is a small article. Every sentence in it is invented. Read each one and ask: *what would I have to see to call
# it wrong?*

# %%
small_article = [
    "Falcon was released on 3 March.",
    "It is far more efficient than anything before it.",
    "A token uses 2 of its 64 experts.",
    "In two years every office will have one.",
    "Order your Falcon mug today, 20 % off.",
]
for number, sentence in enumerate(small_article, start=1):
    print(number, sentence)

# %% [markdown]
# | | kind | what could show it wrong |
# |---|---|---|
# | 1 | fact | a page with another date |
# | 2 | opinion | nothing yet: efficient at what, per what, against what? |
# | 3 | fact | its config file |
# | 4 | forecast | a count of offices, in two years |
# | 5 | advert | it says nothing about Falcon |
#
# Sentences 1 and 3 may be false, and they are still *facts* in kind: a look would settle them today. (An *expert* is a
# part of a model that works for some tokens only; lesson [[what_came_next]] builds one.) Sentence 2 sounds like the
# strongest praise, and nothing that could happen would make it lose.

# %% [markdown]
# ## The ledger, and your prediction
#
# The ledger of this course holds what the article asserts, in our own short words. How much is there, and of what
# kind?

# %%
claims = ledger()
for part in ("dates", "openness", "techniques", "economics", "uses"):
    kinds = [claim.kind for claim in select(claims, part=part)]
    print(
        f"{part:<11}{len(kinds):>3} claims: " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    )

# %% [markdown]
# Ten of its claims could be settled from documents and arithmetic alone. Do not look them up. Read the test under
# each one: it says what would settle it. A word that you do not know yet, such as *indexer*, has a lesson of its own;
# guess all the same.

# %%
ten = [claim for claim in claims if claim.id in check.TEN]
for claim in ten:
    print(f"{claim.id:<18} {claim.says}\n{'':<18} test: {claim.test}")

# %% [markdown]
# **Predict.** For each claim, how probable is it that it turned out to hold? Replace each `...` by a number: 0 means
# certainly not, 1 certainly, 0.5 no idea. "Holds" includes claims that hold with limits. Your numbers are kept on this
# machine, and later lessons add to them.

# %% tags=["predict:ledger"]
probabilities = {
    "posted-5-feb": ...,
    "v4-within-days": ...,
    "gpt4-reference": ...,
    "code-closed": ...,
    "kimi-partly-open": ...,
    "glm5-dsa": ...,
    "sparse-cuts": ...,
    "moe-scale": ...,
    "v4-beats-claude": ...,
    "free-use": ...,
}
# BEGIN SOLUTION
probabilities = dict.fromkeys(probabilities, 0.6)  # a reader who leans towards the newspaper
# END SOLUTION
check.note(probabilities)

# %% [markdown]
# One more number. Somebody believes all ten sentences and says 1 to each. The penalty for one claim is the squared
# distance between what was said and what came: 0 when it holds, 1 when it does not. What is the believer's mean
# penalty over the ten?

# %% tags=["predict:believer"]
guess = ...
# BEGIN SOLUTION
guess = 0.4
# END SOLUTION
check.predict("claims.believer", guess)

# %% [markdown]
# ## Build
#
# ### 1. A claim is a record that can fail
#
# A sentence becomes a claim when four things stand beside it: its kind, a test, a probability from before the test,
# and room for the verdict. Nothing else is needed, so the record is small.

# %%
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    says: str
    kind: str
    test: str
    prior: float
    verdict: str = "open"


print(Claim("A token uses 2 of its 64 experts.", "fact", "read the config", prior=0.8))

# %% [markdown]
# `frozen=True` matters: a *prior*, the probability from before the test, is worth nothing when it can be changed after
# it. `helpers/claims/ledger.py` reads claims and verdicts from two files for the same reason. A claim that documents
# had settled before we wrote it down carries no prior of ours at all.

# %% [markdown]
# ### 2. From "more efficient" to something that can fail
#
# Two invented engines, four ways to count cost. Which of them is the more efficient one?

# %%
engines = {
    "Falcon": {"memory GB": 400, "GFLOP per token": 80, "joules per token": 0.9, "dollars a task": 0.40},
    "Heron": {"memory GB": 30, "GFLOP per token": 60, "joules per token": 1.1, "dollars a task": 0.55},
}
for cost in engines["Falcon"]:
    winner = min(engines, key=lambda name: engines[name][cost])
    print(f"fewest {cost:<15} {winner}")

# %% [markdown]
# The order turns round with the unit, so the bare word decides nothing. A testable sentence fills four blanks:
# *which cost, per what, against which rival, and by how much*. Then a number can contradict it.

# %%
BLANKS = ("cost", "per", "rival", "factor")


def missing(sentence: dict) -> list[str]:
    return [blank for blank in BLANKS if sentence.get(blank) is None]


vague = {"says": "Falcon is far more efficient"}
sharp = {"says": "Falcon is more efficient", "cost": "joules", "per": "token", "rival": "Heron", "factor": 1.2}
print(missing(vague))
print(missing(sharp), engines["Heron"]["joules per token"] / engines["Falcon"]["joules per token"] >= sharp["factor"])

# %% [markdown]
# The second line says that nothing is missing, and whether the sharp sentence survives its own numbers. Change
# `factor` to 1.3 and run again: it fails. That is progress; the vague sentence could not.

# %% [markdown]
# ### 3. Dates that contradict each other
#
# The cheapest test of a text compares the dates in it. The ledger keeps dated events with a source for each. Some of
# them the article *reports*, as things that have happened.

# %%
events = table("events")
stamp = next(event["day"] for event in events if event["id"] == "stamp")
print("stamp:", stamp)
for event in events:
    print(event["day"], "reported" if event["reported"] else "        ", event["what"])

# %% [markdown]
# **Exercise: the contradiction** (warm-up, 4 minutes, difficulty 1). Write a function that returns the ids
# (`event["id"]`) of all events whose report cannot stand in a text with this stamp. Stuck?
# `check.contradictions.hint()` gives one hint a call, `check.contradictions.solution()` comes last; so for every
# exercise.


# %% tags=["exercise:contradictions", "points:1"]
def contradictions(events, stamp):
    """The ids of reported events that lie after the stamp."""
    # BEGIN SOLUTION
    return [event["id"] for event in events if event["reported"] and event["day"] > stamp]
    # END SOLUTION


# %% tags=["check:contradictions"]
check.contradictions(contradictions)

# %% [markdown]
# The picture shows the same: filled points right of the dashed line are what the author could not have known.

# %%
show(plots.timeline(events, stamp))
latest = max((event for event in events if event["reported"]), key=lambda event: event["day"])
print(f"earliest day for this text: {latest['day']}, {(latest['day'] - stamp).days} days after its stamp")
print(f"because of: {latest['what']} ({latest['source']})")

# %% [markdown]
# A wrong date does not make the other sentences wrong. It says how carefully the text was made, and that belongs in
# your next probability.

# %% [markdown]
# ### 4. Who said it first
#
# Ten pages that repeat one page are one witness. So you follow each page to the page it cites, until one cites
# nothing. That end is the *origin*. An origin is *primary* when those who did the thing wrote it.

# %%
web = {"lab report": None, "blog": "lab report", "news": "blog", "forum": "news", "a rumour": None, "talk": "a rumour"}
page = "forum"
while web[page] is not None:
    print(page, "cites", web[page])
    page = web[page]
print("origin:", page)

# %% [markdown]
# **Exercise: count the witnesses** (core, 7 minutes, difficulty 2). Some pages say the same sentence. Return the set of
# their origins. Careful: on the real web pages also cite each other in circles, and a circle has no origin.


# %% tags=["exercise:origins", "points:2"]
def origins(pages, saying):
    """pages: name -> the page it cites, or None. The pages at which the chains from those in `saying` end."""
    # BEGIN SOLUTION
    ends = set()
    for page in saying:
        visited = set()
        while pages[page] is not None and page not in visited:
            visited.add(page)
            page = pages[page]
        if pages[page] is None:
            ends.add(page)
    return ends
    # END SOLUTION


# %% tags=["check:origins"]
check.origins(origins)

# %% [markdown]
# Now a real one. The article says that GLM-5 was trained on Huawei's Ascend chips alone. These are the pages that we
# opened, and what each says about it.

# %%
sources = table("ascend_sources")
sentence = "trained on Ascend alone"
repeating = [row for row in sources if row["says"] == sentence]
print(f"pages that say it: {len(repeating)} of {len(sources)}")
print(f"of these, by the lab: {sum(row['primary'] for row in repeating)}")
print(f"of these, naming a source for it: {sum(row['cites'] != '' for row in repeating)}")
show(plots.sources_strip(sources, sentence))

# %% [markdown]
# The lab's own pages, as far as we opened them, tell how to *run* the model on Ascend. That is another sentence. The
# full technical report was not opened, and so the verdict of 23 November 2026 is **not settled**: neither true nor
# false, with the reason and the date. A ledger that cannot say this will invent something.

# %% [markdown]
# ### 5. A score for probabilities
#
# You said 0.9 and it held: good. You said 0.6 and it did not: less good. The Brier score is the mean squared distance
# between what was said and what came.


# %%
def my_brier(said: list[float], came: list[int]) -> float:
    return sum((p - o) ** 2 for p, o in zip(said, came, strict=True)) / len(said)


said, came = [0.9, 0.6, 0.2], [1, 0, 0]
print([round((p - o) ** 2, 2) for p, o in zip(said, came, strict=True)], "mean", round(my_brier(said, came), 3))

# %% [markdown]
# Why squared? Suppose you believe 0.7. The rule should pay best when you *say* 0.7. Here is the penalty to expect for
# every number that you could say, under the squared distance and under the plain one.


# %%
def squared(said, came):
    return (said - came) ** 2


def absolute(said, came):
    return abs(said - came)


belief, reports = 0.7, [step / 100 for step in range(101)]
expected = {
    rule.__name__: [belief * rule(q, 1) + (1 - belief) * rule(q, 0) for q in reports] for rule in (squared, absolute)
}
show(plots.expected_scores(reports, expected, belief))

# %% [markdown]
# The squared rule has its lowest point where you are honest. The plain distance pays you to claim certainty. A rule
# with the first property is called *proper*, and only such a rule belongs in a ledger.

# %% [markdown]
# ### 6. Calibration
#
# When you say 0.8, does it happen eight times in ten? Whoever can say yes to this is *calibrated*. Two invented
# forecasters face the same statements. One says what the statement's true chance is. The other hears the same chance
# and exaggerates it.

# %%
draws = {"smoke": 2_000, "laptop": 20_000, "full": 200_000}[scale]
dice = torch.Generator().manual_seed(seed)
chance = torch.rand(draws, generator=dice, dtype=torch.float64)
happened = (torch.rand(draws, generator=dice, dtype=torch.float64) < chance).int().tolist()
loud = torch.sigmoid(3 * torch.logit(chance)).tolist()
forecasters = {"says the chance": chance.tolist(), "exaggerates": loud}
print({name: round(brier(said, happened), 3) for name, said in forecasters.items()})

# %%
show(plots.calibration({name: calibration_curve(said, happened) for name, said in forecasters.items()}))

# %% [markdown]
# Both know the same; one pays for sounding sure. The bars are 95 % intervals. With this many statements they are
# short. With ten statements they would cover most of the picture, and the next section reckons with that.

# %% [markdown]
# ## Check
#
# Your score against PyTorch's mean squared error, at awkward sizes. Then a trap on purpose: a test for properness that
# the plain distance must fail.

# %%
for size in (1, 31, 33):
    guesses = torch.rand(size, generator=dice, dtype=torch.float64)
    results = torch.randint(2, (size,), generator=dice)
    reference = torch.nn.functional.mse_loss(guesses, results.double()).item()
    assert abs(my_brier(guesses.tolist(), results.tolist()) - reference) < 1e-12
    assert abs(brier(guesses.tolist(), results.tolist()) - reference) < 1e-12
print("equal to mse_loss at sizes 1, 31, 33")


# %%
def is_proper(rule) -> bool:
    """Does honesty pay best, whatever you believe?"""
    for belief in (0.1, 0.35, 0.5, 0.8):
        cheapest = min(reports, key=lambda q: belief * rule(q, 1) + (1 - belief) * rule(q, 0))
        if abs(cheapest - belief) > 0.01:
            return False
    return True


print({rule.__name__: is_proper(rule) for rule in (squared, absolute)})

# %% [markdown]
# ## Measure
#
# Three baselines that know nothing about models, and you. *Always 0.5* shrugs. *The base rate* says to each claim the
# share that held, which nobody knew beforehand. *Believe everything* says 1.

# %%
scored = [claim for claim in scorable(claims) if claim.id in check.TEN]
outcomes = [claim.outcome for claim in scored]
base_rate, n = sum(outcomes) / len(outcomes), len(outcomes)
forecasts = {"always 0.5": [0.5] * n, "the base rate": [base_rate] * n, "believe everything": [1.0] * n}
scores = {name: brier(said, outcomes) for name, said in forecasts.items()}
check.reveal("claims.believer", formula=1 - base_rate, machine=scores["believe everything"])

# %% [markdown]
# The formula is short: whoever says 1 pays 1 for each claim that does not hold, so the mean is the share of those.

# %%
mine = check.noted()
if all(claim.id in mine for claim in scored):
    forecasts["you"] = [mine[claim.id] for claim in scored]
    scores["you"] = brier(forecasts["you"], outcomes)
show(plots.brier_bars(scores, n))
for claim in scored:
    print(f"{claim.verdict:<17}you: {mine.get(claim.id, '–'):<5} {claim.says}")

# %% [markdown]
# A score of yours below 0.25 is better than a shrug. Below the base rate's, you told apart *which* claims hold. (No bar
# of yours? It needs all ten probabilities.)
#
# Now change one rule: let "true with limits" count as *does not hold*, because the sentence as printed had no limits.

# %%
strict = [int(claim.verdict == "true") for claim in scored]
strictly = {name: brier(said, strict) for name, said in forecasts.items()}
strictly["the base rate"] = brier([sum(strict) / n] * n, strict)
for name, score in strictly.items():
    print(f"{name:<20} {scores[name]:.3f} with the lenient rule, {score:.3f} with the strict one")

# %% [markdown]
# The same article, the same facts, another number. That is why the rule stood in the prediction cell before you
# answered, and why every lesson fixes its rule first.
#
# And ten claims are few. How often does a shrug beat somebody who knows the true chances?


# %%
def shrug_wins(claims_each: int) -> float:
    """The share of ledgers in which always saying 0.5 scores at least as well as saying the true chance."""
    chance = torch.tensor([0.2, 0.4, 0.6, 0.8])[torch.randint(4, (draws, claims_each), generator=dice)]
    came = (torch.rand(draws, claims_each, generator=dice) < chance).float()
    return (((chance - came) ** 2).mean(1) >= 0.25).float().mean().item()


for size in (10, 50, 250):
    print(f"{size:>4} claims: the shrug wins {shrug_wins(size):.1%} of the time")

# %% [markdown]
# So do not read much into one number from ten claims, whether it flatters you or not. The ledger grows with each
# lesson; the score at the end of the course means more. This is how far it has come.

# %%
show(plots.verdict_bars(claims))

# %% [markdown]
# ## Play
#
# Walk through the ledger. Choose a part and a verdict, and move your probability.
#
# 1. In *economics*, find the probability with the lowest score. What is it the share of?
# 2. Choose *dates*: which single number would have been perfect, and why is that no skill?
# 3. Choose the verdict *open*: nothing can be scored, and the probability does not matter yet.

# %%
parts = ["economics", "openness", "techniques", "uses", "dates"]
verdicts = ["all", "open", "true", "true with limits", "false", "not settled", "out of scope"]


def browser(part, verdict, probability):
    return plots.browse(claims, part, verdict, probability)


explore(
    browser,
    part=Choice(parts, label="part"),
    verdict=Choice(verdicts, label="verdict"),
    probability=Slider(0, 1, value=0.5, label="your probability", step=0.05),
)

# %% [markdown]
# The same in words, for reading aloud or for a page without a kernel. Change part and verdict as you like.

# %%
print(as_text(select(claims, part="economics", verdict="all")))

# %% [markdown]
# ## Exercises
#
# Two stand above: *the contradiction* and *count the witnesses*.
#
# **Spot the adverts** (warm-up, 2 minutes, difficulty 1). Which sentences of this invented page would you cut before
# reading?

# %%
for letter, sentence in check.ADVERT_PAGE.items():
    print(letter, sentence)

# %% tags=["exercise:adverts", "points:1"]
adverts = ...  # a set of letters, such as {"A", "H"}
# BEGIN SOLUTION
adverts = {"C", "E", "G"}
# END SOLUTION

# %% [markdown]
# A set keeps each letter once and has no order.

# %% tags=["check:adverts"]
check.adverts(adverts)

# %% [markdown]
# **Fact, forecast, opinion, advert** (core, 4 minutes, difficulty 1). Give each of the twelve invented sentences its
# kind. Remember: a false statement of fact is still a statement of fact.

# %%
for number, sentence in check.SENTENCES.items():
    print(f"{number:>2} {sentence}")

# %% tags=["exercise:labels", "points:2"]
labels = {1: ..., 2: ..., 3: ..., 4: ..., 5: ..., 6: ..., 7: ..., 8: ..., 9: ..., 10: ..., 11: ..., 12: ...}
# BEGIN SOLUTION
labels = {
    **dict.fromkeys([1, 4, 6, 10, 12], "fact"),
    **dict.fromkeys([2, 8], "forecast"),
    **dict.fromkeys([3, 7, 11], "opinion"),
    **dict.fromkeys([5, 9], "advert"),
}
# END SOLUTION

# %% [markdown]
# Write the kinds as strings: `"fact"`, `"forecast"`, `"opinion"`, `"advert"`.

# %% tags=["check:labels"]
check.labels(labels)

# %% [markdown]
# **Take the score apart** (stretch, 10 minutes, difficulty 3). Group the forecasts by what was said. Then, with
# $n_g$ forecasts in group $g$, $p_g$ what was said, $o_g$ the share that came true, and $\bar o$ the base rate:
#
# $$\text{Brier} = \underbrace{\tfrac1n \sum_g n_g (p_g - o_g)^2}_{\text{reliability}} -
# \underbrace{\tfrac1n \sum_g n_g (o_g - \bar o)^2}_{\text{resolution}} +
# \underbrace{\bar o (1 - \bar o)}_{\text{uncertainty}}$$
#
# In words: how far you are from meaning what you say, less how well you tell cases apart, plus how hard the
# questions are. Return the three numbers.


# %% tags=["exercise:decompose", "points:3"]
def decompose(said, came):
    """(reliability, resolution, uncertainty) of forecasts between 0 and 1 and outcomes 0 or 1."""
    # BEGIN SOLUTION
    n, base = len(came), sum(came) / len(came)
    groups = {p: [o for q, o in zip(said, came, strict=True) if q == p] for p in set(said)}
    shares = {p: sum(group) / len(group) for p, group in groups.items()}
    reliability = sum(len(groups[p]) * (p - shares[p]) ** 2 for p in groups) / n
    resolution = sum(len(groups[p]) * (shares[p] - base) ** 2 for p in groups) / n
    return reliability, resolution, base * (1 - base)
    # END SOLUTION


# %% tags=["check:decompose"]
check.decompose(decompose)

# %% [markdown]
# **Make it able to fail** (in words, 5 minutes, difficulty 2). Choose one open claim of kind *opinion* from the
# ledger. Rewrite it so that it can fail: name the cost or quantity, per what, against which rival, and the factor or
# threshold. Then say which measurement you would do first, and what result would make you give the claim up.

# %% [markdown] tags=["answer:rewrite", "points:2"]
# *Your answer here. A good one has a number in it, and a reader who disagrees with you knows what to measure.*

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A claim belongs in the ledger when something could show it wrong; a false one is still a claim of fact.
# 2. A comparison without cost, unit, rival and factor can never lose.
# 3. A text cannot report what happened after it was written, and a program finds that from dated events.
# 4. Many pages with one origin are one witness; without a primary source the verdict is *not settled*.
# 5. The Brier score rewards honest probabilities, and with ten claims luck still has a say in it.
#
# | idea | formula | cost |
# |---|---|---|
# | Brier score | $\frac1n\sum (p-o)^2$ | one pass over the claims |
# | base rate baseline | $\bar o(1-\bar o)$ | needs the outcomes: hindsight |
# | always 0.5 | 0.25 | nothing |
# | origins of a sentence | follow citations to the end | one step a citation |

# %% [markdown]
# ## In the real models
#
# What is judged so far about GLM-5, Qwen3.5, Kimi K2.5, DeepSeek-V4 and the rest, each with its source and its day.

# %%
for claim in scorable(claims):
    verdict = claim.verdicts[-1]
    print(f"{claim.verdict}: {claim.says}\n   {verdict.because}\n   [{verdict.source}; {verdict.as_of}]")

# %%
for part in ("dates", "openness", "techniques", "economics", "uses"):
    judged = scorable(select(claims, part=part))
    print(f"{part:<11}{sum(claim.outcome for claim in judged)} of {len(judged)} judged claims hold")

# %% [markdown]
# On 23 November 2026 the surprise was in the lines for *techniques* and for *dates*: every judged sentence about how
# the engines work held, most with limits, and none about time did. The engines are real; the haste is in the telling.
# Each verdict above that rests on arithmetic waits for its lesson, which replaces it by a measurement.

# %% [markdown]
# ## Roads not taken
#
# - **A language model as the judge of sentences.** It would label faster, and its own mistakes would need a ledger.
# - **Logarithmic score.** It is proper too and punishes a wrong certainty without end; one careless 0 would drown
#   every other claim, so the ledger uses the bounded score.
# - **A market instead of probabilities.** It needs many people and money.
# - **Weights for important claims.** Whoever sets them decides the result.
#
# **Next:** lesson [[openness]] asks what *open* means for a model. To see bytes first, go to lesson [[open_a_model]]
# and open one.
